#include "sentry/kernel/kernel.h"

#include <fmt/core.h>

#include "sentry/kernel/futex.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/oom_killer.h"
#include "sentry/kernel/syscall_watch.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_threads.h"
#include "sentry/kernel/timers.h"
#include "sentry/vdso/vdso.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

Kernel::Kernel(Platform& platform, MemoryFile& memory, KernelOptions options)
    : platform_(platform),
      memory_(memory),
      options_(std::move(options)),
      boot_time_(monotonic_now()),
      user_namespace_(make_ref<UserNamespace>(nullptr)),
      tasks_(std::make_unique<TaskSet>()),
      futexes_(std::make_unique<FutexTable>()),
      timers_(std::make_unique<TimerThread>()),
      threads_(std::make_unique<TaskThreads>()),
      log_(std::make_unique<KernelLog>()),
      oom_killer_(std::make_unique<OomKiller>(*this)),
      watch_(std::make_unique<SyscallWatch>(*this)),
      vdso_(Vdso::create(platform.host_clocks(), memory, options_.cpus)) {
    log_->add(fmt::format("Linux version {} {}", options_.release, options_.version));
    if (options_.trace) watch_->start_record(make_ref<SyscallWatch::Record>());
}

Kernel::~Kernel() = default;

void Kernel::set_anonymous_files(Ref<FileSystem> files) { anonymous_files_ = std::move(files); }

}  // namespace casemate::sentry
