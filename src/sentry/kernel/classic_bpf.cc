#include "sentry/kernel/classic_bpf.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

namespace casemate::sentry {
namespace {

constexpr size_t kWords = sizeof(seccomp_data) / 4;

bool is_jump(uint16_t code) { return BPF_CLASS(code) == BPF_JMP; }

// The operations that seccomp knows; all others of classic BPF (packet loads, ancillary data, modulo) are refused.
bool known(const sock_filter& one) {
    switch (one.code) {
        case BPF_LD | BPF_W | BPF_ABS:
            return one.k < sizeof(seccomp_data) && one.k % 4 == 0;
        case BPF_LD | BPF_W | BPF_LEN:
        case BPF_LDX | BPF_W | BPF_LEN:
        case BPF_LD | BPF_IMM:
        case BPF_LDX | BPF_IMM:
        case BPF_RET | BPF_K:
        case BPF_RET | BPF_A:
        case BPF_MISC | BPF_TAX:
        case BPF_MISC | BPF_TXA:
        case BPF_ALU | BPF_ADD | BPF_K:
        case BPF_ALU | BPF_ADD | BPF_X:
        case BPF_ALU | BPF_SUB | BPF_K:
        case BPF_ALU | BPF_SUB | BPF_X:
        case BPF_ALU | BPF_MUL | BPF_K:
        case BPF_ALU | BPF_MUL | BPF_X:
        case BPF_ALU | BPF_DIV | BPF_X:
        case BPF_ALU | BPF_AND | BPF_K:
        case BPF_ALU | BPF_AND | BPF_X:
        case BPF_ALU | BPF_OR | BPF_K:
        case BPF_ALU | BPF_OR | BPF_X:
        case BPF_ALU | BPF_XOR | BPF_K:
        case BPF_ALU | BPF_XOR | BPF_X:
        case BPF_ALU | BPF_LSH | BPF_X:
        case BPF_ALU | BPF_RSH | BPF_X:
        case BPF_ALU | BPF_NEG:
        case BPF_JMP | BPF_JA:
        case BPF_JMP | BPF_JEQ | BPF_K:
        case BPF_JMP | BPF_JEQ | BPF_X:
        case BPF_JMP | BPF_JGE | BPF_K:
        case BPF_JMP | BPF_JGE | BPF_X:
        case BPF_JMP | BPF_JGT | BPF_K:
        case BPF_JMP | BPF_JGT | BPF_X:
        case BPF_JMP | BPF_JSET | BPF_K:
        case BPF_JMP | BPF_JSET | BPF_X:
            return true;
        case BPF_ALU | BPF_DIV | BPF_K:
            return one.k != 0;
        case BPF_ALU | BPF_LSH | BPF_K:
        case BPF_ALU | BPF_RSH | BPF_K:
            return one.k < 32;
        case BPF_LD | BPF_MEM:
        case BPF_LDX | BPF_MEM:
        case BPF_ST:
        case BPF_STX:
            return one.k < BPF_MEMWORDS;
        default:
            return false;
    }
}

bool jumps_inside(std::span<const sock_filter> program, size_t at) {
    const sock_filter& one = program[at];
    if (!is_jump(one.code)) return true;
    size_t left = program.size() - at - 1;
    if (one.code == (BPF_JMP | BPF_JA)) return one.k < left;
    return one.jt < left && one.jf < left;
}

// Scratch words must be written on every way that leads to a read of them.
bool memory_is_written_first(std::span<const sock_filter> program) {
    // Bit n of written[i]: on all ways to instruction i word n was written.
    std::vector<uint16_t> written(program.size(), 0xffff);
    uint16_t now = 0;
    for (size_t i = 0; i < program.size(); ++i) {
        now &= written[i];
        const sock_filter& one = program[i];
        switch (one.code) {
            case BPF_ST:
            case BPF_STX:
                now |= static_cast<uint16_t>(1 << one.k);
                break;
            case BPF_LD | BPF_MEM:
            case BPF_LDX | BPF_MEM:
                if ((now >> one.k & 1) == 0) return false;
                break;
            case BPF_JMP | BPF_JA:
                written[i + 1 + one.k] &= now;
                now = 0xffff;
                break;
            default:
                if (!is_jump(one.code)) break;
                written[i + 1 + one.jt] &= now;
                written[i + 1 + one.jf] &= now;
                now = 0xffff;
        }
    }
    return true;
}

// Returns nothing when a word is loaded that `loadable` does not have.
std::optional<uint32_t> run(std::span<const sock_filter> program, const std::array<uint32_t, kWords>& words,
                            size_t loadable) {
    uint32_t a = 0, x = 0;
    std::array<uint32_t, BPF_MEMWORDS> memory{};
    for (size_t i = 0; i < program.size(); ++i) {
        const sock_filter& one = program[i];
        uint32_t k = one.k;
        auto branch = [&](bool yes) { i += yes ? one.jt : one.jf; };
        switch (one.code) {
            case BPF_LD | BPF_W | BPF_ABS:
                if (k / 4 >= loadable) return std::nullopt;
                a = words[k / 4];
                break;
            case BPF_LD | BPF_W | BPF_LEN:
                a = sizeof(seccomp_data);
                break;
            case BPF_LDX | BPF_W | BPF_LEN:
                x = sizeof(seccomp_data);
                break;
            case BPF_LD | BPF_IMM:
                a = k;
                break;
            case BPF_LDX | BPF_IMM:
                x = k;
                break;
            case BPF_LD | BPF_MEM:
                a = memory[k];
                break;
            case BPF_LDX | BPF_MEM:
                x = memory[k];
                break;
            case BPF_ST:
                memory[k] = a;
                break;
            case BPF_STX:
                memory[k] = x;
                break;
            case BPF_MISC | BPF_TAX:
                x = a;
                break;
            case BPF_MISC | BPF_TXA:
                a = x;
                break;
            case BPF_RET | BPF_K:
                return k;
            case BPF_RET | BPF_A:
                return a;
            case BPF_ALU | BPF_ADD | BPF_K:
                a += k;
                break;
            case BPF_ALU | BPF_ADD | BPF_X:
                a += x;
                break;
            case BPF_ALU | BPF_SUB | BPF_K:
                a -= k;
                break;
            case BPF_ALU | BPF_SUB | BPF_X:
                a -= x;
                break;
            case BPF_ALU | BPF_MUL | BPF_K:
                a *= k;
                break;
            case BPF_ALU | BPF_MUL | BPF_X:
                a *= x;
                break;
            case BPF_ALU | BPF_DIV | BPF_K:
                a /= k;
                break;
            case BPF_ALU | BPF_DIV | BPF_X:
                if (x == 0) return 0;
                a /= x;
                break;
            case BPF_ALU | BPF_AND | BPF_K:
                a &= k;
                break;
            case BPF_ALU | BPF_AND | BPF_X:
                a &= x;
                break;
            case BPF_ALU | BPF_OR | BPF_K:
                a |= k;
                break;
            case BPF_ALU | BPF_OR | BPF_X:
                a |= x;
                break;
            case BPF_ALU | BPF_XOR | BPF_K:
                a ^= k;
                break;
            case BPF_ALU | BPF_XOR | BPF_X:
                a ^= x;
                break;
            // A shift by the index register takes its low five bits, as the processor and the kernel do.
            case BPF_ALU | BPF_LSH | BPF_K:
                a <<= k;
                break;
            case BPF_ALU | BPF_LSH | BPF_X:
                a <<= x & 31;
                break;
            case BPF_ALU | BPF_RSH | BPF_K:
                a >>= k;
                break;
            case BPF_ALU | BPF_RSH | BPF_X:
                a >>= x & 31;
                break;
            case BPF_ALU | BPF_NEG:
                a = 0 - a;
                break;
            case BPF_JMP | BPF_JA:
                i += k;
                break;
            case BPF_JMP | BPF_JEQ | BPF_K:
                branch(a == k);
                break;
            case BPF_JMP | BPF_JEQ | BPF_X:
                branch(a == x);
                break;
            case BPF_JMP | BPF_JGE | BPF_K:
                branch(a >= k);
                break;
            case BPF_JMP | BPF_JGE | BPF_X:
                branch(a >= x);
                break;
            case BPF_JMP | BPF_JGT | BPF_K:
                branch(a > k);
                break;
            case BPF_JMP | BPF_JGT | BPF_X:
                branch(a > x);
                break;
            case BPF_JMP | BPF_JSET | BPF_K:
                branch((a & k) != 0);
                break;
            case BPF_JMP | BPF_JSET | BPF_X:
                branch((a & x) != 0);
                break;
            default:
                return SECCOMP_RET_KILL_PROCESS;  // check_bpf lets none through
        }
    }
    return SECCOMP_RET_KILL_PROCESS;  // likewise: the last instruction returns
}

}  // namespace

SysResult<void> check_bpf(std::span<const sock_filter> program) {
    if (program.empty() || program.size() > BPF_MAXINSNS) return Errno(EINVAL);
    for (size_t i = 0; i < program.size(); ++i)
        if (!known(program[i]) || !jumps_inside(program, i)) return Errno(EINVAL);
    if (BPF_CLASS(program.back().code) != BPF_RET) return Errno(EINVAL);
    if (!memory_is_written_first(program)) return Errno(EINVAL);
    return {};
}

uint32_t run_bpf(std::span<const sock_filter> program, const seccomp_data& data) {
    std::array<uint32_t, kWords> words;
    std::memcpy(words.data(), &data, sizeof(data));
    return *run(program, words, kWords);
}

std::optional<uint32_t> run_bpf_by_number(std::span<const sock_filter> program, uint32_t number,
                                          uint32_t architecture) {
    static_assert(offsetof(seccomp_data, nr) == 0 && offsetof(seccomp_data, arch) == 4);
    std::array<uint32_t, kWords> words{number, architecture};
    return run(program, words, 2);
}

}  // namespace casemate::sentry
