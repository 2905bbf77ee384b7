// The sentry engine: casemate-sentry, the guest kernel, and casemate-files, the file server, each in its jail.
//
// Descriptors of the sentry: 3 guest API (ttrpc), 4 descriptor channel, 5 file server, 6 log, 7 memory file; in host
// network mode 7 is the way to casemate-sockets, 8 to 12 are files of /proc/net, and 13 the memory file.
// Of the file server: 3 control socket (below), 4 sentry, 5 log. Of casemate-sockets: 3 sentry, 4 log.
//
// Trees go to the file server over its control socket (fileserver/protocol.h, ControlMount). The guest kernel names a
// tree by its token: FileTree.tree is the token in decimal, FileTree.connection is empty (there is only the one at
// descriptor 5).
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "fileserver/protocol.h"
#include "host/jail.h"
#include "host/namespaces.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_message.h"
#include "linux/unix_socket.h"
#include "sandbox/engine.h"

namespace casemate::sandbox {

namespace {

constexpr int kFileServerTimeoutMs = 10'000;

using fileserver::ControlMount;

class SentryEngine : public Engine {
  public:
    static Result<std::unique_ptr<Engine>> start(const EngineOptions& options) {
        auto engine = std::unique_ptr<SentryEngine>(new SentryEngine);
        TRY(engine->spawn(options));
        return std::unique_ptr<Engine>(std::move(engine));
    }

    ~SentryEngine() override {
        guest_.reset();
        // Both at once: each takes a moment to go.
        for (host::JailedProcess* process : {&sentry_, &files_, &sockets_})
            if (process->pidfd) (void)linux::pidfd_send_signal(process->pidfd.get(), SIGKILL);
        for (host::JailedProcess* process : {&sentry_, &files_, &sockets_})
            if (process->pidfd) (void)linux::wait_pidfd(process->pidfd.get(), true);
    }

    Result<void> connect() override {
        files_ = TRY(files_start_->finish());
        files_start_.reset();
        sentry_ = TRY(sentry_start_->finish());
        sentry_start_.reset();
        if (sockets_start_) {
            sockets_ = TRY(sockets_start_->finish());
            sockets_start_.reset();
        }
        auto version = guest_->connect();
        if (!version.ok()) return version.take_error().with_context("the sentry does not answer");
        return {};
    }

    guest_api::GuestClient& guest() override { return *guest_; }

    Result<void> add_tree(const HostTree& tree, guest::FileTree& name) override {
        ControlMount message;
        std::lock_guard lock(control_mutex_);
        message.token = ++last_token_;
        message.flags =
            (tree.read_only ? fileserver::kMountReadOnly : 0) | (tree.shared ? fileserver::kMountShared : 0);
        TRY(tell_file_server_locked(message, tree.mount.get()));
        name.set_tree(std::to_string(message.token));
        name.set_shared(tree.shared);
        return {};
    }

    void remove_tree(const guest::FileTree& name) override {
        ControlMount message;
        message.token = strtoull(name.tree().c_str(), nullptr, 10);
        std::lock_guard lock(control_mutex_);
        auto done = tell_file_server_locked(message, -1);
        if (!done.ok()) log::debug("remove a tree: {}", done.error().message());
    }

    Result<void> set_memory_limit(uint64_t bytes) override {
        return host::set_memory_limit(sentry_.memory_control, bytes);
    }

    std::vector<pid_t> processes() const override {
        std::vector<pid_t> all = {files_start_ ? sentry_start_->pid() : sentry_.pid,
                                  files_start_ ? files_start_->pid() : files_.pid};
        if (sockets_start_ || sockets_.pidfd) all.push_back(sockets_start_ ? sockets_start_->pid() : sockets_.pid);
        return all;
    }

    std::vector<int> process_fds() const override {
        std::vector<int> all = {sentry_.pidfd.get(), files_.pidfd.get()};
        if (sockets_.pidfd) all.push_back(sockets_.pidfd.get());
        return all;
    }

  private:
    SentryEngine() = default;

