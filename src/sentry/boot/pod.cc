#include "sentry/boot/pod.h"

#include <fmt/core.h>
#include <sys/wait.h>

#include <algorithm>

#include "base/footprint.h"
#include "base/log.h"
#include "guest_api/errors.h"
#include "oci/config_parser.h"
#include "sentry/boot/pod_ports.h"
#include "sentry/kernel/task_clone.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/net/network.h"

namespace casemate::sentry {

using guest_api::failure;
using guest_api::invalid;
using guest_api::not_found;
using guest_api::not_supported;
using guest_api::wrong_state;

namespace {

uint64_t memory_limit_of(const oci::Resources& resources) {
    int64_t limit = resources.memory.limit.value_or(0);
    return limit > 0 ? static_cast<uint64_t>(limit) : 0;
}

}  // namespace

BootError boot_error(Errno error, std::string what, std::string field) {
    return failure(rpc::Code::kInvalidArgument, error.value,
                   fmt::format("{}: {}", what, strerrordesc_np(error.value) ? strerrordesc_np(error.value) : "failed"),
                   std::move(field));
}

void PodProcess::process_ended(Process& ended_process, int wait_status) {
    // Who hears of the end may look at its files at once.
    pod_.files_.flush();
    std::vector<Answer<v1::WaitProcessReply>> answers;
    v1::WaitProcessReply reply;
    {
        std::lock_guard lock(pod_.mutex_);
        ended = true;
        if (killed_unstarted != 0) wait_status = killed_unstarted;
        if (WIFSIGNALED(wait_status)) {
            exit.set_signal(static_cast<uint32_t>(WTERMSIG(wait_status)));
            exit.set_exit_status(128 + static_cast<uint32_t>(WTERMSIG(wait_status)));
        } else {
            exit.set_exit_status(static_cast<uint32_t>(WEXITSTATUS(wait_status)));
        }
        exit.set_exited_at_ns(realtime_now());
        exit.set_oom_killed(ended_process.oom_killed.load());
        answers.swap(waiting);
        *reply.mutable_exit() = exit;
        v1::Event event;
        event.set_container_id(container_id);
        event.mutable_exit()->set_exec_id(exec_id);
        event.mutable_exit()->set_pid(static_cast<uint32_t>(pid));
        *event.mutable_exit()->mutable_exit() = exit;
        pod_.add_event_locked(std::move(event));
        if (console) console->process_ended();
    }
    for (auto& answer : answers) answer.ok(reply);
}

Pod::Pod(Kernel& kernel, HostFiles& files, HostPoller& poller) : kernel_(kernel), files_(files), poller_(poller) {
    kernel_.oom_killer().set_observer(this);
}

Pod::~Pod() = default;

void Pod::oom_killed(Process& victim, OomScope scope) {
    v1::Event event;
    event.set_container_id(victim.container->id());
    {
        std::lock_guard lock(kernel_.tasks().mutex);
        if (victim.pid) event.mutable_oom()->set_killed_pid(static_cast<uint32_t>(victim.pid->root_number()));
    }
    event.mutable_oom()->set_of_sandbox(scope == OomScope::kPod);
    std::lock_guard lock(mutex_);
    add_event_locked(std::move(event));
}

PodContainer* Pod::find_locked(const std::string& id) {
    auto it = containers_.find(id);
    return it == containers_.end() ? nullptr : it->second.get();
}

PodProcess* Pod::find_process_locked(const std::string& container, const std::string& exec) {
    PodContainer* found = find_locked(container);
    if (found == nullptr) return nullptr;
    if (exec.empty()) return found->init.get();
    auto it = found->execs.find(exec);
    return it == found->execs.end() ? nullptr : it->second.get();
}

void Pod::add_event_locked(v1::Event event) {
    event.set_sequence(++last_event_);
    event.set_at_ns(realtime_now());
    events_.push_back(std::move(event));
    if (events_.size() > kKeptEvents) events_.erase(events_.begin());
    answer_events_locked();
}

void Pod::answer_events_locked() {
    auto it = event_waiters_.begin();
    while (it != event_waiters_.end()) {
        if (last_event_ <= it->after) {
            ++it;
            continue;
        }
        v1::GetEventsReply reply;
        if (!events_.empty() && events_.front().sequence() > it->after + 1)
            reply.set_lost(events_.front().sequence() - it->after - 1);
        for (const v1::Event& event : events_) {
            if (event.sequence() <= it->after) continue;
            if (reply.events_size() == 64) break;
            *reply.add_events() = event;
        }
        it->answer.ok(reply);
        it = event_waiters_.erase(it);
    }
}

void Pod::get_version(v1::GetVersionRequest, Answer<v1::GetVersionReply> answer) {
    v1::GetVersionReply reply;
    reply.set_api_version(guest_api::kApiVersion);
    reply.set_name("casemate-sentry");
    reply.set_version("0.1.0");
    reply.set_kernel_release(kernel_.options().release);
    for (const char* capability : {"pause", "trace", "profile", "network.stack", "network.ports"})
        reply.add_capabilities(capability);
    if (host_sockets_ != nullptr) reply.add_capabilities("network.host");
    answer.ok(reply);
}

void Pod::create_sandbox(v1::CreateSandboxRequest request, Answer<v1::CreateSandboxReply> answer) {
    if (created_) return static_cast<void>(answer.fail(wrong_state("the sandbox exists already")));
    bool host = request.network() == v1::NETWORK_HOST;
    if (host && host_sockets_ == nullptr)
        return static_cast<void>(
            answer.fail(not_supported("this sentry was not started for the host's network", "network")));
    auto set = make_ref<Namespaces>();
    set->uts = make_ref<UtsNamespace>(request.hostname(), request.domainname());
    set->ipc = make_ref<IpcNamespace>();
    set->network = make_pod_network();
    set->cgroup = make_ref<CgroupNamespace>();
    set->time = make_ref<TimeNamespace>();
    set->pid_for_children = kernel_.tasks().root_space;
    namespaces_ = std::move(set);
    if (host) network().set_host(*host_sockets_);
    if (request.memory_limit() != 0) kernel_.memory().set_limit(request.memory_limit());
    created_ = true;
    answer.ok();
}

void Pod::destroy_sandbox(v1::DestroySandboxRequest, Answer<v1::DestroySandboxReply> answer) {
    // The process ends with its server: the host process of every application dies with it.
    answer.ok();
    server_->stop();
}

void Pod::create_container(v1::CreateContainerRequest request, RequestStreams streams,
                           Answer<v1::CreateContainerReply> answer) {
    if (!created_) return static_cast<void>(answer.fail(wrong_state("CreateSandbox comes first")));
    {
        std::lock_guard lock(mutex_);
        if (find_locked(request.container_id()) != nullptr) {
            answer.fail(guest_api::already_exists(fmt::format("container {} exists", request.container_id())));
            return;
        }
    }
    auto made = build_container(request, streams);
    if (!made.ok()) return static_cast<void>(answer.fail(made.error()));
    std::unique_ptr<PodContainer> container = made.take_value();
    if (container->spec.process) {
        auto init = make_process(*container, *container->spec.process, request.stdio(), streams, "");
        if (!init.ok()) return static_cast<void>(answer.fail(init.error()));
        container->init = init.take_value();
    }
    v1::CreateContainerReply reply;
    if (container->init) reply.set_pid(static_cast<uint32_t>(container->init->pid));
    if (container->spec.linux.resources)
        kernel_.oom_killer().containers().set_limit(*container->kernel_container,
                                                    memory_limit_of(*container->spec.linux.resources));
    {
        std::lock_guard lock(mutex_);
        containers_.emplace(request.container_id(), std::move(container));
    }
    answer.ok(reply);
}

void Pod::start_container(v1::StartContainerRequest request, Answer<v1::StartContainerReply> answer) {
    PodContainer* container;
    {
        std::lock_guard lock(mutex_);
        container = find_locked(request.container_id());
    }
    if (container == nullptr)
        return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
    PodProcess* init = container->init.get();
    if (init == nullptr) return static_cast<void>(answer.fail(wrong_state("config.json has no process to start")));
    if (init->started) return static_cast<void>(answer.fail(wrong_state("the container was started already")));
    auto loaded = load_program(*init, *container->spec.process);
    if (!loaded.ok()) return static_cast<void>(answer.fail(loaded.error()));
    Ref<Task> task;
    {
        std::lock_guard lock(mutex_);
        init->started = true;
        task = std::move(init->task);
    }
    auto started = TaskBuilder::start_process(*task);
    if (!started.ok()) return static_cast<void>(answer.fail(boot_error(started.error(), "start the process")));
    v1::StartContainerReply reply;
    reply.set_pid(static_cast<uint32_t>(init->pid));
    answer.ok(reply);
    release_program_pages();
}

void Pod::delete_container(v1::DeleteContainerRequest request, Answer<v1::DeleteContainerReply> answer) {
    std::unique_ptr<PodContainer> gone;
    {
        std::lock_guard lock(mutex_);
        PodContainer* container = find_locked(request.container_id());
        if (container == nullptr) {
            answer.fail(not_found(fmt::format("no container {}", request.container_id())));
            return;
        }
        bool running = container->init && container->init->started && !container->init->ended;
        if (running && !request.force()) {
            answer.fail(wrong_state(fmt::format("container {} is running", request.container_id())));
            return;
        }
        gone = std::move(containers_[request.container_id()]);
        containers_.erase(request.container_id());
    }
    if (gone->paused) kernel_.tasks().freeze(*gone->kernel_container, false);
    if (gone->init && gone->init->task) TaskBuilder::discard_process(*gone->init->task);
    kernel_.tasks().kill_all(*gone->kernel_container, SIGKILL);
    kernel_.tasks().wait_until_gone(gone->kernel_container.get());
    kernel_.oom_killer().containers().set_limit(*gone->kernel_container, 0);
    answer.ok();
}

void Pod::pause_container(v1::PauseContainerRequest request, Answer<v1::PauseContainerReply> answer) {
    std::lock_guard lock(mutex_);
    if (!request.container_id().empty() && find_locked(request.container_id()) == nullptr)
        return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
    for (auto& [id, container] : containers_) {
        if (!request.container_id().empty() && id != request.container_id()) continue;
        kernel_.tasks().freeze(*container->kernel_container, true);
        container->paused = true;
    }
    answer.ok();
}

void Pod::resume_container(v1::ResumeContainerRequest request, Answer<v1::ResumeContainerReply> answer) {
    std::lock_guard lock(mutex_);
    if (!request.container_id().empty() && find_locked(request.container_id()) == nullptr)
        return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
    for (auto& [id, container] : containers_) {
        if (!request.container_id().empty() && id != request.container_id()) continue;
        kernel_.tasks().freeze(*container->kernel_container, false);
        container->paused = false;
    }
    answer.ok();
}

void Pod::update_resources(v1::UpdateResourcesRequest request, Answer<v1::UpdateResourcesReply> answer) {
    std::lock_guard lock(mutex_);
    if (request.container_id().empty()) {
        if (request.cpus() != 0 && request.cpus() != kernel_.options().cpus) {
            answer.fail(not_supported("the number of CPUs of a running sentry is fixed", "cpus"));
            return;
        }
        if (request.memory_limit() != 0)
            kernel_.memory().set_limit(request.memory_limit() != UINT64_MAX ? request.memory_limit() : 0);
        kernel_.oom_killer().containers().pod_limit_changed();
        answer.ok();
        return;
    }
    PodContainer* container = find_locked(request.container_id());
    if (container == nullptr)
        return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
    oci::ParseNotes notes;
    auto resources = oci::parse_resources(request.resources(), notes);
    if (!resources.ok()) return static_cast<void>(answer.fail(invalid(resources.error().message(), "resources")));
    // The host's cgroup holds the pod to its limits; what the guest enforces itself is the number of tasks, and memory.
    if (resources->pids_limit)
        container->kernel_container->task_limit =
            *resources->pids_limit > 0 ? static_cast<uint64_t>(*resources->pids_limit) : 0;
    if (resources->memory.limit)
        kernel_.oom_killer().containers().set_limit(*container->kernel_container, memory_limit_of(*resources));
    answer.ok();
}

void Pod::exec_process(v1::ExecProcessRequest request, RequestStreams streams, Answer<v1::ExecProcessReply> answer) {
    PodContainer* container;
    {
        std::lock_guard lock(mutex_);
        container = find_locked(request.container_id());
        if (container == nullptr)
            return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
        if (request.exec_id().empty()) return static_cast<void>(answer.fail(invalid("exec_id is empty", "exec_id")));
        if (container->execs.contains(request.exec_id())) {
            answer.fail(guest_api::already_exists(fmt::format("exec {} exists", request.exec_id())));
            return;
        }
        if (container->init && container->init->ended) {
            answer.fail(wrong_state(fmt::format("container {} is stopped", request.container_id())));
            return;
        }
    }
    oci::ParseNotes notes;
    auto process = oci::parse_process(request.process(), notes);
    if (!process.ok()) return static_cast<void>(answer.fail(invalid(process.error().message(), "process")));
    auto made = make_process(*container, *process, request.stdio(), streams, request.exec_id());
    if (!made.ok()) return static_cast<void>(answer.fail(made.error()));
    std::unique_ptr<PodProcess> exec = made.take_value();
    auto loaded = load_program(*exec, *process, request.executable());
    if (!loaded.ok()) {
        TaskBuilder::discard_process(*exec->task);
        return static_cast<void>(answer.fail(loaded.error()));
    }
    Ref<Task> task = std::move(exec->task);
    exec->started = true;
    v1::ExecProcessReply reply;
    reply.set_pid(static_cast<uint32_t>(exec->pid));
    {
        std::lock_guard lock(mutex_);
        container->execs.emplace(request.exec_id(), std::move(exec));
    }
    auto started = TaskBuilder::start_process(*task);
    if (!started.ok()) {
        std::lock_guard lock(mutex_);
        container->execs.erase(request.exec_id());
        return static_cast<void>(answer.fail(boot_error(started.error(), "start the process")));
    }
    answer.ok(reply);
}

void Pod::signal_process(v1::SignalProcessRequest request, Answer<v1::SignalProcessReply> answer) {
    auto signo = static_cast<int>(request.signal());
    if (signo < 0 || signo > kSignalCount)
        return static_cast<void>(answer.fail(invalid(fmt::format("signal {} does not exist", signo), "signal")));
    Ref<Process> target;
    Ref<Container> all;
    Ref<Task> unstarted;
    {
        std::lock_guard lock(mutex_);
        PodContainer* container = find_locked(request.container_id());
        if (container == nullptr)
            return static_cast<void>(answer.fail(not_found(fmt::format("no container {}", request.container_id()))));
        if (request.all()) {
            all = container->kernel_container;
        } else if (request.pid() == 0) {
            PodProcess* process = find_process_locked(request.container_id(), request.exec_id());
            if (process == nullptr || process->ended)
                return static_cast<void>(answer.fail(not_found("the process has ended")));
            if (!process->started && process->task && signo != 0) {
                // A created container that is killed before it starts: its init never runs.
                process->killed_unstarted = signo;
                unstarted = std::move(process->task);
            }
            target = process->process;
        }
    }
    if (unstarted) {
        TaskBuilder::discard_process(*unstarted);
        PodProcess* process = nullptr;
        {
            std::lock_guard lock(mutex_);
            process = find_process_locked(request.container_id(), request.exec_id());
            if (process != nullptr && process->ended) process = nullptr;  // told by the discard
        }
        if (process != nullptr) process->process_ended(*target, signo);
        answer.ok();
        return;
    }
    if (all) {
        if (signo != 0) kernel_.tasks().kill_all(*all, signo);
        answer.ok();
        return;
    }
    if (!target) target = kernel_.tasks().find_process(*kernel_.tasks().root_space, static_cast<int>(request.pid()));
    if (!target) return static_cast<void>(answer.fail(not_found("no such process")));
    if (signo != 0) send_to_process(*target, kernel_signal(signo), SignalSource::kOutside);
    answer.ok();
}

void Pod::wait_process(v1::WaitProcessRequest request, Answer<v1::WaitProcessReply> answer) {
    std::lock_guard lock(mutex_);
    PodProcess* process = find_process_locked(request.container_id(), request.exec_id());
    if (process == nullptr) {
        answer.fail(
            not_found(fmt::format("no process {} in container {}",
                                  request.exec_id().empty() ? "init" : request.exec_id(), request.container_id())));
        return;
    }
    if (!process->ended) {
        process->waiting.push_back(std::move(answer));
        return;
    }
    v1::WaitProcessReply reply;
    *reply.mutable_exit() = process->exit;
    answer.ok(reply);
}

void Pod::delete_exec(v1::DeleteExecRequest request, Answer<v1::DeleteExecReply> answer) {
    std::unique_ptr<PodProcess> gone;
    {
        std::lock_guard lock(mutex_);
        PodContainer* container = find_locked(request.container_id());
        PodProcess* process = find_process_locked(request.container_id(), request.exec_id());
        if (process == nullptr || request.exec_id().empty())
            return static_cast<void>(answer.fail(not_found("no such exec process")));
        if (!process->ended) return static_cast<void>(answer.fail(wrong_state("the process is running")));
        gone = std::move(container->execs[request.exec_id()]);
        container->execs.erase(request.exec_id());
    }
    gone.reset();  // joins its console, without the lock
    answer.ok();
}

void Pod::resize_terminal(v1::ResizeTerminalRequest request, Answer<v1::ResizeTerminalReply> answer) {
    Ref<Terminal> terminal;
    {
        std::lock_guard lock(mutex_);
        PodProcess* process = find_process_locked(request.container_id(), request.exec_id());
        if (process == nullptr) return static_cast<void>(answer.fail(not_found("no such process")));
        if (!process->console) return static_cast<void>(answer.fail(wrong_state("the process has no terminal")));
        terminal = Ref<Terminal>(&process->console->terminal());
    }
    winsize size{};
    size.ws_row = static_cast<unsigned short>(std::min<uint32_t>(request.rows(), 0xffff));
    size.ws_col = static_cast<unsigned short>(std::min<uint32_t>(request.columns(), 0xffff));
    terminal->set_window(size);
    answer.ok();
}

void Pod::close_stdin(v1::CloseStdinRequest request, Answer<v1::CloseStdinReply> answer) {
    std::lock_guard lock(mutex_);
    if (find_process_locked(request.container_id(), request.exec_id()) == nullptr)
        return static_cast<void>(answer.fail(not_found("no such process")));
    // The process reads the host's descriptor itself: it sees the end of file as soon as the host closes its side.
    answer.ok();
}

}  // namespace casemate::sentry
