// /proc files about the whole system: as many CPUs and as much memory as the pod was given.
#include <cpuid.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/ipc/ipc_state.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/host_memory.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

// The words of /proc/cpuinfo for CPUID bits that applications look for.
struct Feature {
    unsigned leaf, subleaf, reg, bit;  // reg: 0 eax, 1 ebx, 2 ecx, 3 edx
    const char* name;
};
constexpr Feature kFeatures[] = {
    {1, 0, 3, 0, "fpu"},
    {1, 0, 3, 4, "tsc"},
    {1, 0, 3, 8, "cx8"},
    {1, 0, 3, 15, "cmov"},
    {1, 0, 3, 19, "clflush"},
    {1, 0, 3, 23, "mmx"},
    {1, 0, 3, 24, "fxsr"},
    {1, 0, 3, 25, "sse"},
    {1, 0, 3, 26, "sse2"},
    {1, 0, 3, 28, "ht"},
    {0x80000001, 0, 3, 11, "syscall"},
    {0x80000001, 0, 3, 20, "nx"},
    {0x80000001, 0, 3, 26, "pdpe1gb"},
    {0x80000001, 0, 3, 27, "rdtscp"},
    {0x80000001, 0, 3, 29, "lm"},
    {1, 0, 2, 0, "pni"},
    {1, 0, 2, 1, "pclmulqdq"},
    {1, 0, 2, 9, "ssse3"},
    {1, 0, 2, 12, "fma"},
    {1, 0, 2, 13, "cx16"},
    {1, 0, 2, 19, "sse4_1"},
    {1, 0, 2, 20, "sse4_2"},
    {1, 0, 2, 22, "movbe"},
    {1, 0, 2, 23, "popcnt"},
    {1, 0, 2, 25, "aes"},
    {1, 0, 2, 26, "xsave"},
    {1, 0, 2, 28, "avx"},
    {1, 0, 2, 29, "f16c"},
    {1, 0, 2, 30, "rdrand"},
    {1, 0, 2, 31, "hypervisor"},
    {0x80000001, 0, 2, 0, "lahf_lm"},
    {0x80000001, 0, 2, 5, "abm"},
    {7, 0, 1, 0, "fsgsbase"},
    {7, 0, 1, 3, "bmi1"},
    {7, 0, 1, 5, "avx2"},
    {7, 0, 1, 8, "bmi2"},
    {7, 0, 1, 9, "erms"},
    {7, 0, 1, 16, "avx512f"},
    {7, 0, 1, 17, "avx512dq"},
    {7, 0, 1, 18, "rdseed"},
    {7, 0, 1, 19, "adx"},
    {7, 0, 1, 23, "clflushopt"},
    {7, 0, 1, 24, "clwb"},
    {7, 0, 1, 28, "avx512cd"},
    {7, 0, 1, 29, "sha_ni"},
    {7, 0, 1, 30, "avx512bw"},
    {7, 0, 1, 31, "avx512vl"},
    {7, 0, 2, 1, "avx512vbmi"},
    {7, 0, 2, 9, "vaes"},
    {7, 0, 2, 10, "vpclmulqdq"},
    {7, 0, 2, 22, "rdpid"},
    {7, 0, 3, 4, "fsrm"},
};

struct CpuId {
    unsigned r[4] = {};
};
CpuId cpuid(unsigned leaf, unsigned subleaf) {
    CpuId id;
    __cpuid_count(leaf, subleaf, id.r[0], id.r[1], id.r[2], id.r[3]);
    return id;
}

