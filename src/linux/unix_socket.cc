#include "linux/unix_socket.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "linux/path.h"

namespace casemate::linux {

SysResult<SocketPair> create_socket_pair(int type) {
    int fds[2];
    if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0) return last_errno();
    SocketPair pair;
    pair.first.reset(fds[0]);
    pair.second.reset(fds[1]);
    return pair;
}

namespace {

// A path that fits into sun_path. `directory` keeps the /proc link alive while the address is used.
struct ShortPath {
    UniqueFd directory;
    std::string path;
};

SysResult<ShortPath> shorten(const std::string& path) {
    ShortPath result;
    result.path = path;
    if (path.size() < sizeof(sockaddr_un::sun_path)) return result;
    size_t slash = path.rfind('/');
    if (slash == std::string::npos) return Errno(ENAMETOOLONG);
    result.directory = TRY(open(path.substr(0, slash + 1), O_PATH | O_DIRECTORY));
    result.path = "/proc/self/fd/" + std::to_string(result.directory.get()) + path.substr(slash);
    if (result.path.size() >= sizeof(sockaddr_un::sun_path)) return Errno(ENAMETOOLONG);
    return result;
}

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

}  // namespace

SysResult<UniqueFd> listen_unix(const std::string& path, int type, mode_t mode, int backlog) {
    ShortPath at = TRY(shorten(path));
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    if (!socket) return last_errno();
    // The file takes the mode of the socket's inode, and umask goes off it.
    if (::fchmod(socket.get(), mode) < 0) return last_errno();
    sockaddr_un address = address_of(at.path);
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return last_errno();
    if (::chmod(at.path.c_str(), mode) < 0 || ::listen(socket.get(), backlog) < 0) {
        Errno failure = last_errno();
        ::unlink(at.path.c_str());
        return failure;
    }
    return socket;
}

SysResult<UniqueFd> connect_unix(const std::string& path, int type) {
    ShortPath at = TRY(shorten(path));
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    if (!socket) return last_errno();
    sockaddr_un address = address_of(at.path);
    while (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
        if (errno != EINTR) return last_errno();
    return socket;
}

SysResult<UniqueFd> accept_unix(int listener, bool nonblocking) {
    int fd;
    do {
        fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0));
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

}  // namespace casemate::linux
