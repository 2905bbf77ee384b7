// RLIMIT_FSIZE: how large a task may make files.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace casemate::sentry {

class Task;

// A file is to be made `size` bytes long. EFBIG, with SIGXFSZ for the task, past its limit.
SysResult<void> check_file_size(Task& task, int64_t size);

}  // namespace casemate::sentry
