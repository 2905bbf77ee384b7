// debug, syscalls: looking into a guest kernel.
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <charconv>

#include "cli/container.h"
#include "guest_api/guest.pb.h"
#include "linux/file.h"
#include "sandbox/engine.h"

namespace casemate::cli {

namespace {

namespace guest = casemate::guest::v1;

Result<uint32_t> number_of(const Arguments& arguments, std::string_view option, uint32_t otherwise) {
    if (!arguments.has(option)) return otherwise;
    std::string_view text = arguments.value(option);
    uint32_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        return Error(fmt::format("--{} {}: must be a number", option, text), EINVAL);
    return value;
}

Result<void> print_sections(Context& context, const Found& container, std::span<const std::string> sections,
                            uint32_t pid) {
    auto client = TRY(connect_to_pod(context, container));
    sandbox::v1::Request request;
    sandbox::v1::Diagnostics& diagnostics = *request.mutable_diagnostics();
    for (const std::string& section : sections) diagnostics.add_sections(section);
    diagnostics.set_container(container.record.id());
    diagnostics.set_pid(pid);
    auto reply = TRY(client.call(request));
    guest::GetDiagnosticsReply answer;
    if (!answer.ParseFromString(reply.payload())) return Error("the sandbox sent a malformed answer", EBADMSG);
    std::string out;
    for (const guest::DiagnosticsSection& section : answer.sections()) {
        if (sections.size() != 1) out += fmt::format("{}== {}\n", out.empty() ? "" : "\n", section.name());
        out += section.text();
    }
    (void)linux::write_all(1, out);
    return {};
}

Result<void> set_trace(Context& context, const Found& container, const sandbox::v1::Trace& trace, int output) {
    auto client = TRY(connect_to_pod(context, container));
    sandbox::v1::Request request;
    *request.mutable_trace() = trace;
    std::vector<int> fds;
    if (output >= 0) fds.push_back(output);
    TRY(client.call(request, fds));
    return {};
}

// Until SIGINT or SIGTERM, the end of the container, or the time is over.
Result<void> print_trace(Context& context, const Found& container, sandbox::v1::Trace trace, uint32_t seconds) {
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, nullptr);
    UniqueFd stop(signalfd(-1, &ends, SFD_CLOEXEC));
    int pipe_fds[2];
    if (!stop || pipe2(pipe_fds, O_CLOEXEC) != 0) return sys_error("pipe");
    UniqueFd lines(pipe_fds[0]), output(pipe_fds[1]);
    (void)fcntl(output.get(), F_SETPIPE_SZ, 1 << 20);
    if (fcntl(output.get(), F_SETFL, O_NONBLOCK) != 0) return sys_error("fcntl");
    trace.set_on(true);
    TRY(set_trace(context, container, trace, output.get()));
    output.reset();

    timespec start{};
    clock_gettime(CLOCK_MONOTONIC, &start);
    char buffer[65536];
    for (;;) {
        int wait = -1;
        if (seconds != 0) {
            timespec now{};
            clock_gettime(CLOCK_MONOTONIC, &now);
            int64_t left = (start.tv_sec + seconds - now.tv_sec) * 1000 + (start.tv_nsec - now.tv_nsec) / 1'000'000;
            if (left <= 0) break;
            wait = static_cast<int>(std::min<int64_t>(left, INT32_MAX));
        }
        pollfd on[2] = {{lines.get(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
        if (poll(on, 2, wait) < 0 && errno != EINTR) return sys_error("poll");
        if (on[1].revents != 0) break;
        if (on[0].revents == 0) continue;
        ssize_t got = read(lines.get(), buffer, sizeof buffer);
        if (got <= 0) return {};  // the sandbox has ended
        if (!linux::write_all(1, std::string_view(buffer, static_cast<size_t>(got))).ok()) break;
    }
    trace.set_on(false);
    auto stopped = set_trace(context, container, trace, -1);
    (void)stopped;  // it may have ended meanwhile
    return {};
}

Result<void> print_profile(Context& context, const Found& container, uint32_t seconds) {
    sandbox::v1::Trace trace;
    trace.set_profile(true);
    trace.set_on(true);
    TRY(set_trace(context, container, trace, -1));
    timespec left = {static_cast<time_t>(seconds), 0};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    std::string section = "profile";
    auto printed = print_sections(context, container, {&section, 1}, 0);
    trace.set_on(false);
    TRY(set_trace(context, container, trace, -1));
    return printed;
}

Result<void> debug(Context& context, const Arguments& arguments) {
    uint32_t pid = TRY(number_of(arguments, "pid", 0));
    if (arguments.has("trace") && arguments.has("profile"))
        return Error("--trace and --profile exclude each other", EINVAL);
    if (arguments.has("syscall") && !arguments.has("trace")) return Error("--syscall needs --trace", EINVAL);
    if (arguments.has("seconds") && !arguments.has("trace") && !arguments.has("profile"))
        return Error("--seconds needs --trace or --profile", EINVAL);
    uint32_t seconds = TRY(number_of(arguments, "seconds", arguments.has("profile") ? 5 : 0));
    Found container = TRY(find_container(context, arguments.positional()[0], false));
    if (container.status == oci::ContainerStatus::kStopped)
        return Error(fmt::format("container with id {} is not running", container.record.id()), ESRCH);
    if (arguments.has("profile")) return print_profile(context, container, seconds);
    if (arguments.has("trace")) {
        sandbox::v1::Trace trace;
        trace.set_container(container.record.id());
        trace.set_pid(pid);
        for (std::string_view name : arguments.values("syscall")) trace.add_syscalls(std::string(name));
        return print_trace(context, container, std::move(trace), seconds);
    }
    std::vector<std::string> sections;
    for (std::string_view name : arguments.values("section")) sections.emplace_back(name);
    return print_sections(context, container, sections, pid);
}

}  // namespace

int debug_command(Context& context, const Arguments& arguments) {
    auto done = debug(context, arguments);
    return done.ok() ? 0 : fail(done.error());
}

// The table is the sentry's, so the sentry prints it.
int syscalls_command(Context& context, const Arguments& arguments) {
    std::string folder = context.config->libexec.empty() ? sandbox::own_folder() : context.config->libexec;
    std::string program = folder + "/casemate-sentry", format(arguments.value_or("format", "table"));
    execl(program.c_str(), "casemate-sentry", "--syscalls", format.c_str(), nullptr);
    return fail(sys_error("execute " + program));
}

}  // namespace casemate::cli
