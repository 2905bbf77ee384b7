#include "sandbox/pod.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <thread>
#include <utility>

#include "base/footprint.h"
#include "base/log.h"
#include "linux/process.h"
#include "linux/unix_socket.h"
#include "oci/config_parser.h"
#include "sandbox/pod_private.h"
#include "sandbox/start_hooks.h"

namespace casemate::sandbox {

namespace {

constexpr int kKilled = 128 + SIGKILL;

// What a supervisor may send to the process that stands for a container, and means for its init.
bool is_forwarded(int signo) {
    for (int kept : {SIGCHLD, SIGPIPE, SIGURG, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS, SIGSTOP,
                     SIGKILL, SIGPROF, 32, 33})  // 32 and 33 are the C library's own
        if (signo == kept) return false;
    return true;
}

}  // namespace

void Pod::Anchor::exit(int code) const {
    AnchorMessage message = {AnchorMessage::kExit, static_cast<uint32_t>(code), 0};
    (void)!::send(socket.get(), &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

Result<std::unique_ptr<Pod>> Pod::create(Options options) {
    auto pod = std::unique_ptr<Pod>(new Pod(std::move(options)));
    auto loop = linux::EventLoop::create();
    if (!loop.ok()) return sys_error("make an event loop", loop.error().value);
    pod->loop_ = std::move(*loop);
    for (int signo = 1; signo < NSIG; ++signo) {
        if (!is_forwarded(signo)) continue;
        auto done = pod->loop_->on_signals({signo}, [pod = pod.get()](const signalfd_siginfo& info) {
            pod->on_signal(static_cast<int>(info.ssi_signo));
        });
        if (!done.ok()) return sys_error("watch signals", done.error().value);
    }
    pod->options_.engine_options.on_guest_gone = [pod = pod.get()] {
        pod->loop_->post([pod] { pod->everything_ended(kKilled); });
    };
    pod->engine_ = TRY(start_engine(pod->options_.engine, pod->options_.engine_options));
    return pod;
}

Pod::~Pod() = default;

void Pod::stop() {
    ports_.reset();
    engine_.reset();
    network_.reset();
}

// For calls to the guest kernel out of the main loop. The process ends without waiting for these threads.
void Pod::in_background(std::function<void()> work) { std::thread(std::move(work)).detach(); }

void Pod::in_order(std::function<void()> work) {
    auto orders = orders_.lock();
    orders->waiting.push_back(std::move(work));
    if (std::exchange(orders->served, true)) return;
    in_background([this] {
        for (;;) {
            std::function<void()> next;
            {
                auto left = orders_.lock();
                left->served = !left->waiting.empty();
                if (!left->served) return;
                next = std::move(left->waiting.front());
                left->waiting.pop_front();
            }
            next();
        }
    });
}

std::shared_ptr<Pod::Container> Pod::find(const std::string& id) {
    std::lock_guard lock(mutex_);
    auto found = containers_.find(id);
    return found == containers_.end() ? nullptr : found->second;
}

Result<std::shared_ptr<Pod::Container>> Pod::get(const std::string& id) {
    auto container = find(id);
    if (container == nullptr) return Error(fmt::format("container {}: container does not exist", id), ENOENT);
    return container;
}

Result<void> Pod::fill_stdio(StreamFds& streams, guest::Stdio& stdio) {
    guest_api::GuestClient& guest = engine_->guest();
    stdio.set_terminal(streams.terminal);
    stdio.set_rows(streams.size.rows);
    stdio.set_columns(streams.size.columns);
    if (streams.console) stdio.set_console(TRY(guest.send_stream(streams.console.get())));
    if (streams.in) stdio.set_stdin(TRY(guest.send_stream(streams.in.get())));
    if (streams.out) stdio.set_stdout(TRY(guest.send_stream(streams.out.get())));
    if (streams.err) stdio.set_stderr(TRY(guest.send_stream(streams.err.get())));
    for (size_t i = 0; i < streams.passed.size(); ++i) {
        uint64_t token = TRY(guest.send_stream(streams.passed[i].get()));
        guest::PassedStream& passed = *stdio.add_passed();
        passed.set_descriptor(static_cast<uint32_t>(3 + i));
        passed.set_token(token);
    }
    return {};
}

Result<void> Pod::create_container(PreparedContainer prepared, StreamFds streams, StateDir dir, Record record,
                                   UniqueFd anchor) {
    std::string id = record.id();
    bool first = first_.empty();
    auto container =
        std::make_shared<Container>(Container{.id = id, .dir = std::move(dir), .record = std::move(record)});
    {
        std::lock_guard lock(mutex_);
        if (!containers_.emplace(id, container).second)
            return Error(fmt::format("container with id exists: {}", id), EEXIST);
        if (first) first_ = id;
    }
    auto make = [&]() -> Result<void> {
        if (first) {
            TRY(engine_->connect());
            TRY(engine_->guest().create_sandbox(options_.sandbox));
            if (options_.sandbox.network() == guest::NETWORK_HOST) show_host_network(engine_->guest());
            if (options_.sandbox.network() == guest::NETWORK_STACK) network_ = TRY(PodNetwork::take());
            if (network_ != nullptr) TRY(network_->hand_over(engine_->guest()));
            if (network_ != nullptr) {
                ports_ = std::make_unique<PortMirror>(*loop_, engine_->guest());
                ports_->start();
            }
        }
        guest::CreateContainerRequest& request = prepared.request;
        auto place = [&](guest::FileTree& name) -> Result<void> {
            size_t index = strtoull(name.tree().c_str(), nullptr, 10);
            if (index >= prepared.trees.size()) return Error("the request names a tree that it does not bring", EINVAL);
            TRY(engine_->add_tree(prepared.trees[index], name));
            container->trees.push_back(name);
            return {};
        };
        TRY(place(*request.mutable_root()->mutable_base()));
        for (guest::Mount& mount : *request.mutable_mounts())
            if (mount.has_tree()) TRY(place(*mount.mutable_tree()));
        if (prepared.store) {
            request.mutable_root()->set_store(TRY(engine_->guest().send_stream(prepared.store.get())));
            prepared.store.reset();
        }
        TRY(fill_stdio(streams, *request.mutable_stdio()));
        auto created = engine_->guest().create_container(request);
        if (created.ok()) return {};
        // Which field of config.json it was; what is said of a program is known word for word to engines.
        std::string field = created.error().field();
        if (field.empty() || field.starts_with("process.args")) return created.take_error();
        return created.take_error().with_context("config.json: " + field);
    };
    auto made = make();
    if (!made.ok()) {
        for (const guest::FileTree& tree : container->trees) engine_->remove_tree(tree);
        std::lock_guard lock(mutex_);
        containers_.erase(id);
        return made.take_error();
    }
    {
        std::lock_guard lock(mutex_);
        if (streams.terminal) container->console = std::move(streams.console);
        container->size = streams.size;
        container->record.set_status(v1::STATUS_CREATED);
        if (anchor) container->anchor = std::make_shared<Anchor>(Anchor{std::move(anchor), id, ""});
    }
    TRY(container->dir.save(container->record));
    if (container->anchor != nullptr) watch_anchor(container->anchor);

    guest::WaitProcessRequest wait;
    wait.set_container_id(id);
    engine_->guest().wait_process(wait, [this, container](guest_api::GuestResult<guest::WaitProcessReply> reply) {
        // A lost connection is everything_ended()'s matter.
        if (!reply.ok()) return;
        int code = static_cast<int>(reply->exit().exit_status() & 0xff);
        if (container->anchor != nullptr)
            container_ended_after_oom(container, code);
        else
            loop_->post([this, container, code] { container_ended(container, code); });
    });
    if (first) watch_events(0);
    return {};
}

void Pod::watch_events(uint64_t after) {
    guest::GetEventsRequest request;
    request.set_after(after);
    engine_->guest().get_events(request, [this, after](guest_api::GuestResult<guest::GetEventsReply> reply) {
        if (!reply.ok()) return;
        uint64_t last = after;
        {
            std::lock_guard lock(mutex_);
            for (const guest::Event& event : reply->events()) {
                last = std::max(last, event.sequence());
                if (event.has_notice()) log::info("guest: {}", event.notice().text());
                if (!event.has_oom()) continue;
                for (auto& [id, container] : containers_) {
                    if (!event.container_id().empty() && id != event.container_id()) continue;
                    ++container->oom_events;
                    hear_of_oom_locked(container);
                }
            }
        }
        changed_.notify_all();
        if (last == after) return;  // nothing new in an answer is an answer we do not ask for again
        loop_->post([this, last] { watch_events(last); });
    });
}

// The startContainer hooks. A failure stops the container (runtime-spec, "Lifecycle", step 8).
Result<void> Pod::run_hooks_in(Container& container) {
    std::string config = TRY(container.dir.load_config());
    if (config.find("\"startContainer\"") == std::string::npos) return {};
    oci::Spec spec = TRY(oci::parse_config(config));
    std::string state;
    {
        std::lock_guard lock(mutex_);
        state = oci::state_to_json(state_of(container.record));
    }
    auto done = run_start_hooks(engine_->guest(), container.id, spec, config, state);
    if (done.ok()) return {};
    guest::SignalProcessRequest kill;
    kill.set_container_id(container.id);
    kill.set_signal(SIGKILL);
    (void)engine_->guest().signal_process(kill);
    return done.take_error();
}

Result<void> Pod::start_container(const std::string& id) {
    auto container = TRY(get(id));
    TRY(run_hooks_in(*container));
    take_over_size(*container);
    guest::StartContainerRequest request;
    request.set_container_id(id);
    TRY(engine_->guest().start_container(request));
    set_status(container, v1::STATUS_RUNNING);
    release_program_pages();
    return {};
}

// What the supervisor made of the terminal's size before the start is there when the process begins: the news of it
// (SIGWINCH) may still be on its way.
void Pod::take_over_size(Container& container) {
    std::optional<TerminalSize> size;
    {
        std::lock_guard lock(mutex_);
        if (!container.console) return;
        size = terminal_size(container.console.get());
        if (container.anchor != nullptr) container.console.reset();  // from here on the anchor tells
    }
    if (!size || *size == TerminalSize{} || *size == container.size) return;
    std::promise<void> done;
    in_order([&] {
        resize(container.id, "", *size);
        done.set_value();
    });
    done.get_future().wait();
}

void Pod::set_status(const std::shared_ptr<Container>& container, v1::Status status) {
    std::lock_guard lock(mutex_);
    if (container->ended) return;
    container->record.set_status(status);
    auto saved = container->dir.save(container->record);
    if (!saved.ok()) log::error("{}", saved.error().message());
}

void Pod::container_ended(const std::shared_ptr<Container>& container, int exit_code) {
    {
        std::lock_guard lock(mutex_);
        if (container->ended) return;
        container->ended = true;
        if (container->anchor != nullptr) container->console.reset();
        container->exit_code = exit_code;
        container->record.set_status(v1::STATUS_STOPPED);
        container->record.set_exit_code(exit_code);
        if (!options_.remove_at_end) {
            auto saved = container->dir.save(container->record);
            if (!saved.ok()) log::error("{}", saved.error().message());
        }
    }
    changed_.notify_all();
    if (container->id == first_) {
        ended_ = true;
        exit_code_ = exit_code;
        loop_->quit();
    } else if (container->anchor != nullptr) {
        container->anchor->done = true;
        container->anchor->exit(exit_code);
    }
}

void Pod::everything_ended(int exit_code) {
    if (ended_) return;
    log::error("the guest kernel of pod {} has gone", first_);
    std::vector<std::shared_ptr<Container>> all;
    {
        std::lock_guard lock(mutex_);
        for (auto& [id, container] : containers_) all.push_back(container);
    }
    for (auto& container : all) container_ended(container, exit_code);
    ended_ = true;
    exit_code_ = exit_code;
    loop_->quit();
}

void Pod::signal_guest(const std::string& container, const std::string& exec, int signo) {
    auto tell = [this, container, exec, signo] {
        guest::SignalProcessRequest request;
        request.set_container_id(container);
        request.set_exec_id(exec);
        request.set_signal(static_cast<uint32_t>(signo));
        auto done = engine_->guest().signal_process(request);
        if (!done.ok()) log::info("signal {} for {}: {}", signo, container, done.error().message());
    };
    if (signo == SIGKILL)
        in_background(tell);  // waits for nothing
    else
        in_order(tell);
}

void Pod::resize_guest(const std::string& container, const std::string& exec, TerminalSize size) {
    in_order([this, container, exec, size] { resize(container, exec, size); });
}

void Pod::resize(const std::string& container, const std::string& exec, TerminalSize size) {
    guest::ResizeTerminalRequest request;
    request.set_container_id(container);
    request.set_exec_id(exec);
    request.set_rows(size.rows);
    request.set_columns(size.columns);
    auto done = engine_->guest().resize_terminal(request);
    if (!done.ok()) log::info("resize the terminal of {}: {}", container, done.error().message());
}

void Pod::on_signal(int signo) {
    auto first = find(first_);
    if (first == nullptr) return;
    if (signo != SIGWINCH) {
        signal_guest(first_, "", signo);
    } else if (first->console) {
        auto size = terminal_size(first->console.get());
        if (size) resize_guest(first_, "", *size);
    }
}

void Pod::watch_anchor(std::shared_ptr<Anchor> anchor) {
    loop_->post([this, anchor = std::move(anchor)] {
        auto done = loop_->watch(anchor->socket.get(), EPOLLIN, [this, anchor](uint32_t) { on_anchor(anchor); });
        if (!done.ok()) log::error("watch an anchor: {}", strerrordesc_np(done.error().value));
    });
}

void Pod::on_anchor(const std::shared_ptr<Anchor>& anchor) {
    AnchorMessage message;
    ssize_t got = recv(anchor->socket.get(), &message, sizeof message, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got != static_cast<ssize_t>(sizeof message)) {
        // Killed, or gone as it was told.
        if (!anchor->done) signal_guest(anchor->container, anchor->exec, SIGKILL);
        loop_->remove(anchor->socket.get());
        return;
    }
    if (message.kind == AnchorMessage::kSignal)
        signal_guest(anchor->container, anchor->exec, static_cast<int>(message.first));
    if (message.kind == AnchorMessage::kResize)
        resize_guest(anchor->container, anchor->exec, {message.first, message.second});
}

Result<void> Pod::listen(const StateDir& dir) {
    auto listener = linux::listen_unix(dir.control_socket());
    if (!listener.ok()) return sys_error("listen at " + dir.control_socket(), listener.error().value);
    listener_ = std::move(*listener);
    return {};
}

Result<void> Pod::watch_everything() {
    auto watch = [this](int fd, auto callback) -> Result<void> {
        auto done = loop_->watch(fd, EPOLLIN, std::move(callback));
        if (!done.ok()) return sys_error("watch a descriptor", done.error().value);
        return {};
    };
    if (listener_)
        TRY(watch(listener_.get(), [this](uint32_t) {
            auto connection = linux::accept_unix(listener_.get());
            if (!connection.ok()) return;
            in_background([this, socket = std::make_shared<UniqueFd>(std::move(*connection))] {
                serve_connection(std::move(*socket));
            });
        }));
    if (options_.leash >= 0) TRY(watch(options_.leash, [this](uint32_t) { everything_ended(kKilled); }));
    for (int fd : engine_->process_fds())
        // Behind what is posted already: the exit status may have come just before.
        TRY(watch(fd, [this, fd](uint32_t) {
            loop_->remove(fd);
            loop_->post([this] { everything_ended(kKilled); });
        }));
    return {};
}

int Pod::run() {
    auto watching = watch_everything();
    if (!watching.ok()) {
        log::error("{}", watching.error().message());
        everything_ended(kKilled);
    }
    if (!ended_) loop_->run();
    return exit_code_;
}

}  // namespace casemate::sandbox
