// User and group ids, capabilities, prctl, limits, random numbers, host names, namespaces of one's own.
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <cstddef>

#include "case.h"

static void need_root() {
    if (geteuid() != 0) skip("needs root");
}
static void expect_ids(uid_t real, uid_t effective, uid_t saved) {
    uid_t r, e, s;
    OK(getresuid(&r, &e, &s));
    EXPECT_EQ(r, real);
    EXPECT_EQ(e, effective);
    EXPECT_EQ(s, saved);
}
struct Capabilities {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    Capabilities() { OK(syscall(SYS_capget, &header, data)); }
    bool effective(int cap) const { return data[cap / 32].effective >> (cap % 32) & 1; }
    bool permitted(int cap) const { return data[cap / 32].permitted >> (cap % 32) & 1; }
};

// ---- users and groups

CASE(setuid_root_sets_all) {
    need_root();
    in_child([] {
        OK(syscall(SYS_setuid, 1001));
        expect_ids(1001, 1001, 1001);
        FAILS(syscall(SYS_setuid, 0), EPERM);
        OK(syscall(SYS_setuid, 1001));
    });
}
CASE(setresuid_combinations) {
    need_root();
    in_child([] {
        OK(syscall(SYS_setresuid, 1, 2, 3));
        expect_ids(1, 2, 3);
        OK(syscall(SYS_setresuid, 3, 1, -1));
        expect_ids(3, 1, 3);
        FAILS(syscall(SYS_setresuid, 9, -1, -1), EPERM);
    });
}
CASE(setreuid_saves) {
    need_root();
    in_child([] {
        OK(syscall(SYS_setreuid, 5, 6));
        expect_ids(5, 6, 6);
        OK(syscall(SYS_setreuid, 6, 5));
        expect_ids(6, 5, 5);
    });
}
CASE(temporary_drop_and_back) {
    need_root();
    in_child([] {
        OK(syscall(SYS_setresuid, -1, 1000, -1));
        EXPECT_EQ(geteuid(), 1000);
        EXPECT(!Capabilities().effective(CAP_CHOWN));
        OK(syscall(SYS_setresuid, -1, 0, -1));
        EXPECT(Capabilities().effective(CAP_CHOWN));
    });
}
CASE(setgid_family) {
    need_root();
    in_child([] {
        gid_t r, e, s;
        OK(syscall(SYS_setresgid, 1, 2, 3));
        OK(getresgid(&r, &e, &s));
        EXPECT(r == 1 && e == 2 && s == 3);
        OK(syscall(SYS_setgid, 7));
        OK(getresgid(&r, &e, &s));
        EXPECT(r == 7 && e == 7 && s == 7);
        OK(syscall(SYS_setregid, 8, 9));
        EXPECT(getgid() == 8 && getegid() == 9);
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        FAILS(syscall(SYS_setgid, 77), EPERM);
    });
}
CASE(groups_set_and_get) {
    need_root();
    in_child([] {
        gid_t groups[] = {10, 20, 30}, seen[8];
        OK(syscall(SYS_setgroups, 3, groups));
        EXPECT_EQ(getgroups(0, nullptr), 3);
        EXPECT_EQ(getgroups(8, seen), 3);
        EXPECT(seen[0] == 10 && seen[2] == 30);
        FAILS(getgroups(2, seen), EINVAL);
        FAILS(syscall(SYS_setgroups, 65537, groups), EINVAL);
        FAILS(syscall(SYS_setgroups, 3, bad()), EFAULT);
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        FAILS(syscall(SYS_setgroups, 0, nullptr), EPERM);
    });
}
CASE(group_gives_access) {
    need_root();
    chmod(".", 0755);
    write_file("f", "x");
    OK(chown("f", 0, 555));
    OK(chmod("f", 0640));
    in_child([] {
        gid_t group = 555;
        OK(syscall(SYS_setgroups, 1, &group));
        OK(syscall(SYS_setresgid, 1000, 1000, 1000));
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        OK(open("f", O_RDONLY));
        FAILS(open("f", O_WRONLY), EACCES);
    });
}
CASE(setfsuid_for_files) {
    need_root();
    chmod(".", 0777);
    in_child([] {
        EXPECT_EQ(setfsuid(1234), 0);
        EXPECT_EQ(setfsuid(-1), 1234);
        write_file("f", "");
        struct stat st;
        OK(stat("f", &st));
        EXPECT_EQ(st.st_uid, 1234);
    });
}
CASE(new_files_belong_to_effective) {
    need_root();
    chmod(".", 0777);
    in_child([] {
        OK(syscall(SYS_setresgid, -1, 22, -1));
        OK(syscall(SYS_setresuid, -1, 11, -1));
        write_file("f", "");
        struct stat st;
        OK(stat("f", &st));
        EXPECT(st.st_uid == 11 && st.st_gid == 22);
    });
}
CASE(ids_errors) {
    FAILS(syscall(SYS_getresuid, bad(), bad(), bad()), EFAULT);
    FAILS(syscall(SYS_setuid, -1), EINVAL);
    FAILS(syscall(SYS_setgid, -1), EINVAL);
}

