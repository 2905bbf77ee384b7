#include "sentry/platform/seccomp/call_sites.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "sentry/platform/seccomp/stub_abi.h"

namespace casemate::sentry::seccomp {
namespace {

constexpr size_t kSyscallSize = 2;
constexpr size_t kJumpSize = 5;
constexpr size_t kReadSize = 13;
constexpr size_t kCompareSize = 7;

uint8_t at(std::span<const std::byte> code, size_t offset) { return static_cast<uint8_t>(code[offset]); }

uint32_t word_at(std::span<const std::byte> code, size_t offset) {
    uint32_t value;
    std::memcpy(&value, code.data() + offset, sizeof(value));
    return value;
}

bool matches(std::span<const std::byte> code, size_t offset, std::initializer_list<uint8_t> bytes) {
    for (uint8_t byte : bytes)
        if (at(code, offset++) != byte) return false;
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
    const size_t before = end - kSyscallSize - kJumpSize;
    // One byte more is looked at than is changed: a prefix would make it another instruction.
    if (end < kSyscallSize + kJumpSize + 1 || !matches(page, end - kSyscallSize, {0x0f, 0x05})) return std::nullopt;
    if (at(page, before) == 0xb8 && word_at(page, before + 1) == number && (at(page, before - 1) & 0xf0) != 0x40)
        return CallSite{CallSite::Kind::kNumber, page_address + before, ip};
    // mov %r9, %r8 comes first.
    if (before >= 3 && matches(page, before - 3, {0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08}))
        return CallSite{CallSite::Kind::kSixthArgument, page_address + before, ip};
    if (number == 0 && end >= kReadSize) {
        const size_t start = end - kReadSize;
        if (matches(page, start, {0x80, 0x3d}) && at(page, start + 6) == 0 && at(page, start + 7) == 0x74 &&
            matches(page, start + 9, {0x31, 0xc0}))
            return CallSite{CallSite::Kind::kRead, page_address + start, ip};
    }
    return std::nullopt;
}

bool patch_site(const CallSite& site, std::span<std::byte> page, uint64_t page_address,
                std::span<std::byte, kThunkSize> thunk, uint64_t thunk_address) {
    const size_t offset = site.start - page_address;
    const auto jump = displacement(site.start + kJumpSize, thunk_address);
    if (!jump) return false;
    std::byte code[kThunkSize] = {};
    Writer writer(code, thunk_address);
    switch (site.kind) {
        case CallSite::Kind::kNumber:
            writer.bytes({0xb8});
            writer.word(word_at(page, offset + 1));
            break;
        case CallSite::Kind::kSixthArgument:
            writer.bytes({0x4c, 0x8b, 0x4c, 0x24, 0x08});
            break;
        case CallSite::Kind::kRead: {
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

uint64_t CallSites::site_of(uint64_t ip) {
    std::lock_guard lock(mutex_);
    for (const Area& area : areas_) {
        if (ip < area.start || ip - area.start >= area.size) continue;
        const size_t index = (ip - area.start) / kThunkSize;
        return index < area.sites.size() ? area.sites[index].start : 0;
    }
    return 0;
}

}  // namespace casemate::sentry::seccomp
