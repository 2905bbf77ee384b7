// The commands of `casemate`: the table, and what each of them does (cmd_*.cc).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/options.h"
#include "sandbox/config.h"

namespace casemate::cli {

// What the global options said, for every command.
struct Context {
    std::string root;  // where the state of containers lives, absolute
    bool systemd_cgroup = false;
    bool debug = false;
    int log_fd = -1;  // of --log, for the sandbox's own log; -1: none
    bool log_json = false;
    bool rootless = false;
    sandbox::Config* config = nullptr;  // effective configuration
};

std::span<const Option> global_options();
std::span<const Command> commands();
const Command* find_command(std::string_view name);

int create_command(Context& context, const Arguments& arguments);
int start_command(Context& context, const Arguments& arguments);
int run_command(Context& context, const Arguments& arguments);
int state_command(Context& context, const Arguments& arguments);
int kill_command(Context& context, const Arguments& arguments);
int delete_command(Context& context, const Arguments& arguments);
int list_command(Context& context, const Arguments& arguments);
int ps_command(Context& context, const Arguments& arguments);
int exec_command(Context& context, const Arguments& arguments);
int pause_command(Context& context, const Arguments& arguments);
int resume_command(Context& context, const Arguments& arguments);
int update_command(Context& context, const Arguments& arguments);
int events_command(Context& context, const Arguments& arguments);
int spec_command(Context& context, const Arguments& arguments);
int features_command(Context& context, const Arguments& arguments);
int debug_command(Context& context, const Arguments& arguments);
int syscalls_command(Context& context, const Arguments& arguments);
int do_command(Context& context, const Arguments& arguments);
int vmm_command(Context& context, const Arguments& arguments);
int check_command(Context& context, const Arguments& arguments);
int config_command(Context& context, const Arguments& arguments);
int help_command(Context& context, const Arguments& arguments);
int docs_command(Context& context, const Arguments& arguments);

// Texts made from the table (help.cc).
std::string program_help();
std::string command_help(const Command& command);
// A man page in troff: casemate(1), or casemate-COMMAND(1).
std::string man_page(const Command* command);
std::string bash_completion();
std::string version_text();

// Says on standard error, and in --log, what went wrong; returns the exit code `code`.
int fail(const Error& error, int code = 1);

}  // namespace casemate::cli