std::string cpuinfo(unsigned cpus) {
    CpuId zero = cpuid(0, 0), one = cpuid(1, 0);
    char vendor[13] = {};
    memcpy(vendor, &zero.r[1], 4);
    memcpy(vendor + 4, &zero.r[3], 4);
    memcpy(vendor + 8, &zero.r[2], 4);
    char model_name[49] = {};
    unsigned extended = cpuid(0x80000000, 0).r[0];
    if (extended >= 0x80000004)
        for (unsigned i = 0; i < 3; i++) {
            CpuId part = cpuid(0x80000002 + i, 0);
            memcpy(model_name + i * 16, part.r, 16);
        }
    unsigned family = (one.r[0] >> 8) & 15, model = (one.r[0] >> 4) & 15;
    if (family == 15) family += (one.r[0] >> 20) & 255;
    if (family == 6 || family >= 15) model += ((one.r[0] >> 16) & 15) << 4;
    std::string flags;
    for (const Feature& feature : kFeatures) {
        unsigned highest = feature.leaf >= 0x80000000 ? extended : zero.r[0];
        if (feature.leaf > highest) continue;
        if (cpuid(feature.leaf, feature.subleaf).r[feature.reg] >> feature.bit & 1)
            flags += std::string(flags.empty() ? "" : " ") + feature.name;
    }
    unsigned line = ((one.r[1] >> 8) & 255) * 8;
    unsigned physical = 40, virtual_bits = 48;
    if (extended >= 0x80000008) {
        unsigned sizes = cpuid(0x80000008, 0).r[0];
        physical = sizes & 255;
        virtual_bits = (sizes >> 8) & 255;
    }
    std::string text;
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        text += fmt::format(
            "processor\t: {}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nstepping\t: {}\n"
            "cpu MHz\t\t: 2000.000\ncache size\t: 512 KB\nphysical id\t: 0\nsiblings\t: {}\ncore id\t\t: {}\ncpu "
            "cores\t: {}\n"
            "apicid\t\t: {}\ninitial apicid\t: {}\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\n"
            "flags\t\t: {}\nbugs\t\t:\nbogomips\t: 4000.00\nclflush size\t: {}\ncache_alignment\t: {}\n"
            "address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
            cpu, vendor, family, model, model_name[0] != 0 ? model_name : "unknown", one.r[0] & 15, cpus, cpu, cpus,
            cpu, cpu, zero.r[0], flags, line, line, physical, virtual_bits);
    return text;
}

struct MemorySums {
    uint64_t total = 0, used = 0;
};
MemorySums memory_of(Kernel& kernel) {
    MemorySums sums;
    sums.total = kernel.memory().limit();
    if (sums.total == 0) sums.total = kernel.options().memory_limit;
    if (sums.total == 0) sums.total = host_memory();
    sums.used = std::min(kernel.memory().bytes_used(), sums.total);
    return sums;
}

std::string meminfo(Kernel& kernel) {
    MemorySums m = memory_of(kernel);
    uint64_t total = m.total / 1024, used = m.used / 1024, left = total - used;
    std::string text;
    auto row = [&](const char* name, uint64_t kb) {
        text += fmt::format("{:<15} {:8} kB\n", std::string(name) + ":", kb);
    };
    row("MemTotal", total);
    row("MemFree", left);
    row("MemAvailable", left);
    for (const char* name : {"Buffers", "Cached", "SwapCached"}) row(name, 0);
    row("Active", used);
    row("Inactive", 0);
    row("Active(anon)", used);
    for (const char* name : {"Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked", "SwapTotal",
                             "SwapFree", "Dirty", "Writeback"})
        row(name, 0);
    row("AnonPages", used);
    for (const char* name : {"Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack",
                             "PageTables", "NFS_Unstable", "Bounce", "WritebackTmp"})
        row(name, 0);
    row("CommitLimit", total);
    row("Committed_AS", used);
    row("VmallocTotal", 34359738367);
    for (const char* name : {"VmallocUsed", "VmallocChunk", "Percpu", "AnonHugePages"}) row(name, 0);
    for (const char* name : {"HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"})
        text += fmt::format("{:<15} {:8}\n", std::string(name) + ":", 0);
    row("Hugepagesize", 2048);
    row("Hugetlb", 0);
    return text;
}

std::string stat(Kernel& kernel) {
    CpuTimes sum;
    size_t running = 0;
    for (auto& process : kernel.tasks().processes(*kernel.tasks().root_space)) {
        CpuTimes one = process_cpu_times(*process);
        sum.user_ns += one.user_ns;
        sum.system_ns += one.system_ns;
        Ref<Task> leader = leader_of(kernel, *process);
        if (leader && leader->state() == 'R') running++;
    }
    constexpr uint64_t kTick = kSecond / 100;
    unsigned cpus = kernel.options().cpus;
    auto up = static_cast<uint64_t>(monotonic_now() - kernel.boot_time());
    uint64_t busy = (sum.user_ns + sum.system_ns) / kTick, whole = up / kTick * cpus;
    uint64_t idle = whole > busy ? whole - busy : 0;
    std::string text = fmt::format("cpu  {} 0 {} {} 0 0 0 0 0 0\n", sum.user_ns / kTick, sum.system_ns / kTick, idle);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        text += fmt::format("cpu{} {} 0 {} {} 0 0 0 0 0 0\n", cpu, sum.user_ns / kTick / cpus,
                            sum.system_ns / kTick / cpus, idle / cpus);
    int64_t boot = (realtime_now() - static_cast<Nanoseconds>(up)) / kSecond;
    text += fmt::format("intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0\n", boot,
                        kernel.tasks().task_count(), std::max<size_t>(running, 1));
    return text;
}

