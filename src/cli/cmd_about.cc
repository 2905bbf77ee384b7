// config, help, docs.
#include <fmt/core.h>

#include "cli/commands.h"
#include "linux/file.h"
#include "linux/path.h"

namespace casemate::cli {

namespace {

void print(std::string_view text) { (void)linux::write_all(1, text); }

}  // namespace

int config_command(Context& context, const Arguments& arguments) {
    bool json = arguments.has("json");
    std::string out = json ? "{" : "";
    for (const auto& value : context.config->values()) {
        if (json)
            out += fmt::format("{}\"{}\":{{\"value\":{},\"origin\":\"{}\"}}", out.size() > 1 ? "," : "", value.key,
                               value.text, value.origin);
        else
            out += fmt::format("{:<44} # {}\n", fmt::format("{} = {}", value.key, value.text), value.origin);
    }
    print(json ? out + "}\n" : out);
    return 0;
}

int help_command(Context&, const Arguments& arguments) {
    if (arguments.positional().empty()) {
        print(program_help());
        return 0;
    }
    const Command* command = find_command(arguments.positional()[0]);
    if (command == nullptr) return fail(fmt::format("there is no command \"{}\"", arguments.positional()[0]));
    print(command_help(*command));
    return 0;
}

int docs_command(Context&, const Arguments& arguments) {
    if (arguments.has("completion")) print(bash_completion());
    if (!arguments.has("man")) return 0;
    std::string folder(arguments.value("man"));
    auto made = linux::mkdir_p(folder, 0755);
    if (!made.ok()) return fail(sys_error("make " + folder, made.error().value));
    auto write = [&](const std::string& name, const Command* command) {
        auto done = linux::write_file_atomic(folder + "/" + name + ".1", man_page(command), 0644);
        if (!done.ok()) fail(sys_error("write " + folder + "/" + name + ".1", done.error().value));
        return done.ok();
    };
    bool good = write("casemate", nullptr);
    for (const Command& command : commands())
        if (!command.hidden) good = write(std::string("casemate-") + command.name, &command) && good;
    return good ? 0 : 1;
}

}  // namespace casemate::cli
