#include "guest_fake/fake_programs.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

namespace casemate::guest_fake {

namespace {

int number(const FakeProcess& process, size_t index, int fallback) {
    return process.args.size() > index ? std::atoi(process.args[index].c_str()) : fallback;
}

int echo(FakeProcess& process) {
    std::string text;
    for (size_t i = 1; i < process.args.size(); i++) text += (i > 1 ? " " : "") + process.args[i];
    process.write(process.out, text + "\n");
    return 0;
}

int cat(FakeProcess& process) {
    char buffer[4096];
    while (process.in && process.wait_readable(process.in.get())) {
        pollfd ready{process.in.get(), POLLIN, 0};
        if (::poll(&ready, 1, 0) == 0) break;  // closed by CloseStdin, and nothing is left
        ssize_t count = ::read(process.in.get(), buffer, sizeof(buffer));
        if (count <= 0) break;
        process.write(process.out, {buffer, static_cast<size_t>(count)});
    }
    return 0;
}

int sleep_program(FakeProcess& process) {
    process.wait_readable(-1, std::chrono::seconds(number(process, 1, 3600)));
    return 0;
}

// Prints the window's size for each line it reads.
int tty(FakeProcess& process) {
    if (!process.terminal) return 1;
    char byte;
    while (process.wait_readable(process.in.get()) && ::read(process.in.get(), &byte, 1) == 1)
        if (byte == '\n') process.write(process.out, process.window() + "\r\n");
    return 0;
}

int shell(FakeProcess& process) {
    std::string_view script = process.args.size() > 2 ? std::string_view(process.args[2]) : "";
    return script.starts_with("exit ") ? std::atoi(script.data() + 5) : 0;
}

Result<std::vector<std::string>> args_of(const nlohmann::json* process) {
    if (process == nullptr || !process->is_object() || !process->contains("args"))
        return Error("process.args is missing", EINVAL);
    std::vector<std::string> args;
    for (const auto& arg : (*process)["args"]) {
        if (!arg.is_string()) return Error("process.args is not a list of strings", EINVAL);
        args.push_back(*arg.get_ptr<const std::string*>());
    }
    if (args.empty()) return Error("process.args is empty", EINVAL);
    return args;
}

nlohmann::json parse(std::string_view text) { return nlohmann::json::parse(text, nullptr, false); }

}  // namespace

std::map<std::string, Program, std::less<>> standard_programs() {
    return {
        {"true", [](FakeProcess&) { return 0; }},
        {"false", [](FakeProcess&) { return 1; }},
        {"exit", [](FakeProcess& process) { return number(process, 1, 0); }},
        {"echo", echo},
        {"cat", cat},
        {"sleep", sleep_program},
        {"tty", tty},
        {"sh", shell},
    };
}

Result<std::vector<std::string>> args_of_config(std::string_view text) {
    nlohmann::json config = parse(text);
    if (!config.is_object()) return Error("config.json is not a JSON object", EINVAL);
    return args_of(config.contains("process") ? &config["process"] : nullptr);
}

Result<std::vector<std::string>> args_of_process(std::string_view text) {
    nlohmann::json process = parse(text);
    return args_of(&process);
}

}  // namespace casemate::guest_fake
