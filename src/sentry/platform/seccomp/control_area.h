// The control file: what the sentry shares with its stubs. One block per stub process, arranged as stub_abi.h draws it.
//
// The sentry maps the whole (sparse) file once, so that a new stub or thread needs no mapping here; a stub maps only
// its own block. The thread areas in it are application-controlled.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/guarded.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "sentry/platform/seccomp/stub_abi.h"

namespace casemate::sentry::seccomp {

// Our view of one block. Addresses are the stub's, as in stub_abi.h.
class Block {
  public:
    Block() = default;
    explicit Block(char* base) : base_(base) {}

    template <typename T>
    T* at(uint64_t stub_address) const {
        return reinterpret_cast<T*>(base_ + (stub_address - STUB_BLOCK_BASE));
    }
    char* base() const { return base_; }

    static uint64_t area_address(uint32_t thread) { return STUB_AREAS_TOP - (thread + 1ULL) * STUB_AREA_SIZE; }

  private:
    char* base_ = nullptr;
};

class ControlArea {
  public:
    static constexpr uint32_t kBlocks = 8192;
    static constexpr uint32_t kTemplateBlock = 0;

    static Result<ControlArea> create();

    int fd() const { return fd_.get(); }
    Block block(uint32_t index) const { return Block(map_.data() + offset(index)); }
    static uint64_t offset(uint32_t index) { return index * uint64_t{STUB_BLOCK_SIZE}; }

    // A zeroed block; nothing when all are taken.
    std::optional<uint32_t> allocate();
    // Gives the block's pages back to the host.
    void release(uint32_t index);

  private:
    UniqueFd fd_;
    UniqueMap map_;
    uint32_t next_ = kTemplateBlock + 1;
    std::vector<uint32_t> free_;
};

}  // namespace casemate::sentry::seccomp
