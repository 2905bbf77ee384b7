#include "sandbox/start_hooks.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>

#include "base/log.h"
#include "linux/file.h"
#include "oci/hook_process.h"

namespace casemate::sandbox {

namespace {

namespace v1 = guest_api::v1;
using Clock = std::chrono::steady_clock;

constexpr size_t kKeptOutput = 2048;

// The end of a hook, told by the guest client's thread, perhaps after nobody waits any more.
struct Ending {
    std::mutex mutex;
    bool told = false, lost = false;
    v1::ExitInfo exit;
    UniqueFd bell;
};

// Takes what is in the pipe and keeps its end; false once nobody can write to it any more.
bool drain(int fd, std::string& kept) {
    char chunk[4096];
    for (;;) {
        ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0) return errno == EAGAIN || errno == EINTR;
        if (got == 0) return false;
        kept.append(chunk, static_cast<size_t>(got));
        if (kept.size() > 2 * kKeptOutput) kept.erase(0, kept.size() - kKeptOutput);
    }
}

// Until the hook has told its end, or the deadline; its output meanwhile is taken so that it never waits for us.
bool wait_for_end(Ending& ending, int output, std::string& kept, std::optional<Clock::time_point> deadline) {
    bool open = true;
    for (;;) {
        {
            std::lock_guard lock(ending.mutex);
            if (ending.told) break;
        }
        int left = -1;
        if (deadline) {
            auto time = std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - Clock::now()).count();
            if (time < 0) return false;
            left = static_cast<int>(std::min<int64_t>(time + 1, 60'000));
        }
        pollfd polled[] = {{ending.bell.get(), POLLIN, 0}, {open ? output : -1, POLLIN, 0}};
        if (poll(polled, 2, left) > 0 && polled[1].revents != 0) open = drain(output, kept);
    }
    if (open) drain(output, kept);
    return true;
}

Result<void> run_start_hook(guest_api::GuestClient& guest, const std::string& container, const std::string& exec_id,
                            const oci::Hook& hook, const std::string& config_json, const std::string& state) {
    UniqueFd input(memfd_create("casemate-hook-state", MFD_CLOEXEC));
    if (!input) return sys_error("make the hook's standard input");
    auto written = linux::write_all(input.get(), state);
    if (!written.ok() || lseek(input.get(), 0, SEEK_SET) != 0) return sys_error("write the hook's standard input");
    int pipe[2];
    if (pipe2(pipe, O_CLOEXEC) != 0) return sys_error("make a pipe");
    UniqueFd output(pipe[0]), writer(pipe[1]);
    if (fcntl(output.get(), F_SETFL, O_NONBLOCK) != 0) return sys_error("make a pipe");
    auto ending = std::make_shared<Ending>();
    ending->bell.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!ending->bell) return sys_error("make an eventfd");

    v1::ExecProcessRequest request;
    request.set_container_id(container);
    request.set_exec_id(exec_id);
    request.set_executable(hook.path);
    request.set_process(TRY(oci::hook_process(config_json, hook)));
    request.mutable_stdio()->set_stdin(TRY(guest.send_stream(input.get())));
    request.mutable_stdio()->set_stdout(TRY(guest.send_stream(writer.get())));
    request.mutable_stdio()->set_stderr(TRY(guest.send_stream(writer.get())));
    writer.reset();
    TRY(guest.exec_process(request));

    v1::WaitProcessRequest wait;
    wait.set_container_id(container);
    wait.set_exec_id(exec_id);
    guest.wait_process(wait, [ending](guest_api::GuestResult<v1::WaitProcessReply> reply) {
        std::lock_guard lock(ending->mutex);
        ending->told = true;
        ending->lost = !reply.ok();
        if (reply.ok()) ending->exit = reply->exit();
        uint64_t one = 1;
        (void)!write(ending->bell.get(), &one, sizeof one);
    });
    std::string kept;
    std::optional<Clock::time_point> deadline;
    if (hook.timeout) deadline = Clock::now() + std::chrono::seconds(*hook.timeout);
    bool in_time = wait_for_end(*ending, output.get(), kept, deadline);
    if (!in_time) {
        v1::SignalProcessRequest kill;
        kill.set_container_id(container);
        kill.set_exec_id(exec_id);
        kill.set_signal(SIGKILL);
        (void)guest.signal_process(kill);
        (void)wait_for_end(*ending, output.get(), kept, Clock::now() + std::chrono::seconds(10));
    }
    v1::DeleteExecRequest forget;
    forget.set_container_id(container);
    forget.set_exec_id(exec_id);
    (void)guest.delete_exec(forget);
    if (!in_time) return Error(fmt::format("was killed, having run longer than {} s", *hook.timeout), ETIMEDOUT);
    std::lock_guard lock(ending->mutex);
    if (ending->lost) return Error("the guest kernel ended under it", EPIPE);
    if (ending->exit.exit_status() == 0 && ending->exit.signal() == 0) return {};
    std::string text = ending->exit.signal() != 0 ? fmt::format("was killed by signal {}", ending->exit.signal())
                                                  : fmt::format("exited with status {}", ending->exit.exit_status());
    if (kept.size() > kKeptOutput) kept.erase(0, kept.size() - kKeptOutput);
    while (!kept.empty() && kept.back() == '\n') kept.pop_back();
    if (!kept.empty()) text += ", saying: " + guest_api::printable(kept, kKeptOutput);
    return Error(text);
}

}  // namespace

Result<void> run_start_hooks(guest_api::GuestClient& guest, const std::string& container, const oci::Spec& spec,
                             const std::string& config_json, const std::string& state) {
    for (size_t i = 0; i < spec.hooks.start_container.size(); ++i) {
        const oci::Hook& hook = spec.hooks.start_container[i];
        auto done = run_start_hook(guest, container, fmt::format("startContainer-{}", i), hook, config_json, state);
        if (!done.ok())
            return done.take_error().with_context(fmt::format("hook startContainer[{}] ({})", i, hook.path));
    }
    return {};
}

}  // namespace casemate::sandbox
