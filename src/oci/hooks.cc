#include "oci/hooks.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/unique_fd.h"

namespace casemate::oci {
namespace {

constexpr Name<HookKind> kHookNames[] = {
    {"prestart", HookKind::kPrestart},
    {"createRuntime", HookKind::kCreateRuntime},
    {"createContainer", HookKind::kCreateContainer},
    {"startContainer", HookKind::kStartContainer},
    {"poststart", HookKind::kPoststart},
    {"poststop", HookKind::kPoststop},
};

// How much of a hook's output the error message repeats: its end.
constexpr size_t kKeptOutput = 2048;

// What failed in the child before the program ran; sent over a pipe.
struct ChildFailure {
    enum Step : int { kJoin, kRoot, kDirectory, kFork, kStreams, kExec } step;
    int error;
};

std::string_view step_name(int step) {
    switch (step) {
        case ChildFailure::kJoin:
            return "join the container's namespaces";
        case ChildFailure::kRoot:
            return "change the root directory";
        case ChildFailure::kDirectory:
            return "change the working directory";
        case ChildFailure::kFork:
            return "fork";
        case ChildFailure::kStreams:
            return "set up the standard streams";
        default:
            return "execute";
    }
}

// The child moves these to 0, 1 and 2, so they must not be there already.
Result<UniqueFd> above_standard(UniqueFd fd) {
    if (fd.get() > 2) return fd;
    UniqueFd moved(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
    if (!moved) return sys_error("duplicate a descriptor");
    return moved;
}

struct Pipe {
    UniqueFd reader, writer;
};

Result<Pipe> make_pipe() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return sys_error("make a pipe");
    Pipe pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
    pipe.writer = TRY(above_standard(std::move(pipe.writer)));
    if (fcntl(pipe.reader.get(), F_SETFL, O_NONBLOCK) != 0) return sys_error("make a pipe");
    return pipe;
}

// The state as a file: readable through /dev/stdin, too, and nobody waits for a hook that does not read it.
Result<UniqueFd> make_input(std::string_view state) {
    UniqueFd fd(memfd_create("casemate-hook-state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) return sys_error("make the hook's standard input");
    while (!state.empty()) {
        ssize_t size = write(fd.get(), state.data(), state.size());
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return sys_error("write the hook's standard input");
        state.remove_prefix(static_cast<size_t>(size));
    }
    if (lseek(fd.get(), 0, SEEK_SET) != 0) return sys_error("rewind the hook's standard input");
    if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
        return sys_error("seal the hook's standard input");
    return above_standard(std::move(fd));
}

// Everything the child needs, made before the fork.
struct Launch {
    const char* path = nullptr;
    std::vector<char*> argv, envp;
    std::vector<int> namespaces;
    bool joins_pid_namespace = false;
    int root = -1;
    int working_directory = -1;
    int input = -1, output = -1, failure = -1;
};

[[noreturn]] void give_up(const Launch& launch, ChildFailure::Step step) {
    ChildFailure failure{step, errno};
    ssize_t written = write(launch.failure, &failure, sizeof failure);
    static_cast<void>(written);
    _exit(127);
}

// SAFETY: runs between fork and exec in a copy of a process that may have threads: only async-signal-safe calls, no
// allocation. Joining a pid namespace takes effect for children only, hence the second fork; the process in between
// stays to pass the exit status on, and the kernel ends the hook with it.
[[noreturn]] void run_child(const Launch& launch) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    for (int signal = 1; signal < 65; signal++) sigaction(signal, &standard, nullptr);

    for (int fd : launch.namespaces)
        if (setns(fd, 0) != 0) give_up(launch, ChildFailure::kJoin);
    if (launch.root >= 0 && (fchdir(launch.root) != 0 || chroot(".") != 0)) give_up(launch, ChildFailure::kRoot);
    if (launch.working_directory >= 0 && fchdir(launch.working_directory) != 0)
        give_up(launch, ChildFailure::kDirectory);

    if (launch.joins_pid_namespace) {
        clone_args args{};
        args.exit_signal = SIGCHLD;
        long child = syscall(SYS_clone3, &args, sizeof args);
        if (child < 0) give_up(launch, ChildFailure::kFork);
        if (child > 0) {
            close(launch.failure);
            int status = 0;
            while (waitpid(static_cast<pid_t>(child), &status, 0) < 0 && errno == EINTR) {
            }
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }

    if (dup2(launch.input, 0) < 0 || dup2(launch.output, 1) < 0 || dup2(launch.output, 2) < 0)
        give_up(launch, ChildFailure::kStreams);
    if (syscall(SYS_close_range, 3U, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */) != 0)
        give_up(launch, ChildFailure::kStreams);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execve(launch.path, launch.argv.data(), launch.envp.data());
    give_up(launch, ChildFailure::kExec);
}

int64_t now_milliseconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Takes what is there; false at the end of the stream.
bool drain(int fd, std::string& kept) {
    char buffer[4096];
    for (;;) {
        ssize_t size = read(fd, buffer, sizeof buffer);
        if (size < 0) return errno == EAGAIN || errno == EINTR;
        if (size == 0) return false;
        kept.append(buffer, static_cast<size_t>(size));
        if (kept.size() > 2 * kKeptOutput) kept.erase(0, kept.size() - kKeptOutput);
    }
}

// One line, without control characters, ready for a message.
std::string cleaned(std::string_view output) {
    if (output.size() > kKeptOutput) output.remove_prefix(output.size() - kKeptOutput);
    std::string line;
    for (char c : output) line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    size_t end = line.find_last_not_of(' ');
    line.resize(end == std::string::npos ? 0 : end + 1);
    return line;
}

// Waits until the process ends; false if it had to be killed at the deadline. `deadline`: milliseconds, -1 for none.
bool wait_for_end(int pid, int pidfd, int output, std::string& kept, int64_t deadline) {
    bool output_open = true, in_time = true;
    for (;;) {
        pollfd polls[2] = {{pidfd, POLLIN, 0}, {output_open ? output : -1, POLLIN, 0}};
        int64_t left = -1;
        if (deadline >= 0 && in_time) left = std::clamp<int64_t>(deadline - now_milliseconds(), 0, 60'000);
        int ready = poll(polls, 2, static_cast<int>(left));
        if (polls[1].revents != 0 && ready > 0) output_open = drain(output, kept);
        if (polls[0].revents != 0 && ready > 0) return in_time;
        if (deadline >= 0 && in_time && now_milliseconds() >= deadline) {
            in_time = false;
            kill(-pid, SIGKILL);
            syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
        }
    }
}

Result<void> join_flags(const HookPlace& place, Launch& launch) {
    for (int fd : place.namespaces) {
        int type = ioctl(fd, NS_GET_NSTYPE);
        if (type < 0) return sys_error("tell the type of a namespace for the hook");
        launch.namespaces.push_back(fd);
        if (type == CLONE_NEWPID) launch.joins_pid_namespace = true;
    }
    return {};
}

}  // namespace

std::span<const Name<HookKind>> hook_names() { return kHookNames; }

const std::vector<Hook>& hooks_of(const Hooks& hooks, HookKind kind) {
    switch (kind) {
        case HookKind::kPrestart:
            return hooks.prestart;
        case HookKind::kCreateRuntime:
            return hooks.create_runtime;
        case HookKind::kCreateContainer:
            return hooks.create_container;
        case HookKind::kStartContainer:
            return hooks.start_container;
        case HookKind::kPoststart:
            return hooks.poststart;
        case HookKind::kPoststop:
            break;
    }
    return hooks.poststop;
}

bool hook_failure_is_fatal(HookKind kind) { return kind != HookKind::kPoststart && kind != HookKind::kPoststop; }

bool hook_runs_in_container(HookKind kind) {
    return kind == HookKind::kCreateContainer || kind == HookKind::kStartContainer;
}

Result<void> run_hook(const Hook& hook, std::string_view state, const HookPlace& place) {
    UniqueFd input = TRY(make_input(state));
    Pipe output = TRY(make_pipe());
    Pipe failure = TRY(make_pipe());

    Launch launch;
    launch.path = hook.path.c_str();
    for (const std::string& argument : hook.args) launch.argv.push_back(const_cast<char*>(argument.c_str()));
    if (hook.args.empty()) launch.argv.push_back(const_cast<char*>(hook.path.c_str()));
    launch.argv.push_back(nullptr);
    for (const std::string& entry : hook.env) launch.envp.push_back(const_cast<char*>(entry.c_str()));
    launch.envp.push_back(nullptr);
    TRY(join_flags(place, launch));
    launch.root = place.root;
    launch.working_directory = place.working_directory;
    launch.input = input.get();
    launch.output = output.writer.get();
    launch.failure = failure.writer.get();

    int pidfd_number = -1;
    clone_args args{};
    args.flags = CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(&pidfd_number);
    args.exit_signal = SIGCHLD;
    // No signal handler of ours may run in the child before it has reset them all.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) run_child(launch);
    int clone_error = errno;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (pid < 0) return sys_error("fork for the hook", clone_error);
    UniqueFd pidfd(pidfd_number);
    setpgid(static_cast<pid_t>(pid), static_cast<pid_t>(pid));
    output.writer.reset();
    failure.writer.reset();

    std::optional<uint32_t> timeout = hook.timeout ? hook.timeout : place.timeout;
    int64_t deadline = timeout ? now_milliseconds() + int64_t{*timeout} * 1000 : -1;
    std::string kept;
    bool in_time = wait_for_end(static_cast<int>(pid), pidfd.get(), output.reader.get(), kept, deadline);

    siginfo_t end{};
    int waited;
    do {
        waited = waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &end, WEXITED);
    } while (waited != 0 && errno == EINTR);
    if (waited != 0) return sys_error("wait for the hook");
    // The rest of its output; not waited for longer, since a daemon that it left may keep the pipe open.
    drain(output.reader.get(), kept);
    if (!in_time) return Error(fmt::format("was killed, having run longer than {} s", *timeout), ETIMEDOUT);

    ChildFailure reason{};
    if (read(failure.reader.get(), &reason, sizeof reason) == static_cast<ssize_t>(sizeof reason))
        return sys_error(step_name(reason.step), reason.error);
    if (end.si_code == CLD_EXITED && end.si_status == 0) return {};
    std::string text = end.si_code == CLD_EXITED ? fmt::format("exited with status {}", end.si_status)
                                                 : fmt::format("was killed by signal {}", end.si_status);
    std::string said = cleaned(kept);
    if (!said.empty()) text += ", saying: " + said;
    return Error(text);
}

Result<void> run_hooks(HookKind kind, const Hooks& hooks, std::string_view state, const HookPlace& place) {
    const std::vector<Hook>& list = hooks_of(hooks, kind);
    for (size_t i = 0; i < list.size(); i++) {
        auto done = run_hook(list[i], state, place);
        if (done.ok()) continue;
        std::string what = fmt::format("hook {}[{}] ({})", name_of(hook_names(), kind), i, list[i].path);
        Error error = done.take_error().with_context(what);
        if (hook_failure_is_fatal(kind)) return error;
        log::warning("{}", error.message());
    }
    return {};
}

}  // namespace casemate::oci
