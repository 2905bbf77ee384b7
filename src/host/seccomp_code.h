// The pieces of a classic BPF program for seccomp(2): checks of arguments, and what makes a program short. Everything
// can be computed while the program that uses it is compiled. For seccomp_filter.h.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace casemate::host {

// A condition on one of the six arguments, as an unsigned 64-bit value. The kernel ignores the upper half of arguments
// that are `int`, so those are compared by their lower half: use the ..32 forms for them.
struct ArgCheck {
    enum class Kind { kEqual, kNotEqual, kMaskedEqual, kAtMost, kGreater } kind = Kind::kEqual;
    unsigned index = 0;
    uint64_t mask = ~uint64_t{0};
    uint64_t value = 0;

    static constexpr ArgCheck equal(unsigned index, uint64_t value) {
        return {Kind::kEqual, index, ~uint64_t{0}, value};
    }
    static constexpr ArgCheck not_equal(unsigned index, uint64_t value) {
        return {Kind::kNotEqual, index, ~uint64_t{0}, value};
    }
    static constexpr ArgCheck equal32(unsigned index, uint32_t value) {
        return {Kind::kMaskedEqual, index, 0xffffffff, value};
    }
    // (argument & mask) == value
    static constexpr ArgCheck masked(unsigned index, uint64_t mask, uint64_t value) {
        return {Kind::kMaskedEqual, index, mask, value};
    }
    static constexpr ArgCheck no_bits(unsigned index, uint64_t bits) { return masked(index, bits, 0); }
    static constexpr ArgCheck at_most(unsigned index, uint64_t value) {
        return {Kind::kAtMost, index, ~uint64_t{0}, value};
    }
    static constexpr ArgCheck greater(unsigned index, uint64_t value) {
        return {Kind::kGreater, index, ~uint64_t{0}, value};
    }
};

namespace seccomp_code {

constexpr sock_filter load(uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
constexpr sock_filter ret(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
// `yes` and `no` count the instructions to skip.
constexpr sock_filter jump(uint16_t condition, uint32_t k, uint8_t yes, uint8_t no) {
    return BPF_JUMP(static_cast<uint16_t>(BPF_JMP | condition | BPF_K), k, yes, no);
}

// Looks at nothing but the lower half of an argument as it is.
constexpr bool is_low_equal(const ArgCheck& check) {
    return check.kind == ArgCheck::Kind::kMaskedEqual && check.mask == 0xffffffff && check.value <= 0xffffffff;
}

// Goes on behind the block if the check holds, else to the instruction `skip` behind the block's end. BPF works on 32
// bits, so a 64-bit argument takes two halves (little-endian).
constexpr void append_check(std::vector<sock_filter>& code, const ArgCheck& check, uint8_t skip) {
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

constexpr bool is_conditional(const sock_filter& i) { return BPF_CLASS(i.code) == BPF_JMP && BPF_OP(i.code) != BPF_JA; }
constexpr bool is_return(const sock_filter& i) { return BPF_CLASS(i.code) == BPF_RET; }

// The same program with one return of each kind, at its end, that conditional jumps lead to directly: for short lists
// half the length, and the kernel's work on a new list is proportional to that. As it was if a jump would be too long.
constexpr std::vector<sock_filter> share_returns(const std::vector<sock_filter>& code) {
    std::vector<char> reached(code.size(), 0);
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
    std::vector<size_t> place(code.size(), 0);  // in the new program
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

}  // namespace seccomp_code

}  // namespace casemate::host
