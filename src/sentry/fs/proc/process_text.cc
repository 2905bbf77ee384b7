// Contents of /proc/PID files, in the words of proc(5).
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <mutex>

#include "base/checked.h"
#include "sentry/fs/host/host_fs.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kTick = kSecond / 100;  // USER_HZ

// Numbers of a process in the pid namespace that a proc mount shows.
struct Relations {
    int tid = 0, tgid = 0, parent = 0, tracer = 0, group = 0, session = 0, foreground = -1;
    uint64_t terminal = 0;
    size_t threads = 0;
};

Relations relations_of(Task& about, ProcFileSystem& files) {
    Process& process = about.process();
    TaskSet& tasks = files.kernel().tasks();
    std::lock_guard lock(tasks.mutex);
    Relations r;
    PidNamespace& space = files.space();
    r.tid = about.pid().number_in(space);
    r.tgid = process.pid ? process.pid->number_in(space) : r.tid;
    r.parent = tasks.parent_pid_locked(process, space);
    if (Task* tracer = about.parts().tracing.tracer.load()) r.tracer = tracer->process().pid->number_in(space);
    r.group = process.group ? process.group->number_in(space) : 0;
    if (process.session) {
        r.session = process.session->id->number_in(space);
        if (process.session->terminal) {
            uint64_t device = process.session->terminal->device_number();
            r.terminal = (minor(device) & 0xff) | (major(device) << 8) | ((minor(device) & ~0xffu) << 12);
            if (process.session->terminal->foreground)
                r.foreground = process.session->terminal->foreground->number_in(space);
        }
    }
    r.threads = process.threads.size();
    return r;
}

struct SignalSets {
    SignalSet pending = 0, shared = 0, blocked = 0, ignored = 0, caught = 0;
};

SignalSets signals_of(Task& about) {
    Process& process = about.process();
    SignalSets sets;
    std::lock_guard lock(process.signal_mutex);
    sets.pending = about.parts().pending.set();
    sets.shared = process.pending.set();
    sets.blocked = about.parts().blocked;
    if (process.handlers) {
        std::lock_guard handlers(process.handlers->mutex);
        for (int signo = 1; signo <= kSignalCount; signo++) {
            uint64_t handler = process.handlers->actions[static_cast<size_t>(signo)].handler;
            if (handler == 1)
                sets.ignored |= signal_bit(signo);
            else if (handler != 0)
                sets.caught |= signal_bit(signo);
        }
    }
    return sets;
}

std::string escaped(std::string_view text) {
    std::string out;
    for (char c : text) {
        if (c == ' ' || c == '\t' || c == '\n' || c == '\\')
            out += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
        else
            out += c;
    }
    return out;
}

std::string protection_text(const AddressSpace::VmaInfo& vma) {
    return fmt::format("{}{}{}{}", vma.protection & 1 ? 'r' : '-', vma.protection & 2 ? 'w' : '-',
                       vma.protection & 4 ? 'x' : '-', vma.shared ? 's' : 'p');
}

}  // namespace

SysResult<std::string> process_stat_text(Task& about, ProcFileSystem& files, bool whole_process) {
    Process& process = about.process();
    Relations r = relations_of(about, files);
    SignalSets signals = signals_of(about);
    CpuTimes times = whole_process ? process_cpu_times(process) : task_cpu_times(about);
    ResourceUse children;
    {
        std::lock_guard lock(files.kernel().tasks().mutex);
        children = process.children_use;
    }
    AddressSpace::Usage usage;
    AddressSpace::Layout layout;
    if (Ref<AddressSpace> memory = about.memory_of()) {
        usage = memory->usage();
        layout = memory->layout();
    }
    auto start = static_cast<uint64_t>(process.started - files.kernel().boot_time()) / kTick;
    int nice = process.nice.load();
    int policy = about.parts().scheduler_policy.load(), priority = about.parts().scheduler_priority.load();
    return fmt::format(
        "{} ({}) {} {} {} {} {} {} 0 {} 0 0 0 {} {} {} {} {} {} {} 0 {} {} {} {} {} {} {} 0 0 {} {} {} {} 0 0 0 17 0 "
        "{} {} 0 0 "
        "0 {} {} {} {} {} {} {} {}\n",
        r.tid, about.name(), about.state(), r.parent, r.group, r.session, r.terminal, r.foreground,
        process.faults.load(), times.user_ns / kTick, times.system_ns / kTick, children.user_ns / kTick,
        children.system_ns / kTick, policy != 0 ? -1 - priority : 20 + nice, nice, r.threads, start,
        usage.virtual_bytes, usage.resident_bytes / kPageSize, process.limit(RLIMIT_RSS).soft, layout.code_start,
        layout.code_end, layout.stack_start, signals.pending & 0x7fffffff, signals.blocked & 0x7fffffff,
        signals.ignored & 0x7fffffff, signals.caught & 0x7fffffff, priority, policy, layout.data_start, layout.data_end,
        layout.data_end, layout.arg_start, layout.arg_end, layout.env_start, layout.env_end, 0);
}

