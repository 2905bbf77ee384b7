#include "sentry/kernel/oom_killer.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>

#include "base/checked.h"
#include "base/log.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

constexpr int kNever = -1000;                   // OOM_SCORE_ADJ_MIN
constexpr Nanoseconds kPatience = 5 * kSecond;  // for a victim that does not go

// Linux's oom_badness: resident pages, with oom_score_adj as thousandths of all memory.
int64_t badness(Kernel& kernel, Process& process, uint64_t total) {
    int adjust = process.oom_score_adj.load();
    if (adjust == kNever) return INT64_MIN;
    Ref<AddressSpace> memory = memory_of(kernel, process);
    if (!memory) return INT64_MIN;
    auto pages = static_cast<int64_t>(memory->usage().resident_bytes / kPageSize);
    return pages + adjust * static_cast<int64_t>(total / kPageSize / 1000);
}

}  // namespace

Ref<AddressSpace> memory_of(Kernel& kernel, Process& process) {
    for (const Ref<Task>& task : kernel.tasks().threads_of(process))
        if (Ref<AddressSpace> memory = task->memory_of()) return memory;
    return nullptr;
}

OomKiller::OomKiller(Kernel& kernel) : kernel_(kernel) {}
OomKiller::~OomKiller() = default;

Ref<Process> OomKiller::choose(Container* container, uint64_t total) {
    Ref<Process> worst;
    int64_t most = INT64_MIN;
    TaskSet& tasks = kernel_.tasks();
    auto all = container != nullptr ? tasks.processes_of(*container) : tasks.processes(*tasks.root_space);
    for (Ref<Process>& process : all) {
        if (process->group_exiting.load()) continue;
        int64_t points = badness(kernel_, *process, total);
        if (points == INT64_MIN || (worst && points <= most)) continue;
        most = points;
        worst = std::move(process);
    }
    return worst;
}

void OomKiller::kill(Process& victim, const Shortage& shortage) {
    Ref<AddressSpace> memory = memory_of(kernel_, victim);
    AddressSpace::Usage usage = memory ? memory->usage() : AddressSpace::Usage{};
    std::string name = "?";
    int pid = 0;
    {
        std::lock_guard lock(kernel_.tasks().mutex);
        if (victim.leader != nullptr) name = victim.leader->name();
        if (victim.pid) pid = victim.pid->root_number();
    }
    std::string lines[] = {
        fmt::format("memory: usage {}kB, limit {}kB", shortage.used / 1024, shortage.limit / 1024),
        fmt::format("Memory cgroup out of memory: Killed process {} ({}) total-vm:{}kB, anon-rss:{}kB, "
                    "shmem-rss:{}kB, oom_score_adj:{}",
                    pid, name, usage.virtual_bytes / 1024, (usage.resident_bytes - usage.shared_bytes) / 1024,
                    usage.shared_bytes / 1024, victim.oom_score_adj.load())};
    for (const std::string& line : lines) {
        kernel_.log().add(line);
        log::warning("{}", line);
    }
    victim.oom_killed.store(true);
    victim.container->oom_kills.fetch_add(1);
    {
        std::lock_guard lock(victim.signal_mutex);
        victim.begin_group_exit_locked(SIGKILL);
    }
    if (observer_ != nullptr) observer_->oom_killed(victim, shortage.scope);
}

bool OomKiller::is_gone(Process& victim) {
    std::lock_guard lock(kernel_.tasks().mutex);
    return victim.zombie || victim.reaped;
}

Ref<Process> OomKiller::kill_in(Container& container, uint64_t held, uint64_t limit) {
    Ref<Process> victim = choose(&container, limit);
    if (victim) kill(*victim, {OomScope::kContainer, held, limit});
    return victim;
}

void OomKiller::make_room(Task& task) {
    Ref<Process> killed;
    {
        std::lock_guard lock(mutex_);
        if (task.dying()) return;
        // What was killed a moment ago may have made the room already.
        if (victim_ && monotonic_now() - killed_at_ < kPatience && !kernel_.memory().used_up()) return;
        bool waiting = victim_ && !is_gone(*victim_) && monotonic_now() - killed_at_ < kPatience;
        if (!waiting) {
            victim_ = choose(nullptr, kernel_.memory().limit());
            // All are exempt: the one that asks goes, as it cannot go on.
            if (!victim_) victim_ = Ref<Process>(&task.process());
            killed_at_ = monotonic_now();
            killed = victim_;
        }
    }
    // A process that ends tells nobody about its pages: look whether there is room again, or whether this task is the
    // one to go. The wait is as long as an exit takes.
    if (killed) kill(*killed, {OomScope::kPod, kernel_.memory().bytes_used(), kernel_.memory().limit()});
    Nanoseconds until = monotonic_now() + kPatience;
    while (!task.dying() && monotonic_now() < until && kernel_.memory().used_up()) {
        {
            std::lock_guard lock(mutex_);
            if (!victim_ || is_gone(*victim_)) return;
        }
        timespec moment{0, 1'000'000};
        nanosleep(&moment, nullptr);
    }
}

}  // namespace casemate::sentry
