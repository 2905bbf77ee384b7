#include "vmm/snapshot.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "linux/file.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr std::string_view kMagic = "casemate vm 1\n";
constexpr size_t kMaxState = 64 << 20;

// FNV-1a: against a file that was cut or damaged, not against an enemy.
uint64_t sum_of(std::string_view bytes) {
    uint64_t hash = 0xcbf29ce484222325;
    for (char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    return hash;
}

bool is_zero(const char* page) {
    static const char kZero[kPageSize] = {};
    return std::memcmp(page, kZero, kPageSize) == 0;
}

// Writes the pages of [host, host + size) that are not zero to `offset` of the file.
Result<void> write_pages(int fd, const char* host, uint64_t size, uint64_t offset) {
    uint64_t at = 0;
    while (at < size) {
        if (is_zero(host + at)) {
            at += kPageSize;
            continue;
        }
        uint64_t end = at + kPageSize;
        while (end < size && end - at < kMiB && !is_zero(host + end)) end += kPageSize;
        while (at < end) {
            ssize_t written = ::pwrite(fd, host + at, end - at, static_cast<off_t>(offset + at));
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) return sys_error("write the snapshot's memory", written == 0 ? ENOSPC : errno);
            at += static_cast<uint64_t>(written);
        }
        at = page_up(at);
    }
    return {};
}

Result<void> write_region(const Memory& memory, const MemoryRegion& region, int fd) {
    if (memory.is_private()) return write_pages(fd, region.host, region.size, region.file_offset);
    // Only what has been touched: looking at the rest would allocate it.
    off_t at = static_cast<off_t>(region.file_offset);
    off_t end = static_cast<off_t>(region.file_offset + region.size);
    while (at < end) {
        off_t data = ::lseek(memory.file(), at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) break;
        if (data < 0) return sys_error("find the memory that is used");
        if (data >= end) break;
        off_t hole = ::lseek(memory.file(), data, SEEK_HOLE);
        if (hole < 0) return sys_error("find the memory that is used");
        hole = std::min(hole, end);
        uint64_t first = page_down(static_cast<uint64_t>(data)), past = page_up(static_cast<uint64_t>(hole));
        TRY(write_pages(fd, region.host + (first - region.file_offset), past - first, first));
        at = hole;
    }
    return {};
}

}  // namespace

Result<void> save_snapshot(Machine& machine, int state_fd, int memory_fd) {
    Memory& memory = machine.memory();
    virtio::StateWriter state;
    TRY(machine.save(state));
    if (::ftruncate(memory_fd, 0) < 0 || ::ftruncate(memory_fd, static_cast<off_t>(memory.size())) < 0)
        return sys_error("give the snapshot's memory file its size");
    for (const MemoryRegion& region : memory.regions()) TRY(write_region(memory, region, memory_fd));
    for (const Memory::Mapped& mapped : memory.mapped()) {
        const MemoryRegion* region = nullptr;
        for (const MemoryRegion& candidate : memory.regions())
            if (mapped.guest_address >= candidate.guest_address &&
                mapped.guest_address < candidate.guest_address + candidate.size)
                region = &candidate;
        uint64_t offset = region->file_offset + (mapped.guest_address - region->guest_address);
        TRY(write_pages(memory_fd, memory.at(mapped.guest_address, mapped.size), mapped.size, offset));
    }
    if (memory.lost()) return Error("the guest's memory is not whole any more: it cannot be saved", EIO);
    // The state last: a snapshot without it is none.
    virtio::StateWriter file;
    std::string machine_bytes = state.take();
    file.number(machine.vcpu_count());
    file.number(memory.size());
    file.text(machine_bytes);
    std::string body = file.take();
    uint64_t sum = sum_of(body);
    std::string bytes(kMagic);
    bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
    bytes += body;
    if (::ftruncate(state_fd, 0) < 0 || ::lseek(state_fd, 0, SEEK_SET) < 0)
        return sys_error("cut the snapshot's state file");
    if (auto written = linux::write_all(state_fd, bytes); !written.ok())
        return sys_error("write the snapshot's state", written.error().value);
    return {};
}

Result<Snapshot> read_snapshot(int state_fd) {
    auto bytes = linux::read_fd(state_fd, kMaxState);
    if (!bytes.ok()) return sys_error("read the snapshot's state", bytes.error().value);
    std::string_view rest = *bytes;
    if (!rest.starts_with(kMagic)) return Error("this is not the state file of a snapshot of this version", EBADMSG);
    rest.remove_prefix(kMagic.size());
    uint64_t sum;
    if (rest.size() < sizeof sum) return Error("the snapshot is not whole", EBADMSG);
    std::memcpy(&sum, rest.data(), sizeof sum);
    rest.remove_prefix(sizeof sum);
    if (sum_of(rest) != sum) return Error("the snapshot is not whole", EBADMSG);
    virtio::StateReader reader(rest);
    auto vcpus = reader.number<uint32_t>();
    auto memory = reader.number<uint64_t>();
    auto machine = reader.text();
    if (!vcpus.ok() || !memory.ok() || !machine.ok()) return Error("the snapshot is not whole", EBADMSG);
    Snapshot snapshot;
    snapshot.vcpus = *vcpus;
    snapshot.memory = *memory;
    snapshot.machine = *machine;
    return snapshot;
}

}  // namespace casemate::vmm
