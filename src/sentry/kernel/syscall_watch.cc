#include "sentry/kernel/syscall_watch.h"

#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/log.h"
#include "sentry/kernel/errno.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {
namespace {

// Which argument of a call is a path or a string: bit n = argument n.
unsigned path_arguments(uint64_t number) {
    switch (number) {
        case SYS_open:
        case SYS_stat:
        case SYS_lstat:
        case SYS_access:
        case SYS_execve:
        case SYS_chdir:
        case SYS_mkdir:
        case SYS_rmdir:
        case SYS_creat:
        case SYS_unlink:
        case SYS_readlink:
        case SYS_chmod:
        case SYS_chown:
        case SYS_truncate:
        case SYS_statfs:
        case SYS_chroot:
        case SYS_umount2:
            return 1;
        case SYS_openat:
        case SYS_newfstatat:
        case SYS_statx:
        case SYS_faccessat:
        case SYS_faccessat2:
        case SYS_readlinkat:
        case SYS_unlinkat:
        case SYS_mkdirat:
        case SYS_fchmodat:
        case SYS_fchownat:
        case SYS_execveat:
        case SYS_mknodat:
        case SYS_utimensat:
        case SYS_openat2:
            return 2;
        case SYS_rename:
        case SYS_link:
        case SYS_symlink:
        case SYS_mount:
            return 3;
        case SYS_renameat:
        case SYS_renameat2:
        case SYS_linkat:
            return 2 | 8;
        case SYS_symlinkat:
            return 1 | 4;
        default:
            return 0;
    }
}

// What a guest wrote goes to a terminal: no control characters.
std::string printable(std::string_view text) {
    std::string out;
    for (char c : text) {
        if (c >= 32 && c < 127 && c != '"' && c != '\\')
            out += c;
        else
            out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
    return out;
}

std::string arguments_text(Task& task, const SyscallArgs& args) {
    unsigned paths = path_arguments(args.nr);
    std::string text;
    for (unsigned i = 0; i < 6; ++i) {
        if (i > 0) text += ", ";
        if ((paths >> i & 1) != 0) {
            auto path = task.memory().copy_in_string(args.a[i], 256);
            text += path.ok() ? '"' + printable(*path) + '"' : fmt::format("{:#x}", args.a[i]);
        } else {
            text += fmt::format("{:#x}", args.a[i]);
        }
    }
    return text;
}

std::string result_text(const SysResult<int64_t>& result) {
    if (result.ok()) return *result > 9 || *result < 0 ? fmt::format("{:#x}", *result) : fmt::format("{}", *result);
    int code = errno_of(result.error());
    if (code == kRegistersSet) return "0";
    if (code >= kRestartSys) return "? (interrupted)";
    const char* name = strerrorname_np(code);
    return fmt::format("-1 {}", name != nullptr ? name : "?");
}

uint64_t thread_time() {
    timespec used{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return static_cast<uint64_t>(used.tv_sec * kSecond + used.tv_nsec);
}

}  // namespace

SyscallWatch::SyscallWatch(Kernel& kernel) : kernel_(kernel) {}
SyscallWatch::~SyscallWatch() = default;

void SyscallWatch::update_watched_locked() { kernel_.set_watched(record_ || profiling_.load()); }

void SyscallWatch::start_record(Ref<Record> record) {
    {
        std::lock_guard lock(mutex_);
        std::swap(record_, record);
        update_watched_locked();
    }
    TaskRunner::tell_all_facts(kernel_);
}

void SyscallWatch::stop_record(const Record* only) {
    Ref<Record> dropped;
    {
        std::lock_guard lock(mutex_);
        if (only != nullptr && record_.get() != only) return;
        std::swap(record_, dropped);
        update_watched_locked();
    }
    TaskRunner::tell_all_facts(kernel_);
}

void SyscallWatch::set_profiling(bool on) {
    {
        std::lock_guard lock(mutex_);
        if (on) {
            for (Counter& one : counters_)
                for (std::atomic<uint64_t>* value : {&one.calls, &one.errors, &one.wall_ns, &one.cpu_ns})
                    value->store(0);
            profiled_since_ = monotonic_now();
        }
        profiling_.store(on);
        update_watched_locked();
    }
    TaskRunner::tell_all_facts(kernel_);
}

std::string SyscallWatch::profile_text() {
    std::vector<const SyscallRow*> rows;
    for (const SyscallRow& row : all_syscalls())
        if (row.number < kNumbers && counters_[row.number].calls.load() != 0) rows.push_back(&row);
    std::ranges::sort(rows, [&](const SyscallRow* a, const SyscallRow* b) {
        return counters_[a->number].cpu_ns.load() > counters_[b->number].cpu_ns.load();
    });
    Nanoseconds since;
    {
        std::lock_guard lock(mutex_);
        since = profiled_since_;
    }
    if (since == 0) return "no profile was taken\n";
    uint64_t total = 0;
    for (const SyscallRow* row : rows) total += counters_[row->number].cpu_ns.load();
    std::string text =
        fmt::format("{:.3f} s watched, {:.3f} s of the sentry's CPU time in system calls\n",
                    static_cast<double>(monotonic_now() - since) / 1e9, static_cast<double>(total) / 1e9);
    text += fmt::format("{:>6} {:>12} {:>12} {:>10} {:>10} {:>10}  {}\n", "share", "cpu us", "wall us", "calls",
                        "errors", "cpu ns/call", "call");
    for (const SyscallRow* row : rows) {
        const Counter& one = counters_[row->number];
        uint64_t calls = one.calls.load(), cpu = one.cpu_ns.load();
        text += fmt::format("{:>5.1f}% {:>12} {:>12} {:>10} {:>10} {:>10}  {}\n",
                            total != 0 ? 100.0 * static_cast<double>(cpu) / static_cast<double>(total) : 0.0,
                            cpu / 1000, one.wall_ns.load() / 1000, calls, one.errors.load(),
                            cpu / std::max<uint64_t>(calls, 1), row->name);
    }
    return text;
}

Ref<SyscallWatch::Record> SyscallWatch::record_for(Task& task, uint64_t number) {
    Ref<Record> record;
    {
        std::lock_guard lock(mutex_);
        record = record_;
    }
    if (!record) return nullptr;
    if (!record->container.empty() && record->container != task.process().container->id()) return nullptr;
    if (record->pid != 0 && record->pid != task.process().pid->root_number()) return nullptr;
    if (record->numbers.any() && (number >= kNumbers || !record->numbers[number])) return nullptr;
    return record;
}

void SyscallWatch::write(Record& record, std::string line) {
    if (!record.output) return log::write_line(log::Level::kInfo, line);
    uint64_t dropped = record.dropped.load(std::memory_order_relaxed);
    if (dropped != 0) line = fmt::format("({} lines dropped)\n", dropped) + line;
    line += '\n';
    ssize_t written = ::write(record.output.get(), line.data(), line.size());
    if (written > 0) {
        if (dropped != 0) record.dropped.fetch_sub(dropped, std::memory_order_relaxed);
    } else if (errno == EAGAIN) {
        record.dropped.fetch_add(1, std::memory_order_relaxed);
    } else {
        stop_record(&record);
    }
}

SysResult<int64_t> SyscallWatch::run(Task& task, const SyscallRow& row, const SyscallArgs& args) {
    Ref<Record> record = record_for(task, row.number);
    bool profiled = profiling_.load(std::memory_order_relaxed) && row.number < kNumbers;
    std::string line;
    int tid = task.pid().root_number();
    if (record) {
        line = fmt::format("{:>5} {}({})", tid, row.name, arguments_text(task, args));
        if (row.number == SYS_exit || row.number == SYS_exit_group) {
            write(*record, line + " = ?");
            record = nullptr;
        }
    }
    Nanoseconds start = monotonic_now();
    uint64_t used = profiled ? thread_time() : 0;
    SysResult<int64_t> result = row.handler != nullptr ? row.handler(task, args) : answer_missing(task, row);
    Nanoseconds took = monotonic_now() - start;
    if (profiled) {
        Counter& counter = counters_[row.number];
        counter.calls.fetch_add(1, std::memory_order_relaxed);
        counter.wall_ns.fetch_add(static_cast<uint64_t>(took), std::memory_order_relaxed);
        counter.cpu_ns.fetch_add(thread_time() - used, std::memory_order_relaxed);
        if (!result.ok() && errno_of(result.error()) < kRestartSys)
            counter.errors.fetch_add(1, std::memory_order_relaxed);
    }
    if (record)
        write(*record,
              fmt::format("{} = {} <{}.{:06}>", line, result_text(result), took / kSecond, took % kSecond / 1000));
    return result;
}

void SyscallWatch::signal(Task& task, const siginfo_t& info) {
    Ref<Record> record = record_for(task, kNumbers);
    if (!record) return;
    const char* name = sigabbrev_np(info.si_signo);
    write(*record,
          fmt::format("{:>5} --- SIG{} code {} address {:#x} ip {:#x} ---", task.pid().root_number(),
                      name != nullptr ? name : std::to_string(info.si_signo), info.si_code,
                      reinterpret_cast<uint64_t>(info.si_addr), task.has_registers() ? task.registers().ip : 0));
}

}  // namespace casemate::sentry
