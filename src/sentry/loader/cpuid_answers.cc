#include "sentry/loader/cpuid_answers.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>

#include "base/checked.h"
#include "sentry/platform/machine_code.h"

namespace casemate::sentry {
namespace {

using machine_code::at;
using machine_code::matches;
using machine_code::word_at;

constexpr size_t kMoveSize = 5;  // of `mov $imm32, %r32`, and of the jump that replaces it
constexpr size_t kCpuidSize = 2;
constexpr size_t kXorSize = 2;         // of `xor %ecx, %ecx`, and of a move to %ecx
constexpr size_t kBranchSize = 6;      // of one to far away
constexpr size_t kLongest = 16;        // from a site's beginning to the end of its cpuid
constexpr size_t kMostCode = 1 << 20;  // interpreters are smaller; musl's is the largest
constexpr size_t kMostRemembered = 4;  // interpreters of one pod
constexpr uint32_t kExtended = 0x80000000;

bool is_cpuid(std::span<const std::byte> code, size_t offset) { return matches(code, offset, {0x0f, 0xa2}); }

// The answer is the same whatever is in %ecx.
bool has_no_parts(uint32_t leaf) { return leaf <= 2 || (leaf >= kExtended && leaf <= kExtended + 8); }
// The same on all CPUs and at any time, part for part.
bool is_constant(uint32_t leaf) {
    constexpr uint32_t kLeaves[] = {4, 7, 0xd, 0x14, 0x19, kExtended + 0x1d};
    return has_no_parts(leaf) || std::ranges::find(kLeaves, leaf) != std::end(kLeaves);
}

struct Site {
    size_t start;  // of the instruction that becomes the jump
    size_t cpuid;
    uint32_t leaf;
    bool surely = true;            // that leaf
    std::optional<uint32_t> part;  // if it is a constant
    size_t end() const { return cpuid + kCpuidSize; }
};

// A prefix would make what follows another instruction. Compilers write a REX for a move like this only to name %r8 or
// a constant of eight bytes; any other byte like it, behind the code of a short branch, is its distance.
bool may_be_prefix(std::span<const std::byte> code, size_t offset) {
    const uint8_t byte = at(code, offset);
    if (byte == 0x66) return true;
    if ((byte & 0xf0) != 0x40) return false;
    const bool in_use = byte == 0x41 || byte == 0x48 || byte == 0x49;
    return in_use || offset == 0 || (at(code, offset - 1) & 0xf0) != 0x70;
}

// mov %r32, %ecx, but for %eax, whose value is lost, and %esp.
bool is_move_to_part(std::span<const std::byte> code, size_t offset) {
    const uint8_t operands = at(code, offset + 1), source = operands >> 3 & 7;
    return at(code, offset) == 0x89 && (operands & 0xc7) == 0xc1 && source != 0 && source != 4;
}

// mov $leaf, %eax
std::optional<Site> constant_leaf_at(std::span<const std::byte> code, size_t start) {
    if (at(code, start) != 0xb8 || may_be_prefix(code, start - 1)) return std::nullopt;
    const size_t next = start + kMoveSize;
    Site site{.start = start, .cpuid = next, .leaf = word_at(code, start + 1), .part = 0};
    if (is_cpuid(code, next)) return has_no_parts(site.leaf) ? std::optional(site) : std::nullopt;
    if (!is_constant(site.leaf)) return std::nullopt;
    site.cpuid = next + kXorSize;
    if (matches(code, next, {0x31, 0xc9}) && is_cpuid(code, site.cpuid)) return site;
    site.part.reset();
    if (is_move_to_part(code, next) && is_cpuid(code, site.cpuid)) return site;
    site.cpuid = next + kMoveSize;
    if (at(code, next) != 0xb9 || !is_cpuid(code, site.cpuid)) return std::nullopt;
    site.part = word_at(code, next + 1);
    return site;
}

// jcc elsewhere; mov %r12d, %eax; mov %r32, %ecx: how ld.so asks for the parts of leaf 13 one after the other.
std::optional<Site> branch_at(std::span<const std::byte> code, size_t start) {
    const size_t next = start + kBranchSize;
    Site site{.start = start, .cpuid = next + 3 + kXorSize, .leaf = 0xd, .surely = false, .part = {}};
    if (at(code, start) != 0x0f || (at(code, start + 1) & 0xf0) != 0x80 || !matches(code, next, {0x44, 0x89, 0xe0}) ||
        !is_move_to_part(code, next + 3) || !is_cpuid(code, site.cpuid))
        return std::nullopt;
    return site;
}

// What a site jumps to: what it and all up to its cpuid did, and the answer. Like CPUID it leaves the flags alone.
class Thunk {
  public:
    // `offset`: where in the code it will lie.
    Thunk(const Site& site, std::span<const std::byte> code, size_t offset, AskCpuid ask)
        : site_(site), offset_(offset), ask_(ask) {
        size_t copied = site.start;
        if (!site.surely) {
            copied += kBranchSize;
            code_.insert(code_.end(), &code[site.start], &code[site.start + 2]);
            relative(copied + word_at(code, site.start + 2));
        }
        code_.insert(code_.end(), &code[copied], &code[site.cpuid]);
        if (site.part) {
            answer(*site.part);
            return;
        }
        size_t other = 0;
        if (!site.surely) {
            bytes({0x91});  // xchg %eax, %ecx
            add_to_part(-static_cast<int>(site.leaf));
            bytes({0x67, 0xe3, kMoveSize});  // jecxz over the jump
            other = code_.size();
            code_.resize(code_.size() + kMoveSize);
            bytes({0x89, 0xc1});  // mov %eax, %ecx
        }
        const uint32_t parts = site.leaf == 0xd ? 8 : 2;
        for (uint32_t part = 0; part < parts; ++part) {
            bytes({0x67, 0xe3, 2, 0xeb, kAnswerSize});  // jecxz over the short jump over the answer
            answer(part);
            add_to_part(-1);
        }
        add_to_part(static_cast<int>(parts));
        move(0xb8, site.leaf);
        ask_the_cpu();
        if (other == 0) return;
        const auto distance = static_cast<uint32_t>(code_.size() - (other + kMoveSize));
        code_[other] = std::byte{0xe9};
        std::memcpy(&code_[other + 1], &distance, sizeof(distance));
        add_to_part(static_cast<int>(site.leaf));
        bytes({0x91});
        ask_the_cpu();
    }
    std::span<const std::byte> code() const { return code_; }

