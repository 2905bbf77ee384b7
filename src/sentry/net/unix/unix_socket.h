// Unix sockets: what stream, seqpacket and datagram sockets share: names, credentials, passed files.
#pragma once

#include <sys/un.h>

#include "sentry/net/socket.h"
#include "sentry/net/unix/unix_name.h"

namespace casemate::sentry {

// Who is at the other end, as it was when the connection was made.
struct PeerCredentials final : RefCounted {
    SenderCredentials sender;
    std::vector<uint32_t> groups;
};

class UnixSocket : public Socket {
  public:
    UnixSocket(int type, Ref<Network> network);
    ~UnixSocket() override;

    SysResult<void> bind(Task& task, const SocketAddress& address) override;
    SysResult<SocketAddress> local_address() override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    Ref<UnixName> name();

    // What is in its queues, for the search for cycles (net/unix/flight.h).
    virtual void for_each_passed(const std::function<void(PassedFiles&)>& visit) = 0;
    virtual void take_passed(std::vector<Ref<PassedFiles>>& into) = 0;
    // As in /proc/net/unix.
    virtual int state_number() = 0;
    // For sock_diag: the state as TCP's, what waits in its queues (a listener's: connections, and its backlog), and who
    // is at the other end: an inode, or a connection and the side of it.
    struct Diagnosis {
        int state = 7;
        size_t receiving = 0, sending = 0;
        uint8_t shutdown = 0;  // 1: receives no more; 2: sends no more
        uint64_t peer_inode = 0;
        const void* connection = nullptr;
        int side = 0;
    };
    virtual Diagnosis diagnosis() = 0;

  protected:
    // The socket that `address` names: EINVAL, ENOENT, ECONNREFUSED, EACCES, EPROTOTYPE.
    SysResult<Ref<UnixSocket>> find(Task& task, const SocketAddress& address);
    // A name of the sentry's choice, if there is none yet (connect and send with SO_PASSCRED).
    SysResult<void> autobind();
    // What rides on a message: null if nothing needs to. `wanted`: the receiver asks for credentials.
    SysResult<Ref<Passenger>> passenger_for(Task& task, const SentControl* control, bool wanted);
    // Hands what rode on a message to the receiver.
    void deliver(Task& task, const Passenger* sender, const Ref<PassedFiles>& files, ReceiveRequest& request);
    void unbind();

    static Ref<PeerCredentials> credentials_of(Task& task);
    Ref<PeerCredentials> peer_credentials();
    void set_peer_credentials(Ref<PeerCredentials> credentials);

    std::mutex mutex_;
    Ref<UnixName> name_;  // guarded by mutex_, as is all below; set once

  private:
    SysResult<void> bind_abstract(const std::string& path);
    SysResult<void> bind_path(Task& task, const std::string& path);
    Path place_;             // of a name in the tree: keeps the inode while the socket lives
    std::mutex bind_mutex_;  // held over the whole of bind; outside of mutex_ and of the vfs's locks
    SmallMutex peer_mutex_;
    Ref<PeerCredentials> peer_;  // guarded by peer_mutex_
};

SysResult<Ref<Socket>> create_unix_socket(Ref<Network> network, Task& task, int domain, int type, int protocol);

}  // namespace casemate::sentry