SysResult<std::string> process_status_text(Task& about, ProcFileSystem& files) {
    Relations r = relations_of(about, files);
    SignalSets signals = signals_of(about);
    Ref<Credentials> c = about.credentials_of();
    if (!c) return Errno(ESRCH);
    char state = about.state();
    const char* word = state == 'R'   ? "running"
                       : state == 'S' ? "sleeping"
                       : state == 'T' ? "stopped"
                       : state == 't' ? "tracing stop"
                       : state == 'Z' ? "zombie"
                       : state == 'D' ? "disk sleep"
                                      : "dead";
    std::string text = fmt::format("Name:\t{}\n", about.name());
    if (Ref<FsContext> fs = about.fs_of()) text += fmt::format("Umask:\t{:04o}\n", fs->umask());
    text += fmt::format("State:\t{} ({})\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t{}\n", state, word,
                        r.tgid, r.tid, r.parent, r.tracer);
    text += fmt::format("Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\n", c->uid, c->euid, c->suid, c->fsuid, c->gid,
                        c->egid, c->sgid, c->fsgid);
    Ref<FdTable> table = about.files_of();
    size_t slots = 64;
    if (table)
        for (int fd : table->open_fds())
            while (static_cast<size_t>(fd) >= slots) slots *= 2;
    text += fmt::format("FDSize:\t{}\nGroups:\t", table ? slots : 0);
    for (uint32_t group : c->groups) text += fmt::format("{} ", group);
    text += fmt::format("\nNStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n", r.tgid, r.tid, r.group, r.session);
    if (Ref<AddressSpace> memory = about.memory_of()) {
        auto u = memory->usage();
        auto kb = [](uint64_t bytes) { return bytes / 1024; };
        uint64_t anonymous = u.resident_bytes - u.shared_bytes;
        text += fmt::format(
            "VmPeak:\t{:8} kB\nVmSize:\t{:8} kB\nVmLck:\t{:8} kB\nVmPin:\t{:8} kB\nVmHWM:\t{:8} kB\nVmRSS:\t{:8} kB\n"
            "RssAnon:\t{:8} kB\nRssFile:\t{:8} kB\nRssShmem:\t{:8} kB\nVmData:\t{:8} kB\nVmStk:\t{:8} kB\nVmExe:\t{:8} "
            "kB\n"
            "VmLib:\t{:8} kB\nVmPTE:\t{:8} kB\nVmSwap:\t{:8} kB\n",
            kb(u.virtual_bytes), kb(u.virtual_bytes), kb(u.locked_bytes), 0, kb(u.resident_bytes), kb(u.resident_bytes),
            kb(anonymous), kb(u.shared_bytes), 0, kb(u.data_bytes), kb(u.stack_bytes), kb(u.text_bytes), 0,
            kb(u.resident_bytes / 512), 0);
    }
    text += fmt::format("CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\nSigQ:\t0/{}\n", r.threads,
                        about.process().limit(RLIMIT_SIGPENDING).soft);
    text += fmt::format("SigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
                        signals.pending, signals.shared, signals.blocked, signals.ignored, signals.caught);
    text += fmt::format("CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n",
                        c->inheritable, c->permitted, c->effective, c->bounding, c->ambient);
    uint64_t all =
        files.kernel().options().cpus >= 64 ? ~uint64_t{0} : (uint64_t{1} << files.kernel().options().cpus) - 1;
    uint64_t cpus = about.parts().cpu_mask.load() & all;
    std::string list;
    for (unsigned i = 0; i < 64; i++) {
        if (!(cpus >> i & 1)) continue;
        unsigned end = i;
        while (end + 1 < 64 && (cpus >> (end + 1) & 1)) end++;
        list += (list.empty() ? "" : ",") + (end > i ? fmt::format("{}-{}", i, end) : fmt::format("{}", i));
        i = end;
    }
    SeccompStatus seccomp = seccomp_status(about);
    text += fmt::format(
        "NoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}\nSpeculation_Store_Bypass:\tvulnerable\n"
        "SpeculationIndirectBranch:\tconditional "
        "enabled\nCpus_allowed:\t{:x}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\n"
        "Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t0\n",
        no_new_privileges(about, *c) ? 1 : 0, seccomp.mode, seccomp.filters, cpus, list,
        about.process().switches.load());
    return text;
}