  private:
    static constexpr uint8_t kAnswerSize = 5 * kMoveSize;

    void bytes(std::initializer_list<uint8_t> bytes) {
        for (uint8_t byte : bytes) code_.push_back(std::byte{byte});
    }
    void word(uint32_t value) {
        for (unsigned shift = 0; shift < 32; shift += 8)
            code_.push_back(std::byte{static_cast<uint8_t>(value >> shift)});
    }
    void move(uint8_t opcode, uint32_t value) {
        bytes({opcode});
        word(value);
    }
    // The distance to a place of the code from the end of these four bytes.
    void relative(size_t to) { word(static_cast<uint32_t>(to - (offset_ + code_.size() + 4))); }
    void back() {
        bytes({0xe9});
        relative(site_.end());
    }
    void ask_the_cpu() {
        bytes({0x0f, 0xa2});
        back();
    }
    // lea N(%rcx), %ecx
    void add_to_part(int number) { bytes({0x8d, 0x49, static_cast<uint8_t>(number)}); }
    void answer(uint32_t part) {
        const CpuidAnswer is = ask_(site_.leaf, part);
        move(0xb8, is.a);
        move(0xbb, is.b);
        move(0xb9, is.c);
        move(0xba, is.d);
        back();
    }

    const Site& site_;
    const size_t offset_;
    const AskCpuid ask_;
    std::vector<std::byte> code_;
};

// Some pages of one interpreter, as the file has them and as its programs see them.
struct Run {
    size_t offset;
    std::vector<std::byte> original, code;
};
struct Interpreter {
    size_t used = 0;
    std::vector<Run> runs;
    // By what it is known if there are none.
    std::vector<std::byte> first_page;
    bool looked_at = false;
};

bool reads_as(AddressSpace& memory, GuestAddr address, std::span<const std::byte> expected) {
    std::vector<std::byte> found(expected.size());
    return memory.copy_in(address, found.data(), found.size()).ok() &&
           std::memcmp(found.data(), expected.data(), found.size()) == 0;
}

bool is_at(AddressSpace& memory, GuestAddr start, size_t used, const Interpreter& interpreter) {
    if (interpreter.used != used) return false;
    if (interpreter.runs.empty()) return reads_as(memory, start, interpreter.first_page);
    return std::ranges::all_of(interpreter.runs,
                               [&](const Run& run) { return reads_as(memory, start + run.offset, run.original); });
}

std::shared_ptr<const Interpreter> look_at(AddressSpace& memory, GuestAddr start, size_t used) {
    std::vector<std::byte> original(page_up(used));
    if (!memory.copy_in(start, original.data(), original.size()).ok()) return nullptr;
    auto interpreter = std::make_shared<Interpreter>();
    interpreter->used = used;
    interpreter->first_page.assign(original.begin(), original.begin() + kPageSize);
    interpreter->looked_at = true;
    std::vector<std::byte> code = original;
    if (!answer_cpuid(code, used)) return interpreter;
    auto differs = [&](size_t page) { return std::memcmp(&code[page], &original[page], kPageSize) != 0; };
    for (size_t page = 0; page < code.size(); page += kPageSize) {
        if (!differs(page)) continue;
        if (interpreter->runs.empty() || interpreter->runs.back().offset + interpreter->runs.back().code.size() != page)
            interpreter->runs.push_back({page, {}, {}});
        Run& run = interpreter->runs.back();
        auto append = [&](std::vector<std::byte>& to, const std::vector<std::byte>& from) {
            to.insert(to.end(), &from[page], &from[page] + kPageSize);
        };
        append(run.original, original);
        append(run.code, code);
    }
    return interpreter;
}

std::shared_ptr<const Interpreter> glance_at(AddressSpace& memory, GuestAddr start, size_t used) {
    auto interpreter = std::make_shared<Interpreter>();
    interpreter->used = used;
    interpreter->first_page.resize(kPageSize);
    if (!memory.copy_in(start, interpreter->first_page.data(), kPageSize).ok()) return nullptr;
    return interpreter;
}

// What the pod's programs are loaded with, last used last. The files may change: their pages are compared each time. To
// look at one takes as long as ten starts save, so that is done when it is there for the second time.
class Remembered {
  public:
    std::shared_ptr<const Interpreter> find(AddressSpace& memory, GuestAddr start, size_t used) {
        std::shared_ptr<const Interpreter> glanced_at;
        for (const auto& one : all()) {
            if (!is_at(memory, start, used, *one)) continue;
            if (one->looked_at) return one;
            glanced_at = one;
            break;
        }
        auto interpreter = glanced_at ? look_at(memory, start, used) : glance_at(memory, start, used);
        if (!interpreter) return nullptr;
        std::lock_guard lock(mutex_);
        std::erase(known_, glanced_at);
        if (known_.size() == kMostRemembered) known_.erase(known_.begin());
        known_.push_back(interpreter);
        return interpreter;
    }

