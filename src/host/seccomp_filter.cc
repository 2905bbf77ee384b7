#include "host/seccomp_filter.h"

#include <linux/audit.h>

#include <algorithm>
#include <optional>

#include "linux/process.h"
#include "linux/seccomp_fd.h"

namespace casemate::host {

namespace {

static_assert(SeccompFilter::kAllow == SECCOMP_RET_ALLOW && SeccompFilter::kKillProcess == SECCOMP_RET_KILL_PROCESS);

sock_filter load(uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
sock_filter ret(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
// `yes` and `no` count the instructions to skip.
sock_filter jump(uint16_t condition, uint32_t k, uint8_t yes, uint8_t no) {
    return BPF_JUMP(static_cast<uint16_t>(BPF_JMP | condition | BPF_K), k, yes, no);
}

// Looks at nothing but the lower half of an argument as it is.
bool is_low_equal(const ArgCheck& check) {
    return check.kind == ArgCheck::Kind::kMaskedEqual && check.mask == 0xffffffff && check.value <= 0xffffffff;
}

// Goes on behind the block if the check holds, else to the instruction `skip` behind the block's end. BPF works on 32
// bits, so a 64-bit argument takes two halves (little-endian).
void append_check(std::vector<sock_filter>& code, const ArgCheck& check, uint8_t skip) {
    uint32_t low_offset = static_cast<uint32_t>(offsetof(seccomp_data, args)) + check.index * 8;
    auto low = [](uint64_t v) { return static_cast<uint32_t>(v); };
    auto high = [](uint64_t v) { return static_cast<uint32_t>(v >> 32); };
    switch (check.kind) {
        case ArgCheck::Kind::kEqual:
            code.insert(code.end(),
                        {load(low_offset), jump(BPF_JEQ, low(check.value), 0, static_cast<uint8_t>(skip + 2)),
                         load(low_offset + 4), jump(BPF_JEQ, high(check.value), 0, skip)});
            break;
        case ArgCheck::Kind::kNotEqual:
            code.insert(code.end(), {load(low_offset), jump(BPF_JEQ, low(check.value), 0, 2), load(low_offset + 4),
                                     jump(BPF_JEQ, high(check.value), skip, 0)});
            break;
        case ArgCheck::Kind::kMaskedEqual: {
            bool low_only = high(check.mask) == 0 && high(check.value) == 0;
            if (low_only) {
                code.push_back(load(low_offset));
                if (low(check.mask) != ~uint32_t{0})
                    code.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, low(check.mask)));
                code.push_back(jump(BPF_JEQ, low(check.value), 0, skip));
                break;
            }
            code.insert(code.end(), {load(low_offset), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, low(check.mask)),
                                     jump(BPF_JEQ, low(check.value), 0, static_cast<uint8_t>(skip + 3)),
                                     load(low_offset + 4), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, high(check.mask)),
                                     jump(BPF_JEQ, high(check.value), 0, skip)});
            break;
        }
        case ArgCheck::Kind::kAtMost:
            code.insert(
                code.end(),
                {load(low_offset + 4), jump(BPF_JGT, high(check.value), static_cast<uint8_t>(skip + 3), 0),
                 jump(BPF_JEQ, high(check.value), 0, 2), load(low_offset), jump(BPF_JGT, low(check.value), skip, 0)});
            break;
        case ArgCheck::Kind::kGreater:
            code.insert(code.end(), {load(low_offset + 4), jump(BPF_JGT, high(check.value), 3, 0),
                                     jump(BPF_JEQ, high(check.value), 0, static_cast<uint8_t>(skip + 2)),
                                     load(low_offset), jump(BPF_JGT, low(check.value), 0, skip)});
            break;
    }
}

bool is_conditional(const sock_filter& i) { return BPF_CLASS(i.code) == BPF_JMP && BPF_OP(i.code) != BPF_JA; }
bool is_return(const sock_filter& i) { return BPF_CLASS(i.code) == BPF_RET; }