SysResult<std::string> process_statm_text(Task& about) {
    Ref<AddressSpace> memory = about.memory_of();
    if (!memory) return std::string("0 0 0 0 0 0 0\n");
    auto u = memory->usage();
    return fmt::format("{} {} {} {} 0 {} 0\n", u.virtual_bytes / kPageSize, u.resident_bytes / kPageSize,
                       u.shared_bytes / kPageSize, u.text_bytes / kPageSize,
                       (u.data_bytes + u.stack_bytes) / kPageSize);
}

SysResult<std::string> process_maps_text(Task& reader, Task& about, bool detailed) {
    Ref<AddressSpace> memory = about.memory_of();
    std::string text;
    if (!memory) return text;
    for (const auto& vma : memory->snapshot()) {
        uint64_t device = 0, inode = 0;
        std::string name = vma.name;
        if (vma.file && vma.file->inode() != nullptr) {
            struct stat status {};
            if (vma.file->stat(reader, status).ok()) {
                device = status.st_dev;
                inode = status.st_ino;
            }
            if (vma.file->path().mount)
                name = path_text(reader, vma.file->path());
            else if (name.empty())
                name = vma.file->link_name(reader);
        }
        std::string line = fmt::format("{:08x}-{:08x} {} {:08x} {:02x}:{:02x} {} ", vma.start, vma.end,
                                       protection_text(vma), vma.offset, major(device), minor(device), inode);
        if (!name.empty()) {
            if (line.size() < 73) line.append(73 - line.size(), ' ');
            line += name;
        }
        text += line + "\n";
        if (!detailed) continue;
        uint64_t size = (vma.end - vma.start) / 1024, resident = vma.resident / 1024;
        bool anonymous = !vma.file;
        text += fmt::format(
            "Size:           {:8} kB\nKernelPageSize: {:8} kB\nMMUPageSize:    {:8} kB\nRss:            {:8} kB\n"
            "Pss:            {:8} kB\nShared_Clean:   {:8} kB\nShared_Dirty:   {:8} kB\nPrivate_Clean:  {:8} kB\n"
            "Private_Dirty:  {:8} kB\nReferenced:     {:8} kB\nAnonymous:      {:8} kB\nLazyFree:       {:8} kB\n"
            "AnonHugePages:  {:8} kB\nSwap:           {:8} kB\nSwapPss:        {:8} kB\nLocked:         {:8} kB\n",
            size, 4, 4, resident, resident, vma.shared ? resident : 0, 0, vma.shared || anonymous ? 0 : resident,
            !vma.shared && anonymous ? resident : 0, resident, anonymous ? resident : 0, 0, 0, 0, 0, 0);
        text += fmt::format("VmFlags:{}{}{}{} mr mw me\n", vma.protection & 1 ? " rd" : "",
                            vma.protection & 2 ? " wr" : "", vma.protection & 4 ? " ex" : "", vma.shared ? " sh" : "");
    }
    return text;
}

