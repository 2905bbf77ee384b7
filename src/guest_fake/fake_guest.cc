#include "guest_fake/fake_guest.h"

#include <fmt/core.h>

#include <algorithm>

#include "guest_fake/fake_programs.h"

namespace casemate::guest_fake {

using guest_api::already_exists;
using guest_api::Code;
using guest_api::failure;
using guest_api::invalid;
using guest_api::not_found;
using guest_api::wrong_state;

namespace {

constexpr size_t kKeptEvents = 1024;
constexpr int kEventsPerReply = 64;

Status no_container(const std::string& id) { return not_found(fmt::format("container {} does not exist", id)); }

}  // namespace

FakeGuest::FakeGuest() : programs_(standard_programs()) {}

FakeGuest::~FakeGuest() {
    std::map<std::string, Container> dying;
    {
        std::lock_guard lock(mutex_);
        dying.swap(containers_);
    }
}

void FakeGuest::program(std::string name, Program program) {
    std::lock_guard lock(mutex_);
    programs_[std::move(name)] = std::move(program);
}

void FakeGuest::fail_next(std::string method, Status status) {
    std::lock_guard lock(mutex_);
    planned_failures_[std::move(method)].push_back(std::move(status));
}

std::vector<std::string> FakeGuest::calls() const {
    std::lock_guard lock(mutex_);
    return calls_;
}

std::optional<Status> FakeGuest::note_call(const char* method) {
    std::lock_guard lock(mutex_);
    calls_.emplace_back(method);
    auto planned = planned_failures_.find(method);
    if (planned == planned_failures_.end() || planned->second.empty()) return std::nullopt;
    Status status = std::move(planned->second.front());
    planned->second.pop_front();
    return status;
}

FakeGuest::Container* FakeGuest::find_locked(const std::string& id) {
    auto found = containers_.find(id);
    return found == containers_.end() ? nullptr : &found->second;
}

// Null, and the status says why.
std::shared_ptr<FakeProcess> FakeGuest::process_locked(const std::string& container_id, const std::string& exec,
                                                       Status& status) {
    Container* container = find_locked(container_id);
    if (container == nullptr) {
        status = no_container(container_id);
        return nullptr;
    }
    if (exec.empty()) return container->init;
    auto found = container->execs.find(exec);
    if (found != container->execs.end()) return found->second;
    status = not_found(fmt::format("container {} has no process {}", container_id, exec));
    return nullptr;
}

std::shared_ptr<FakeProcess> FakeGuest::make_process_locked(const std::string& container, const std::string& exec,
                                                            std::vector<std::string> args, const v1::Stdio& stdio,
                                                            RequestStreams& streams) {
    auto process = std::make_shared<FakeProcess>(container, exec, next_pid_++, std::move(args));
    process->terminal = stdio.terminal();
    if (stdio.terminal()) {
        process->in = streams.take(stdio.console());
        process->out.reset(process->in ? ::dup(process->in.get()) : -1);
        process->resize(stdio.rows(), stdio.columns());
    } else {
        process->in = streams.take(stdio.stdin());
        process->out = streams.take(stdio.stdout());
        process->err = streams.take(stdio.stderr());
    }
    process->when_exited([this, container, exec, pid = process->pid](const v1::ExitInfo& info) {
        v1::Event event;
        event.set_container_id(container);
        event.mutable_exit()->set_exec_id(exec);
        event.mutable_exit()->set_pid(pid);
        *event.mutable_exit()->mutable_exit() = info;
        add_event(std::move(event));
    });
    return process;
}

v1::ContainerState FakeGuest::state_locked(const Container& container) const {
    if (container.init->exit()) return v1::CONTAINER_STOPPED;
    if (container.paused) return v1::CONTAINER_PAUSED;
    return container.init->started() ? v1::CONTAINER_RUNNING : v1::CONTAINER_CREATED;
}

void FakeGuest::get_version(v1::GetVersionRequest, Answer<v1::GetVersionReply> answer) {
    if (intercept("GetVersion", answer)) return;
    v1::GetVersionReply reply;
    reply.set_api_version(guest_api::kApiVersion);
    reply.set_name("fake");
    reply.set_version("0");
    reply.set_kernel_release("0.0.0-fake");
    reply.add_capabilities("pause");
    answer.ok(reply);
}

void FakeGuest::create_sandbox(v1::CreateSandboxRequest, Answer<v1::CreateSandboxReply> answer) {
    if (intercept("CreateSandbox", answer)) return;
    std::lock_guard lock(mutex_);
    if (std::exchange(sandbox_, true)) {
        answer.fail(already_exists("the sandbox exists already"));
        return;
    }
    answer.ok();
}

void FakeGuest::destroy_sandbox(v1::DestroySandboxRequest, Answer<v1::DestroySandboxReply> answer) {
    if (intercept("DestroySandbox", answer)) return;
    std::map<std::string, Container> dying;
    {
        std::lock_guard lock(mutex_);
        dying.swap(containers_);
    }
    dying.clear();
    answer.ok();
    if (on_destroy_) on_destroy_();
}

void FakeGuest::create_container(v1::CreateContainerRequest request, RequestStreams streams,
                                 Answer<v1::CreateContainerReply> answer) {
    if (intercept("CreateContainer", answer)) return;
    auto args = args_of_config(request.config());
    std::lock_guard lock(mutex_);
    const std::string& id = request.container_id();
    if (!sandbox_) {
        answer.fail(wrong_state("there is no sandbox yet"));
    } else if (id.empty()) {
        answer.fail(invalid("a container needs an id", "container_id"));
    } else if (find_locked(id) != nullptr) {
        answer.fail(already_exists(fmt::format("container {} exists already", id)));
    } else if (!args.ok()) {
        answer.fail(invalid(args.error().message(), "config"));
    } else {
        Container container;
        container.id = id;
        container.init = make_process_locked(id, "", args.take_value(), request.stdio(), streams);
        container.trees.push_back(streams.take(request.root().base().token()));
        for (const auto& mount : request.mounts()) container.trees.push_back(streams.take(mount.tree().token()));
        v1::CreateContainerReply reply;
        reply.set_pid(container.init->pid);
        containers_.emplace(id, std::move(container));
        answer.ok(reply);
    }
}

void FakeGuest::start_container(v1::StartContainerRequest request, Answer<v1::StartContainerReply> answer) {
    if (intercept("StartContainer", answer)) return;
    std::lock_guard lock(mutex_);
    Container* container = find_locked(request.container_id());
    if (container == nullptr) {
        answer.fail(no_container(request.container_id()));
        return;
    }
    if (container->init->started() || container->init->exit()) {
        answer.fail(wrong_state(fmt::format("container {} was started before", container->id)));
        return;
    }
    const std::string& path = container->init->args[0];
    auto program = programs_.find(path.substr(path.rfind('/') + 1));
    if (program == programs_.end()) {
        answer.fail(
            failure(Code::kInvalidArgument, ENOENT, fmt::format("exec {}: no such file", path), "process.args[0]"));
        return;
    }
    container->init->start(program->second);
    v1::StartContainerReply reply;
    reply.set_pid(container->init->pid);
    answer.ok(reply);
}

void FakeGuest::delete_container(v1::DeleteContainerRequest request, Answer<v1::DeleteContainerReply> answer) {
    if (intercept("DeleteContainer", answer)) return;
    Container dying;  // destroyed without the lock: its threads may need it to report their exit
    {
        std::lock_guard lock(mutex_);
        Container* container = find_locked(request.container_id());
        if (container == nullptr) {
            answer.fail(no_container(request.container_id()));
            return;
        }
        if (!request.force() && !container->init->exit()) {
            answer.fail(wrong_state(fmt::format("container {} is not stopped", container->id)));
            return;
        }
        dying = std::move(*container);
        containers_.erase(request.container_id());
    }
    dying.execs.clear();
    dying.init.reset();
    answer.ok();
}

void FakeGuest::list_containers(v1::ListContainersRequest, Answer<v1::ListContainersReply> answer) {
    if (intercept("ListContainers", answer)) return;
    std::lock_guard lock(mutex_);
    v1::ListContainersReply reply;
    for (const auto& [id, container] : containers_) {
        v1::ContainerInfo* info = reply.add_containers();
        info->set_container_id(id);
        info->set_state(state_locked(container));
        info->set_pid(container.init->pid);
        if (auto exit = container.init->exit()) *info->mutable_exit() = *exit;
    }
    answer.ok(reply);
}

void FakeGuest::pause_container(v1::PauseContainerRequest request, Answer<v1::PauseContainerReply> answer) {
    if (intercept("PauseContainer", answer)) return;
    std::lock_guard lock(mutex_);
    bool found = request.container_id().empty();
    for (auto& [id, container] : containers_)
        if (request.container_id().empty() || id == request.container_id()) {
            found = true;
            container.paused = true;
        }
    if (found)
        answer.ok();
    else
        answer.fail(no_container(request.container_id()));
}

void FakeGuest::resume_container(v1::ResumeContainerRequest request, Answer<v1::ResumeContainerReply> answer) {
    if (intercept("ResumeContainer", answer)) return;
    std::lock_guard lock(mutex_);
    bool found = request.container_id().empty();
    for (auto& [id, container] : containers_)
        if (request.container_id().empty() || id == request.container_id()) {
            found = true;
            container.paused = false;
        }
    if (found)
        answer.ok();
    else
        answer.fail(no_container(request.container_id()));
}

void FakeGuest::exec_process(v1::ExecProcessRequest request, RequestStreams streams,
                             Answer<v1::ExecProcessReply> answer) {
    if (intercept("ExecProcess", answer)) return;
    auto args = args_of_process(request.process());
    std::lock_guard lock(mutex_);
    Container* container = find_locked(request.container_id());
    if (container == nullptr) {
        answer.fail(no_container(request.container_id()));
        return;
    }
    if (request.exec_id().empty() || !args.ok()) {
        answer.fail(
            invalid(args.ok() ? "an exec needs an id" : args.error().message(), args.ok() ? "exec_id" : "process"));
        return;
    }
    if (container->init->exit()) {
        answer.fail(wrong_state(fmt::format("container {} is stopped", container->id)));
        return;
    }
    if (container->execs.count(request.exec_id()) != 0) {
        answer.fail(already_exists(fmt::format("process {} exists already", request.exec_id())));
        return;
    }
    const std::string path = (*args)[0];
    auto program = programs_.find(path.substr(path.rfind('/') + 1));
    if (program == programs_.end()) {
        answer.fail(failure(Code::kInvalidArgument, ENOENT, fmt::format("exec {}: no such file", path), "args[0]"));
        return;
    }
    auto process = make_process_locked(container->id, request.exec_id(), args.take_value(), request.stdio(), streams);
    container->execs.emplace(request.exec_id(), process);
    v1::ExecProcessReply reply;
    reply.set_pid(process->pid);
    process->start(program->second);
    answer.ok(reply);
}

void FakeGuest::signal_process(v1::SignalProcessRequest request, Answer<v1::SignalProcessReply> answer) {
    if (intercept("SignalProcess", answer)) return;
    std::vector<std::shared_ptr<FakeProcess>> targets;
    {
        std::lock_guard lock(mutex_);
        Container* container = find_locked(request.container_id());
        if (container == nullptr) {
            answer.fail(no_container(request.container_id()));
            return;
        }
        if (request.signal() > 64) {
            answer.fail(invalid(fmt::format("there is no signal {}", request.signal()), "signal"));
            return;
        }
        std::vector<std::shared_ptr<FakeProcess>> all{container->init};
        for (auto& [id, process] : container->execs) all.push_back(process);
        for (auto& process : all) {
            bool chosen = request.all() ||
                          (request.pid() != 0 ? process->pid == request.pid() : process->exec_id == request.exec_id());
            if (chosen && !process->exit()) targets.push_back(process);
        }
    }
    // Without the lock: a signal can end a process, and that makes an event.
    bool sent = false;
    for (auto& process : targets) sent |= process->send_signal(static_cast<int>(request.signal()));
    if (sent)
        answer.ok();
    else
        answer.fail(failure(Code::kNotFound, ESRCH, "no such process, or it has ended"));
}

void FakeGuest::wait_process(v1::WaitProcessRequest request, Answer<v1::WaitProcessReply> answer) {
    if (intercept("WaitProcess", answer)) return;
    Status status;
    std::shared_ptr<FakeProcess> process;
    {
        std::lock_guard lock(mutex_);
        process = process_locked(request.container_id(), request.exec_id(), status);
    }
    if (!process) {
        answer.fail(status);
        return;
    }
    auto kept = std::make_shared<Answer<v1::WaitProcessReply>>(std::move(answer));
    process->when_exited([kept](const v1::ExitInfo& info) {
        v1::WaitProcessReply reply;
        *reply.mutable_exit() = info;
        kept->ok(reply);
    });
}

void FakeGuest::delete_exec(v1::DeleteExecRequest request, Answer<v1::DeleteExecReply> answer) {
    if (intercept("DeleteExec", answer)) return;
    Status status;
    std::shared_ptr<FakeProcess> process;
    {
        std::lock_guard lock(mutex_);
        process = process_locked(request.container_id(), request.exec_id(), status);
        if (process && request.exec_id().empty()) status = invalid("an exec needs an id", "exec_id");
        if (process && status.ok() && !process->exit()) status = wrong_state("the process is still running");
        if (status.ok()) find_locked(request.container_id())->execs.erase(request.exec_id());
    }
    process.reset();
    if (status.ok())
        answer.ok();
    else
        answer.fail(status);
}

void FakeGuest::list_processes(v1::ListProcessesRequest request, Answer<v1::ListProcessesReply> answer) {
    if (intercept("ListProcesses", answer)) return;
    std::lock_guard lock(mutex_);
    if (!request.container_id().empty() && find_locked(request.container_id()) == nullptr) {
        answer.fail(no_container(request.container_id()));
        return;
    }
    v1::ListProcessesReply reply;
    auto add = [&](const FakeProcess& process) {
        if (process.exit()) return;
        v1::ProcessInfo* info = reply.add_processes();
        info->set_pid(process.pid);
        info->set_container_pid(process.exec_id.empty() ? 1 : process.pid);
        info->set_container_id(process.container_id);
        info->set_exec_id(process.exec_id);
        std::string command;
        for (const std::string& arg : process.args) command += (command.empty() ? "" : " ") + arg;
        info->set_command(command);
        info->set_state("S");
        info->set_threads(1);
    };
    for (auto& [id, container] : containers_) {
        if (!request.container_id().empty() && id != request.container_id()) continue;
        add(*container.init);
        for (auto& [exec, process] : container.execs) add(*process);
    }
    answer.ok(reply);
}

void FakeGuest::resize_terminal(v1::ResizeTerminalRequest request, Answer<v1::ResizeTerminalReply> answer) {
    if (intercept("ResizeTerminal", answer)) return;
    std::lock_guard lock(mutex_);
    Status status;
    auto process = process_locked(request.container_id(), request.exec_id(), status);
    if (!process) {
        answer.fail(status);
    } else if (!process->terminal) {
        answer.fail(wrong_state("the process has no terminal"));
    } else {
        process->resize(request.rows(), request.columns());
        answer.ok();
    }
}

void FakeGuest::close_stdin(v1::CloseStdinRequest request, Answer<v1::CloseStdinReply> answer) {
    if (intercept("CloseStdin", answer)) return;
    std::lock_guard lock(mutex_);
    Status status;
    auto process = process_locked(request.container_id(), request.exec_id(), status);
    if (!process) {
        answer.fail(status);
    } else if (process->terminal) {
        answer.fail(wrong_state("the process has a terminal"));
    } else {
        process->close_stdin();
        answer.ok();
    }
}

void FakeGuest::add_oom_event(const std::string& container_id, uint32_t killed_pid) {
    v1::Event event;
    event.set_container_id(container_id);
    event.mutable_oom()->set_killed_pid(killed_pid);
    add_event(std::move(event));
}

void FakeGuest::add_event(v1::Event event) {
    std::vector<EventWaiter> ready;
    std::vector<v1::GetEventsReply> replies;
    {
        std::lock_guard lock(mutex_);
        event.set_sequence(next_sequence_++);
        event.set_at_ns(std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
        events_.push_back(std::move(event));
        if (events_.size() > kKeptEvents) events_.pop_front();
        for (size_t i = 0; i < event_waiters_.size();) {
            if (event_waiters_[i].after + 1 >= next_sequence_) {
                i++;
                continue;
            }
            ready.push_back(std::move(event_waiters_[i]));
            replies.push_back(events_after_locked(ready.back().after));
            event_waiters_.erase(event_waiters_.begin() + static_cast<ptrdiff_t>(i));
        }
    }
    for (size_t i = 0; i < ready.size(); i++) ready[i].answer.ok(replies[i]);
}

v1::GetEventsReply FakeGuest::events_after_locked(uint64_t after) const {
    v1::GetEventsReply reply;
    if (!events_.empty() && events_.front().sequence() > after + 1)
        reply.set_lost(events_.front().sequence() - after - 1);
    for (const v1::Event& event : events_)
        if (event.sequence() > after && reply.events_size() < kEventsPerReply) *reply.add_events() = event;
    return reply;
}

void FakeGuest::get_events(v1::GetEventsRequest request, Answer<v1::GetEventsReply> answer) {
    if (intercept("GetEvents", answer)) return;
    std::lock_guard lock(mutex_);
    if (request.after() + 1 < next_sequence_)
        answer.ok(events_after_locked(request.after()));
    else
        event_waiters_.push_back({request.after(), std::move(answer)});
}

}  // namespace casemate::guest_fake
