// A hostile guest at virtio-net, and frames of any shape from the wire.
#include <sys/socket.h>

#include "linux/unix_socket.h"
#include "virtio/fuzz_device.h"
#include "virtio/net.h"

using namespace casemate;
using namespace casemate::virtio;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FakeMachine machine;
    static linux::SocketPair pair = MUST(linux::create_socket_pair(SOCK_SEQPACKET | SOCK_NONBLOCK));
    static NetDevice device(machine.loop(), [] {
        NetDevice::Options options;
        options.tap = std::move(pair.first);
        options.mtu = 1500;
        return options;
    }());
    fuzz_device(machine, device, data, size, [](FuzzInput& input) {
        std::string_view bytes = input.bytes(input.take<uint8_t>());
        (void)!::send(pair.second.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        char drained[8192];
        while (::recv(pair.second.get(), drained, sizeof(drained), MSG_DONTWAIT) > 0) {
        }
    });
    return 0;
}
