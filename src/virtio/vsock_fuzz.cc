// A hostile guest at virtio-vsock, with hosts that connect, talk, hang and close.
#include <sys/socket.h>

#include "linux/unix_socket.h"
#include "virtio/fuzz_device.h"
#include "virtio/vsock.h"

using namespace casemate;
using namespace casemate::virtio;

namespace {

std::vector<UniqueFd>& hosts() {
    static std::vector<UniqueFd> list;
    return list;
}

const std::string& socket_path() {
    static std::string path = "/tmp/casemate-vsock-fuzz-" + std::to_string(::getpid());
    return path;
}

VsockDevice::Options options() {
    VsockDevice::Options options;
    options.max_streams = 8;
    options.max_greetings = 4;
    options.connect = [](uint32_t port) -> SysResult<UniqueFd> {
        if ((port & 3) == 3) return Errno(ECONNREFUSED);
        auto pair = TRY(linux::create_socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
        hosts().push_back(std::move(pair.second));
        return std::move(pair.first);
    };
    ::unlink(socket_path().c_str());
    options.listener = MUST(linux::listen_unix(socket_path(), SOCK_STREAM | SOCK_NONBLOCK));
    return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FakeMachine machine;
    static VsockDevice device(machine.loop(), options());
    fuzz_device(machine, device, data, size, [](FuzzInput& input) {
        unsigned what = input.take<uint8_t>();
        std::string_view bytes = input.bytes(input.take<uint8_t>());
        if ((what & 7) == 0) {
            auto fd = linux::connect_unix(socket_path(), SOCK_STREAM | SOCK_NONBLOCK);
            if (!fd.ok()) return;
            (void)!::send(fd->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            hosts().push_back(std::move(*fd));
            return;
        }
        if (hosts().empty()) return;
        UniqueFd& host = hosts()[what % hosts().size()];
        char drained[8192];
        if ((what & 1) != 0) (void)!::send(host.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if ((what & 2) != 0) (void)!::recv(host.get(), drained, sizeof(drained), MSG_DONTWAIT);
        if ((what & 24) == 8) ::shutdown(host.get(), SHUT_WR);
        if ((what & 24) == 16) host.reset();
    });
    hosts().clear();
    return 0;
}
