// What all operations that add or remove a name check. Private to vfs/.
#pragma once

#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

// A new name may be made in `parent`, whose directory_mutex() is held. ENOENT (removed directory), EROFS, EACCES.
SysResult<void> may_create(Task& task, const Path& parent);
// The dentry to make `name` by without looking for it first, where that is allowed and saves a question: the making may
// say EEXIST, and then the dentry must be forgotten. Null: look it up. The directory's lock is held.
Ref<Dentry> unseen_name(Task& task, const Path& parent, std::string_view name);
// Owner and mode of something new in `directory`: umask, set-group-id directories.
NewInode new_inode(Task& task, Inode& directory, uint32_t mode);

}  // namespace casemate::sentry