// The same program with one return of each kind, at its end, that conditional jumps lead to directly: for short lists
// half the length, and the kernel's work on a new list is proportional to that. As it was if a jump would be too long.
std::vector<sock_filter> share_returns(const std::vector<sock_filter>& code) {
    std::vector<bool> reached(code.size());
    std::vector<uint32_t> returns;
    auto shared = [&](size_t at) { return is_return(code[at]); };
    auto reach = [&](size_t target) {
        if (!shared(target))
            reached[target] = true;
        else if (std::ranges::find(returns, code[target].k) == returns.end())
            returns.push_back(code[target].k);
    };
    reached[0] = true;
    for (size_t i = 0; i < code.size(); ++i) {  // jumps only lead forward
        if (!reached[i] || is_return(code[i])) continue;
        if (is_conditional(code[i])) {
            reach(i + 1 + code[i].jt);
            reach(i + 1 + code[i].jf);
        } else {
            reached[i + 1 + (BPF_CLASS(code[i].code) == BPF_JMP ? code[i].k : 0)] = true;
        }
    }
    std::vector<size_t> place(code.size());  // in the new program
    size_t length = 0;
    for (size_t i = 0; i < code.size(); ++i)
        if (reached[i]) place[i] = length++;
    auto distance = [&](size_t from, size_t target) {
        size_t to = shared(target)
                        ? length + static_cast<size_t>(std::ranges::find(returns, code[target].k) - returns.begin())
                        : place[target];
        return to - place[from] - 1;
    };
    std::vector<sock_filter> packed;
    for (size_t i = 0; i < code.size(); ++i) {
        if (!reached[i]) continue;
        sock_filter copy = code[i];
        if (is_conditional(copy)) {
            size_t yes = distance(i, i + 1 + copy.jt), no = distance(i, i + 1 + copy.jf);
            if (yes > 255 || no > 255) return code;
            copy.jt = static_cast<uint8_t>(yes);
            copy.jf = static_cast<uint8_t>(no);
        } else if (BPF_CLASS(copy.code) == BPF_JMP) {
            copy.k = static_cast<uint32_t>(place[i + 1 + copy.k] - place[i] - 1);
        }
        packed.push_back(copy);
    }
    for (uint32_t action : returns) packed.push_back(ret(action));
    return packed;
}

}  // namespace

SeccompFilter::Entry& SeccompFilter::entry(int syscall) {
    auto at = std::lower_bound(entries_.begin(), entries_.end(), syscall,
                               [](const Entry& e, int number) { return e.syscall < number; });
    if (at == entries_.end() || at->syscall != syscall) {
        Entry fresh;
        fresh.syscall = syscall;
        at = entries_.insert(at, std::move(fresh));
    }
    return *at;
}

void SeccompFilter::allow(std::initializer_list<int> syscalls) {
    for (int syscall : syscalls) add_rule(syscall, {}, kAllow);
}

void SeccompFilter::allow_if(int syscall, std::initializer_list<ArgCheck> checks) { add_rule(syscall, checks, kAllow); }

void SeccompFilter::add_rule(int syscall, std::vector<ArgCheck> checks, uint32_t action) {
    Rule rule;
    rule.checks = std::move(checks);
    rule.action = action;
    entry(syscall).rules.push_back(std::move(rule));
}

bool SeccompFilter::lists(int syscall) const {
    return std::ranges::any_of(entries_, [&](const Entry& entry) { return entry.syscall == syscall; });
}

size_t SeccompFilter::syscall_count() const { return entries_.size(); }

size_t SeccompFilter::allowed_count() const {
    return static_cast<size_t>(std::ranges::count_if(entries_, [](const Entry& entry) {
        return std::ranges::any_of(entry.rules, [](const Rule& rule) { return rule.action == kAllow; });
    }));
}

