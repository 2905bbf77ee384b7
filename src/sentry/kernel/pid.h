// Pids: numbers of tasks, process groups and sessions, in each pid namespace that can see them.
//
// A Pid is one identity (as Linux's struct pid): the thread with this number, the process whose leader it is, the group
// and the session that carry it. Its numbers are given back when none of the four uses it any more; the object lives on
// for pidfds. Everything here is guarded by TaskSet::mutex unless a comment says otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class Pid;
class Process;
class Task;
struct UserNamespace;

class PidNamespace final : public RefCounted {
  public:
    static constexpr unsigned kMaxLevel = 32;
    static constexpr int kMaxPid = 4'194'304;

    explicit PidNamespace(Ref<PidNamespace> parent);

    // Immutable.
    const Ref<PidNamespace> parent;
    const unsigned level;
    const uint64_t inode;  // of /proc/PID/ns/pid

    std::map<int, Pid*> pids;
    int last = 0;
    Process* init = nullptr;  // reaper of orphans; null before the first process and after its death
    bool dead = false;        // init is gone: no new processes (ENOMEM)
};

class Pid final : public RefCounted {
  public:
    // A new identity in `space` and all above it; `wanted`: the numbers to take, innermost namespace first. ENOMEM if
    // the namespace is dead, EEXIST, EINVAL, EAGAIN if it is full.
    static SysResult<Ref<Pid>> create_locked(PidNamespace& space, const std::vector<int>& wanted = {});

    // The number that `space` sees; 0 if it does not see it. Immutable, needs no lock.
    int number_in(const PidNamespace& space) const {
        return space.level < numbers_.size() && numbers_[space.level].space.get() == &space
                   ? numbers_[space.level].number
                   : 0;
    }
    PidNamespace& space() const { return *numbers_.back().space; }  // the innermost
    int number() const { return numbers_.back().number; }           // in it
    int root_number() const { return numbers_.front().number; }     // in the sentry's first namespace

    Task* task = nullptr;        // the thread; null once it was released
    Process* process = nullptr;  // the process whose leader it is; null once it was reaped
    std::vector<Process*> group_members;
    std::vector<Process*> session_members;

    // Gives the numbers back if nobody uses the identity any more.
    void release_if_unused_locked();

    // Notified (EPOLLIN) when the process or thread has ended: for pidfds.
    WaitQueue exit_waiters;

  private:
    struct Number {
        Ref<PidNamespace> space;
        int number;
    };
    std::vector<Number> numbers_;  // by level
    bool listed_ = false;
};

}  // namespace casemate::sentry