  private:
    std::vector<std::shared_ptr<const Interpreter>> all() {
        std::lock_guard lock(mutex_);
        return known_;
    }
    std::mutex mutex_;
    std::vector<std::shared_ptr<const Interpreter>> known_;  // guarded by mutex_
};

// Elsewhere it costs no more than the pages would.
bool is_exit() {
    static const bool in_virtual_machine = [] {
        unsigned a = 0, b = 0, c = 0, d = 0;
        return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & 1U << 31) != 0;
    }();
    return in_virtual_machine;
}

}  // namespace

CpuidAnswer ask_cpuid(uint32_t leaf, uint32_t part) {
    CpuidAnswer is;
    __cpuid_count(leaf, part, is.a, is.b, is.c, is.d);
    return is;
}

bool answer_cpuid(std::span<std::byte> code, size_t used, AskCpuid ask) {
    const auto rest = code.subspan(used);
    if (!std::ranges::all_of(rest, [](std::byte byte) { return byte == std::byte{0}; })) return false;
    // One zero stays behind the code.
    size_t free = used + 1;
    bool changed = false;
    for (size_t i = 1; i + kLongest <= used; ++i) {
        auto site = constant_leaf_at(code, i);
        if (!site) site = branch_at(code, i);
        if (!site) continue;
        const Thunk thunk(*site, code, free, ask);
        // Whatever the file holds, no more is asked than there is room for.
        if (thunk.code().size() > code.size() - std::min(free, code.size())) break;
        std::ranges::copy(thunk.code(), code.begin() + static_cast<ptrdiff_t>(free));
        const auto distance = static_cast<uint32_t>(free - (i + kMoveSize));
        code[i] = std::byte{0xe9};
        std::memcpy(&code[i + 1], &distance, sizeof(distance));
        free += thunk.code().size();
        changed = true;
    }
    return changed;
}

void answer_cpuid_in(AddressSpace& memory, GuestAddr start, size_t used) {
    static Remembered remembered;
    if (!is_exit() || used == 0 || used > kMostCode) return;
    const auto interpreter = remembered.find(memory, start, used);
    if (!interpreter) return;
    std::vector<AddressSpace::ShownCode> shown;
    for (const Run& run : interpreter->runs) shown.push_back({start + run.offset, run.code});
    memory.show_code(shown);
}

}  // namespace casemate::sentry
