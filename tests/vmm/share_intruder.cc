// Stands in for a casemate-share that was taken over: started in its jail instead of it, it tries what an intruder
// would. src/vmm/share_jail_test.cc runs it. Descriptor 3, the monitor's socket, says what:
//   "jail"    looks for anything of the host's but the directory; status 0 if there is nothing, else the number of the
//             step
//   "call N"  makes system call N with arguments of no use
//   "work"    what a well-behaved monitor does not make it do: a word in the log
// With the word "lists" it prints the entries of its list.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/log.h"
#include "fileserver/jail.h"

namespace {

using namespace casemate::fileserver;

bool opens(int dir, const char* path, int flags = O_RDONLY) { return ::openat(dir, path, flags | O_CLOEXEC) >= 0; }

// What the caller's seccomp list has no calls for is looked at before.
int look_at_ourselves() {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    if (::syscall(SYS_capget, &header, data) != 0) return 10;
    uint64_t held = data[0].effective | data[0].permitted | uint64_t{data[1].effective | data[1].permitted} << 32;
    for (int capability : {CAP_SYS_ADMIN, CAP_MKNOD, CAP_SYS_PTRACE, CAP_NET_ADMIN, CAP_SYS_MODULE, CAP_SYS_RAWIO,
                           CAP_SETUID, CAP_KILL, CAP_SYS_CHROOT})
        if ((held >> capability & 1) != 0) return 11;
    if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 12;
    if (::getpid() != 1 || ::getppid() != 0 || ::kill(2, 0) == 0) return 13;
    return 0;
}

// The folder shows these names and nothing else.
bool shows_only(int folder, const char* const* names) {
    char bytes[4096];
    long size;
    while ((size = ::syscall(SYS_getdents64, folder, bytes, sizeof bytes)) > 0) {
        for (long at = 0; at < size;) {
            const auto* entry = reinterpret_cast<const dirent64*>(bytes + at);
            bool known = entry->d_name[0] == '.';
            for (const char* const* name = names; *name != nullptr; ++name) known |= strcmp(entry->d_name, *name) == 0;
            if (!known) return false;
            at += entry->d_reclen;
        }
    }
    return size == 0;
}

int look_around(int directory) {
    // The root holds the directory only (and where a user's jail had a procfs until it was set up), and cannot be
    // written.
    constexpr const char* kNames[] = {"share", "proc", nullptr};
    int root = ::openat(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY);
    if (root < 0 || !shows_only(root, kNames)) return 20;
    for (const char* path : {"/etc/passwd", "/proc/self/status", "/proc/sys/kernel/core_pattern", "/dev/null", "/sys",
                             "/../etc", "/share/../etc/passwd", "/share/../../etc/passwd"})
        if (opens(AT_FDCWD, path)) return 21;
    if (opens(AT_FDCWD, "/file", O_WRONLY | O_CREAT)) return 22;
    // The directory: it works, nothing is above it, links in it lead nowhere else, its devices do not open.
    if (!opens(directory, "inside")) return 30;
    for (const char* path : {"../etc/passwd", "../../etc/passwd", "link-to-passwd", "link-to-root/etc/passwd"})
        if (opens(directory, path)) return 31;
    if (opens(directory, "device") || (errno != EACCES && errno != ENOENT)) return 32;  // made by root only
    if (::syscall(SYS_mknodat, directory, "disk", S_IFBLK | 0600, makedev(8, 0)) == 0) return 33;
    if (::syscall(SYS_linkat, AT_FDCWD, "0", directory, "null", AT_SYMLINK_FOLLOW) == 0) return 34;
    // The folder of our own descriptors, where we stand: of /proc nothing else.
    for (const char* path :
         {"../status", "../exe", "../root", "../mem", "../../sys/kernel/core_pattern", "../../sysrq-trigger",
          "../../1/status", "../../self/exe", "../../../etc/passwd", "self/fd", "../task"})
        if (opens(AT_FDCWD, path)) return 40;
    // Of what the descriptors lead to, nothing that a change would be seen in on the host.
    if (opens(AT_FDCWD, "3")) return 43;
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "lists") == 0) {
        for (int number : share_system_calls()) ::dprintf(1, "share %d 0\n", number);
        return 0;
    }
    char order[64] = {};
    if (::read(3, order, sizeof order - 1) <= 0) return 2;
    ::prctl(PR_SET_NAME, "casemate-share", 0, 0, 0);  // whoever traces its calls goes by that
    auto jail = enter_share_jail();
    if (!jail.ok()) return 3;
    if (int step = look_at_ourselves(); step != 0) return step;
    if (!install_share_filter().ok()) return 4;
    if (strcmp(order, "work") == 0) {
        casemate::log::error("this process has taken the list of a file server");
        ::_exit(0);
    }
    if (strcmp(order, "jail") == 0) ::_exit(look_around(jail->directory.get()));
    ::syscall(atoi(order + 5), -1, -1, -1, -1, -1, -1);
    ::_exit(0);
}
