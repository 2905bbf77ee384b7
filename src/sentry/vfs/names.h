// Shared by names.cc and rename.cc. Private to vfs/.
#pragma once

#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

// `victim` may be taken out of `parent`: write permission and the sticky bit. EROFS, EACCES, EPERM.
SysResult<void> may_delete(Task& task, const Path& parent, Inode& victim);

}  // namespace casemate::sentry
