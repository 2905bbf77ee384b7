// What the host may ask about the pod: containers, processes, statistics, events, diagnostics.
#include <fmt/core.h>

#include "guest_api/errors.h"
#include "sentry/boot/pod.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/task_set.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/network.h"

namespace casemate::sentry {

using guest_api::not_found;
using guest_api::not_supported;

v1::ContainerState Pod::state_of_locked(const PodContainer& container) const {
    if (container.paused) return v1::CONTAINER_PAUSED;
    if (!container.init || !container.init->started)
        return container.init && container.init->ended ? v1::CONTAINER_STOPPED : v1::CONTAINER_CREATED;
    return container.init->ended ? v1::CONTAINER_STOPPED : v1::CONTAINER_RUNNING;
}

void Pod::list_containers(v1::ListContainersRequest, Answer<v1::ListContainersReply> answer) {
    v1::ListContainersReply reply;
    std::lock_guard lock(mutex_);
    for (auto& [id, container] : containers_) {
        v1::ContainerInfo& info = *reply.add_containers();
        info.set_container_id(id);
        info.set_state(state_of_locked(*container));
        if (!container->init) continue;
        info.set_pid(static_cast<uint32_t>(container->init->pid));
        if (container->init->ended) *info.mutable_exit() = container->init->exit;
    }
    answer.ok(reply);
}

void Pod::get_stats(v1::GetStatsRequest request, Answer<v1::GetStatsReply> answer) {
    Ref<Container> only;
    if (!request.container_id().empty()) {
        std::lock_guard lock(mutex_);
        PodContainer* container = find_locked(request.container_id());
        if (container == nullptr)
            return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
        only = container->kernel_container;
    }
    TaskSet& tasks = kernel_.tasks();
    auto processes = only ? tasks.processes_of(*only) : tasks.processes(*tasks.root_space);
    uint64_t user = only ? only->past_user_ns.load() : 0, system = only ? only->past_system_ns.load() : 0;
    uint64_t threads = 0, resident = 0, faults = 0;
    for (auto& process : processes) {
        CpuTimes times = process_cpu_times(*process);
        user += times.user_ns;
        system += times.system_ns;
        faults += process->faults.load();
        threads += tasks.threads_of(*process).size();
        Ref<Task> leader = leader_of(kernel_, *process);
        if (leader)
            if (Ref<AddressSpace> memory = leader->memory_of()) resident += memory->usage().resident_bytes;
    }
    v1::GetStatsReply reply;
    reply.set_at_ns(realtime_now());
    reply.mutable_cpu()->set_usage_ns(user + system);
    reply.mutable_cpu()->set_user_ns(user);
    reply.mutable_cpu()->set_system_ns(system);
    auto& memory = *reply.mutable_memory();
    memory.set_usage_bytes(only ? memory_held(kernel_, *only) : kernel_.memory().bytes_used());
    uint64_t own_limit = only ? only->memory_limit.load() : 0;
    memory.set_limit_bytes(own_limit != 0 ? own_limit : kernel_.memory().limit());
    memory.set_anonymous_bytes(resident);
    memory.set_page_faults(faults);
    uint64_t kills = 0;
    if (only) {
        kills = only->oom_kills.load();
    } else {
        std::lock_guard lock(mutex_);
        for (auto& [id, container] : containers_) kills += container->kernel_container->oom_kills.load();
    }
    memory.set_oom_kills(kills);
    reply.set_pids(threads);
    if (only) reply.set_pids_limit(only->task_limit.load());
    if (created_) {
        network().settle_loopback();
        for (const Link& link : network().interfaces().links()) {
            v1::InterfaceStats& out = *reply.add_interfaces();
            const LinkCounters& counters = *link.counters;
            out.set_name(link.name);
            out.set_rx_bytes(counters.receive_bytes);
            out.set_rx_packets(counters.receive_packets);
            out.set_rx_errors(counters.receive_errors);
            out.set_rx_dropped(counters.receive_dropped);
            out.set_tx_bytes(counters.send_bytes);
            out.set_tx_packets(counters.send_packets);
            out.set_tx_errors(counters.send_errors);
            out.set_tx_dropped(counters.send_dropped);
        }
    }
    answer.ok(reply);
}

void Pod::list_processes(v1::ListProcessesRequest request, Answer<v1::ListProcessesReply> answer) {
    Ref<Container> only;
    std::map<Process*, std::string> execs;
    {
        std::lock_guard lock(mutex_);
        if (!request.container_id().empty()) {
            PodContainer* container = find_locked(request.container_id());
            if (container == nullptr)
                return static_cast<void>(
                    answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
            only = container->kernel_container;
        }
        for (auto& [id, container] : containers_)
            for (auto& [exec_id, exec] : container->execs)
                if (!exec->ended) execs[exec->process.get()] = exec_id;
    }
    TaskSet& tasks = kernel_.tasks();
    v1::ListProcessesReply reply;
    for (auto& process : only ? tasks.processes_of(*only) : tasks.processes(*tasks.root_space)) {
        Ref<Task> leader = leader_of(kernel_, *process);
        if (!leader) continue;
        v1::ProcessInfo& info = *reply.add_processes();
        {
            std::lock_guard lock(tasks.mutex);
            if (process->pid) {
                info.set_pid(static_cast<uint32_t>(process->pid->root_number()));
                info.set_container_pid(static_cast<uint32_t>(process->pid->number()));
            }
            info.set_parent_pid(static_cast<uint32_t>(tasks.parent_pid_locked(*process, *tasks.root_space)));
            info.set_threads(static_cast<uint32_t>(process->threads.size()));
        }
        if (Ref<Credentials> credentials = leader->credentials_of()) info.set_uid(credentials->euid);
        info.set_container_id(process->container->id());
        auto exec = execs.find(process.get());
        if (exec != execs.end()) info.set_exec_id(exec->second);
        auto command = process_area_text(*leader, false);
        std::string line = command.ok() ? *command : "";
        while (!line.empty() && line.back() == '\0') line.pop_back();
        for (char& c : line)
            if (c == '\0') c = ' ';
        if (line.empty()) line = "[" + leader->name() + "]";
        info.set_command(guest_api::printable(line, 4096));
        info.set_state(std::string(1, leader->state()));
        CpuTimes times = process_cpu_times(*process);
        info.set_cpu_ns(times.user_ns + times.system_ns);
        info.set_started_at_ns(realtime_now() - (monotonic_now() - process->started));
    }
    answer.ok(reply);
}

void Pod::get_events(v1::GetEventsRequest request, Answer<v1::GetEventsReply> answer) {
    std::lock_guard lock(mutex_);
    event_waiters_.push_back({request.after(), std::move(answer)});
    answer_events_locked();
}

void Pod::get_metrics(v1::GetMetricsRequest, Answer<v1::GetMetricsReply> answer) {
    v1::GetMetricsReply reply;
    reply.set_text(fmt::format(
        "# HELP casemate_sentry_tasks Tasks (threads) of the pod.\n# TYPE casemate_sentry_tasks gauge\n"
        "casemate_sentry_tasks {}\n# HELP casemate_sentry_memory_bytes Guest memory in use.\n"
        "# TYPE casemate_sentry_memory_bytes gauge\ncasemate_sentry_memory_bytes {}\n"
        "# HELP casemate_sentry_file_server_requests_total Round trips to the file server.\n"
        "# TYPE casemate_sentry_file_server_requests_total counter\ncasemate_sentry_file_server_requests_total {}\n",
        kernel_.tasks().task_count(), kernel_.memory().bytes_used(), files_.round_trips()));
    answer.ok(reply);
}

void Pod::set_clock(v1::SetClockRequest, Answer<v1::SetClockReply> answer) {
    answer.fail(not_supported("the sentry shows the host's clock", "realtime_ns"));
}

void Pod::add_entropy(v1::AddEntropyRequest, Answer<v1::AddEntropyReply> answer) {
    answer.fail(not_supported("the sentry takes the host's random numbers", "data"));
}

}  // namespace casemate::sentry
