// The parts of io_syscalls().
#pragma once

#include <optional>
#include <span>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

class File;
class IoBuffer;

std::span<const SyscallRow> read_write_syscalls();  // io.cc
std::span<const SyscallRow> transfer_syscalls();    // transfer.cc
std::span<const SyscallRow> aio_syscalls();         // aio.cc

// What writing to a regular file means beyond the bytes: RLIMIT_FSIZE, set-user-id bits.
SysResult<void> before_write(Task& task, File& file, IoBuffer& from, std::optional<int64_t> offset);

}  // namespace casemate::sentry