SysResult<std::string> process_smaps_rollup_text(Task& about) {
    Ref<AddressSpace> memory = about.memory_of();
    if (!memory) return Errno(ESRCH);
    auto list = memory->snapshot();
    if (list.empty()) return std::string();
    auto usage = memory->usage();
    uint64_t resident = usage.resident_bytes / 1024, shared = usage.shared_bytes / 1024;
    return fmt::format(
        "{:08x}-{:08x} ---p 00000000 00:00 0                          [rollup]\nRss:            {:8} kB\n"
        "Pss:            {:8} kB\nShared_Clean:   {:8} kB\nShared_Dirty:   {:8} kB\nPrivate_Clean:  {:8} kB\n"
        "Private_Dirty:  {:8} kB\nReferenced:     {:8} kB\nAnonymous:      {:8} kB\nSwap:           {:8} kB\n"
        "SwapPss:        {:8} kB\nLocked:         {:8} kB\n",
        list.front().start, list.back().end, resident, resident, shared, 0, 0, resident - shared, resident,
        resident - shared, 0, 0, usage.locked_bytes / 1024);
}

SysResult<std::string> process_numa_maps_text(Task& reader, Task& about) {
    Ref<AddressSpace> memory = about.memory_of();
    std::string text;
    if (!memory) return text;
    for (const auto& vma : memory->snapshot()) {
        text += fmt::format("{:08x} default", vma.start);
        if (vma.file && vma.file->path().mount)
            text += " file=" + escaped(path_text(reader, vma.file->path()));
        else if (vma.name == "[heap]")
            text += " heap";
        else if (vma.name == "[stack]")
            text += " stack";
        if (uint64_t pages = vma.resident / kPageSize)
            text += vma.file ? fmt::format(" mapped={} N0={} kernelpagesize_kB=4", pages, pages)
                             : fmt::format(" anon={} dirty={} N0={} kernelpagesize_kB=4", pages, pages, pages);
        text += '\n';
    }
    return text;
}

SysResult<std::string> thread_children_text(Task& about, ProcFileSystem& files) {
    Process& process = about.process();
    std::string text;
    std::lock_guard lock(files.kernel().tasks().mutex);
    for (Process* child : process.children) {
        // Those of a thread that has ended are the leader's.
        Task* creator = child->creator ? child->creator->task : nullptr;
        if (creator == nullptr || &creator->process() != &process) creator = process.leader;
        int number = child->pid->number_in(files.space());
        if (creator == &about && number > 0) text += fmt::format("{} ", number);
    }
    return text;
}

SysResult<std::string> process_area_text(Task& about, bool environment) {
    Ref<AddressSpace> memory = about.memory_of();
    if (!memory) return std::string();
    auto layout = memory->layout();
    GuestAddr start = environment ? layout.env_start : layout.arg_start;
    GuestAddr end = environment ? layout.env_end : layout.arg_end;
    if (end <= start || end - start > (size_t{4} << 20)) return std::string();
    std::string text(end - start, '\0');
    text.resize(memory->copy_in_partial(start, text.data(), text.size()));
    // setproctitle: a program that wrote over the last NUL shows one string that goes on into the environment.
    if (!environment && !text.empty() && text.back() != '\0') {
        std::string more(layout.env_end > layout.env_start ? layout.env_end - layout.env_start : 0, '\0');
        more.resize(memory->copy_in_partial(layout.env_start, more.data(), more.size()));
        text += more;
        text.resize(text.find('\0') == std::string::npos ? text.size() : text.find('\0'));
    }
    return text;
}

SysResult<std::string> process_auxv_text(Task& about) {
    Ref<AddressSpace> memory = about.memory_of();
    if (!memory) return std::string();
    auto auxv = memory->layout().auxv;
    return std::string(reinterpret_cast<const char*>(auxv.data()), auxv.size() * sizeof(uint64_t));
}

SysResult<std::string> process_limits_text(Task& about) {
    struct Row {
        const char* name;
        int resource;
        const char* unit;
    };
    static constexpr Row kRows[] = {
        {"Max cpu time", RLIMIT_CPU, "seconds"},         {"Max file size", RLIMIT_FSIZE, "bytes"},
        {"Max data size", RLIMIT_DATA, "bytes"},         {"Max stack size", RLIMIT_STACK, "bytes"},
        {"Max core file size", RLIMIT_CORE, "bytes"},    {"Max resident set", RLIMIT_RSS, "bytes"},
        {"Max processes", RLIMIT_NPROC, "processes"},    {"Max open files", RLIMIT_NOFILE, "files"},
        {"Max locked memory", RLIMIT_MEMLOCK, "bytes"},  {"Max address space", RLIMIT_AS, "bytes"},
        {"Max file locks", RLIMIT_LOCKS, "locks"},       {"Max pending signals", RLIMIT_SIGPENDING, "signals"},
        {"Max msgqueue size", RLIMIT_MSGQUEUE, "bytes"}, {"Max nice priority", RLIMIT_NICE, ""},
        {"Max realtime priority", RLIMIT_RTPRIO, ""},    {"Max realtime timeout", RLIMIT_RTTIME, "us"},
    };
    auto value = [](uint64_t v) { return v == RLIM_INFINITY ? std::string("unlimited") : std::to_string(v); };
    std::string text = fmt::format("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (const Row& row : kRows) {
        ResourceLimit limit = about.process().limit(row.resource);
        text += fmt::format("{:<25} {:<20} {:<20} {:<10}\n", row.name, value(limit.soft), value(limit.hard), row.unit);
    }
    return text;
}

