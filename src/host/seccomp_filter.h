// Builds seccomp allow-lists: the host syscalls that the sentry and the file server may make, as data.
//
//   SeccompFilter filter;
//   filter.allow({SYS_read, SYS_write, SYS_close});
//   filter.allow_if(SYS_mmap, {ArgCheck::no_bits(2, PROT_EXEC)});
//   filter.allow_if(SYS_ioctl, {ArgCheck::equal(1, SECCOMP_IOCTL_NOTIF_RECV)});   // several rules of one call: any
//   fits TRY(install_filter(filter.build()));
//
// The program is a binary search by syscall number, so its length costs little; calls without argument checks cost
// nothing at all, since Linux 5.11 caches the verdict per number. Another architecture or the x32 numbers get the
// default action.
#pragma once

#include <linux/audit.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "host/seccomp_code.h"

namespace casemate::host {

// What happens on a call: a SECCOMP_RET_* value with its data.
class SeccompFilter {
  public:
    // `default_action` for everything that is not listed. For debugging, SECCOMP_RET_ERRNO | ENOSYS shows what is
    // missing without killing, SECCOMP_RET_LOG lets it pass and tells the audit log.
    constexpr explicit SeccompFilter(uint32_t default_action = kKillProcess) : default_action_(default_action) {}

    constexpr void allow(std::initializer_list<int> syscalls);
    // All checks of one rule must hold; of several rules for a call the first that holds decides.
    constexpr void allow_if(int syscall, std::initializer_list<ArgCheck> checks);
    constexpr void add_rule(int syscall, std::vector<ArgCheck> checks, uint32_t action);

    // Whether any rule names it.
    constexpr bool lists(int syscall) const;
    // Distinct syscalls that are listed.
    constexpr size_t syscall_count() const;
    // Those of them that the host carries out, with some arguments at least: what "60 or fewer" counts.
    constexpr size_t allowed_count() const;
    // What is let through, for tests that look for entries nobody needs: a number, and the value that argument 1 must
    // have (an ioctl's request), else 0.
    struct Allowed {
        int syscall = 0;
        uint64_t request = 0;
    };
    constexpr std::vector<Allowed> allowed() const;
    constexpr std::vector<sock_filter> program() const;
    // The same, for the kernel. E2BIG if the program has more than the kernel's 4,096 instructions.
    Result<std::vector<sock_filter>> build() const;

    static constexpr uint32_t kKillProcess = 0x80000000;
    static constexpr uint32_t kAllow = 0x7fff0000;

  private:
    struct Rule {
        std::vector<ArgCheck> checks;
        uint32_t action = kAllow;
    };
    struct Entry {
        int syscall = 0;
        std::vector<Rule> rules;
    };
    constexpr Entry& entry(int syscall);
    constexpr std::vector<sock_filter> body(const Entry& entry) const;
    // Entries [begin, end): one, or several that follow one another by number and say the same whatever the arguments.
    struct Group {
        size_t begin = 0, end = 0;
    };
    constexpr std::vector<Group> groups() const;
    constexpr std::vector<sock_filter> search(std::span<const Group> groups) const;

