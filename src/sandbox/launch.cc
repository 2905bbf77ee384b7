#include "sandbox/launch.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <link.h>
#include <linux/capability.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <mutex>
#include <thread>

#include "base/checked.h"
#include "base/log.h"
#include "host/namespaces.h"
#include "linux/file.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_socket.h"
#include "oci/engine_support.h"
#include "oci/hooks.h"
#include "sandbox/engine_capabilities.h"
#include "sandbox/host_root.h"
#include "sandbox/pod.h"
#include "sandbox/pod_cgroup.h"

namespace casemate::sandbox {

namespace {

constexpr char kHooks = 'H';    // child -> parent: run the runtime's hooks now
constexpr char kGo = 'G';       // parent -> child
constexpr char kCreated = 'C';  // child -> parent
constexpr char kError = 'E';    // child -> parent, followed by a little-endian errno and the sentence
constexpr size_t kMaxReport = 16384;

bool has_hooks(const oci::Hooks& hooks) {
    return !hooks.prestart.empty() || !hooks.create_runtime.empty() || !hooks.create_container.empty();
}

void report_error(int channel, const Error& error) {
    std::string message(1, kError);
    int32_t code = error.code();
    message.append(reinterpret_cast<const char*>(&code), sizeof code);
    message += error.message().substr(0, kMaxReport - message.size());
    (void)!::send(channel, message.data(), message.size(), MSG_NOSIGNAL);
}

bool exchange(int channel, char say, char expect) {
    char answer = 0;
    return ::send(channel, &say, 1, MSG_NOSIGNAL) == 1 && recv(channel, &answer, 1, 0) == 1 && answer == expect;
}

// The network that config.json asks for. kStack: this thread is now in a namespace of the pod's own. As with runc, no
// entry for the network, or one that names the caller's own, means the caller's.
Result<guest::NetworkMode> enter_network(const oci::Spec& spec) {
    const oci::Namespace* network = spec.linux.find_namespace(oci::NamespaceType::kNetwork);
    if (network == nullptr) return guest::NETWORK_HOST;
    if (network->path.empty()) {
        // Nothing of the pod is in this namespace; it is for hooks that set one up.
        if (!has_hooks(spec.hooks)) return guest::NETWORK_NONE;
        auto done = linux::unshare(CLONE_NEWNET);
        if (!done.ok()) return sys_error("make a network namespace", done.error().value);
        return guest::NETWORK_STACK;
    }
    auto fd = linux::open(network->path, O_RDONLY);
    if (!fd.ok())
        return sys_error("config.json: linux.namespaces: open the network namespace " + network->path,
                         fd.error().value);
    auto own = TRY(host::open_process_namespace(oci::NamespaceType::kNetwork, 0));
    if (host::is_same_namespace(own.get(), fd->get())) return guest::NETWORK_HOST;
    auto joined = linux::setns(fd->get(), CLONE_NEWNET);
    if (!joined.ok())
        return sys_error("config.json: linux.namespaces: join the network namespace " + network->path,
                         joined.error().value);
    return guest::NETWORK_STACK;
}

// Containers that join a pod of a CRI later may have the privilege where its first has not.
bool may_use_low_ports(const oci::Spec& spec) {
    for (const char* key : {"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"})
        if (spec.annotations.contains(key)) return true;
    return spec.process && spec.process->capabilities &&
           (spec.process->capabilities->bounding >> CAP_NET_BIND_SERVICE & 1) != 0;
}

int64_t now_ns() {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// What starting took of the program's file is not needed while the pod lives: the pages leave this process's page table
// and come back from the page cache, one fault each, where code runs again. Saves 2.5 MiB of 3.
void release_startup_pages() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void*) {
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr)& segment = info->dlpi_phdr[i];
                if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
                uintptr_t begin = page_up(info->dlpi_addr + segment.p_vaddr);
                uintptr_t end = page_down(info->dlpi_addr + segment.p_vaddr + segment.p_memsz);
                // SAFETY: a private mapping of a file that was never written to: dropping its pages changes nothing.
                if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
            }
            return 1;  // the program itself comes first
        },
        nullptr);
}