std::string loadavg(Kernel& kernel) {
    size_t running = 0, all = kernel.tasks().task_count();
    int last = 0;
    for (auto& process : kernel.tasks().processes(*kernel.tasks().root_space)) {
        Ref<Task> leader = leader_of(kernel, *process);
        if (leader && leader->state() == 'R') running++;
        if (leader) last = std::max(last, leader->tid());
    }
    double load = static_cast<double>(running);
    return fmt::format("{:.2f} {:.2f} {:.2f} {}/{} {}\n", load, load, load, running, all, last);
}

std::string uptime(Kernel& kernel) {
    double up = static_cast<double>(monotonic_now() - kernel.boot_time()) / 1e9;
    uint64_t busy = 0;
    for (auto& process : kernel.tasks().processes(*kernel.tasks().root_space)) {
        CpuTimes one = process_cpu_times(*process);
        busy += one.user_ns + one.system_ns;
    }
    double idle = up * kernel.options().cpus - static_cast<double>(busy) / 1e9;
    return fmt::format("{:.2f} {:.2f}\n", up, std::max(idle, 0.0));
}

constexpr char kFileSystems[] =
    "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\tmqueue\n"
    "nodev\toverlay\nnodev\tpipefs\nnodev\tsockfs\n";
constexpr char kDevices[] =
    "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n";

}  // namespace

void add_system_files(SyntheticDirectory& root, Ref<ProcFileSystem> files) {
    Kernel* kernel = &files->kernel();
    auto text = [&](const char* name, auto make, uint32_t mode = 0444) {
        root.add(name, Ref<Inode>(make_ref<TextFile>(Ref<FileSystem>(files), mode, make)));
    };
    auto fixed = [&](const char* name, std::string_view contents, uint32_t mode = 0444) {
        text(
            name, [contents](Task&) -> SysResult<std::string> { return std::string(contents); }, mode);
    };
    text("cpuinfo", [=](Task&) -> SysResult<std::string> { return cpuinfo(kernel->options().cpus); });
    text("meminfo", [=](Task&) -> SysResult<std::string> { return meminfo(*kernel); });
    text("stat", [=](Task&) -> SysResult<std::string> { return stat(*kernel); });
    text("loadavg", [=](Task&) -> SysResult<std::string> { return loadavg(*kernel); });
    text("uptime", [=](Task&) -> SysResult<std::string> { return uptime(*kernel); });
    text("version", [=](Task&) -> SysResult<std::string> {
        return fmt::format("Linux version {} (casemate@casemate) (g++ {}) {}\n", kernel->options().release, __VERSION__,
                           kernel->options().version);
    });
    fixed("filesystems", kFileSystems);
    fixed("devices", kDevices);
    fixed("cmdline", "\n");
    fixed("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    fixed("partitions", "major minor  #blocks  name\n\n");
    fixed("modules", "");
    fixed("misc", "");
    fixed("interrupts", "");
    fixed("diskstats", "");
    fixed("locks", "");
    fixed("cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n");
    auto sysvipc = make_ref<SyntheticDirectory>(Ref<FileSystem>(files));
    auto ipc = [&](const char* name, std::string (IpcState::*make)()) {
        sysvipc->add(name, Ref<Inode>(make_ref<TextFile>(
                               Ref<FileSystem>(files), 0444u,
                               [make](Task& task) -> SysResult<std::string> { return (*ipc_of(task).*make)(); })));
    };
    ipc("shm", &IpcState::shm_text);
    ipc("sem", &IpcState::sem_text);
    ipc("msg", &IpcState::msg_text);
    root.add("sysvipc", Ref<Inode>(std::move(sysvipc)));
    text("vmstat", [=](Task&) -> SysResult<std::string> {
        MemorySums m = memory_of(*kernel);
        return fmt::format(
            "nr_free_pages {}\nnr_inactive_anon 0\nnr_active_anon {}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n",
            (m.total - m.used) / kPageSize, m.used / kPageSize);
    });
    text("zoneinfo", [=](Task&) -> SysResult<std::string> {
        MemorySums m = memory_of(*kernel);
        return fmt::format(
            "Node 0, zone   Normal\n  pages free     {}\n        min      0\n        low      0\n        high     0\n",
            (m.total - m.used) / kPageSize);
    });
}

}  // namespace casemate::sentry