// ---- capabilities

CASE(capget_versions) {
    __user_cap_header_struct header{0x12345678, 0};
    FAILS(syscall(SYS_capget, &header, scratch()), EINVAL);
    EXPECT_EQ(header.version, _LINUX_CAPABILITY_VERSION_3);
    FAILS(syscall(SYS_capget, bad(), scratch()), EFAULT);
    header.pid = 99999999;
    FAILS(syscall(SYS_capget, &header, scratch()), ESRCH);
    header.pid = -1;
    FAILS(syscall(SYS_capget, &header, scratch()), EINVAL);
}
CASE(capset_drops_and_cannot_regain) {
    need_root();
    in_child([] {
        Capabilities caps;
        if (!caps.permitted(CAP_CHOWN)) skip("no CAP_CHOWN");
        caps.data[0].effective &= ~(1u << CAP_CHOWN);
        caps.data[0].permitted &= ~(1u << CAP_CHOWN);
        OK(syscall(SYS_capset, &caps.header, caps.data));
        write_file("f", "");
        FAILS(chown("f", 5, 5), EPERM);
        caps.data[0].permitted |= 1u << CAP_CHOWN;
        FAILS(syscall(SYS_capset, &caps.header, caps.data), EPERM);
    });
}
CASE(capabilities_lost_by_setuid) {
    need_root();
    in_child([] {
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        Capabilities caps;
        EXPECT(caps.data[0].effective == 0 && caps.data[0].permitted == 0);
    });
}
CASE(keepcaps) {
    need_root();
    in_child([] {
        Capabilities before;
        OK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
        EXPECT_EQ(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0), 1);
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        Capabilities after;
        EXPECT_EQ(after.data[0].permitted, before.data[0].permitted);
        EXPECT_EQ(after.data[0].effective, 0);
    });
}
CASE(bounding_set) {
    need_root();
    in_child([] {
        EXPECT(prctl(PR_CAPBSET_READ, CAP_CHOWN, 0, 0, 0) >= 0);
        if (!Capabilities().effective(CAP_SETPCAP)) skip("no CAP_SETPCAP");
        OK(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0));
        EXPECT_EQ(prctl(PR_CAPBSET_READ, CAP_SYS_BOOT, 0, 0, 0), 0);
        FAILS(prctl(PR_CAPBSET_READ, 77, 0, 0, 0), EINVAL);
    });
}
CASE(ambient_set) {
    need_root();
    in_child([] {
        Capabilities caps;
        if (!caps.permitted(CAP_CHOWN)) skip("no CAP_CHOWN");
        EXPECT_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 0);
        caps.data[0].inheritable |= 1u << CAP_CHOWN;
        OK(syscall(SYS_capset, &caps.header, caps.data));
        OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
        EXPECT_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 1);
        OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
        FAILS(prctl(PR_CAP_AMBIENT, 77, CAP_CHOWN, 0, 0), EINVAL);
    });
}

// ---- prctl