// Where the mount's root lies in its file system: the fourth column of mountinfo.
static std::string mount_root_text(const Mount& mount) {
    std::string path;
    for (Ref<Dentry> at = mount.root(); at && !at->is_root(); at = at->parent()) {
        if (at->parent().get() == at.get()) break;
        path = "/" + at->name() + path;
    }
    if (std::string_view(mount.file_system().type()) == "hostfs") {
        const std::string& origin = static_cast<HostFileSystem&>(mount.file_system()).origin();
        if (origin != "/") path = origin + path;
    }
    return path.empty() ? "/" : path;
}

SysResult<std::string> mounts_text(Task& reader, Task& about, bool mountinfo) {
    Ref<Namespaces> set = about.namespaces_of();
    if (!set) return Errno(EINVAL);
    struct Flag {
        uint64_t bit;
        const char* name;
    };
    static constexpr Flag kFlags[] = {{MS_NOSUID, "nosuid"},         {MS_NODEV, "nodev"},
                                      {MS_NOEXEC, "noexec"},         {MS_NOATIME, "noatime"},
                                      {MS_NODIRATIME, "nodiratime"}, {MS_RELATIME, "relatime"}};
    std::string text;
    for (const auto& entry : set->mount->snapshot()) {
        const Mount& mount = *entry.mount;
        std::string where = path_text(reader, entry.mountpoint ? entry.mountpoint : Path(entry.mount, mount.root()));
        if (where.starts_with("(unreachable)")) continue;
        std::string flags = mount.flags() & MS_RDONLY ? "ro" : "rw";
        for (const Flag& flag : kFlags)
            if (mount.flags() & flag.bit) flags += std::string(",") + flag.name;
        std::string source = mount.source().empty() ? "none" : escaped(mount.source());
        FileSystem& fs = entry.mount->file_system();
        if (!mountinfo) {
            text += fmt::format("{} {} {} {}{}{} 0 0\n", source, escaped(where), fs.type(), flags,
                                mount.options().empty() ? "" : ",", mount.options());
            continue;
        }
        std::string shared;
        if (entry.propagation & MS_SHARED) shared += fmt::format("shared:{} ", entry.peer_group);
        if (entry.propagation & MS_SLAVE) shared += fmt::format("master:{} ", entry.master_group);
        if (entry.propagation & MS_UNBINDABLE) shared += "unbindable ";
        text += fmt::format("{} {} {}:{} {} {} {} {}- {} {} {}{}{}\n", entry.id, entry.parent_id, major(fs.device()),
                            minor(fs.device()), escaped(mount_root_text(mount)), escaped(where), flags, shared,
                            fs.type(), source, mount.flags() & MS_RDONLY ? "ro" : "rw",
                            mount.options().empty() ? "" : ",", mount.options());
    }
    return text;
}

SysResult<std::string> mount_statistics_text(Task& reader, Task& about) {
    Ref<Namespaces> set = about.namespaces_of();
    if (!set) return Errno(EINVAL);
    std::string text;
    for (const auto& entry : set->mount->snapshot()) {
        const Mount& mount = *entry.mount;
        std::string where = path_text(reader, entry.mountpoint ? entry.mountpoint : Path(entry.mount, mount.root()));
        if (where.starts_with("(unreachable)")) continue;
        std::string source = mount.source().empty() ? "no device" : "device " + escaped(mount.source());
        text +=
            fmt::format("{} mounted on {} with fstype {}\n", source, escaped(where), entry.mount->file_system().type());
    }
    return text;
}

}  // namespace casemate::sentry
