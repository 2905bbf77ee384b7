// The parts of io_syscalls().
#pragma once

#include <span>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

std::span<const SyscallRow> read_write_syscalls();  // io.cc
std::span<const SyscallRow> transfer_syscalls();    // transfer.cc

}  // namespace casemate::sentry
