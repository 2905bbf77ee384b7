// Namespaces of a task: which instance of each global resource it sees. A task shares them with its parent until clone,
// unshare or setns gives it others; the set is immutable once published (copy, change, swap).
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "base/ref.h"
#include "sentry/kernel/id_map.h"
#include "sentry/kernel/pid.h"
#include "sentry/vfs/mount.h"

namespace casemate::sentry {

uint64_t next_namespace_inode();

class UserNamespace final : public RefCounted {
  public:
    explicit UserNamespace(Ref<UserNamespace> above, IdMaps maps = {})
        : parent(std::move(above)), inode(next_namespace_inode()), ids(std::move(maps)) {}
    const Ref<UserNamespace> parent;
    const uint64_t inode;
    const IdMaps ids;
};

class UtsNamespace final : public RefCounted {
  public:
    UtsNamespace(std::string host, std::string domain)
        : inode(next_namespace_inode()), host_(std::move(host)), domain_(std::move(domain)) {}
    const uint64_t inode;
    std::string host_name() {
        std::lock_guard lock(mutex_);
        return host_;
    }
    std::string domain_name() {
        std::lock_guard lock(mutex_);
        return domain_;
    }
    void set_host_name(std::string name) {
        std::lock_guard lock(mutex_);
        host_ = std::move(name);
    }
    void set_domain_name(std::string name) {
        std::lock_guard lock(mutex_);
        domain_ = std::move(name);
    }

  private:
    std::mutex mutex_;
    std::string host_, domain_;  // guarded by mutex_
};

// Owners of SysV IPC, POSIX message queues, sockets and cgroup roots hang what they keep per namespace on `state`, made
// on first use under `mutex`.
class StatefulNamespace : public RefCounted {
  public:
    const uint64_t inode = next_namespace_inode();
    std::mutex mutex;
    Ref<RefCounted> state;  // guarded by mutex
};
class IpcNamespace final : public StatefulNamespace {};
class NetworkNamespace final : public StatefulNamespace {};
class CgroupNamespace final : public StatefulNamespace {};
class TimeNamespace final : public StatefulNamespace {};

struct Namespaces final : RefCounted {
    Ref<MountNamespace> mount;
    Ref<UtsNamespace> uts;
    Ref<IpcNamespace> ipc;
    Ref<NetworkNamespace> network;
    Ref<CgroupNamespace> cgroup;
    Ref<TimeNamespace> time;
    Ref<PidNamespace> pid_for_children;  // the task's own is its Pid's
    Ref<Namespaces> clone() const {
        auto copy = make_ref<Namespaces>();
        copy->mount = mount;
        copy->uts = uts;
        copy->ipc = ipc;
        copy->network = network;
        copy->cgroup = cgroup;
        copy->time = time;
        copy->pid_for_children = pid_for_children;
        return copy;
    }
};

// What clone and unshare give for CLONE_NEW*: `fs` is moved along with a new mount namespace. EPERM without the
// capability, EINVAL for kinds that this kernel does not have.
SysResult<Ref<Namespaces>> new_namespaces(Task& task, FsContext& fs, uint64_t flags);

}  // namespace casemate::sentry
