// UnixName: an address that a Unix socket is bound to. It outlives the socket: messages still say whom they came from,
// and a socket file in the tree stays when its socket is closed.
#pragma once

#include <string>

#include "base/ref.h"
#include "sentry/net/address.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

class UnixSocket;

class UnixName final : public RefCounted {
  public:
    // `path`: sun_path's bytes; an abstract name starts with NUL, another ends without one.
    UnixName(std::string path, UnixSocket& socket) : path_(std::move(path)), socket_(&socket) {}
    const std::string& path() const { return path_; }
    bool abstract() const { return path_[0] == 0; }
    SocketAddress address() const;

    Ref<UnixSocket> socket();  // null once it is closed
    // False if it is not this socket's (an accepted connection shares its listener's name).
    bool release(UnixSocket& socket);

  private:
    const std::string path_;
    SmallMutex mutex_;
    UnixSocket* socket_;  // guarded by mutex_
};

}  // namespace casemate::sentry
