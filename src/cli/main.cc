#include "cli/main.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "base/log.h"
#include "cli/commands.h"
#include "host/namespaces.h"
#include "linux/file.h"
#include "sandbox/config.h"
#include "sandbox/state_dir.h"

namespace casemate::cli {

namespace {

bool log_is_a_file = false;  // set once, before any command runs

// Descriptors 0 to 2 must be something, or the first file we open becomes a container's standard output.
void fill_standard_descriptors() {
    for (int fd = 0; fd < 3; ++fd)
        if (fcntl(fd, F_GETFD) < 0) (void)!::open("/dev/null", O_RDWR);
}

std::string absolute(std::string_view path) {
    if (path.starts_with('/')) return std::string(path);
    char folder[PATH_MAX];
    if (getcwd(folder, sizeof folder) == nullptr) return std::string(path);
    return std::string(folder) + "/" + std::string(path);
}

void print(std::string_view text) { (void)linux::write_all(STDOUT_FILENO, text); }

int usage_error(std::string_view message, const Command* command) {
    return fail(fmt::format("{}; see `casemate help{}{}`", message, command != nullptr ? " " : "",
                            command != nullptr ? command->name : ""));
}

int run_command_line(std::span<char*> words) {
    size_t used = 0;
    auto globals = Arguments::parse(words, global_options(), true, &used);
    if (!globals.ok()) return usage_error(globals.error().message(), nullptr);
    Context context;
    context.debug = globals->has("debug");
    context.log_json = globals->value("log-format") == "json";
    std::string log(globals->value("log"));
    if (!log.empty()) {
        context.log_fd = ::open(log.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
        if (context.log_fd < 0) return fail(sys_error("open the log " + log));
        log_is_a_file = true;
        log::set_sink(context.log_fd, context.log_json ? log::Format::kJson : log::Format::kText,
                      context.debug ? log::Level::kDebug : log::Level::kInfo);
    }
    if (globals->has("version")) {
        print(version_text());
        return 0;
    }
    if (globals->positional().empty()) {
        print(program_help());
        return globals->has("help") ? 0 : 1;
    }
    const Command* command = find_command(globals->positional()[0]);
    if (command == nullptr)
        return usage_error(fmt::format("there is no command \"{}\"", globals->positional()[0]), nullptr);
    if (globals->has("help")) {
        print(command_help(*command));
        return 0;
    }
    auto arguments = Arguments::parse(words.subspan(used + 1), command->options, command->options_end_at_first);
    if (!arguments.ok()) return usage_error(arguments.error().message(), command);
    if (arguments->has("help")) {
        print(command_help(*command));
        return 0;
    }
    int given = static_cast<int>(arguments->positional().size());
    if (given < command->least)
        return usage_error(fmt::format("{} needs {}", command->name, command->arguments), command);
    if (command->most >= 0 && given > command->most)
        return usage_error(fmt::format("{} takes {} argument{}, not {}", command->name, command->most,
                                       command->most == 1 ? "" : "s", given),
                           command);
    std::string_view root = globals->value("root");
    context.root = root.empty() ? sandbox::default_state_root() : absolute(root);
    context.systemd_cgroup = globals->has("systemd-cgroup");
    std::string_view rootless = globals->value_or("rootless", "auto");
    context.rootless = rootless == "true" || (rootless == "auto" && host::is_rootless());
    auto config = sandbox::load_config(std::string(globals->value("config")));
    if (!config.ok()) return fail(config.error());
    if (globals->has("root-overlay")) {
        auto set = config->set("root_overlay", globals->value("root-overlay"), "--root-overlay");
        if (!set.ok()) return fail(set.error());
    }
    context.config = &*config;
    context.debug = context.debug || config->debug;
    return command->run(context, *arguments);
}

}  // namespace

int fail(const Error& error, int code) {
    const std::string& message = error.message();
    std::string line = fmt::format("casemate: {}\n", message);
    (void)linux::write_all(STDERR_FILENO, line);
    // Otherwise the log is standard error, which has heard it.
    if (log_is_a_file) log::error("{}", message);
    return code;
}

int run(int argc, char** argv) {
    fill_standard_descriptors();
    signal(SIGPIPE, SIG_IGN);
    return run_command_line(std::span<char*>(argv, static_cast<size_t>(argc)).subspan(argc > 0 ? 1 : 0));
}

}  // namespace casemate::cli
