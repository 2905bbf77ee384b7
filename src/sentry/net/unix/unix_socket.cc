#include "sentry/net/unix/unix_socket.h"

#include <linux/capability.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_set.h"
#include "sentry/net/network.h"
#include "sentry/net/unix/unix_datagram.h"
#include "sentry/net/unix/unix_stream.h"

namespace casemate::sentry {

UnixSocket::UnixSocket(int type, Ref<Network> network) : Socket(AF_UNIX, type, 0, std::move(network)) {
    this->network().add_unix(*this);
}
UnixSocket::~UnixSocket() { network().remove_unix(*this); }

Ref<UnixName> UnixSocket::name() {
    std::lock_guard lock(mutex_);
    return name_;
}

SysResult<SocketAddress> UnixSocket::local_address() {
    Ref<UnixName> mine = name();
    return mine ? mine->address() : SocketAddress(AF_UNIX);
}

Ref<PeerCredentials> UnixSocket::credentials_of(Task& task) {
    auto mine = make_ref<PeerCredentials>();
    mine->sender = {Ref<Pid>(task.process().pid), task.credentials().euid, task.credentials().egid};
    mine->groups = task.credentials().groups;
    return mine;
}
Ref<PeerCredentials> UnixSocket::peer_credentials() {
    std::lock_guard lock(peer_mutex_);
    return peer_;
}
void UnixSocket::set_peer_credentials(Ref<PeerCredentials> credentials) {
    std::lock_guard lock(peer_mutex_);
    peer_ = std::move(credentials);
}

SysResult<OptionBytes> UnixSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if (level != SOL_SOCKET) return OptionBytes();
    if (name == SO_PEERCRED) {
        ucred credentials{0, ~0u, ~0u};
        if (auto peer = peer_credentials())
            credentials = {peer->sender.pid ? peer->sender.pid->number_in(task.pid_namespace()) : 0, peer->sender.uid,
                           peer->sender.gid};
        return OptionBytes(option_bytes(credentials));
    }
    if (name == SO_PEERGROUPS) {
        auto peer = peer_credentials();
        if (!peer) return Errno(ENODATA);
        std::vector<std::byte> bytes(peer->groups.size() * sizeof(uint32_t));
        if (bytes.size() > room) return Errno(ERANGE);
        if (!bytes.empty()) memcpy(bytes.data(), peer->groups.data(), bytes.size());
        return OptionBytes(std::move(bytes));
    }
    return OptionBytes();
}

SysResult<Ref<Passenger>> UnixSocket::passenger_for(Task& task, const SentControl* control, bool wanted) {
    bool given = control != nullptr && (control->credentials || !control->files.empty());
    if (control != nullptr && !control->others.empty()) {
        for (auto& other : control->others)
            if (other.level == SOL_SOCKET) return Errno(EINVAL);
    }
    if (!given && !wanted && !has(kPassCredentials)) return Ref<Passenger>();
    auto passenger = make_ref<Passenger>();
    const Credentials& mine = task.credentials();
    SenderCredentials sender{Ref<Pid>(task.process().pid), mine.uid, mine.gid};
    if (control != nullptr && control->credentials) {
        const ucred& asked = *control->credentials;
        if (asked.uid == ~0u || asked.gid == ~0u) return Errno(EINVAL);
        bool uid_fits = asked.uid == mine.uid || asked.uid == mine.euid || asked.uid == mine.suid;
        bool gid_fits = asked.gid == mine.gid || asked.gid == mine.egid || asked.gid == mine.sgid;
        if (!uid_fits && !mine.has(CAP_SETUID)) return Errno(EPERM);
        if (!gid_fits && !mine.has(CAP_SETGID)) return Errno(EPERM);
        if (asked.pid != task.tgid()) {
            if (!mine.has(CAP_SYS_ADMIN)) return Errno(EPERM);
            Ref<Process> other = task.kernel().tasks().find_process(task.pid_namespace(), asked.pid);
            if (!other) return Errno(ESRCH);
            std::lock_guard lock(task.kernel().tasks().mutex);
            sender.pid = other->pid;
        }
        sender.uid = asked.uid;
        sender.gid = asked.gid;
    }
    passenger->credentials = std::move(sender);
    if (control != nullptr && !control->files.empty())
        passenger->files = TRY(PassedFiles::create(task, control->files));
    return passenger;
}

void UnixSocket::deliver(Task& task, const Passenger* sender, const Ref<PassedFiles>& files, ReceiveRequest& request) {
    if (request.control == nullptr) {
        if (files || has(kPassCredentials)) request.out_flags |= MSG_CTRUNC;
        return;
    }
    if (has(kPassCredentials)) {
        ucred credentials{0, 65534, 65534};
        if (sender != nullptr && sender->credentials) {
            const SenderCredentials& who = *sender->credentials;
            credentials = {who.pid ? who.pid->number_in(task.pid_namespace()) : 0, who.uid, who.gid};
        }
        request.control->add(SOL_SOCKET, SCM_CREDENTIALS, credentials);
    }
    if (files) request.control->files = files->files();
}

SysResult<Ref<Socket>> create_unix_socket(Ref<Network> network, Task&, int, int type, int protocol) {
    if (protocol != 0 && protocol != PF_UNIX) return Errno(EPROTONOSUPPORT);
    switch (type) {
        case SOCK_STREAM:
        case SOCK_SEQPACKET:
            return Ref<Socket>(make_ref<UnixStream>(type, std::move(network)));
        case SOCK_DGRAM:
        case SOCK_RAW:
            return Ref<Socket>(make_ref<UnixDatagram>(std::move(network)));
        default:
            return Errno(ESOCKTNOSUPPORT);
    }
}

}  // namespace casemate::sentry