    Result<void> spawn(const EngineOptions& options) {
        auto pair = [](int type) -> Result<linux::SocketPair> {
            auto made = linux::create_socket_pair(type);
            if (!made.ok()) return sys_error("socketpair", made.error().value);
            return std::move(*made);
        };
        linux::SocketPair api = TRY(pair(SOCK_STREAM));
        linux::SocketPair files = TRY(pair(SOCK_SEQPACKET));
        linux::SocketPair control = TRY(pair(SOCK_SEQPACKET));
        auto channel = TRY(guest_api::DescriptorChannel::create());

        bool root = geteuid() == 0;
        host::JailSpec server;
        server.program = options.libexec + "/casemate-files";
        server.args = {"casemate-files"};
        server.fds = {control.second.get(), files.second.get(), options.log_fd};
        // It keeps those that serve files of any owner; CAP_SYS_ADMIN makes it a procfs of its own and is dropped
        // before the first request.
        server.capabilities = {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_CHOWN,   CAP_FOWNER,
                               CAP_FSETID,       CAP_MKNOD,           CAP_SETFCAP, CAP_SYS_ADMIN};
        if (root) {
            // It acts on files of every owner, so it stays in the user namespace that has them all.
            server.namespaces &= ~static_cast<uint64_t>(CLONE_NEWUSER);
            server.uid = server.gid = 0;
        }
        bool rootless = host::is_rootless();
        if (rootless) {
            // A user may make no procfs where none is in sight: it gets ours, of which it keeps the folder of its own
            // descriptors (fileserver::enter_proc_self_fd).
            host::JailBind proc;
            proc.source = proc.target = "/proc";
            server.binds.push_back(std::move(proc));
        }
        if (options.debug) server.args.push_back("--debug");
        raise_descriptor_limit(server);
        files_start_.emplace(TRY(host::begin_jailed(server)));

        host::JailSpec sentry;
        sentry.program = options.libexec + "/casemate-sentry";
        sentry.args = {"casemate-sentry"};
        if (options.cpus != 0) sentry.args.insert(sentry.args.end(), {"--cpus", std::to_string(options.cpus)});
        if (options.memory != 0) sentry.args.insert(sentry.args.end(), {"--memory", std::to_string(options.memory)});
        if (options.debug) sentry.args.push_back("--debug");
        sentry.fds = {api.second.get(), channel.guest.get(), files.first.get(), options.log_fd};
        sentry.memory_file = true;
        sentry.memory_limit = options.memory;
        raise_descriptor_limit(sentry);
        linux::SocketPair makers;
        std::vector<UniqueFd> tables;
        if (options.host_network) {
            makers = TRY(pair(SOCK_SEQPACKET));
            sentry.args.push_back("--host-network");
            sentry.fds.push_back(makers.first.get());
            for (const char* name : {"tcp", "tcp6", "udp", "udp6", "dev"}) {
                tables.emplace_back(::open(fmt::format("/proc/self/net/{}", name).c_str(), O_RDONLY | O_CLOEXEC));
                sentry.fds.push_back(tables.back().get());
            }
            host::JailSpec sockets;
            sockets.program = options.libexec + "/casemate-sockets";
            sockets.args = {"casemate-sockets"};
            sockets.fds = {makers.second.get(), options.log_fd};
            sockets.namespaces &= ~static_cast<uint64_t>(CLONE_NEWNET);
            // A privilege over this network namespace is one of the user namespace that made it.
            if (!rootless) {
                sockets.namespaces &= ~static_cast<uint64_t>(CLONE_NEWUSER);
                if (options.low_ports) sockets.capabilities = {CAP_NET_BIND_SERVICE};
            }
            sockets_start_.emplace(TRY(host::begin_jailed(sockets)));
        }
        UniqueFd cgroup;
        if (options.cgroup != nullptr) {
            // Not moved later: processes of programs come from one that it begins first thing.
            const host::CgroupRecord& record = options.cgroup->record();
            if (record.unified()) {
                auto opened = linux::open(record.paths.begin()->second, O_PATH | O_DIRECTORY);
                if (!opened.ok()) return sys_error("open the cgroup", opened.error().value);
                cgroup = opened.take_value();
                sentry.cgroup_fd = cgroup.get();
            } else {
                sentry.cgroup_procs_files = options.cgroup->procs_files();
            }
        }
        sentry_start_.emplace(TRY(host::begin_jailed(sentry)));

        control_ = std::move(control.first);
        guest_api::GuestClient::Options client;
        client.on_close = options.on_guest_gone;
        guest_ = TRY(guest_api::GuestClient::create(
            std::move(api.first), std::make_unique<guest_api::DescriptorSender>(std::move(channel.host)),
            std::move(client)));
        return {};
    }

    static void raise_descriptor_limit(host::JailSpec& spec) {
        rlimit limit;
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
            spec.rlimits.push_back({RLIMIT_NOFILE, limit.rlim_max, limit.rlim_max});
    }

    Result<void> tell_file_server_locked(const ControlMount& message, int fd) {
        std::string_view bytes(reinterpret_cast<const char*>(&message), sizeof message);
        auto sent =
            fd >= 0 ? linux::send_message(control_.get(), bytes, {fd}) : linux::send_message(control_.get(), bytes);
        if (!sent.ok()) return sys_error("send a tree to the file server", sent.error().value);
        pollfd wait = {control_.get(), POLLIN, 0};
        int ready = poll(&wait, 1, kFileServerTimeoutMs);
        if (ready <= 0) return Error("the file server does not answer", ETIMEDOUT);
        unsigned char answer = 0;
        ssize_t got = recv(control_.get(), &answer, 1, 0);
        if (got != 1) return Error("the file server is gone", EPIPE);
        if (answer != 0) return sys_error("the file server cannot serve the tree", answer);
        return {};
    }

    std::optional<host::JailStart> files_start_, sentry_start_, sockets_start_;  // until connect()
    host::JailedProcess sentry_, files_, sockets_;                               // sockets_: in host network mode
    UniqueFd control_;
    std::mutex control_mutex_;
    uint64_t last_token_ = 0;  // guarded by control_mutex_
    std::unique_ptr<guest_api::GuestClient> guest_;
};

}  // namespace

std::string_view engine_name(EngineKind kind) { return kind == EngineKind::kSentry ? "sentry" : "microvm"; }

std::string own_folder() {
    auto path = linux::read_link("/proc/self/exe");
    if (!path.ok()) return ".";
    return path->substr(0, path->rfind('/'));
}

Result<std::unique_ptr<Engine>> start_sentry_engine(const EngineOptions& options) {
    return SentryEngine::start(options);
}

Result<std::unique_ptr<Engine>> start_engine(EngineKind kind, const EngineOptions& options) {
    switch (kind) {
        case EngineKind::kSentry:
            return start_sentry_engine(options);
        case EngineKind::kMicrovm:
            break;
    }
    return Error("engine microvm: not built into this version; use engine sentry", ENOTSUP);
}

}  // namespace casemate::sandbox
