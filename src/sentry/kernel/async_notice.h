// O_ASYNC: signals to the owner of an open file when something can be read or written (F_SETOWN, F_SETSIG, SIGIO),
// and of a socket to which urgent data have come (SIGURG, without O_ASYNC too).
#pragma once

#include "base/ref.h"

namespace casemate::sentry {

class File;
class Task;

// After F_SETFL or FIOASYNC changed O_ASYNC, or F_SETOWN or F_SETSIG the owner: begins, changes or ends the notices of
// `file`. `fd`: by which the task names the file.
void update_async_notice(Task& task, File& file, int fd);

}  // namespace casemate::sentry
