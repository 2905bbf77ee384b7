#include "sentry/kernel/classic_bpf.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

namespace casemate::sentry {
namespace {

constexpr size_t kWords = sizeof(seccomp_data) / 4;

bool is_jump(uint16_t code) { return BPF_CLASS(code) == BPF_JMP; }

// Ancillary data that lie at SKF_AD_OFF and beyond.
bool known_ancillary(uint32_t k) {
    if (k < static_cast<uint32_t>(SKF_AD_OFF)) return true;
    k -= static_cast<uint32_t>(SKF_AD_OFF);
    return k % 4 == 0 && k <= SKF_AD_VLAN_TPID;
}

// The operations that only sockets' filters know: loads of bytes and halves, by an index too, ancillary data, modulo.
bool known_to_sockets(const sock_filter& one) {
    switch (one.code) {
        case BPF_LD | BPF_W | BPF_ABS:
        case BPF_LD | BPF_H | BPF_ABS:
        case BPF_LD | BPF_B | BPF_ABS:
            return known_ancillary(one.k);
        case BPF_LD | BPF_W | BPF_IND:
        case BPF_LD | BPF_H | BPF_IND:
        case BPF_LD | BPF_B | BPF_IND:
        case BPF_LDX | BPF_B | BPF_MSH:
        case BPF_ALU | BPF_MOD | BPF_X:
            return true;
        case BPF_ALU | BPF_MOD | BPF_K:
            return one.k != 0;
        default:
            return false;
    }
}

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

// `load`(instruction, a, x): what a load from the packet (BPF_ABS, BPF_IND, BPF_MSH) finds; nothing: the program ends
// without a value. `length`: what BPF_LEN is.
template <typename Load>
std::optional<uint32_t> run(std::span<const sock_filter> program, uint32_t length, Load load) {
    uint32_t a = 0, x = 0;
    std::array<uint32_t, BPF_MEMWORDS> memory{};
    for (size_t i = 0; i < program.size(); ++i) {
        const sock_filter& one = program[i];
        uint32_t k = one.k;
        auto branch = [&](bool yes) { i += yes ? one.jt : one.jf; };
        switch (one.code) {
            case BPF_LD | BPF_W | BPF_ABS:
            case BPF_LD | BPF_H | BPF_ABS:
            case BPF_LD | BPF_B | BPF_ABS:
            case BPF_LD | BPF_W | BPF_IND:
            case BPF_LD | BPF_H | BPF_IND:
            case BPF_LD | BPF_B | BPF_IND: {
                std::optional<uint32_t> found = load(one, a, x);
                if (!found) return std::nullopt;
                a = *found;
                break;
            }
            case BPF_LDX | BPF_B | BPF_MSH: {
                std::optional<uint32_t> found = load(one, a, x);
                if (!found) return std::nullopt;
                x = *found;
                break;
            }
            case BPF_LD | BPF_W | BPF_LEN:
                a = length;
                break;
            case BPF_LDX | BPF_W | BPF_LEN:
                x = length;
                break;
            case BPF_ALU | BPF_MOD | BPF_K:
                a %= k;
                break;
            case BPF_ALU | BPF_MOD | BPF_X:
                if (x == 0) return 0;
                a %= x;
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

// Returns nothing when a word is loaded that `loadable` does not have.
std::optional<uint32_t> run_words(std::span<const sock_filter> program, const std::array<uint32_t, kWords>& words,
                                  size_t loadable) {
    return run(program, sizeof(seccomp_data),
               [&](const sock_filter& one, uint32_t, uint32_t) -> std::optional<uint32_t> {
                   if (one.k / 4 >= loadable) return std::nullopt;
                   return words[one.k / 4];
               });
}

template <typename Known>
SysResult<void> check(std::span<const sock_filter> program, Known known_here) {
    if (program.empty() || program.size() > BPF_MAXINSNS) return Errno(EINVAL);
    for (size_t i = 0; i < program.size(); ++i)
        if (!known_here(program[i]) || !jumps_inside(program, i)) return Errno(EINVAL);
    if (BPF_CLASS(program.back().code) != BPF_RET) return Errno(EINVAL);
    if (!memory_is_written_first(program)) return Errno(EINVAL);
    return {};
}

// A netlink attribute of type `x` from offset `a` on: where it lies; 0: nowhere.
uint32_t find_attribute(std::span<const uint8_t> bytes, uint64_t a, uint32_t x, uint64_t end) {
    end = std::min<uint64_t>(end, bytes.size());
    while (a + 4 <= end) {
        uint16_t length, type;
        memcpy(&length, bytes.data() + a, sizeof(length));
        memcpy(&type, bytes.data() + a + 2, sizeof(type));
        if (length < 4 || a + length > end) return 0;
        if ((type & 0x3fff) == x) return static_cast<uint32_t>(a);
        a += (length + 3u) & ~3u;
    }
    return 0;
}

uint32_t ancillary(const BpfPacket& packet, uint32_t which, uint32_t a, uint32_t x) {
    switch (which) {
        case SKF_AD_PROTOCOL:
            return packet.protocol;
        case SKF_AD_PKTTYPE:
            return packet.type;
        case SKF_AD_IFINDEX:
            return static_cast<uint32_t>(packet.link);
        case SKF_AD_HATYPE:
            return packet.hardware_type;
        case SKF_AD_NLATTR:
            return find_attribute(packet.bytes, a, x, UINT64_MAX);
        case SKF_AD_NLATTR_NEST: {
            uint16_t length;
            if (uint64_t{a} + 4 > packet.bytes.size()) return 0;
            memcpy(&length, packet.bytes.data() + a, sizeof(length));
            return find_attribute(packet.bytes, uint64_t{a} + 4, x, uint64_t{a} + length);
        }
        case SKF_AD_ALU_XOR_X:
            return a ^ x;
        case SKF_AD_RANDOM: {
            uint32_t value = 0;
            static_cast<void>(!getrandom(&value, sizeof(value), GRND_NONBLOCK));
            return value;
        }
        case SKF_AD_PAY_OFFSET:
            return packet.network_at == SIZE_MAX ? 0 : static_cast<uint32_t>(packet.network_at);
        default:  // marks, queues, hashes, VLAN tags: a packet here has none
            return 0;
    }
}

}  // namespace

SysResult<void> check_bpf(std::span<const sock_filter> program) { return check(program, known); }

SysResult<void> check_packet_bpf(std::span<const sock_filter> program) {
    return check(program, [](const sock_filter& one) {
        bool load = BPF_CLASS(one.code) == BPF_LD && BPF_MODE(one.code) == BPF_ABS;
        return known_to_sockets(one) || (!load && known(one));
    });
}

uint32_t run_packet_bpf(std::span<const sock_filter> program, const BpfPacket& packet) {
    auto load = [&](const sock_filter& one, uint32_t a, uint32_t x) -> std::optional<uint32_t> {
        uint64_t at = one.k;
        if (BPF_MODE(one.code) == BPF_IND) at = uint32_t{one.k + x};  // wraps, as the kernel's
        auto offset = static_cast<int32_t>(at);
        if (offset < 0) {
            size_t base = 0;
            if (offset >= SKF_AD_OFF) {
                if (BPF_MODE(one.code) == BPF_ABS)
                    return ancillary(packet, static_cast<uint32_t>(offset - SKF_AD_OFF), a, x);
                return std::nullopt;
            }
            if (offset >= SKF_NET_OFF) {
                base = packet.network_at;
                at = static_cast<uint64_t>(offset - SKF_NET_OFF);
            } else if (offset >= SKF_LL_OFF) {
                base = packet.link_at;
                at = static_cast<uint64_t>(offset - SKF_LL_OFF);
            } else {
                return std::nullopt;
            }
            if (base == SIZE_MAX) return std::nullopt;
            at += base;
        }
        size_t size = BPF_SIZE(one.code) == BPF_W ? 4 : BPF_SIZE(one.code) == BPF_H ? 2 : 1;
        if (at + size > packet.bytes.size()) return std::nullopt;
        uint32_t value = 0;
        for (size_t i = 0; i < size; i++) value = value << 8 | packet.bytes[at + i];
        return BPF_MODE(one.code) == BPF_MSH ? (value & 0xf) * 4 : value;
    };
    return run(program, static_cast<uint32_t>(packet.bytes.size()), load).value_or(0);
}

uint32_t run_bpf(std::span<const sock_filter> program, const seccomp_data& data) {
    std::array<uint32_t, kWords> words;
    std::memcpy(words.data(), &data, sizeof(data));
    return *run_words(program, words, kWords);
}

std::optional<uint32_t> run_bpf_by_number(std::span<const sock_filter> program, uint32_t number,
                                          uint32_t architecture) {
    static_assert(offsetof(seccomp_data, nr) == 0 && offsetof(seccomp_data, arch) == 4);
    std::array<uint32_t, kWords> words{number, architecture};
    return run_words(program, words, 2);
}

}  // namespace casemate::sentry