CASE(prctl_name) {
    OK(prctl(PR_SET_NAME, "abcdefghijklmnopqrst"));
    char name[17] = {};
    OK(prctl(PR_GET_NAME, name));
    EXPECT_EQ(std::string(name), "abcdefghijklmno");
    EXPECT_EQ(read_all("/proc/self/comm"), "abcdefghijklmno\n");
    FAILS(prctl(PR_SET_NAME, bad()), EFAULT);
}
CASE(prctl_death_signal) {
    int number = -1;
    OK(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    OK(prctl(PR_GET_PDEATHSIG, &number));
    EXPECT_EQ(number, SIGUSR1);
    FAILS(prctl(PR_SET_PDEATHSIG, 99), EINVAL);
    in_child([] {
        int own = -1;
        OK(prctl(PR_GET_PDEATHSIG, &own));
        EXPECT_EQ(own, 0);
    });
}
CASE(prctl_dumpable) {
    EXPECT_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 1);
    OK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    EXPECT_EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    FAILS(prctl(PR_SET_DUMPABLE, 2, 0, 0, 0), EINVAL);
}
CASE(prctl_no_new_privs) {
    in_child([] {
        EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
        FAILS(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
        in_child([] { EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1); });
    });
}
CASE(prctl_subreaper) {
    int value = -1;
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    OK(prctl(PR_GET_CHILD_SUBREAPER, &value));
    EXPECT_EQ(value, 1);
    in_child([] {
        int own = -1;
        OK(prctl(PR_GET_CHILD_SUBREAPER, &own));
        EXPECT_EQ(own, 0);
    });
}
CASE(prctl_timer_slack) {
    EXPECT(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) > 0);
    OK(prctl(PR_SET_TIMERSLACK, 12345, 0, 0, 0));
    EXPECT_EQ(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), 12345);
}
FAILS_CASE(prctl_unknown, prctl(987654, 0, 0, 0, 0), EINVAL)
CASE(prctl_securebits) { EXPECT_EQ(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0), 0); }
CASE(prctl_vma_name) {
    void* at = OK(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (prctl(0x53564d41 /* PR_SET_VMA */, 0, at, 4096, "name") != 0) EXPECT_EQ(errno, EINVAL);
}

// ---- seccomp that a program sets for itself

static int install(sock_filter* code, unsigned short length) {
    sock_fprog program{length, code};
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
static void filter_one(int number, uint32_t action) {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    if (install(code, 4) != 0) {
        if (errno == ENOSYS) skip("no seccomp");
        fail(__FILE__, __LINE__, "seccomp: " + errno_name(errno));
    }
}
CASE(seccomp_errno) {
    in_child([] {
        filter_one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV);
        FAILS(syscall(SYS_getpriority, 0, 0), EXDEV);
        EXPECT_EQ(prctl(PR_GET_SECCOMP), 2);
        in_child([] { FAILS(syscall(SYS_getpriority, 0, 0), EXDEV); });
    });
}
CASE(seccomp_kill) {
    EXPECT_SIGNAL(child([] {
                      filter_one(SYS_getpriority, SECCOMP_RET_KILL_PROCESS);
                      syscall(SYS_getpriority, 0, 0);
                  }),
                  SIGSYS);
}
CASE(seccomp_trap) {
    static volatile int number, code;
    in_child([] {
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
            number = info->si_syscall;
            code = info->si_code;
        };
        OK(sigaction(SIGSYS, &action, nullptr));
        filter_one(SYS_getpriority, SECCOMP_RET_TRAP);
        syscall(SYS_getpriority, 0, 0);
        EXPECT_EQ(number, SYS_getpriority);
        EXPECT_EQ(code, 1 /* SYS_SECCOMP */);
    });
}
CASE(seccomp_needs_no_new_privs) {
    need_root();
    in_child([] {
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        sock_fprog program{1, &allow};
        long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
        if (result != 0 && errno == ENOSYS) skip("no seccomp");
        FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EACCES);
    });
}
CASE(seccomp_bad_filter) {
    in_child([] {
        sock_filter wild = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4000);
        long result = install(&wild, 1);
        if (result != 0 && errno == ENOSYS) skip("no seccomp");
        FAILS(install(&wild, 1), EINVAL);
        FAILS(install(&wild, 0), EINVAL);
    });
}

// ---- limits, names, random

