#include "sentry/platform/seccomp/call_sites.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "sentry/platform/machine_code.h"
#include "sentry/platform/seccomp/stub_abi.h"

namespace casemate::sentry::seccomp {
namespace {

using machine_code::at;
using machine_code::matches;
using machine_code::word_at;

constexpr size_t kSyscallSize = 2;
constexpr size_t kJumpSize = 5;
constexpr size_t kReadSize = 13;
constexpr size_t kCompareSize = 7;
constexpr size_t kMostRest = 24;  // bytes between the changed instruction and the syscall
constexpr size_t kMoveSize = 3;   // of a move between 64-bit registers
constexpr std::byte kTrap{0xcc};
constexpr uint64_t kReach = uint64_t{1} << 30;       // of a jump, with much to spare
constexpr size_t kTrapIndex = kMoveSize - 1;         // of the jump's displacement
constexpr uint64_t kTrapWindow = uint64_t{1} << 16;  // of displacements that differ below that byte
constexpr uint64_t kTrapStep = uint64_t{1} << 24;    // and of what differs above it
constexpr uint64_t kTrapSteps = 120;                 // either way

// The size of the instruction at `offset` if it is one of those that may stand in REST and leaves %rax alone, or 0.
size_t plain_instruction(std::span<const std::byte> code, size_t offset, size_t end) {
    constexpr uint8_t kRexB = 1, kRexR = 4;
    size_t size = 0;
    uint8_t rex = 0;
    if (offset < end && (at(code, offset) & 0xf0) == 0x40) rex = at(code, offset + size++);
    if (offset + size + 2 > end) return 0;
    const uint8_t opcode = at(code, offset + size++);
    if (opcode >= 0xb9 && opcode <= 0xbf && rex == 0)  // mov $imm32, %r32
        return offset + size + 4 <= end ? size + 4 : 0;
    const uint8_t modrm = at(code, offset + size++);
    const bool to_memory_or_register = opcode == 0x89 || opcode == 0x31;  // the other operand is the target
    if (!to_memory_or_register && opcode != 0x8b && opcode != 0x33 && opcode != 0x80) return 0;
    const uint8_t reg = static_cast<uint8_t>((modrm >> 3 & 7) | ((rex & kRexR) != 0 ? 8 : 0));
    const uint8_t rm = static_cast<uint8_t>((modrm & 7) | ((rex & kRexB) != 0 ? 8 : 0));
    if (opcode == 0x80)  // xor $imm8, %sil or %dil
        return rex == 0x40 && (modrm == 0xf6 || modrm == 0xf7) && offset + size + 1 <= end ? size + 1 : 0;
    if (modrm >> 6 == 3) return (to_memory_or_register ? rm : reg) != 0 ? size : 0;
    // mov N(%rsp), %r
    if (opcode != 0x8b || (modrm & 7) != 4 || reg == 0 || offset + size + 1 > end || at(code, offset + size) != 0x24)
        return 0;
    size += 1;
    if (modrm >> 6 == 0) return size;
    return modrm >> 6 == 1 && offset + size + 1 <= end ? size + 1 : 0;
}

// Whether there is a move between two 64-bit registers, not to %rax.
bool is_move(std::span<const std::byte> code, size_t offset) {
    return (at(code, offset) & 0xf8) == 0x48 && (at(code, offset + 1) == 0x89 || at(code, offset + 1) == 0x8b) &&
           at(code, offset + 2) >= 0xc0 && plain_instruction(code, offset, offset + kMoveSize) == kMoveSize;
}

// Whether [offset, end) is such instructions.
bool is_rest(std::span<const std::byte> code, size_t offset, size_t end) {
    while (offset < end) {
        const size_t size = plain_instruction(code, offset, end);
        if (size == 0) return false;
        offset += size;
    }
    return true;
}

std::optional<uint32_t> displacement(uint64_t from, uint64_t to) {
    const int64_t distance = static_cast<int64_t>(to - from);
    if (distance > std::numeric_limits<int32_t>::max() || distance < std::numeric_limits<int32_t>::min())
        return std::nullopt;
    return static_cast<uint32_t>(distance);
}

// Code that is written front to back at an address.
class Writer {
  public:
    Writer(std::span<std::byte> into, uint64_t address) : into_(into), address_(address) {}
    uint64_t here() const { return address_ + used_; }
    bool failed() const { return failed_; }

