// Taking ended threads and processes out of the tables. All with TaskSet::mutex held; `dropped` collects references
// that the caller lets go after it released the lock.
#pragma once

#include <vector>

#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

void release_task_locked(Task& task, std::vector<Ref<RefCounted>>& dropped);
void reap_process_locked(Process& process, std::vector<Ref<RefCounted>>& dropped);
bool notify_parent_locked(Process& process);

}  // namespace casemate::sentry
