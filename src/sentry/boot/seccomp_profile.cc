#include "sentry/boot/seccomp_profile.h"

#include <linux/seccomp.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <string_view>

#include "host/seccomp_filter.h"
#include "sentry/syscalls/names.h"

namespace casemate::sentry {
namespace {

using host::ArgCheck;

Result<uint32_t> return_value(oci::SeccompAction action, std::optional<uint16_t> errno_ret) {
    uint32_t data = errno_ret.value_or(EPERM);
    switch (action) {
        case oci::SeccompAction::kKillThread:
            return SECCOMP_RET_KILL_THREAD;
        case oci::SeccompAction::kKillProcess:
            return SECCOMP_RET_KILL_PROCESS;
        case oci::SeccompAction::kTrap:
            return SECCOMP_RET_TRAP;
        case oci::SeccompAction::kErrno:
            return SECCOMP_RET_ERRNO | data;
        case oci::SeccompAction::kTrace:
            return SECCOMP_RET_TRACE | data;
        case oci::SeccompAction::kAllow:
            return SECCOMP_RET_ALLOW;
        case oci::SeccompAction::kLog:
            return SECCOMP_RET_LOG;
        case oci::SeccompAction::kNotify:
            break;
    }
    return Error("SCMP_ACT_NOTIFY needs a listener on the host, which the sentry does not offer", ENOTSUP);
}

struct Rule {
    std::vector<ArgCheck> checks;
    uint32_t value;
};

// False: the condition never holds.
bool append_check(const oci::SeccompArgument& given, std::vector<ArgCheck>& checks) {
    unsigned index = given.index;
    uint64_t value = given.value;
    switch (given.op) {
        case oci::SeccompOperator::kEqual:
            checks.push_back(ArgCheck::equal(index, value));
            return true;
        case oci::SeccompOperator::kNotEqual:
            checks.push_back(ArgCheck::not_equal(index, value));
            return true;
        case oci::SeccompOperator::kMaskedEqual:
            checks.push_back(ArgCheck::masked(index, value, given.value_two & value));
            return true;
        case oci::SeccompOperator::kLessEqual:
            checks.push_back(ArgCheck::at_most(index, value));
            return true;
        case oci::SeccompOperator::kGreater:
            checks.push_back(ArgCheck::greater(index, value));
            return true;
        case oci::SeccompOperator::kLess:
            if (value == 0) return false;
            checks.push_back(ArgCheck::at_most(index, value - 1));
            return true;
        case oci::SeccompOperator::kGreaterEqual:
            if (value != 0) checks.push_back(ArgCheck::greater(index, value - 1));
            return true;
    }
    return false;
}

bool repeats_an_argument(const std::vector<oci::SeccompArgument>& args) {
    for (size_t i = 0; i < args.size(); ++i)
        for (size_t j = 0; j < i; ++j)
            if (args[i].index == args[j].index) return true;
    return false;
}

std::vector<Rule> rules_of(const oci::SeccompSyscall& entry, uint32_t value) {
    std::vector<Rule> rules;
    if (repeats_an_argument(entry.args)) {
        for (const oci::SeccompArgument& one : entry.args) {
            Rule rule{{}, value};
            if (append_check(one, rule.checks)) rules.push_back(std::move(rule));
        }
        return rules;
    }
    Rule rule{{}, value};
    for (const oci::SeccompArgument& one : entry.args)
        if (!append_check(one, rule.checks)) return {};
    rules.push_back(std::move(rule));
    return rules;
}

}  // namespace

Result<Ref<SyscallFilter>> compile_profile(const oci::Seccomp& profile) {
    if (!profile.listener_path.empty())
        return Error("linux.seccomp.listenerPath: the sentry sends no notifications to the host", ENOTSUP);
    uint32_t otherwise = TRY(return_value(profile.default_action, profile.default_errno_ret));
    std::map<std::string_view, int> numbers;
    for (const SyscallName& one : syscall_names()) numbers[one.name] = one.number;
    std::map<int, std::vector<Rule>> calls;
    for (const oci::SeccompSyscall& entry : profile.syscalls) {
        uint32_t value = TRY(return_value(entry.action, entry.errno_ret));
        for (const std::string& name : entry.names) {
            auto number = numbers.find(name);
            if (number == numbers.end()) continue;
            for (Rule& rule : rules_of(entry, value)) calls[number->second].push_back(std::move(rule));
        }
    }
    host::SeccompFilter filter(otherwise);
    for (auto& [number, rules] : calls) {
        std::stable_partition(rules.begin(), rules.end(), [](const Rule& rule) { return !rule.checks.empty(); });
        for (Rule& rule : rules) filter.add_rule(number, std::move(rule.checks), rule.value);
    }
    std::vector<sock_filter> program = TRY(filter.build());
    SyscallFilter::Options options;
    options.log = (profile.flags & SECCOMP_FILTER_FLAG_LOG) != 0;
    auto made = SyscallFilter::create(std::move(program), std::move(options), nullptr);
    if (!made.ok()) return sys_error("linux.seccomp as a filter", made.error().value);
    return made.take_value();
}

}  // namespace casemate::sentry
