#include "sentry/mm/shared_memory.h"

#include <algorithm>

namespace casemate::sentry {

SysResult<Ref<SharedMemory>> SharedMemory::create(MemoryFile& memory, uint64_t size) {
    auto range = TRY(memory.allocate(size));
    return Ref<SharedMemory>::adopt(new SharedMemory(memory, range));
}

SysResult<Mappable::Piece> SharedMemory::backing(uint64_t offset, uint64_t size, bool) {
    if (offset >= range_.size) return Piece{.size = 0};
    return Piece{
        .in_memory_file = true, .offset = range_.offset + offset, .size = std::min(size, range_.size - offset)};
}

SysResult<void> SharedMemory::punch(uint64_t offset, uint64_t size) {
    if (offset >= range_.size) return {};
    memory_.decommit({range_.offset + offset, std::min(size, range_.size - offset)});
    return {};
}

}  // namespace casemate::sentry
