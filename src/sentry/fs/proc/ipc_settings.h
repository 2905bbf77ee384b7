// What of /proc/sys belongs to the reader's IPC namespace: System V shared memory and POSIX message queues.
#pragma once

#include <string>
#include <vector>

#include "sentry/fs/proc/proc.h"

namespace casemate::sentry {

class Kernel;

struct IpcSetting {
    std::string path;  // below /proc/sys
    TextFile::Make make;
    TextFile::Take take;
};
std::vector<IpcSetting> ipc_settings(Kernel& kernel);

}  // namespace casemate::sentry