// The sandbox host from fork to the end of the pod.
class Child {
  public:
    Child(const LaunchOptions& options, StreamFds streams, StateDir& dir, int channel)
        : options_(options), streams_(std::move(streams)), dir_(dir), channel_(channel) {}

    [[noreturn]] void run() {
        // What the command holds back is for what it runs.
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, nullptr);
        UniqueFd done(eventfd(0, EFD_CLOEXEC));
        std::thread watch([this, fd = done.get()] { watch_command(fd); });
        auto made = make();
        uint64_t one = 1;
        (void)!::write(done.get(), &one, sizeof one);
        watch.join();
        if (!made.ok()) {
            (void)cgroup_move_.finish();
            if (pod_ != nullptr) pod_->stop();
            leave_cgroup();
            report_error(channel_, made.error());
            _exit(1);
        }
        char created = kCreated;
        if (::send(channel_, &created, 1, MSG_NOSIGNAL) != 1) end(1);
        if (!options_.leash) close(channel_);
        malloc_trim(0);
        release_startup_pages();
        end(pod_->run());
    }

  private:
    // A command that ends before its container is made (kill -9) leaves nobody who could clean up but this process. The
    // helpers end with it.
    void watch_command(int done) {
        pollfd polled[] = {{channel_, 0, 0}, {done, POLLIN, 0}};
        while (poll(polled, 2, -1) < 0 && errno == EINTR) {
        }
        if ((polled[0].revents & (POLLHUP | POLLERR)) == 0) return;
        std::lock_guard lock(cgroup_mutex_);
        if (cgroup_ != nullptr) (void)cgroup_->kill_all(getpid());
        leave_cgroup();
        // The other thread may be writing a file there.
        for (int attempt = 0; attempt < 20 && !linux::remove_tree(dir_.path()).ok(); ++attempt) usleep(5000);
        _exit(1);
    }

    [[noreturn]] void end(int code) {
        pod_->stop();
        if (options_.remove_at_end) leave_cgroup();
        if (options_.remove_at_end) (void)linux::remove_tree(dir_.path());
        _exit(code);
    }

    // Removes the cgroup, which this process is in itself: it goes back to its parent's first.
    void leave_cgroup() {
        if (cgroup_ == nullptr) return;
        for (const auto& [controller, path] : cgroup_->record().paths) {
            std::string parent = path.substr(0, path.rfind('/')) + "/cgroup.procs";
            (void)linux::write_existing(parent, "0");
        }
        (void)cgroup_->destroy();
    }

    Result<void> make() {
        linux::set_process_name("casemate-pod");
        dir_.unlock();  // this process's copy of the lock: the command holds it until it is done
        setsid();
        // The slave of a pty whose master went to the supervisor becomes this session's terminal, so that its changes
        // of size and its end come as signals. The caller's own terminal stays the caller's.
        if (options_.own_terminal) ioctl(streams_.console.get(), TIOCSCTTY, 0);
        network_ = TRY(enter_network(*options_.spec));
        null_.reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
        if (!null_) return sys_error("open /dev/null");
        if (!options_.no_cgroup) {
            std::lock_guard lock(cgroup_mutex_);
            cgroup_ = TRY(create_cgroup(*options_.spec, options_, getpid()));
            save_cgroup(*cgroup_, record_);
            // From here on somebody else can find it, whatever happens to this process.
            record_.mutable_process()->CopyFrom(this_process());
            record_.mutable_sandbox_host()->CopyFrom(record_.process());
            fill_record();
            TRY(dir_.save(record_));
        }
        TRY(start_engine());
        // A hook is in the cgroup, too, and may want devices.
        if (!has_hooks(options_.spec->hooks)) TRY(enter_cgroup());
        record_.mutable_process()->CopyFrom(this_process());
        record_.mutable_sandbox_host()->CopyFrom(record_.process());
        fill_record();
        TRY(dir_.save(record_));
        if (has_hooks(options_.spec->hooks)) {
            if (!exchange(channel_, kHooks, kGo)) return Error("the command ended before the container was made");
            oci::State state = state_of(record_);
            TRY(oci::run_hooks(oci::HookKind::kCreateContainer, options_.spec->hooks, oci::state_to_json(state)));
            TRY(enter_cgroup());
        }
        PreparedContainer prepared = TRY(prepare());
        TRY(pod_->listen(dir_));
        StateDir own =
            TRY(StateDir::open(dir_.path().substr(0, dir_.path().rfind('/')), options_.id, StateDir::Lock::kNone));
        // Before the guest kernel reads the first byte of the container.
        TRY(cgroup_move_.finish());
        TRY(pod_->create_container(std::move(prepared), std::move(streams_), std::move(own), record_, UniqueFd()));
        release_standard_streams();
        if (options_.start) TRY(pod_->start_container(options_.id));
        return {};
    }

    Result<void> enter_cgroup() {
        if (cgroup_ == nullptr) return {};
        std::vector<pid_t> processes = pod_->processes();
        processes.insert(processes.begin(), getpid());
        TRY(apply_device_rules(*cgroup_, *options_.spec));
        cgroup_move_.start(*cgroup_, std::move(processes));
        return {};
    }

    Result<void> start_engine() {
        Pod::Options pod;
        const Config& config = *options_.config;
        pod.engine = TRY(choose_engine(config));
        pod.engine_options.libexec = config.libexec.empty() ? own_folder() : config.libexec;
        pod.engine_options.cpus = cpus_of(*options_.spec);
        if (pod.engine_options.cpus == 0) pod.engine_options.cpus = config.cpus;
        pod.engine_options.memory = memory_of(*options_.spec);
        if (pod.engine_options.memory == 0) pod.engine_options.memory = config.memory;
        pod.engine_options.debug = options_.debug;
        pod.engine_options.log_fd = options_.log_fd;
        pod.engine_options.cgroup = cgroup_.get();
        pod.sandbox.set_sandbox_id(options_.id);
        pod.sandbox.set_hostname(options_.spec->hostname);
        pod.sandbox.set_domainname(options_.spec->domainname);
        pod.sandbox.set_cpus(pod.engine_options.cpus);
        pod.sandbox.set_memory_limit(pod.engine_options.memory);
        pod.sandbox.set_network(network_);
        pod.engine_options.host_network = network_ == guest::NETWORK_HOST;
        pod.engine_options.low_ports = may_use_low_ports(*options_.spec);
        pod.sandbox.set_realtime_ns(static_cast<uint64_t>(now_ns()));
        char seed[64];
        if (getrandom(seed, sizeof seed, GRND_NONBLOCK) == sizeof seed) pod.sandbox.set_entropy(seed, sizeof seed);
        for (const auto& [name, value] : options_.spec->linux.sysctl) (*pod.sandbox.mutable_sysctls())[name] = value;
        pod.remove_at_end = options_.remove_at_end;
        if (options_.leash) pod.leash = channel_;
        record_.set_engine(std::string(engine_name(pod.engine)));
        pod_ = TRY(Pod::create(std::move(pod)));
        return {};
    }

    void fill_record() {
        record_.set_id(options_.id);
        record_.set_status(v1::STATUS_CREATING);
        record_.set_bundle(options_.bundle);
        record_.set_rootfs(options_.rootfs);
        record_.set_created_ns(now_ns());
        record_.set_owner(host::outer_uid());
        record_.set_pod(options_.id);
        record_.set_terminal(streams_.terminal);
        for (const auto& [key, value] : options_.spec->annotations) (*record_.mutable_annotations())[key] = value;
    }

    Result<PreparedContainer> prepare() {
        PrepareOptions prepare;
        prepare.container_id = options_.id;
        prepare.config = options_.config_json;
        prepare.bundle_fd = options_.bundle_fd;
        prepare.root_fd = options_.root_fd;
        if (options_.host_root) prepare.root_tree = TRY(clone_host_root());
        prepare.layer = root_layer_of(*options_.config);
        if (options_.host_root && prepare.layer == RootLayer::kNone) prepare.layer = RootLayer::kMemory;
        prepare.layer_size = options_.config->root_overlay_size;
        return prepare_container(*options_.spec, std::move(prepare));
    }

    void release_standard_streams() {
        for (int fd = 0; fd < 3; ++fd) dup2(null_.get(), fd);
        null_.reset();
    }

    const LaunchOptions& options_;
    StreamFds streams_;
    StateDir& dir_;
    int channel_;
    Record record_;
    guest::NetworkMode network_ = guest::NETWORK_NONE;
    UniqueFd null_;                         // opened while the cgroup's device rules allow it
    std::mutex cgroup_mutex_;               // held while it is made, and to remove it
    std::unique_ptr<host::Cgroup> cgroup_;  // of this thread once it is made
    CgroupMove cgroup_move_;
    std::unique_ptr<Pod> pod_;
};

}  // namespace

