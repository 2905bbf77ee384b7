// SyscallWatch: the strace-like record of system calls and signals (`casemate debug --trace`) and the counters of where
// the sentry's time goes (`--profile`), from inside the sentry: guests are not touched and do not see it.
//
// While nobody watches a call costs one look at Kernel::watched().
#pragma once

#include <signal.h>

#include <array>
#include <atomic>
#include <bitset>
#include <mutex>
#include <string>

#include "base/ref.h"
#include "base/unique_fd.h"
#include "sentry/kernel/clock.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {

class Kernel;

class SyscallWatch {
  public:
    static constexpr size_t kNumbers = 512;

    // What is recorded, and where to: a descriptor that does not block (lines are dropped, and counted, when it is not
    // read; its end ends the record), or the log.
    struct Record : RefCounted {
        UniqueFd output;
        std::string container;          // empty: all
        int pid = 0;                    // of a process, in the first pid namespace; 0: all
        std::bitset<kNumbers> numbers;  // none: all
        std::atomic<uint64_t> dropped{0};
    };

    explicit SyscallWatch(Kernel& kernel);
    ~SyscallWatch();

    void start_record(Ref<Record> record);
    // `only`, if given: unless another has taken its place. A call that began under an earlier record may end, and find
    // that record's reader gone, long after the next was started.
    void stop_record(const Record* only = nullptr);
    // Counters start at zero each time.
    void set_profiling(bool on);
    std::string profile_text();

    // Runs the handler of a call and records it.
    SysResult<int64_t> run(Task& task, const SyscallRow& row, const SyscallArgs& args);
    void signal(Task& task, const siginfo_t& info);

  private:
    struct Counter {
        std::atomic<uint64_t> calls{0}, errors{0}, wall_ns{0}, cpu_ns{0};
    };
    Ref<Record> record_for(Task& task, uint64_t number);
    void write(Record& record, std::string line);
    void update_watched_locked();

    Kernel& kernel_;
    std::mutex mutex_;
    Ref<Record> record_;                  // guarded by mutex_
    std::atomic<bool> profiling_{false};  // written under mutex_
    Nanoseconds profiled_since_ = 0;      // guarded by mutex_
    std::array<Counter, kNumbers> counters_;
};

}  // namespace casemate::sentry
