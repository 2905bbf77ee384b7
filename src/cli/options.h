// The command line as data: one table of commands and options from which parsing, help texts, man pages and the bash
// completion are made. Own code instead of a library because a command is started for every step of every container's
// life: this costs microseconds and no allocation worth the name.
//
// Syntax, as runc's: `--name value`, `--name=value`, `-n value`, `-name value`; flags also `--name=true|false`;
// `--` ends the options. Global options stand before the command. A command may take its options also behind its
// arguments unless what follows is somebody else's command line (exec, do).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace casemate::cli {

struct Option {
    const char* name;
    char letter;        // 0: none
    const char* value;  // what the help calls the value; nullptr: a flag
    const char* help;
    const char* choices = nullptr;  // words separated by '|' that the value must be one of (also completed)
};

class Arguments;
struct Context;

struct Command {
    const char* name;
    const char* arguments;  // behind the options in the usage line
    const char* summary;
    const char* description;
    std::span<const Option> options;
    int least;                  // positional arguments
    int most;                   // -1: any number
    bool options_end_at_first;  // at the first positional argument
    int (*run)(Context& context, const Arguments& arguments);
    bool hidden = false;
};

// What a command line said. Borrows argv.
class Arguments {
  public:
    bool has(std::string_view name) const;
    // The last value given; empty if none was.
    std::string_view value(std::string_view name) const;
    std::string_view value_or(std::string_view name, std::string_view fallback) const;
    std::vector<std::string_view> values(std::string_view name) const;
    const std::vector<std::string_view>& positional() const { return positional_; }

    // Parses from argv[0] (behind the program's or the command's name). Stops at the first positional argument if
    // `options_end_at_first`; `used` is then how many words were taken, positional ones not included.
    static Result<Arguments> parse(std::span<char* const> words, std::span<const Option> options,
                                   bool options_end_at_first, size_t* used = nullptr);

  private:
    std::vector<std::pair<const Option*, std::string_view>> given_;
    std::vector<std::string_view> positional_;
};

Result<int64_t> parse_number(std::string_view text, std::string_view option);

}  // namespace casemate::cli
