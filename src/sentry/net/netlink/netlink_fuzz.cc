// Netlink messages from an application that is root in its pod: a row of them, each with its length, to sockets of
// NETLINK_ROUTE, NETLINK_SOCK_DIAG and NETLINK_GENERIC; answers are read as far as they come.
#include "sentry/boot/test_pod.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/network.h"

#include <linux/netlink.h>

using namespace casemate;
using namespace casemate::sentry;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static TestPod& pod = *new TestPod(TestPod::Applications::kNone);
    static Ref<Task> task = pod.create_process({});
    auto network = make_ref<Network>(true);
    constexpr int kProtocols[] = {NETLINK_ROUTE, NETLINK_ROUTE, NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_GENERIC};
    while (size >= 3) {
        int protocol = kProtocols[data[0] % std::size(kProtocols)];
        size_t length = std::min<size_t>(size_t{data[1]} + (data[2] & 3) * 256, size - 3);
        bool strict = data[2] & 4, right_length = data[2] & 8;
        std::vector<std::byte> bytes(length);
        if (length > 0) memcpy(bytes.data(), data + 3, length);
        data += 3 + length;
        size -= 3 + length;
        if (right_length && length >= sizeof(nlmsghdr)) {
            auto whole = static_cast<uint32_t>(length);
            memcpy(bytes.data(), &whole, sizeof(whole));
        }
        auto socket = make_ref<NetlinkSocket>(SOCK_RAW, protocol, network);
        int on = 1;
        std::span<const std::byte> flag(reinterpret_cast<const std::byte*>(&on), sizeof(on));
        if (strict)
            for (int option : {NETLINK_GET_STRICT_CHK, NETLINK_EXT_ACK})
                static_cast<void>(socket->set_option(*task, SOL_NETLINK, option, flag));
        IoBuffer out = IoBuffer::kernel(bytes);
        SendRequest request{out};
        request.flags = MSG_DONTWAIT;
        static_cast<void>(socket->send(*task, request));
        for (int i = 0; i < 64; i++) {
            std::byte answer[8192];
            IoBuffer in = IoBuffer::kernel(answer);
            ReceiveRequest receive{in};
            receive.flags = MSG_DONTWAIT;
            if (!socket->receive(*task, receive).ok()) break;
        }
        socket->closed();
    }
    return 0;
}
