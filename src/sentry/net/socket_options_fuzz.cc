// Socket options from an application that is root in its pod, on sockets of every family: set, and asked for with rooms
// of all sizes.
#include "sentry/boot/test_pod.h"
#include "sentry/net/family.h"
#include "sentry/net/socket.h"

#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>

using namespace casemate;
using namespace casemate::sentry;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static TestPod& pod = *new TestPod(TestPod::Applications::kNone);
    static Ref<Task> task = pod.create_process({});
    struct Kind {
        int domain, type, protocol;
    };
    constexpr Kind kKinds[] = {
        {AF_INET, SOCK_STREAM, 0},   {AF_INET6, SOCK_STREAM, 0},        {AF_INET, SOCK_DGRAM, 0},
        {AF_INET6, SOCK_DGRAM, 0},   {AF_INET, SOCK_RAW, IPPROTO_ICMP}, {AF_INET6, SOCK_RAW, IPPROTO_ICMPV6},
        {AF_UNIX, SOCK_STREAM, 0},   {AF_UNIX, SOCK_DGRAM, 0},          {AF_NETLINK, SOCK_RAW, NETLINK_ROUTE},
        {AF_PACKET, SOCK_RAW, 0x300}};
    constexpr int kLevels[] = {SOL_SOCKET,  IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP,
                               IPPROTO_UDP, SOL_PACKET, SOL_NETLINK,  IPPROTO_ICMPV6};
    if (size < 1) return 0;
    const Kind& kind = kKinds[data[0] % std::size(kKinds)];
    auto socket = create_socket(*task, kind.domain, kind.type, kind.protocol);
    if (!socket.ok()) return 0;
    data++;
    size--;
    while (size >= 3) {
        int level = kLevels[data[0] % std::size(kLevels)];
        bool set = data[0] & 0x80;
        int name = data[1];
        size_t length = std::min<size_t>(data[2], size - 3);
        if (set && level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
            // Reads the application's memory, of which there is none here; its programs are for classic_bpf_fuzz.
        } else if (set) {
            std::span<const std::byte> value(reinterpret_cast<const std::byte*>(data + 3), length);
            if ((*socket)->set_option(*task, level, name, value).ok()) (*socket)->options_changed();
            data += length;
            size -= length;
        } else {
            static_cast<void>((*socket)->get_option(*task, level, name, data[2]));
        }
        data += 3;
        size -= 3;
    }
    (*socket)->closed();
    return 0;
}
