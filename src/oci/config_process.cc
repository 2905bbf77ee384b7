// "process" of config.json: runtime-spec 1.2, config.md "Process", "POSIX process", "Linux Process".
#include <linux/sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <unordered_map>

#include "oci/config_read.h"

namespace casemate::oci {

static Result<void> read(const JsonNode& node, ConsoleSize& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required("height", out.height));
    TRY(reader.required("width", out.width));
    return {};
}

static Result<void> read(const JsonNode& node, User& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required("uid", out.uid));
    TRY(reader.required("gid", out.gid));
    if (auto umask = reader.member("umask")) {
        uint64_t bits = TRY(umask->to_unsigned(0777));
        out.umask = static_cast<uint32_t>(bits);
    }
    if (auto gids = reader.member("additionalGids")) {
        TRY(read(*gids, out.additional_gids));
        constexpr size_t kMost = 65536;  // NGROUPS_MAX
        if (out.additional_gids.size() > kMost)
            return gids->error(
                fmt::format("has {} entries, at most {} are possible", out.additional_gids.size(), kMost));
    }
    reader.member("username");  // Windows only
    return {};
}

static Result<void> read_capability_set(ObjectReader& reader, std::string_view name, uint64_t& out) {
    auto list = reader.member(name);
    if (!list) return {};
    size_t size = TRY(list->list_size());
    for (size_t i = 0; i < size; i++) {
        JsonNode element = list->element(i);
        std::string text = TRY(element.to_string());
        if (const uint32_t* number = find_value(capability_names(), text))
            out |= uint64_t{1} << *number;
        else
            element.warn(fmt::format("{} is a capability unknown here, and is not granted", in_quotes(text)));
    }
    return {};
}

static Result<void> read(const JsonNode& node, Capabilities& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(read_capability_set(reader, "bounding", out.bounding));
    TRY(read_capability_set(reader, "effective", out.effective));
    TRY(read_capability_set(reader, "inheritable", out.inheritable));
    TRY(read_capability_set(reader, "permitted", out.permitted));
    TRY(read_capability_set(reader, "ambient", out.ambient));
    return {};
}

static Result<void> read(const JsonNode& node, Rlimit& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required_name("type", rlimit_names(), out.resource));
    TRY(reader.required("soft", out.soft));
    TRY(reader.required("hard", out.hard));
    if (out.soft > out.hard) return node.error(fmt::format("soft is {}, above hard, which is {}", out.soft, out.hard));
    return {};
}

static Result<void> read(const JsonNode& node, Scheduler& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required_name("policy", scheduler_policy_names(), out.policy));
    if (auto nice = reader.member("nice")) {
        int64_t value = TRY(nice->to_signed(-20, 19));
        out.nice = static_cast<int32_t>(value);
    }
    bool real_time = out.policy == SCHED_FIFO || out.policy == SCHED_RR;
    if (auto priority = reader.member("priority")) {
        int64_t value = TRY(priority->to_signed(0, 99));
        if (!real_time && value != 0) return priority->error("is for the policies SCHED_FIFO and SCHED_RR only");
        out.priority = static_cast<int32_t>(value);
    }
    if (real_time && out.priority == 0) return node.error("priority must be 1 to 99 with this policy");
    if (auto flags = reader.member("flags")) {
        size_t size = TRY(flags->list_size());
        for (size_t i = 0; i < size; i++) {
            uint64_t flag = TRY(read_name(flags->element(i), scheduler_flag_names()));
            out.flags |= flag;
        }
    }
    TRY(reader.optional("runtime", out.runtime));
    TRY(reader.optional("deadline", out.deadline));
    TRY(reader.optional("period", out.period));
    if (out.policy != SCHED_DEADLINE && (out.runtime | out.deadline | out.period) != 0)
        return node.error("runtime, deadline and period are for the policy SCHED_DEADLINE only");
    return {};
}

static Result<void> read(const JsonNode& node, IoPriority& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required_name("class", io_priority_class_names(), out.io_class));
    JsonNode priority = TRY(reader.required_member("priority"));
    int64_t value = TRY(priority.to_signed(0, 7));
    out.priority = static_cast<int>(value);
    return {};
}

static Result<void> read(const JsonNode& node, ExecCpuAffinity& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    if (auto list = reader.member("initial")) TRY(read_cpu_list(*list, out.initial));
    if (auto list = reader.member("final")) TRY(read_cpu_list(*list, out.final));
    return {};
}

// NAME=VALUE; a name given again overrides the value given before, at the first one's place.
static Result<void> read_environment(const JsonNode& node, std::vector<std::string>& out) {
    size_t size = TRY(node.list_size());
    std::unordered_map<std::string, size_t> places;
    for (size_t i = 0; i < size; i++) {
        JsonNode element = node.element(i);
        std::string entry = TRY(element.to_string());
        size_t equals = entry.find('=');
        if (equals == std::string::npos || equals == 0) return element.must_be("of the form NAME=VALUE");
        auto [place, added] = places.try_emplace(entry.substr(0, equals), out.size());
        if (added)
            out.push_back(std::move(entry));
        else
            out[place->second] = std::move(entry);
    }
    return {};
}

Result<void> read(const JsonNode& node, Process& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("terminal", out.terminal));
    std::optional<ConsoleSize> console_size;
    TRY(reader.optional("consoleSize", console_size));
    if (out.terminal) out.console_size = console_size;
    TRY(reader.optional("user", out.user));

    JsonNode args = TRY(reader.required_member("args"));
    TRY(read(args, out.args));
    if (out.args.empty()) return args.must_be("a list that names the program to run");
    if (out.args[0].empty()) return args.element(0).must_be("the program to run");
    if (auto env = reader.member("env")) TRY(read_environment(*env, out.env));
    JsonNode cwd = TRY(reader.required_member("cwd"));
    TRY(read_absolute_path(cwd, out.cwd));

    TRY(reader.optional("capabilities", out.capabilities));
    if (auto rlimits = reader.member("rlimits")) {
        TRY(read(*rlimits, out.rlimits));
        uint64_t seen = 0;
        for (size_t i = 0; i < out.rlimits.size(); i++) {
            uint64_t bit = uint64_t{1} << out.rlimits[i].resource;
            if (seen & bit) {
                auto name = name_of(rlimit_names(), out.rlimits[i].resource);
                return rlimits->element(i).error(fmt::format("limits {} a second time", name));
            }
            seen |= bit;
        }
    }
    TRY(reader.optional("noNewPrivileges", out.no_new_privileges));
    if (auto score = reader.member("oomScoreAdj")) {
        int64_t value = TRY(score->to_signed(-1000, 1000));
        out.oom_score_adj = static_cast<int>(value);
    }
    TRY(reader.optional("scheduler", out.scheduler));
    TRY(reader.optional("ioPriority", out.io_priority));
    TRY(reader.optional("execCPUAffinity", out.exec_cpu_affinity));
    TRY(reader.optional("apparmorProfile", out.apparmor_profile));
    TRY(reader.optional("selinuxLabel", out.selinux_label));
    reader.member("commandLine");  // Windows only
    return {};
}

}  // namespace casemate::oci