CASE(rlimit_get_set) {
    rlimit limit;
    for (int i = 0; i < RLIM_NLIMITS; ++i) OK(getrlimit((__rlimit_resource)i, &limit));
    limit = {100, 200};
    limit = {300, 200};
    FAILS(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
    FAILS(getrlimit((__rlimit_resource)77, &limit), EINVAL);
    FAILS(syscall(SYS_getrlimit, 0, bad()), EFAULT);
}
CASE(rlimit_cannot_raise_hard) {
    need_root();
    in_child([] {
        rlimit limit{100, 200};
        OK(setrlimit(RLIMIT_NOFILE, &limit));
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        limit = {100, 300};
        FAILS(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
        limit = {200, 200};
        OK(setrlimit(RLIMIT_NOFILE, &limit));
    });
}
CASE(prlimit_other_process) {
    pid_t pid = child([] { pause(); });
    rlimit limit{50, 60}, old{};
    OK(prlimit(pid, RLIMIT_NOFILE, &limit, &old));
    OK(prlimit(pid, RLIMIT_NOFILE, nullptr, &old));
    EXPECT_EQ(old.rlim_cur, 50);
    kill(pid, SIGKILL);
    wait_for(pid);
    FAILS(prlimit(99999999, RLIMIT_NOFILE, nullptr, &old), ESRCH);
}
CASE(rlimits_inherited) {
    rlimit limit{64, 128};
    OK(setrlimit(RLIMIT_NOFILE, &limit));
    in_child([] {
        rlimit own;
        OK(getrlimit(RLIMIT_NOFILE, &own));
        EXPECT_EQ(own.rlim_cur, 64);
    });
}
CASE(getrandom_kinds) {
    char a[64] = {}, b[64] = {};
    EXPECT_EQ(getrandom(a, 64, 0), 64);
    EXPECT_EQ(getrandom(b, 64, GRND_NONBLOCK), 64);
    EXPECT(memcmp(a, b, 64) != 0);
    EXPECT_EQ(getrandom(a, 0, 0), 0);
    EXPECT_EQ(getrandom(scratch(), 100000, 0), 100000);
    FAILS(getrandom(a, 64, 0x77), EINVAL);
    FAILS(getrandom(bad(), 64, 0), EFAULT);
}
CASE(hostname_in_own_namespace) {
    need_root();
    in_child([] {
        if (unshare(CLONE_NEWUTS) != 0) skip("no UTS namespaces: " + errno_name(errno));
        OK(sethostname("casemate-test", 13));
        utsname name;
        OK(uname(&name));
        EXPECT_EQ(std::string(name.nodename), "casemate-test");
        OK(setdomainname("domain", 6));
        FAILS(sethostname(scratch(), 65), EINVAL);
        FAILS(sethostname((char*)bad(), 5), EFAULT);
    });
}
CASE(unshare_errors) { FAILS(unshare(0x1), EINVAL); }
CASE(unshare_files) {
    int fd = OK(open("/", O_RDONLY));
    OK(unshare(CLONE_FILES));
    OK(close(fd));
}
CASE(setns_errors) {
    FAILS(setns(-1, 0), EBADF);
    FAILS(setns(OK(open("/", O_RDONLY)), 0), EINVAL);
}
CASE(user_namespace) {
    in_child([] {
        if (unshare(CLONE_NEWUSER) != 0) skip("no user namespaces: " + errno_name(errno));
        EXPECT_EQ(getuid(), 65534);
        EXPECT(Capabilities().effective(CAP_SYS_ADMIN));
    });
}
CASE(pid_namespace) {
    need_root();
    in_child([] {
        if (unshare(CLONE_NEWPID) != 0) skip("no PID namespaces: " + errno_name(errno));
        in_child([] {
            EXPECT_EQ(getpid(), 1);
            EXPECT_EQ(getppid(), 0);
            in_child([] { EXPECT_EQ(getpid(), 2); });
        });
    });
}
CASE(personality_query) {
    EXPECT_EQ(personality(0xffffffff), 0);
    OK(personality(ADDR_NO_RANDOMIZE));
    EXPECT_EQ(personality(0xffffffff), ADDR_NO_RANDOMIZE);
}
CASE(getcpu_kinds) {
    unsigned cpu = 9999, node = 9999;
    OK(syscall(SYS_getcpu, &cpu, &node, 0));
    EXPECT(cpu < 4096 && node < 64);
    FAILS(syscall(SYS_getcpu, bad(), 0, 0), EFAULT);
}
CASE(privileged_calls_refused_to_user) {
    need_root();
    chmod(".", 0777);
    in_child([] {
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        FAILS(chroot("."), EPERM);
        FAILS(sethostname("x", 1), EPERM);
        FAILS(syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0), EPERM);
        FAILS(syscall(SYS_umount2, "/", 0), EPERM);
        FAILS(syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0), EPERM);
        FAILS_ANY(syscall(SYS_init_module, 0, 0, ""), EPERM, ENOSYS);
        FAILS_ANY(syscall(SYS_swapon, "/tmp", 0), EPERM, ENOSYS);
        FAILS_ANY(syscall(SYS_iopl, 3), EPERM, ENOSYS);
        FAILS_ANY(syscall(SYS_pivot_root, "/", "/"), EPERM);
        FAILS(mknod("node", S_IFCHR | 0600, 0x103), EPERM);
    });
}
