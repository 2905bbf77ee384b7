#include "rpc/socket.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>

namespace casemate::rpc {

namespace {

constexpr int kBacklog = 128;

struct UnixAddress {
    sockaddr_un address{};
    socklen_t size = 0;
    UniqueFd directory;  // keeps "/proc/self/fd/N/name" valid
};

Result<UnixAddress> unix_address(std::string_view path) {
    UnixAddress out;
    out.address.sun_family = AF_UNIX;
    if (path.empty()) return Error("a Unix socket needs a path", EINVAL);
    bool abstract = path[0] == '@' || path[0] == '\0';
    std::string full(path);
    if (!abstract && full.find('\0') != std::string::npos)
        return Error("the socket's path contains a zero byte", EINVAL);
    if (full.size() >= sizeof(out.address.sun_path)) {
        if (abstract)
            return Error(fmt::format("abstract socket name of {} bytes: at most {} fit", full.size(),
                                     sizeof(out.address.sun_path) - 1),
                         ENAMETOOLONG);
        size_t slash = full.rfind('/');
        if (slash == std::string::npos) return Error(fmt::format("socket name '{}' is too long", full), ENAMETOOLONG);
        std::string parent = full.substr(0, slash);
        out.directory = UniqueFd(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!out.directory) return sys_error("open " + parent);
        full = fmt::format("/proc/self/fd/{}/{}", out.directory.get(), full.substr(slash + 1));
        if (full.size() >= sizeof(out.address.sun_path))
            return Error(fmt::format("the name of socket '{}' is too long", path), ENAMETOOLONG);
    }
    std::memcpy(out.address.sun_path, full.data(), full.size());
    out.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + full.size());
    if (abstract)
        out.address.sun_path[0] = '\0';
    else
        out.size++;
    return out;
}

std::optional<uint32_t> parse_number(std::string_view text) {
    uint32_t value;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

struct Vsock {
    uint32_t cid;
    uint32_t port;
};

std::optional<Vsock> parse_vsock(std::string_view text) {
    size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    auto port = parse_number(text.substr(colon + 1));
    std::string_view cid = text.substr(0, colon);
    auto number = cid == "any" ? std::optional<uint32_t>(VMADDR_CID_ANY) : parse_number(cid);
    if (!port || !number) return std::nullopt;
    return Vsock{*number, *port};
}

bool strip(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

template <typename OnUnix, typename OnVsock>
Result<UniqueFd> by_scheme(std::string_view address, OnUnix on_unix, OnVsock on_vsock) {
    std::string_view rest = address;
    if (strip(rest, "vsock://")) {
        auto vsock = parse_vsock(rest);
        if (!vsock) return Error(fmt::format("address '{}': expected vsock://CID:PORT", address), EINVAL);
        return on_vsock(vsock->cid, vsock->port);
    }
    if (strip(rest, "fd://")) {
        auto fd = parse_number(rest);
        if (!fd || *fd > INT32_MAX) return Error(fmt::format("address '{}': expected fd://N", address), EINVAL);
        return adopt_inherited(static_cast<int>(*fd));
    }
    if (!strip(rest, "unix://")) strip(rest, "unix:");
    if (rest.find("://") != std::string_view::npos)
        return Error(fmt::format("address '{}': expected unix://, vsock:// or fd://", address), EINVAL);
    return on_unix(rest);
}

Result<UniqueFd> stream_socket(int family) {
    UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return sys_error(family == AF_VSOCK ? "vsock socket" : "unix socket");
    return fd;
}

}  // namespace

Result<UniqueFd> listen_unix(std::string_view path, unsigned mode) {
    UnixAddress address = TRY(unix_address(path));
    UniqueFd fd = TRY(stream_socket(AF_UNIX));
    // The file takes its mode from the socket's inode: nobody can connect before the chmod.
    if (address.address.sun_path[0] != '\0' && ::fchmod(fd.get(), mode) != 0)
        return sys_error(fmt::format("set mode of socket {}", path));
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.address), address.size) != 0)
        return sys_error(fmt::format("bind socket {}", path));
    if (::listen(fd.get(), kBacklog) != 0) return sys_error(fmt::format("listen on socket {}", path));
    return fd;
}

Result<UniqueFd> connect_unix(std::string_view path) {
    UnixAddress address = TRY(unix_address(path));
    UniqueFd fd = TRY(stream_socket(AF_UNIX));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.address), address.size) != 0)
        return sys_error(fmt::format("connect to socket {}", path));
    return fd;
}

Result<UniqueFd> listen_vsock(uint32_t cid, uint32_t port) {
    UniqueFd fd = TRY(stream_socket(AF_VSOCK));
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
        return sys_error(fmt::format("bind vsock {}:{}", cid, port));
    if (::listen(fd.get(), kBacklog) != 0) return sys_error(fmt::format("listen on vsock {}:{}", cid, port));
    return fd;
}

Result<UniqueFd> connect_vsock(uint32_t cid, uint32_t port) {
    UniqueFd fd = TRY(stream_socket(AF_VSOCK));
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
        return sys_error(fmt::format("connect to vsock {}:{}", cid, port));
    return fd;
}

Result<UniqueFd> adopt_inherited(int fd) {
    int type = 0;
    socklen_t size = sizeof(type);
    if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0)
        return sys_error(fmt::format("inherited descriptor {}", fd));
    if (type != SOCK_STREAM) return Error(fmt::format("inherited descriptor {} is not a stream socket", fd), ENOTSOCK);
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return sys_error(fmt::format("inherited descriptor {}", fd));
    return UniqueFd(fd);
}

Result<UniqueFd> listen_on(std::string_view address, unsigned mode) {
    return by_scheme(
        address, [&](std::string_view path) { return listen_unix(path, mode); }, listen_vsock);
}

Result<UniqueFd> connect_to(std::string_view address) { return by_scheme(address, connect_unix, connect_vsock); }

}  // namespace casemate::rpc
