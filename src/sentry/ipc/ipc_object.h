// What the three kinds of System V IPC share: keys, ids, owners, permission bits, and the table that finds them.
#pragma once

#include <sys/ipc.h>

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

// The kernel's struct ipc64_perm of x86-64.
struct IpcPermissions {
    int32_t key;
    uint32_t uid, gid, cuid, cgid;
    uint32_t mode;
    uint16_t sequence, padding;
    uint32_t padding2 = 0;
    uint64_t unused[2];
};
static_assert(sizeof(IpcPermissions) == 48);

constexpr int kIpcRead = 0444, kIpcWrite = 0222;

// Base of segments, semaphore sets and queues. `mutex` guards all that can change in them.
class IpcObject {
  public:
    int id() const { return id_; }
    // With mutex held:
    IpcPermissions permissions_locked() const;
    // `wanted`: kIpcRead, kIpcWrite. EACCES.
    SysResult<void> check_access_locked(const Credentials& credentials, int wanted) const;
    // IPC_SET and IPC_RMID: the owner, the creator or CAP_SYS_ADMIN. EPERM.
    SysResult<void> check_owner_locked(const Credentials& credentials) const;
    SysResult<void> set_owner_locked(const IpcPermissions& wanted);

    mutable std::mutex mutex;
    bool removed = false;  // guarded by mutex

  protected:
    ~IpcObject() = default;

  private:
    template <typename Object>
    friend class IpcTable;
    int id_ = 0;                                                   // immutable once it is listed
    int32_t key_ = 0;                                              // guarded by the table's mutex for change
    uint32_t uid_ = 0, gid_ = 0, cuid_ = 0, cgid_ = 0, mode_ = 0;  // guarded by mutex
};

// Objects of one kind in one IPC namespace, by key and id. Its mutex may be taken under an AddressSpace's lock.
template <typename Object>
class IpcTable {
  public:
    explicit IpcTable(size_t most) : most_(most) {}

    // shmget and its like: the id. `fits` judges an existing object, `make` creates one (both without the table's
    // mutex; two that create at once: the second uses the first's).
    template <typename Fits, typename Make>
    SysResult<int> get(Task& task, int32_t key, int flags, Fits fits, Make make) {
        if (key != IPC_PRIVATE) {
            if (auto known = find_key(key)) return use(task, *known, flags, fits);
            if (!(flags & IPC_CREAT)) return Errno(ENOENT);
        }
        Ref<Object> fresh = TRY(make());
        Ref<Object> known;
        {
            std::lock_guard lock(mutex_);
            if (auto it = by_key_.find(key); key != IPC_PRIVATE && it != by_key_.end()) {
                known = by_id_[it->second];
            } else {
                if (by_id_.size() >= most_) return Errno(ENOSPC);
                const Credentials& credentials = task.credentials();
                fresh->key_ = key;
                fresh->uid_ = fresh->cuid_ = credentials.euid;
                fresh->gid_ = fresh->cgid_ = credentials.egid;
                fresh->mode_ = static_cast<uint32_t>(flags) & 0777;
                fresh->id_ = next_id_locked();
                if (key != IPC_PRIVATE) by_key_[key] = fresh->id_;
                by_id_[fresh->id_] = fresh;
                return fresh->id_;
            }
        }
        return use(task, *known, flags, fits);
    }

    Ref<Object> find(int id) {
        std::lock_guard lock(mutex_);
        auto it = by_id_.find(id);
        return it == by_id_.end() ? nullptr : it->second;
    }
    // By position, for the *_STAT commands; `last` gets the highest position in use.
    Ref<Object> at(int index) {
        std::lock_guard lock(mutex_);
        for (auto& [id, object] : by_id_)
            if (id % kIndexes == index) return object;
        return nullptr;
    }
    int last_index() {
        std::lock_guard lock(mutex_);
        int last = 0;
        for (auto& [id, object] : by_id_) last = std::max(last, id % kIndexes);
        return last;
    }
    size_t most() const { return most_; }
    void set_most(size_t most) { most_ = most; }
    size_t count() {
        std::lock_guard lock(mutex_);
        return by_id_.size();
    }
    std::vector<Ref<Object>> all() {
        std::vector<Ref<Object>> list;
        std::lock_guard lock(mutex_);
        for (auto& [id, object] : by_id_) list.push_back(object);
        return list;
    }
    // The key names nothing any more; the id still does.
    void forget_key(Object& object) {
        std::lock_guard lock(mutex_);
        if (object.key_ != IPC_PRIVATE) by_key_.erase(object.key_);
        object.key_ = IPC_PRIVATE;
    }
    // The reference that the table had.
    Ref<Object> remove(Object& object) {
        std::lock_guard lock(mutex_);
        auto it = by_id_.find(object.id_);
        if (it == by_id_.end()) return nullptr;
        Ref<Object> dropped = std::move(it->second);
        by_id_.erase(it);
        if (object.key_ != IPC_PRIVATE) by_key_.erase(object.key_);
        return dropped;
    }

  private:
    static constexpr int kIndexes = 32768;  // IPCMNI

    Ref<Object> find_key(int32_t key) {
        std::lock_guard lock(mutex_);
        auto it = by_key_.find(key);
        return it == by_key_.end() ? nullptr : by_id_[it->second];
    }
    template <typename Fits>
    SysResult<int> use(Task& task, Object& object, int flags, Fits fits) {
        if ((flags & IPC_CREAT) && (flags & IPC_EXCL)) return Errno(EEXIST);
        TRY(fits(object));
        std::lock_guard lock(object.mutex);
        TRY(object.check_access_locked(task.credentials(), flags & (kIpcRead | kIpcWrite)));
        return object.id_;
    }
    // The lowest free position with a sequence number, so that an id is not used again soon.
    int next_id_locked() {
        std::vector<bool> used(by_id_.size() + 1);
        for (auto& [id, object] : by_id_)
            if (static_cast<size_t>(id % kIndexes) < used.size()) used[static_cast<size_t>(id % kIndexes)] = true;
        int index = 0;
        while (used[static_cast<size_t>(index)]) index++;
        sequence_ = (sequence_ + 1) % 0xffff;
        return static_cast<int>(sequence_) * kIndexes + index;
    }

    std::mutex mutex_;
    std::atomic<size_t> most_;
    std::map<int, Ref<Object>> by_id_;  // guarded by mutex_, as is all below
    std::map<int32_t, int> by_key_;
    uint32_t sequence_ = 0xfffe;
};

}  // namespace casemate::sentry