// The rules of one syscall, one behind the other; always ends with a return.
std::vector<sock_filter> SeccompFilter::body(const Entry& entry) const {
    std::vector<sock_filter> code;
    std::optional<unsigned> loaded;  // the argument whose lower half the accumulator holds
    for (const Rule& rule : entry.rules) {
        // Many rules are about one argument, the request of ioctl(2) above all.
        if (rule.checks.size() == 1 && is_low_equal(rule.checks[0]) && loaded == rule.checks[0].index) {
            code.push_back(jump(BPF_JEQ, static_cast<uint32_t>(rule.checks[0].value), 0, 1));
            code.push_back(ret(rule.action));
            continue;
        }
        loaded.reset();
        if (rule.checks.size() == 1 && is_low_equal(rule.checks[0])) loaded = rule.checks[0].index;
        // Each check's failure jumps over the rest of the rule, so build from the last check forward.
        std::vector<sock_filter> rest = {ret(rule.action)};
        for (size_t i = rule.checks.size(); i-- > 0;) {
            std::vector<sock_filter> block;
            append_check(block, rule.checks[i], static_cast<uint8_t>(rest.size()));
            block.insert(block.end(), rest.begin(), rest.end());
            rest = std::move(block);
        }
        code.insert(code.end(), rest.begin(), rest.end());
        if (rule.checks.empty()) return code;
    }
    code.push_back(ret(default_action_));
    return code;
}

// The accumulator holds the syscall number on entry.
std::vector<sock_filter> SeccompFilter::search(size_t begin, size_t end) const {
    std::vector<sock_filter> code;
    if (begin == end) return {ret(default_action_)};
    if (end - begin == 1) {
        code = body(entries_[begin]);
        // A body longer than a conditional jump's reach cannot be skipped over: the miss returns at once instead.
        code.insert(code.begin(),
                    {jump(BPF_JEQ, static_cast<uint32_t>(entries_[begin].syscall), 1, 0), ret(default_action_)});
        return code;
    }
    size_t middle = begin + (end - begin) / 2;
    std::vector<sock_filter> lower = search(begin, middle), upper = search(middle, end);
    uint32_t number = static_cast<uint32_t>(entries_[middle].syscall);
    if (lower.size() <= 255) {
        code.push_back(jump(BPF_JGE, number, static_cast<uint8_t>(lower.size()), 0));
    } else {
        code.push_back(jump(BPF_JGE, number, 0, 1));
        code.push_back(BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(lower.size())));
    }
    code.insert(code.end(), lower.begin(), lower.end());
    code.insert(code.end(), upper.begin(), upper.end());
    return code;
}

std::vector<SeccompFilter::Allowed> SeccompFilter::allowed() const {
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

Result<std::vector<sock_filter>> SeccompFilter::build() const {
    for (const Entry& entry : entries_)
        for (const Rule& rule : entry.rules)
            if (rule.checks.size() > 6) return Error("a seccomp rule has more than six checks", EINVAL);
    std::vector<sock_filter> code = {load(offsetof(seccomp_data, arch)), jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
                                     ret(default_action_), load(offsetof(seccomp_data, nr))};
    std::vector<sock_filter> rest = search(0, entries_.size());
    code.insert(code.end(), rest.begin(), rest.end());
    code = share_returns(code);
    if (code.size() > BPF_MAXINSNS) {
        return Error("the seccomp filter has " + std::to_string(code.size()) +
                         " instructions, more than the kernel's " + std::to_string(BPF_MAXINSNS),
                     E2BIG);
    }
    return code;
}

Result<void> install_filter(const std::vector<sock_filter>& program) {
    auto set = linux::set_no_new_privs();
    if (!set.ok()) return sys_error("no_new_privs", set.error().value);
    auto installed = linux::install_seccomp_filter(program, SECCOMP_FILTER_FLAG_TSYNC);
    if (!installed.ok()) return sys_error("installing the seccomp filter", installed.error().value);
    return {};
}

}  // namespace casemate::host
