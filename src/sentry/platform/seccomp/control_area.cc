#include "sentry/platform/seccomp/control_area.h"

#include <sys/mman.h>

namespace casemate::sentry::seccomp {

Result<ControlArea> ControlArea::create() {
    ControlArea area;
    const size_t size = kBlocks * size_t{STUB_BLOCK_SIZE};
    area.fd_.reset(memfd_create("casemate-control", MFD_CLOEXEC));
    if (!area.fd_) return sys_error("create the control file");
    if (ftruncate(area.fd_.get(), static_cast<off_t>(size)) != 0) {
        return sys_error("size the control file (is RLIMIT_FSIZE set?)");
    }
    auto map = UniqueMap::create(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, area.fd_.get());
    if (!map.ok()) return sys_error("map the control file (is RLIMIT_AS set?)", map.error().value);
    area.map_ = std::move(*map);
    madvise(area.map_.data(), size, MADV_DONTDUMP);
    // Forked children other than the template have no business in it, and the template maps its part itself.
    madvise(area.map_.data(), size, MADV_DONTFORK);
    return area;
}

std::optional<uint32_t> ControlArea::allocate() {
    if (!free_.empty()) {
        const uint32_t index = free_.back();
        free_.pop_back();
        return index;
    }
    if (next_ == kBlocks) return std::nullopt;
    return next_++;
}

void ControlArea::release(uint32_t index) {
    // A block that cannot be cleaned is never used again.
    if (madvise(block(index).base(), STUB_BLOCK_SIZE, MADV_REMOVE) == 0) free_.push_back(index);
}

}  // namespace casemate::sentry::seccomp
