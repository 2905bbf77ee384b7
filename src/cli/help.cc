// Help texts, man pages and the bash completion, all made from the table of commands.
#include <fmt/core.h>

#include "cli/commands.h"

namespace casemate::cli {

namespace {

constexpr size_t kWidth = 100;

// Breaks `text` at spaces so that no line is longer than kWidth; every line after the first begins with `indent`.
std::string wrap(std::string_view text, size_t column, size_t indent) {
    std::string out;
    while (!text.empty()) {
        size_t space = text.find(' ');
        std::string_view word = text.substr(0, space);
        text = space == std::string_view::npos ? std::string_view() : text.substr(space + 1);
        if (column + word.size() > kWidth && !out.empty()) {
            out.back() = '\n';
            out.append(indent, ' ');
            column = indent;
        }
        out += word;
        out += ' ';
        column += word.size() + 1;
    }
    if (!out.empty()) out.pop_back();
    return out;
}

std::string option_words(const Option& option) {
    std::string words = option.letter != 0 ? fmt::format("-{}, ", option.letter) : "";
    words += fmt::format("--{}", option.name);
    if (option.value != nullptr) words += fmt::format(" {}", option.value);
    return words;
}

std::string option_text(const Option& option) {
    std::string text = option.help;
    if (option.choices != nullptr) {
        text += ": ";
        for (const char* c = option.choices; *c != 0; ++c) text += *c == '|' ? std::string(", ") : std::string(1, *c);
    }
    return text;
}

std::string options_help(std::span<const Option> options) {
    constexpr size_t kColumn = 30;
    std::string out;
    for (const Option& option : options) {
        std::string words = "  " + option_words(option);
        if (words.size() + 2 > kColumn) {
            words += '\n';
            words.append(kColumn, ' ');
        } else {
            words.append(kColumn - words.size(), ' ');
        }
        out += words + wrap(option_text(option), kColumn, kColumn) + '\n';
    }
    return out;
}

std::string usage(const Command& command) {
    return fmt::format("casemate [GLOBAL OPTIONS] {} [OPTIONS]{}{}", command.name, *command.arguments != 0 ? " " : "",
                       command.arguments);
}

// troff takes a dot or quote at the start of a line, backslashes and dashes for itself.
std::string troff(std::string_view text) {
    std::string out;
    if (!text.empty() && (text[0] == '.' || text[0] == '\'')) out += "\\&";
    for (char c : text) {
        if (c == '\\')
            out += "\\e";
        else if (c == '-')
            out += "\\-";
        else
            out += c;
    }
    return out;
}

std::string man_options(std::span<const Option> options) {
    std::string out;
    for (const Option& option : options)
        out += fmt::format(".TP\n\\fB{}\\fR\n{}\n", troff(option_words(option)), troff(option_text(option)));
    return out;
}

std::string long_options(std::span<const Option> options) {
    std::string out;
    for (const Option& option : options) out += fmt::format("--{} ", option.name);
    out.pop_back();
    return out;
}

}  // namespace

std::string program_help() {
    std::string out =
        "casemate - runs containers so that no program of theirs talks to the host's kernel\n\n"
        "Usage: casemate [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]\n"
        "       casemate do -- ls -l /      a first try: a command on the host's files, in a sandbox\n"
        "       casemate check              what this host offers\n\nCommands:\n";
    for (const Command& command : commands())
        if (!command.hidden) out += fmt::format("  {:<10}  {}\n", command.name, wrap(command.summary, 14, 14));
    out += "\nGlobal options:\n" + options_help(global_options());
    out += "\n`casemate help COMMAND` tells more about a command.\n";
    return out;
}

std::string command_help(const Command& command) {
    std::string out = fmt::format("casemate {} - {}\n\nUsage: {}\n", command.name, command.summary, usage(command));
    if (*command.description != 0) out += "\n" + wrap(command.description, 0, 0) + "\n";
    out += "\nOptions:\n" + options_help(command.options);
    return out;
}

std::string man_page(const Command* command) {
    if (command == nullptr) {
        std::string out =
            ".TH CASEMATE 1 \"\" \"casemate\" \"Casemate\"\n.SH NAME\ncasemate \\- secure container runtime\n"
            ".SH SYNOPSIS\n\\fBcasemate\\fR [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]\n.SH DESCRIPTION\n"
            "Runs OCI containers and Kubernetes pods each under a guest kernel of its own, so that no program in them "
            "talks to the kernel of the host. The command line is that of runc, with some commands more.\n"
            ".SH GLOBAL OPTIONS\n";
        out += man_options(global_options()) + ".SH COMMANDS\n";
        for (const Command& each : commands())
            if (!each.hidden) out += fmt::format(".TP\n\\fBcasemate\\-{}\\fR(1)\n{}\n", each.name, troff(each.summary));
        out +=
            ".SH EXIT STATUS\nThat of the program for run, exec and do (128 + N if signal N ended it); 1 for an error, "
            "255 if exec could not start its program.\n"
            ".SH FILES\n.TP\n/etc/casemate/config.toml, /etc/casemate/config.d/*.toml\nConfiguration.\n"
            ".TP\n/run/casemate\nState of containers.\n";
        return out;
    }
    std::string upper = command->name;
    for (char& c : upper) c &= ~0x20;
    std::string out = fmt::format(
        ".TH CASEMATE-{} 1 \"\" \"casemate\" \"Casemate\"\n.SH NAME\ncasemate\\-{} \\- {}\n.SH SYNOPSIS\n{}\n", upper,
        command->name, troff(command->summary), troff(usage(*command)));
    if (*command->description != 0) out += ".SH DESCRIPTION\n" + troff(command->description) + "\n";
    out += ".SH OPTIONS\n" + man_options(command->options) + ".SH SEE ALSO\n\\fBcasemate\\fR(1)\n";
    return out;
}

std::string bash_completion() {
    std::string names;
    std::string with_container;
    std::string cases;
    for (const Command& command : commands()) {
        if (command.hidden) continue;
        names += std::string(command.name) + ' ';
        if (std::string_view(command.arguments).starts_with("CONTAINER"))
            with_container += std::string(with_container.empty() ? "" : "|") + command.name;
        cases += fmt::format("        {}) options=\"{}\" ;;\n", command.name, long_options(command.options));
    }
    names.pop_back();
    std::string values;
    auto add_values = [&](std::span<const Option> options) {
        for (const Option& option : options) {
            std::string line;
            if (option.choices != nullptr) {
                std::string words = option.choices;
                for (char& c : words)
                    if (c == '|') c = ' ';
                line = fmt::format("        --{}) COMPREPLY=($(compgen -W \"{}\" -- \"$word\")); return ;;\n",
                                   option.name, words);
            } else if (option.value != nullptr) {
                std::string_view kind = option.value;
                if (kind == "DIR" || kind == "FILE" || kind == "PATH")
                    line = fmt::format("        --{}) COMPREPLY=($(compgen -{} -- \"$word\")); return ;;\n",
                                       option.name, kind == "DIR" ? 'd' : 'f');
            }
            if (values.find(fmt::format(" --{})", option.name)) == std::string::npos) values += line;
        }
    };
    add_values(global_options());
    for (const Command& command : commands()) add_values(command.options);
    return fmt::format(R"bash(# bash completion for casemate, made by `casemate docs --completion`
_casemate() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= options= i
    COMPREPLY=()
    case $previous in
{}    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case " {} " in *" ${{COMP_WORDS[i]}} "*) command=${{COMP_WORDS[i]}}; break ;; esac
    done
    if [[ -z $command ]]; then
        COMPREPLY=($(compgen -W "{} {}" -- "$word"))
        return
    fi
    case $command in
{}    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
        return
    fi
    case $command in
        {}) COMPREPLY=($(compgen -W "$(casemate list --quiet 2>/dev/null)" -- "$word")) ;;
        help) COMPREPLY=($(compgen -W "{}" -- "$word")) ;;
        do) COMPREPLY=($(compgen -c -- "$word")) ;;
    esac
}}
complete -o default -F _casemate casemate
)bash",
                       values, names, names, long_options(global_options()), cases, with_container, names);
}

std::string version_text() { return "casemate version 0.1.0\nspec: 1.2.0\n"; }

}  // namespace casemate::cli