    uint32_t default_action_;
    std::vector<Entry> entries_;  // sorted by number
};

constexpr SeccompFilter::Entry& SeccompFilter::entry(int syscall) {
    auto at = std::lower_bound(entries_.begin(), entries_.end(), syscall,
                               [](const Entry& e, int number) { return e.syscall < number; });
    if (at == entries_.end() || at->syscall != syscall) {
        Entry fresh;
        fresh.syscall = syscall;
        at = entries_.insert(at, std::move(fresh));
    }
    return *at;
}

constexpr void SeccompFilter::allow(std::initializer_list<int> syscalls) {
    for (int syscall : syscalls) add_rule(syscall, {}, kAllow);
}

constexpr void SeccompFilter::allow_if(int syscall, std::initializer_list<ArgCheck> checks) {
    add_rule(syscall, checks, kAllow);
}

constexpr void SeccompFilter::add_rule(int syscall, std::vector<ArgCheck> checks, uint32_t action) {
    Rule rule;
    rule.checks = std::move(checks);
    rule.action = action;
    entry(syscall).rules.push_back(std::move(rule));
}

constexpr bool SeccompFilter::lists(int syscall) const {
    return std::ranges::any_of(entries_, [&](const Entry& entry) { return entry.syscall == syscall; });
}

constexpr size_t SeccompFilter::syscall_count() const { return entries_.size(); }

constexpr size_t SeccompFilter::allowed_count() const {
    return static_cast<size_t>(std::ranges::count_if(entries_, [](const Entry& entry) {
        return std::ranges::any_of(entry.rules, [](const Rule& rule) { return rule.action == kAllow; });
    }));
}

// The rules of one syscall, one behind the other; always ends with a return.
constexpr std::vector<sock_filter> SeccompFilter::body(const Entry& entry) const {
    std::vector<sock_filter> code;
    std::optional<unsigned> loaded;  // the argument whose lower half the accumulator holds
    for (const Rule& rule : entry.rules) {
        // Many rules are about one argument, the request of ioctl(2) above all.
        if (rule.checks.size() == 1 && seccomp_code::is_low_equal(rule.checks[0]) && loaded == rule.checks[0].index) {
            code.push_back(seccomp_code::jump(BPF_JEQ, static_cast<uint32_t>(rule.checks[0].value), 0, 1));
            code.push_back(seccomp_code::ret(rule.action));
            continue;
        }
        loaded.reset();
        if (rule.checks.size() == 1 && seccomp_code::is_low_equal(rule.checks[0])) loaded = rule.checks[0].index;
        // Each check's failure jumps over the rest of the rule, so build from the last check forward.
        std::vector<sock_filter> rest = {seccomp_code::ret(rule.action)};
        for (size_t i = rule.checks.size(); i-- > 0;) {
            std::vector<sock_filter> block;
            seccomp_code::append_check(block, rule.checks[i], static_cast<uint8_t>(rest.size()));
            block.insert(block.end(), rest.begin(), rest.end());
            rest = std::move(block);
        }
        code.insert(code.end(), rest.begin(), rest.end());
        if (rule.checks.empty()) return code;
    }
    code.push_back(seccomp_code::ret(default_action_));
    return code;
}

constexpr std::vector<SeccompFilter::Group> SeccompFilter::groups() const {
    std::vector<Group> groups;
    for (size_t i = 0; i < entries_.size(); ++i) {
        bool joins = false;
        if (i > 0 && entries_[i].syscall == entries_[i - 1].syscall + 1) {
            const Rule &before = entries_[i - 1].rules[0], &rule = entries_[i].rules[0];
            joins = before.checks.empty() && rule.checks.empty() && before.action == rule.action;
        }
        if (joins)
            groups.back().end = i + 1;
        else
            groups.push_back({i, i + 1});
    }
    return groups;
}

// The accumulator holds the syscall number on entry.
constexpr std::vector<sock_filter> SeccompFilter::search(std::span<const Group> groups) const {
    using seccomp_code::jump, seccomp_code::ret;
    std::vector<sock_filter> code;
    if (groups.empty()) return {ret(default_action_)};
    auto number = [&](size_t entry) { return static_cast<uint32_t>(entries_[entry].syscall); };
    if (groups.size() == 1) {
        auto [begin, end] = groups[0];
        // A body longer than a conditional jump's reach cannot be skipped over: the miss returns at once instead.
        code = body(entries_[begin]);
        if (end - begin == 1)
            code.insert(code.begin(), {jump(BPF_JEQ, number(begin), 1, 0), ret(default_action_)});
        else
            code.insert(code.begin(), {jump(BPF_JGE, number(begin), 1, 0), ret(default_action_),
                                       jump(BPF_JGT, number(end - 1), 0, 1), ret(default_action_)});
        return code;
    }
    size_t middle = groups.size() / 2;
    std::vector<sock_filter> lower = search(groups.first(middle)), upper = search(groups.subspan(middle));
    uint32_t first = number(groups[middle].begin);
    if (lower.size() <= 255) {
        code.push_back(jump(BPF_JGE, first, static_cast<uint8_t>(lower.size()), 0));
    } else {
        code.push_back(jump(BPF_JGE, first, 0, 1));
        code.push_back(BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(lower.size())));
    }
    code.insert(code.end(), lower.begin(), lower.end());
    code.insert(code.end(), upper.begin(), upper.end());
    return code;
}

constexpr std::vector<SeccompFilter::Allowed> SeccompFilter::allowed() const {
    std::vector<Allowed> all;
    for (const Entry& entry : entries_) {
        for (const Rule& rule : entry.rules) {
            if (rule.action != kAllow) continue;
            bool request = rule.checks.size() == 1 && rule.checks[0].index == 1 &&
                           rule.checks[0].kind != ArgCheck::Kind::kNotEqual && rule.checks[0].value != 0;
            all.push_back({entry.syscall, request ? rule.checks[0].value : 0});
        }
    }
    return all;
}

constexpr std::vector<sock_filter> SeccompFilter::program() const {
    std::vector<sock_filter> code = {
        seccomp_code::load(offsetof(seccomp_data, arch)), seccomp_code::jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        seccomp_code::ret(default_action_), seccomp_code::load(offsetof(seccomp_data, nr))};
    std::vector<sock_filter> rest = search(groups());
    code.insert(code.end(), rest.begin(), rest.end());
    return seccomp_code::share_returns(code);
}

// The program of a list that is known when this is compiled, by a function that makes it: at run time it would take
// some 100,000 instructions.
template <auto list>
constexpr auto compiled_filter() {
    constexpr size_t length = list().program().size();
    static_assert(length <= BPF_MAXINSNS);
    std::array<sock_filter, length> code = {};
    std::ranges::copy(list().program(), code.begin());
    return code;
}

// Sets no_new_privs and installs the program for all threads of the process.
Result<void> install_filter(const std::vector<sock_filter>& program);

}  // namespace casemate::host
