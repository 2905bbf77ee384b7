#include "sentry/boot/syscall_report.h"

#include <fmt/core.h>
#include <string.h>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

const char* support_name(Support support) {
    switch (support) {
        case Support::kFull:
            return "full";
        case Support::kPartial:
            return "partial";
        case Support::kNone:
            break;
    }
    return "none";
}

// Why there is none of it or what is missing; of calls without a handler also what they answer.
std::string reason(const SyscallRow& row) {
    std::string text = row.note;
    if (row.support == Support::kNone && text.empty()) text = "not implemented";
    if (row.handler == nullptr) text += fmt::format(" ({})", strerrorname_np(row.missing_errno));
    return text;
}

std::string json_text(std::string_view text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c;
    }
    return out + '"';
}

std::string markdown_text(std::string_view text) {
    std::string out;
    for (char c : text) {
        if (c == '|' || c == '*' || c == '_' || c == '<') out += '\\';
        out += c;
    }
    return out;
}

}  // namespace

std::string syscall_report(std::string_view format) {
    size_t counts[3] = {};
    for (const SyscallRow& row : all_syscalls()) ++counts[static_cast<size_t>(row.support)];
    std::string text;
    if (format == "json") {
        for (const SyscallRow& row : all_syscalls())
            text += fmt::format("{}{{\"number\":{},\"name\":{},\"support\":\"{}\",\"note\":{}}}",
                                text.empty() ? "[" : ",\n ", row.number, json_text(row.name), support_name(row.support),
                                json_text(reason(row)));
        return text + "]\n";
    }
    if (format == "markdown") {
        text = fmt::format(
            "# System calls of the sentry\n\n"
            "Made by `casemate syscalls --format markdown` from the table in src/sentry/syscalls/. Linux x86-64 knows "
            "{} calls:\n{} are full, {} partial, {} none. What is missing answers as a Linux without the feature "
            "would, "
            "and is logged once.\n\n"
            "| number | name | support | what is missing, or why |\n| --- | --- | --- | --- |\n",
            all_syscalls().size(), counts[0], counts[1], counts[2]);
        for (const SyscallRow& row : all_syscalls())
            text += fmt::format("| {} | {} | {} | {} |\n", row.number, markdown_text(row.name),
                                support_name(row.support), markdown_text(reason(row)));
        return text;
    }
    for (const SyscallRow& row : all_syscalls()) {
        std::string line =
            fmt::format("{:>6} {:<24} {:<8} {}", row.number, row.name, support_name(row.support), reason(row));
        line.resize(line.find_last_not_of(' ') + 1);
        text += line + "\n";
    }
    return text + fmt::format("{} calls: {} full, {} partial, {} none\n", all_syscalls().size(), counts[0], counts[1],
                              counts[2]);
}

}  // namespace casemate::sentry
