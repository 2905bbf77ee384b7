// /proc/PID/ns/KIND: namespaces as files, for setns(2) and to keep them alive.
#pragma once

#include <string_view>

#include "sentry/kernel/namespaces.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

// One namespace of a task: `set` as it was when the link was followed, and which of it is meant.
struct HeldNamespace {
    uint64_t kind = 0;  // CLONE_NEW*
    Ref<Namespaces> set;
    Ref<PidNamespace> pid;    // of kind CLONE_NEWPID
    Ref<UserNamespace> user;  // of kind CLONE_NEWUSER
    uint64_t inode = 0;       // what stat(2) and the link's text show
};

// Of a task, by the name under /proc/PID/ns. ESRCH when it is gone.
SysResult<HeldNamespace> namespace_of(Task& task, std::string_view name);
// Where the link leads: a place of a file system of its own (nsfs).
SysResult<Path> namespace_place(Task& reader, Task& task, std::string_view name);
// What an open file holds; null if it is no namespace.
const HeldNamespace* held_namespace(File& file);

}  // namespace casemate::sentry
