#include "cli/options.h"

#include <charconv>

namespace casemate::cli {

namespace {

const Option* find_option(std::span<const Option> options, std::string_view name) {
    for (const Option& option : options) {
        if (name == option.name) return &option;
        if (name.size() == 1 && option.letter != 0 && name[0] == option.letter) return &option;
    }
    return nullptr;
}

bool is_choice(std::string_view choices, std::string_view value) {
    while (!choices.empty()) {
        size_t bar = choices.find('|');
        if (choices.substr(0, bar) == value) return true;
        choices = bar == std::string_view::npos ? std::string_view() : choices.substr(bar + 1);
    }
    return false;
}

}  // namespace

bool Arguments::has(std::string_view name) const {
    for (auto given = given_.rbegin(); given != given_.rend(); ++given)
        if (name == given->first->name) return given->first->value != nullptr || given->second == "true";
    return false;
}

std::string_view Arguments::value(std::string_view name) const { return value_or(name, {}); }

std::string_view Arguments::value_or(std::string_view name, std::string_view fallback) const {
    for (auto given = given_.rbegin(); given != given_.rend(); ++given)
        if (name == given->first->name) return given->second;
    return fallback;
}

std::vector<std::string_view> Arguments::values(std::string_view name) const {
    std::vector<std::string_view> values;
    for (const auto& [option, value] : given_)
        if (name == option->name) values.push_back(value);
    return values;
}

Result<Arguments> Arguments::parse(std::span<char* const> words, std::span<const Option> options,
                                   bool options_end_at_first, size_t* used) {
    Arguments arguments;
    size_t i = 0;
    for (; i < words.size(); ++i) {
        std::string_view word = words[i];
        if (word == "--") {
            ++i;
            break;
        }
        if (word.size() < 2 || word[0] != '-') {
            if (options_end_at_first) break;
            arguments.positional_.push_back(word);
            continue;
        }
        std::string_view name = word.substr(word[1] == '-' ? 2 : 1);
        std::string_view value;
        size_t equals = name.find('=');
        bool has_value = equals != std::string_view::npos;
        if (has_value) {
            value = name.substr(equals + 1);
            name = name.substr(0, equals);
        }
        const Option* option = find_option(options, name);
        if (option == nullptr) return Error("unknown option " + std::string(word));
        if (option->value == nullptr) {
            if (!has_value) value = "true";
            if (value == "1" || value == "0") value = value == "1" ? "true" : "false";
            if (value != "true" && value != "false")
                return Error("option --" + std::string(option->name) + " takes no value but true or false");
        } else if (!has_value) {
            if (++i == words.size()) return Error("option --" + std::string(option->name) + " needs a value");
            value = words[i];
        }
        if (option->choices != nullptr && !is_choice(option->choices, value))
            return Error("option --" + std::string(option->name) + ": \"" + std::string(value) + "\" is none of " +
                         option->choices);
        arguments.given_.emplace_back(option, value);
    }
    if (used != nullptr) *used = i;
    for (; i < words.size(); ++i) arguments.positional_.push_back(words[i]);
    return arguments;
}

Result<int64_t> parse_number(std::string_view text, std::string_view option) {
    int64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size())
        return Error("option --" + std::string(option) + ": \"" + std::string(text) + "\" is not a whole number");
    return number;
}

}  // namespace casemate::cli