Result<EngineKind> choose_engine(const Config& config) {
    if (config.engine == "microvm") return EngineKind::kMicrovm;
    return EngineKind::kSentry;
}

uint32_t cpus_of(const oci::Spec& spec) {
    if (!spec.linux.resources) return 0;
    const oci::CpuResources& cpu = spec.linux.resources->cpu;
    if (cpu.quota && *cpu.quota > 0 && cpu.period.value_or(100'000) > 0) {
        uint64_t period = cpu.period.value_or(100'000);
        uint64_t cpus = (static_cast<uint64_t>(*cpu.quota) + period - 1) / period;
        return static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(cpus, 1), 4096));
    }
    return 0;
}

uint64_t memory_of(const oci::Spec& spec) {
    if (!spec.linux.resources) return 0;
    auto limit = spec.linux.resources->memory.limit;
    return limit && *limit > 0 ? static_cast<uint64_t>(*limit) : 0;
}

Result<Launched> launch_pod(const LaunchOptions& options, StreamFds streams, StateDir& dir) {
    auto pair = linux::create_socket_pair(SOCK_SEQPACKET);
    if (!pair.ok()) return sys_error("socketpair", pair.error().value);
    mallopt(M_ARENA_MAX, 1);

    pid_t pid = fork();
    if (pid < 0) return sys_error("fork the sandbox host");
    if (pid == 0) {
        pair->first.reset();
        Child(options, std::move(streams), dir, pair->second.get()).run();
    }
    Launched launched;
    launched.pid = pid;
    auto pidfd = linux::pidfd_open(pid);
    if (!pidfd.ok()) {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
        return sys_error("pidfd_open of the sandbox host", pidfd.error().value);
    }
    launched.pidfd = std::move(*pidfd);
    pair->second.reset();
    streams = StreamFds();
    int channel = pair->first.get();

    auto failed = [&](Error error) -> Error {
        // It takes away what it made once nobody listens to it any more.
        pair->first.reset();
        pollfd wait = {launched.pidfd.get(), POLLIN, 0};
        (void)poll(&wait, 1, 10'000);
        linux::kill_and_reap(launched.pidfd.get());
        auto record = dir.load();
        auto cgroup = record.ok() ? open_cgroup(*record) : nullptr;
        if (cgroup != nullptr && cgroup->exists()) {
            (void)cgroup->kill_all();
            (void)cgroup->destroy();
        }
        return error;
    };
    for (;;) {
        char report[kMaxReport];
        ssize_t got = recv(channel, report, sizeof report, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return failed(Error("the sandbox host ended before the container was made"));
        if (report[0] == kError && got >= 5) {
            int32_t code;
            memcpy(&code, report + 1, sizeof code);
            return failed(Error(std::string(report + 5, static_cast<size_t>(got) - 5), code));
        }
        if (report[0] == kCreated) break;
        if (report[0] != kHooks) return failed(Error("the sandbox host sent an unknown report"));
        auto record = dir.load();
        if (!record.ok()) return failed(record.take_error());
        std::string state = oci::state_to_json(state_of(*record));
        for (auto kind : {oci::HookKind::kPrestart, oci::HookKind::kCreateRuntime}) {
            auto done = oci::run_hooks(kind, options.spec->hooks, state);
            if (!done.ok()) return failed(done.take_error());
        }
        char go = kGo;
        if (::send(channel, &go, 1, MSG_NOSIGNAL) != 1)
            return failed(Error("the sandbox host ended before the container was made"));
    }
    if (options.leash) launched.channel = std::move(pair->first);
    return launched;
}

}  // namespace casemate::sandbox
