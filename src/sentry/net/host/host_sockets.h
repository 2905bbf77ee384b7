// HostSockets: what all host sockets of a pod in host network mode share: the way to casemate-sockets, which makes them
// (host/socket_server.h), and one thread that hears when they become ready.
//
// Made before the sentry confines itself; lives as long as the pod. Thread-safe. Locks: a queue's notify() is called
// without any lock of these.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sentry/net/inet/endpoint.h"
#include "sentry/net/waiters.h"

namespace casemate::sentry {

class HostSocket;

class HostSockets {
  public:
    // Files of the host's /proc/net, in this order.
    enum Table { kTcp, kTcp6, kUdp, kUdp6, kDevices, kTables };
    // `channel`: to casemate-sockets. `tables`: open; one that is not is as if it were not there.
    static SysResult<std::unique_ptr<HostSockets>> create(UniqueFd channel, std::vector<UniqueFd> tables);
    ~HostSockets();

    // Non-blocking. What the host says, or EIO if nobody answers any more.
    SysResult<UniqueFd> make(int family, int type, int protocol);
    // With the helper's privilege, for ports below 1024.
    SysResult<void> bind(int socket, const void* address, size_t size);

    // `waiters` hears of every change of the socket's readiness, until remove().
    SysResult<uint64_t> watch(int socket, Ref<SocketWaiters> waiters);
    void remove(uint64_t id, int socket);

    // What the host says of its whole network now, as under runc. Empty: nothing.
    std::string table(Table which) const;

    // Of the pod alone.
    struct Status {
        InetEndpoint local, peer;
        bool v6 = false;
        bool stream = false;
        int state = 7;  // as Linux numbers TCP's
        uint32_t sending = 0, receiving = 0;
        uint32_t uid = 0;
        uint64_t inode = 0;
    };
    std::vector<Status> list();
    void add(HostSocket& socket);
    void forget(HostSocket& socket);

  private:
    HostSockets() = default;
    void run();

    UniqueFd channel_, epoll_, stop_;
    std::vector<UniqueFd> tables_;
    std::mutex channel_mutex_;  // one question at a time
    std::mutex mutex_;
    std::unordered_map<uint64_t, Ref<SocketWaiters>> watches_;  // guarded by mutex_
    uint64_t last_id_ = 0;                                      // guarded by mutex_
    std::mutex list_mutex_;
    std::set<HostSocket*> sockets_;  // guarded by list_mutex_
    std::thread thread_;
};

}  // namespace casemate::sentry
