// The sandbox host's side of the control socket: one thread per connection, one request per connection.
#include <fmt/core.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "linux/unix_message.h"
#include "oci/config_parser.h"
#include "sandbox/pod_private.h"

namespace casemate::sandbox {

namespace {

constexpr unsigned kMaxConnections = 256;

Result<UniqueFd> take(std::vector<UniqueFd>& fds, size_t index) {
    if (index >= fds.size() || !fds[index])
        return Error(fmt::format("the request names descriptor {} but does not bring it", index), EINVAL);
    return std::move(fds[index]);
}

v1::Reply done() { return v1::Reply(); }

}  // namespace

void Pod::serve_connection(UniqueFd socket) {
    auto peer = linux::peer_credentials(socket.get());
    if (!peer.ok() || (peer->uid != geteuid() && peer->uid != 0)) return;
    {
        std::lock_guard lock(mutex_);
        if (connections_ >= kMaxConnections) return;
        ++connections_;
    }
    auto connection = std::make_shared<ControlConnection>(std::move(socket));
    v1::Request request;
    std::vector<UniqueFd> fds;
    auto received = connection->receive(request, fds);
    if (received.ok() && *received) {
        auto reply = handle(connection, request, fds);
        v1::Reply message;
        if (reply.ok()) {
            message = reply.take_value();
        } else {
            message.set_error(reply.error().message());
            message.set_error_code(reply.error().code());
        }
        (void)connection->send(message);
    }
    std::lock_guard lock(mutex_);
    --connections_;
}

Result<v1::Reply> Pod::handle(const std::shared_ptr<ControlConnection>& connection, v1::Request& request,
                              std::vector<UniqueFd>& fds) {
    guest_api::GuestClient& guest = engine_->guest();
    switch (request.what_case()) {
        case v1::Request::kJoin:
            return handle_join(*request.mutable_join(), fds);
        case v1::Request::kExec:
            return handle_exec(connection, *request.mutable_exec(), fds);
        case v1::Request::kWait:
            return handle_wait(request.wait());
        case v1::Request::kDelete:
            return handle_delete(request.delete_());
        case v1::Request::kStart:
            TRY(start_container(request.start().container()));
            return done();
        case v1::Request::kSignal: {
            TRY(get(request.signal().container()));
            guest::SignalProcessRequest signal;
            signal.set_container_id(request.signal().container());
            signal.set_exec_id(request.signal().exec());
            signal.set_signal(request.signal().signal());
            signal.set_all(request.signal().all());
            TRY(guest.signal_process(signal));
            return done();
        }
        case v1::Request::kPause: {
            auto container = TRY(get(request.pause().container()));
            guest::PauseContainerRequest pause;
            pause.set_container_id(container->id);
            TRY(guest.pause_container(pause));
            set_status(container, v1::STATUS_PAUSED);
            return done();
        }
        case v1::Request::kResume: {
            auto container = TRY(get(request.resume().container()));
            guest::ResumeContainerRequest resume;
            resume.set_container_id(container->id);
            TRY(guest.resume_container(resume));
            set_status(container, v1::STATUS_RUNNING);
            return done();
        }
        case v1::Request::kUpdate: {
            guest::UpdateResourcesRequest update;
            update.set_container_id(request.update().container());
            update.set_resources(request.update().resources());
            TRY(guest.update_resources(update));
            if (request.update().container() == first_) TRY(update_memory(request.update().resources()));
            return done();
        }
        case v1::Request::kStatistics: {
            guest::GetStatsRequest stats;
            stats.set_container_id(request.statistics().container());
            auto answer = TRY(guest.get_stats(stats));
            v1::Reply reply;
            reply.set_payload(answer.SerializeAsString());
            return reply;
        }
        case v1::Request::kProcesses: {
            guest::ListProcessesRequest list;
            list.set_container_id(request.processes().container());
            auto answer = TRY(guest.list_processes(list));
            v1::Reply reply;
            reply.set_payload(answer.SerializeAsString());
            return reply;
        }
        case v1::Request::kTrace: {
            guest::SetTraceRequest trace;
            trace.set_kind(request.trace().profile() ? guest::TRACE_PROFILE : guest::TRACE_SYSCALLS);
            trace.set_on(request.trace().on());
            trace.set_container_id(request.trace().container());
            trace.set_pid(request.trace().pid());
            *trace.mutable_syscalls() = request.trace().syscalls();
            if (trace.on() && !request.trace().profile()) {
                UniqueFd output = TRY(take(fds, 0));
                trace.set_output(TRY(guest.send_stream(output.get())));
            }
            TRY(guest.set_trace(trace));
            return done();
        }
        case v1::Request::kDiagnostics: {
            guest::GetDiagnosticsRequest diagnostics;
            *diagnostics.mutable_sections() = request.diagnostics().sections();
            diagnostics.set_container_id(request.diagnostics().container());
            diagnostics.set_pid(request.diagnostics().pid());
            auto answer = TRY(guest.get_diagnostics(diagnostics));
            v1::Reply reply;
            reply.set_payload(answer.SerializeAsString());
            return reply;
        }
        case v1::Request::kOutOfMemory: {
            auto container = TRY(get(request.out_of_memory().container()));
            std::unique_lock lock(mutex_);
            uint64_t seen = container->oom_events;
            changed_.wait(lock, [&] { return container->ended || container->oom_events != seen; });
            if (container->oom_events == seen) return Error("container has ended", ESRCH);
            return done();
        }
        case v1::Request::kResize:
        case v1::Request::WHAT_NOT_SET:
            break;
    }
    return Error("this sandbox does not know the request: was casemate replaced by another version?", EINVAL);
}

Result<void> Pod::update_memory(const std::string& resources) {
    oci::ParseNotes notes;
    oci::Resources wanted = TRY(oci::parse_resources(resources, notes));
    if (!wanted.memory.limit) return {};
    uint64_t bytes = *wanted.memory.limit > 0 ? static_cast<uint64_t>(*wanted.memory.limit) : 0;
    TRY(engine_->set_memory_limit(bytes));
    guest::UpdateResourcesRequest update;
    update.set_memory_limit(bytes != 0 ? bytes : UINT64_MAX);
    TRY(engine_->guest().update_resources(update));
    return {};
}

Result<v1::Reply> Pod::handle_join(v1::Join& join, std::vector<UniqueFd>& fds) {
    PreparedContainer prepared;
    if (!prepared.request.ParseFromString(join.request()))
        return Error("the container's request is malformed", EBADMSG);
    for (const v1::Tree& tree : join.trees())
        prepared.trees.push_back({TRY(take(fds, tree.descriptor())), tree.read_only(), tree.shared()});
    if (join.store() != 0) prepared.store = TRY(take(fds, join.store() - 1));
    StreamFds streams = TRY(take_streams(join.streams(), fds));
    UniqueFd anchor = TRY(take(fds, join.anchor()));
    size_t slash = join.state_dir().rfind('/');
    if (slash == std::string::npos) return Error("the request has no state folder", EINVAL);
    StateDir dir = TRY(
        StateDir::open(join.state_dir().substr(0, slash), join.state_dir().substr(slash + 1), StateDir::Lock::kNone));
    Record record = TRY(dir.load());
    TRY(create_container(std::move(prepared), std::move(streams), std::move(dir), std::move(record),
                         std::move(anchor)));
    return done();
}

Result<v1::Reply> Pod::handle_exec(const std::shared_ptr<ControlConnection>& connection, v1::Exec& exec,
                                   std::vector<UniqueFd>& fds) {
    auto container = TRY(get(exec.container()));
    {
        std::lock_guard lock(mutex_);
        if (container->ended) return Error("container not running", ESRCH);
        if (container->record.status() == v1::STATUS_PAUSED && !exec.ignore_paused())
            return Error("cannot exec in a paused container (use --ignore-paused to override)", EBUSY);
    }
    StreamFds streams = TRY(take_streams(exec.streams(), fds));
    UniqueFd anchor_socket;
    if (exec.anchor() != 0) anchor_socket = TRY(take(fds, exec.anchor() - 1));

    guest_api::GuestClient& guest = engine_->guest();
    guest::ExecProcessRequest request;
    request.set_container_id(container->id);
    request.set_exec_id(fmt::format("exec-{}", next_exec_++));
    request.set_process(std::move(*exec.mutable_process()));
    TRY(fill_stdio(streams, *request.mutable_stdio()));
    TRY(guest.exec_process(request));
    streams = StreamFds();

    std::shared_ptr<Anchor> anchor;
    if (anchor_socket) {
        anchor = std::make_shared<Anchor>(Anchor{std::move(anchor_socket), container->id, request.exec_id()});
        watch_anchor(anchor);
    }
    (void)connection->send(v1::Reply());

    guest::WaitProcessRequest wait;
    wait.set_container_id(container->id);
    wait.set_exec_id(request.exec_id());
    if (exec.wait()) {
        // Until the end, this thread listens for sizes and signals of the terminal.
        guest.wait_process(wait, [connection](guest_api::GuestResult<guest::WaitProcessReply>) {
            shutdown(connection->fd(), SHUT_RD);
        });
        v1::Request next;
        std::vector<UniqueFd> none;
        for (;;) {
            auto got = connection->receive(next, none);
            if (!got.ok() || !*got) break;
            if (next.has_resize())
                resize_guest(container->id, request.exec_id(), {next.resize().rows(), next.resize().columns()});
            if (next.has_signal())
                signal_guest(container->id, request.exec_id(), static_cast<int>(next.signal().signal()));
        }
    }
    // Also after a client that went away: the process goes on, and is forgotten at its end.
    auto ended = guest.wait_process(wait);
    int code = ended.ok() ? static_cast<int>(ended->exit().exit_status() & 0xff) : 128 + SIGKILL;
    if (anchor != nullptr)
        loop_->post([anchor, code] {
            anchor->done = true;
            anchor->exit(code);
        });
    guest::DeleteExecRequest forget;
    forget.set_container_id(container->id);
    forget.set_exec_id(request.exec_id());
    (void)guest.delete_exec(forget);
    v1::Reply reply;
    reply.set_exit_code(code);
    return reply;
}

Result<v1::Reply> Pod::handle_wait(const v1::Wait& wait) {
    auto container = TRY(get(wait.container()));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return container->ended; });
    v1::Reply reply;
    reply.set_exit_code(container->exit_code);
    return reply;
}

Result<v1::Reply> Pod::handle_delete(const v1::Delete& request) {
    auto container = TRY(get(request.container()));
    guest::DeleteContainerRequest forget;
    forget.set_container_id(container->id);
    forget.set_force(request.force());
    TRY(engine_->guest().delete_container(forget));
    for (const guest::FileTree& tree : container->trees) engine_->remove_tree(tree);
    std::lock_guard lock(mutex_);
    containers_.erase(container->id);
    return done();
}

}  // namespace casemate::sandbox
