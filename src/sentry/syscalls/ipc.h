// The parts of ipc_syscalls().
#pragma once

#include <span>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

std::span<const SyscallRow> shm_syscalls();
std::span<const SyscallRow> sem_syscalls();
std::span<const SyscallRow> msg_syscalls();
std::span<const SyscallRow> mqueue_syscalls();

}  // namespace casemate::sentry
