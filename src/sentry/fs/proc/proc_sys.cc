// /proc/sys: the settings that programs read, and the few that a container may write (its host name, and what the OCI
// config's sysctl sets).
#include <fmt/core.h>
#include <sys/random.h>

#include <map>
#include <memory>

#include "sentry/fs/anonymous/aio_context.h"
#include "sentry/fs/proc/ipc_settings.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

std::string_view trimmed(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    return text;
}

namespace {

// Settings with a value of their own that nothing in this kernel depends on being otherwise: readable, and writable
// where Linux lets a container's root write them.
struct Setting {
    const char* path;
    const char* value;
};
constexpr Setting kSettings[] = {
    {"kernel/cap_last_cap", "40"},
    {"kernel/core_pattern", "core"},
    {"kernel/core_uses_pid", "0"},
    {"kernel/dmesg_restrict", "1"},
    {"kernel/kptr_restrict", "1"},
    {"kernel/modules_disabled", "1"},
    {"kernel/msgmax", "8192"},
    {"kernel/msgmnb", "16384"},
    {"kernel/msgmni", "32000"},
    {"kernel/ngroups_max", "65536"},
    {"kernel/ostype", "Linux"},
    {"kernel/overflowgid", "65534"},
    {"kernel/overflowuid", "65534"},
    {"kernel/panic", "0"},
    {"kernel/perf_event_paranoid", "3"},
    {"kernel/pid_max", "4194304"},
    {"kernel/printk", "4\t4\t1\t7"},
    {"kernel/pty/max", "4096"},
    {"kernel/pty/reserve", "0"},
    {"kernel/randomize_va_space", "2"},
    {"kernel/sched_rr_timeslice_ms", "100"},
    {"kernel/sem", "32000\t1024000000\t500\t32000"},
    {"kernel/threads-max", "127000"},
    {"kernel/unprivileged_bpf_disabled", "2"},
    {"kernel/yama/ptrace_scope", "0"},
    {"kernel/seccomp/actions_avail", "kill_process kill_thread trap errno user_notif trace log allow"},
    {"fs/aio-max-nr", "65536"},
    {"fs/aio-nr", "0"},
    {"fs/epoll/max_user_watches", "1000000"},
    {"fs/file-max", "9223372036854775807"},
    {"fs/inotify/max_queued_events", "16384"},
    {"fs/inotify/max_user_instances", "128"},
    {"fs/inotify/max_user_watches", "65536"},
    {"fs/lease-break-time", "45"},
    {"fs/nr_open", "1048576"},
    {"fs/overflowgid", "65534"},
    {"fs/overflowuid", "65534"},
    {"fs/pipe-max-size", "1048576"},
    {"fs/pipe-user-pages-hard", "0"},
    {"fs/pipe-user-pages-soft", "16384"},
    {"fs/protected_fifos", "1"},
    {"fs/protected_hardlinks", "1"},
    {"fs/protected_regular", "2"},
    {"fs/protected_symlinks", "1"},
    {"fs/suid_dumpable", "0"},
    {"vm/dirty_background_ratio", "10"},
    {"vm/dirty_ratio", "20"},
    {"vm/max_map_count", "65530"},
    {"vm/min_free_kbytes", "67584"},
    {"vm/mmap_min_addr", "65536"},
    {"vm/nr_hugepages", "0"},
    {"vm/overcommit_memory", "0"},
    {"vm/overcommit_ratio", "50"},
    {"vm/swappiness", "60"},
    {"vm/vfs_cache_pressure", "100"},
};

// RFC 4122, version 4.
std::string random_uuid() {
    unsigned char b[16] = {};
    if (getrandom(b, sizeof(b), 0) != sizeof(b)) return "00000000-0000-4000-8000-000000000000";
    b[6] = static_cast<unsigned char>((b[6] & 0x0f) | 0x40);
    b[8] = static_cast<unsigned char>((b[8] & 0x3f) | 0x80);
    std::string text;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += fmt::format("{:02x}", b[i]);
    }
    return text;
}

