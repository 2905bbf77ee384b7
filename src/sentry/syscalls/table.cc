#include "sentry/syscalls/table.h"

#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "base/log.h"
#include "sentry/syscalls/event.h"
#include "sentry/syscalls/names.h"
#include "sentry/syscalls/process_memory.h"
#include "sentry/syscalls/ptrace.h"

namespace casemate::sentry {
namespace {

constexpr size_t kNumbers = 512;

struct Table {
    std::array<SyscallRow, kNumbers> by_number{};
    std::vector<SyscallRow> listed;

    Table() {
        for (const SyscallName& one : syscall_names()) {
            SyscallRow& row = by_number[one.number];
            row.number = one.number;
            row.name = one.name;
        }
        for (auto family :
             {memory_syscalls(), task_syscalls(), signal_syscalls(), identity_syscalls(), time_syscalls(),
              futex_syscalls(), scheduling_syscalls(), system_syscalls(), file_syscalls(), io_syscalls(),
              descriptor_syscalls(), mount_syscalls(), event_syscalls(), poll_syscalls(), inotify_syscalls(),
              socket_syscalls(), ipc_syscalls(), process_memory_syscalls(), ptrace_syscalls()}) {
            for (const SyscallRow& row : family) by_number[row.number] = row;
        }
        for (const SyscallRow& row : by_number)
            if (row.name != nullptr) listed.push_back(row);
    }
};

// Built once, before main: the order of static initialisation does not matter, the families' rows are constants.
const Table table;
std::array<std::atomic<bool>, kNumbers> logged;

}  // namespace

const SyscallRow* find_syscall(uint64_t number) {
    if (number >= kNumbers) [[unlikely]]
        return nullptr;
    const SyscallRow& row = table.by_number[number];
    return row.name != nullptr ? &row : nullptr;
}

std::span<const SyscallRow> all_syscalls() { return table.listed; }

SysResult<int64_t> answer_missing(Task&, const SyscallRow& row) {
    if (!logged[row.number].exchange(true, std::memory_order_relaxed))
        log::info("syscall {} ({}) is not supported: {}", row.name, row.number,
                  row.note[0] != '\0' ? row.note : "not implemented");
    return Errno(row.missing_errno);
}

}  // namespace casemate::sentry
