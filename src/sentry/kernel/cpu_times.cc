#include "sentry/kernel/cpu_times.h"

#include <pthread.h>
#include <time.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

int64_t read_ns(clockid_t clock) {
    timespec at{};
    if (clock_gettime(clock, &at) != 0) return 0;
    return at.tv_sec * kSecond + at.tv_nsec;
}

uint64_t thread_system_ns(Task& task) {
    Task::Parts& parts = task.parts();
    std::lock_guard lock(parts.host_thread_mutex);
    if (!parts.host_thread_valid) return 0;
    clockid_t clock;
    if (pthread_getcpuclockid(parts.host_thread, &clock) != 0) return 0;
    int64_t now = read_ns(clock) - parts.host_thread_baseline_ns;
    return now > 0 ? static_cast<uint64_t>(now) : 0;
}

uint64_t live_user_ns(Process& process, AddressSpace& memory) {
    int64_t now =
        host_process_cpu_ns(memory.host().host_process_id()) - process.user_baseline_ns.load(std::memory_order_relaxed);
    return now > 0 ? static_cast<uint64_t>(now) : 0;
}

}  // namespace

int64_t host_process_cpu_ns(int host_process_id) {
    if (host_process_id <= 0) return 0;
    // As clock_getcpuclockid(3) makes it; CPUCLOCK_SCHED = 2.
    return read_ns(static_cast<clockid_t>((~static_cast<unsigned>(host_process_id) << 3) | 2));
}

CpuTimes process_cpu_times_locked(Process& process) {
    CpuTimes times{process.past_user_ns.load(), process.past_system_ns.load()};
    bool counted = false;
    for (Task* task : process.threads) {
        times.system_ns += thread_system_ns(*task);
        if (counted) continue;
        if (Ref<AddressSpace> memory = task->memory_of()) {
            counted = true;
            times.user_ns += live_user_ns(process, *memory);
        }
    }
    return times;
}

CpuTimes process_cpu_times(Process& process) {
    std::vector<Ref<AddressSpace>> dropped_later;  // a last reference must not go under the lock
    std::lock_guard lock(process.kernel.tasks().mutex);
    for (Task* task : process.threads) dropped_later.push_back(task->memory_of());
    return process_cpu_times_locked(process);
}

CpuTimes task_cpu_times(Task& task) {
    CpuTimes all = process_cpu_times(task.process());
    size_t threads;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        threads = task.process().threads.size();
    }
    return {all.user_ns / (threads == 0 ? 1 : threads), thread_system_ns(task)};
}

ResourceUse process_use_locked(Process& process) {
    CpuTimes times = process_cpu_times_locked(process);
    return {times.user_ns, times.system_ns, process.peak_resident.load(), process.faults.load(),
            process.switches.load()};
}

ResourceUse process_use(Process& process) {
    CpuTimes times = process_cpu_times(process);
    return {times.user_ns, times.system_ns, process.peak_resident.load(), process.faults.load(),
            process.switches.load()};
}

void account_address_space_joined(Task& task) {
    task.process().user_baseline_ns.store(host_process_cpu_ns(task.memory().host().host_process_id()));
}

void account_address_space_left(Task& task) {
    Process& process = task.process();
    process.past_user_ns.fetch_add(live_user_ns(process, task.memory()));
    process.user_baseline_ns.store(INT64_MAX / 2);  // what is left of the space is somebody else's
    uint64_t resident = task.memory().usage().resident_bytes;
    if (resident > process.peak_resident.load()) process.peak_resident.store(resident);
}

void account_thread_ended(Task& task) {
    uint64_t used = thread_system_ns(task);
    Task::Parts& parts = task.parts();
    std::lock_guard lock(parts.host_thread_mutex);
    parts.host_thread_valid = false;
    task.process().past_system_ns.fetch_add(used);
}

}  // namespace casemate::sentry