Ref<SyntheticDirectory> subdirectory(std::map<std::string, Ref<SyntheticDirectory>>& made, SyntheticDirectory& top,
                                     const Ref<ProcFileSystem>& files, const std::string& path) {
    if (path.empty()) return Ref<SyntheticDirectory>(&top);
    auto it = made.find(path);
    if (it != made.end()) return it->second;
    size_t slash = path.rfind('/');
    std::string above = slash == std::string::npos ? "" : path.substr(0, slash);
    Ref<SyntheticDirectory> parent = subdirectory(made, top, files, above);
    auto fresh = make_ref<SyntheticDirectory>(Ref<FileSystem>(files));
    parent->add(slash == std::string::npos ? path : path.substr(slash + 1), Ref<Inode>(fresh));
    made[path] = fresh;
    return fresh;
}

}  // namespace

Ref<Inode> make_sys_directory(Ref<ProcFileSystem> files) {
    Ref<FileSystem> fs = files;
    auto top = make_ref<SyntheticDirectory>(fs);
    std::map<std::string, Ref<SyntheticDirectory>> made;
    auto add = [&](const std::string& path, uint32_t mode, TextFile::Make make, TextFile::Take take = nullptr) {
        size_t slash = path.rfind('/');
        subdirectory(made, *top, files, path.substr(0, slash))
            ->add(path.substr(slash + 1), Ref<Inode>(make_ref<TextFile>(fs, mode, std::move(make), std::move(take))));
    };
    for (const Setting& setting : kSettings)
        add(setting.path, 0444,
            [value = setting.value](Task&) -> SysResult<std::string> { return std::string(value) + "\n"; });
    for (NetworkSetting& setting : network_settings())
        add("net/" + setting.path, setting.take ? 0644 : 0444, std::move(setting.make), std::move(setting.take));
    for (IpcSetting& setting : ipc_settings(files->kernel()))
        add(setting.path, 0644, std::move(setting.make), std::move(setting.take));
    const KernelOptions& options = files->kernel().options();
    add("kernel/osrelease", 0444, [&options](Task&) -> SysResult<std::string> { return options.release + "\n"; });
    add("kernel/version", 0444, [&options](Task&) -> SysResult<std::string> { return options.version + "\n"; });
    add(
        "kernel/hostname", 0644,
        [](Task& task) -> SysResult<std::string> { return task.namespaces().uts->host_name() + "\n"; },
        [](Task& task, std::string_view value) -> SysResult<void> {
            if (!task.has_capability(21 /* CAP_SYS_ADMIN */)) return Errno(EPERM);
            value = trimmed(value);
            if (value.size() > 64) return Errno(EINVAL);
            task.namespaces().uts->set_host_name(std::string(value));
            return {};
        });
    add(
        "kernel/domainname", 0644,
        [](Task& task) -> SysResult<std::string> { return task.namespaces().uts->domain_name() + "\n"; },
        [](Task& task, std::string_view value) -> SysResult<void> {
            if (!task.has_capability(21 /* CAP_SYS_ADMIN */)) return Errno(EPERM);
            value = trimmed(value);
            if (value.size() > 64) return Errno(EINVAL);
            task.namespaces().uts->set_domain_name(std::string(value));
            return {};
        });
    // One process is one guest kernel: the same in every /proc of its containers.
    static const std::string boot_id = random_uuid();
    add("kernel/random/boot_id", 0444, [](Task&) -> SysResult<std::string> { return boot_id + "\n"; });
    add("kernel/random/uuid", 0444, [](Task&) -> SysResult<std::string> { return random_uuid() + "\n"; });
    add("kernel/random/entropy_avail", 0444, [](Task&) -> SysResult<std::string> { return std::string("256\n"); });
    add("kernel/random/poolsize", 0444, [](Task&) -> SysResult<std::string> { return std::string("256\n"); });
    add("fs/aio-max-nr", 0444,
        [](Task&) -> SysResult<std::string> { return fmt::format("{}\n", AioContexts::kMostEvents); });
    add("fs/aio-nr", 0444,
        [](Task&) -> SysResult<std::string> { return fmt::format("{}\n", aio_contexts().events()); });
    add("fs/file-nr", 0444,
        [](Task&) -> SysResult<std::string> { return std::string("64\t0\t9223372036854775807\n"); });
    return Ref<Inode>(std::move(top));
}

}  // namespace casemate::sentry