    void bytes(std::initializer_list<uint8_t> bytes) {
        for (uint8_t byte : bytes) into_[used_++] = std::byte{byte};
    }
    void copy(std::span<const std::byte> bytes) { put(bytes.data(), bytes.size()); }
    void word(uint32_t value) { put(&value, sizeof(value)); }
    void address(uint64_t value) { put(&value, sizeof(value)); }
    // The distance of `to` from the instruction's end, which is `rest` bytes behind these four.
    void relative(uint64_t to, size_t rest = 0) {
        const auto distance = displacement(here() + 4 + rest, to);
        failed_ |= !distance;
        word(distance.value_or(0));
    }

  private:
    void put(const void* value, size_t size) {
        std::memcpy(into_.data() + used_, value, size);
        used_ += size;
    }
    std::span<std::byte> into_;
    const uint64_t address_;
    size_t used_ = 0;
    bool failed_ = false;
};

}  // namespace

std::optional<CallSite> recognise_site(std::span<const std::byte> page, uint64_t page_address, uint64_t ip,
                                       uint64_t number) {
    if (ip < page_address || ip - page_address > page.size()) return std::nullopt;
    const size_t end = ip - page_address;
    // One byte more is looked at than is changed: a prefix would make it another instruction.
    if (end < kSyscallSize + kJumpSize + 1 || !matches(page, end - kSyscallSize, {0x0f, 0x05})) return std::nullopt;
    const size_t syscall = end - kSyscallSize;
    auto straight = [&](size_t start) { return CallSite{CallSite::Kind::kStraight, page_address + start, ip}; };
    const size_t before = syscall - kJumpSize;
    for (size_t start = before; start >= 1 && before - start <= kMostRest; --start) {
        if (at(page, start) == 0xb8 && word_at(page, start + 1) == number && (at(page, start - 1) & 0xf0) != 0x40 &&
            is_rest(page, start + kJumpSize, syscall))
            return straight(start);
    }
    // mov %r9, %r8 comes first.
    if (before >= 3 && matches(page, before - 3, {0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08}))
        return straight(before);
    // mov 16(%rsp), %r9 comes first.
    if (before >= 5 && matches(page, before - 5, {0x4c, 0x8b, 0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08}))
        return straight(before);
    // mov 32(%rsp), %rdx comes first.
    if (before >= 5 && matches(page, before - 5, {0x48, 0x8b, 0x54, 0x24, 0x20, 0x48, 0x8b, 0x44, 0x24, 0x08}))
        return straight(before);
    if (end >= kSyscallSize + 3 * kMoveSize && is_move(page, syscall - kMoveSize) &&
        is_move(page, syscall - 2 * kMoveSize) && is_move(page, syscall - 3 * kMoveSize)) {
        CallSite site = straight(syscall - 2 * kMoveSize);
        site.trap = kMoveSize;
        return site;
    }
    if (number != 0 || !matches(page, syscall - 2, {0x31, 0xc0})) return std::nullopt;
    for (size_t start = before; start >= 1 && before - start <= kMostRest; --start) {
        if (at(page, start) == 0x48 && plain_instruction(page, start, syscall) == kJumpSize &&
            at(page, start + 1) == 0x8b && (at(page, start - 1) & 0xf0) != 0x40 && start + kJumpSize <= syscall - 2 &&
            is_rest(page, start + kJumpSize, syscall - 2))
            return straight(start);
    }
    if (end >= kReadSize) {
        const size_t start = end - kReadSize;
        if (matches(page, start, {0x80, 0x3d}) && at(page, start + 6) == 0 && at(page, start + 7) == 0x74)
            return CallSite{CallSite::Kind::kCompare, page_address + start, ip};
    }
    return std::nullopt;
}

ThunkPlaces places_for_thunk(const CallSite& site) {
    if (site.trap == 0) return {site.start > kReach ? site.start - kReach : 0, 2 * kReach};
    static_assert(kTrapIndex == 2 && kTrapWindow == 1 << (8 * kTrapIndex) && kTrapStep == 1 << (8 * kTrapIndex + 8));
    const uint64_t middle = site.start + kJumpSize + (uint64_t{0xcc} << (8 * kTrapIndex));
    const uint64_t below = std::min(kTrapSteps, middle / kTrapStep);
    return {middle - below * kTrapStep, kTrapWindow, kTrapStep, below + kTrapSteps + 1};
}

bool patch_site(const CallSite& site, std::span<std::byte> page, uint64_t page_address,
                std::span<std::byte, kThunkSize> thunk, uint64_t thunk_address) {
    const size_t offset = site.start - page_address;
    const auto jump = displacement(site.start + kJumpSize, thunk_address);
    if (!jump) return false;
    if (site.trap != 0 && std::byte{static_cast<uint8_t>(*jump >> (8 * kTrapIndex))} != kTrap) return false;
    std::byte code[kThunkSize] = {};
    Writer writer(code, thunk_address);
    switch (site.kind) {
        case CallSite::Kind::kStraight:
            writer.copy(page.subspan(offset, site.end - kSyscallSize - site.start));
            break;
        case CallSite::Kind::kCompare: {
            const uint64_t after_compare = site.start + kCompareSize;
            const auto flag = static_cast<int32_t>(word_at(page, offset + 2));
            const auto elsewhere = static_cast<int8_t>(at(page, offset + 8));
            writer.bytes({0x80, 0x3d});  // cmpb $0, flag(%rip)
            writer.relative(after_compare + static_cast<uint64_t>(static_cast<int64_t>(flag)), 1);
            writer.bytes({0x00, 0x0f, 0x84});  // je elsewhere
            writer.relative(after_compare + 2 + static_cast<uint64_t>(static_cast<int64_t>(elsewhere)));
            writer.bytes({0x31, 0xc0});  // xor %eax, %eax
            break;
        }
    }
    writer.bytes({0x48, 0x8d, 0x0d});  // lea end(%rip), %rcx
    writer.relative(site.end);
    writer.bytes({0xff, 0x25, 0, 0, 0, 0});  // jmp *(%rip)
    writer.address(stub_address(casemate_stub_call));
    if (writer.failed()) return false;
    std::memcpy(thunk.data(), code, sizeof(code));
    page[offset] = std::byte{0xe9};
    std::memcpy(page.data() + offset + 1, &*jump, sizeof(*jump));
    return true;
}

PatchOutcome CallSites::patch(const SyscallStop& call, const SitePatch& patch) {
    const auto site = recognise_site(patch.page, patch.page_address, call.ip, call.nr);
    if (!site) return PatchOutcome::kUnknown;
    if (patch.thunks.empty()) return PatchOutcome::kFull;
    std::lock_guard lock(mutex_);
    auto area = std::find_if(areas_.begin(), areas_.end(), [&](auto& a) { return a.start == patch.thunks_address; });
    if (area == areas_.end()) {
        areas_.push_back({patch.thunks_address, patch.thunks.size(), {}});
        area = areas_.end() - 1;
    }
    const size_t offset = area->sites.size() * kThunkSize;
    if (offset + kThunkSize > patch.thunks.size()) return PatchOutcome::kFull;
    if (!patch_site(*site, patch.page, patch.page_address, patch.thunks.subspan(offset).first<kThunkSize>(),
                    area->start + offset))
        return PatchOutcome::kFull;
    area->sites.push_back(*site);
    return PatchOutcome::kDone;
}

void CallSites::forget(uint64_t thunks_address) {
    std::lock_guard lock(mutex_);
    std::erase_if(areas_, [&](const Area& area) { return area.start == thunks_address; });
}

void CallSites::clear() {
    std::lock_guard lock(mutex_);
    areas_.clear();
}

uint64_t CallSites::place_of(uint64_t ip) {
    std::lock_guard lock(mutex_);
    for (const Area& area : areas_) {
        if (ip < area.start || ip - area.start >= area.size) continue;
        const size_t index = (ip - area.start) / kThunkSize;
        if (index >= area.sites.size()) return 0;
        const CallSite& site = area.sites[index];
        // What can stand anywhere was copied: what is still to be done stands at the site, too.
        const uint64_t done = (ip - area.start) % kThunkSize;
        if (site.kind == CallSite::Kind::kCompare || done < (site.trap != 0 ? site.trap : kJumpSize)) return site.start;
        return std::min(site.start + done, site.end - kSyscallSize);
    }
    return 0;
}

uint64_t CallSites::behind_trap(uint64_t trap) {
    std::lock_guard lock(mutex_);
    for (const Area& area : areas_) {
        for (size_t i = 0; i < area.sites.size(); ++i) {
            const CallSite& site = area.sites[i];
            if (site.trap != 0 && site.start + site.trap == trap) return area.start + i * kThunkSize + site.trap;
        }
    }
    return 0;
}

}  // namespace casemate::sentry::seccomp
