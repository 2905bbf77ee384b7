// What opening a device node or FIFO does: the seam between the vfs and the code of devices and pipes, which defines
// these functions (fs/dev, fs/pipe).
#pragma once

#include <cstdint>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

// A character device by number; ENXIO for one that does not exist. `flags` as open(2).
SysResult<Ref<File>> open_character_device(Task& task, const Path& path, int flags, uint64_t device);
// A FIFO: may block until the other end is opened. The pipe hangs on path.inode().attachment().
SysResult<Ref<File>> open_fifo(Task& task, const Path& path, int flags);

}  // namespace casemate::sentry
