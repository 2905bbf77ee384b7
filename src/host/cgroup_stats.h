// What a cgroup has used: one shape for v1 and v2, rich enough for `events --stats` and containerd's metrics.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace casemate::host {

constexpr uint64_t kNoLimit = UINT64_MAX;

struct CpuStats {
    uint64_t usage_ns = 0;
    uint64_t user_ns = 0;
    uint64_t system_ns = 0;
    std::vector<uint64_t> per_cpu_ns;  // v1 only
    uint64_t periods = 0;
    uint64_t throttled_periods = 0;
    uint64_t throttled_ns = 0;
};

struct MemoryCounter {
    uint64_t usage = 0;
    uint64_t max_usage = 0;
    uint64_t limit = kNoLimit;
    uint64_t failures = 0;  // how often the limit was hit
};

struct MemoryStats {
    MemoryCounter memory;
    // v1: memory and swap together, as memory.memsw; v2: swap alone, as memory.swap.
    std::optional<MemoryCounter> swap;
    std::optional<MemoryCounter> kernel;                  // v1
    std::optional<MemoryCounter> kernel_tcp;              // v1
    std::map<std::string, uint64_t, std::less<>> stat;    // memory.stat as it is
    std::map<std::string, uint64_t, std::less<>> events;  // v2: memory.events; v1: memory.oom_control
};

struct PidsStats {
    uint64_t current = 0;
    uint64_t limit = kNoLimit;
};

// v1: op is "Read", "Write", ...; v2: "rbytes", "wios", ... as in io.stat.
struct BlockIoEntry {
    uint32_t major = 0, minor = 0;
    std::string op;
    uint64_t value = 0;
};

struct HugepageStats {
    std::string page_size;
    uint64_t usage = 0;
    uint64_t max_usage = 0;
    uint64_t failures = 0;
};

struct RdmaStats {
    std::string device;
    uint32_t hca_handles = 0;
    uint32_t hca_objects = 0;
};

struct CgroupStats {
    std::optional<CpuStats> cpu;
    std::optional<MemoryStats> memory;
    std::optional<PidsStats> pids;
    std::vector<BlockIoEntry> io_service_bytes;  // v1; v2 has all in io
    std::vector<BlockIoEntry> io_serviced;
    std::vector<BlockIoEntry> io;  // v2
    std::vector<HugepageStats> hugepages;
    std::vector<RdmaStats> rdma;
};

// "key value" lines. Lines of other shapes are left out.
std::map<std::string, uint64_t, std::less<>> parse_flat_keyed(std::string_view text);
// A number, or kNoLimit for "max" and for v1's huge numbers that mean no limit. 0 if it is neither.
uint64_t parse_limit(std::string_view text);
// "8:0 Read 123" lines of v1's blkio files.
std::vector<BlockIoEntry> parse_blkio(std::string_view text);
// "8:0 rbytes=1 wbytes=2" lines of io.stat.
std::vector<BlockIoEntry> parse_io_stat(std::string_view text);
// "mlx4_0 hca_handle=1 hca_object=20" lines.
std::vector<RdmaStats> parse_rdma(std::string_view text);

}  // namespace casemate::host
