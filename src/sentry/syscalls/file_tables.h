// The parts that file_syscalls(), io_syscalls(), descriptor_syscalls() and mount_syscalls() are put together from: one
// list per source file.
#pragma once

#include <span>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

std::span<const SyscallRow> open_syscalls();       // open.cc
std::span<const SyscallRow> stat_syscalls();       // stat.cc
std::span<const SyscallRow> name_syscalls();       // names_in_tree.cc
std::span<const SyscallRow> attribute_syscalls();  // attributes.cc
std::span<const SyscallRow> xattr_syscalls();      // xattr.cc
std::span<const SyscallRow> directory_syscalls();  // directories.cc

}  // namespace casemate::sentry
