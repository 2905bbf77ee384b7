// What a hostile program in a sandbox does. The runner looks from outside at what came of it.
//
//   hostile calls HOSTPID...   for each number read from standard input: that system call with hostile arguments, each
//                              set in a child of its own; then "NUMBER done"
//   hostile pids HOSTPID...    every call that takes a process, on processes of the host: "NAME PID ERRNO" a line
//   hostile jump | scribble | registers | own-pages | slots | waits
//                              attacks on the stub's own pages: "survived" if the process could go on
//   hostile race DIR SECRET    a folder and a link swap places; "leaked" if SECRET was ever read through it
//   hostile connect PORT NAME  the host's listeners, by TCP and by an abstract Unix name
//   hostile handle DIR HEX     open_by_handle_at of a forged handle
//   hostile reopen FD          writing to a descriptor that was given for reading
//   hostile eat MIB            touches that much memory, then says "ate"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

static std::vector<long> host_pids;

static const char* error_name() {
    const char* name = strerrorname_np(errno);
    return name != nullptr ? name : "?";
}

// ---- every number

constexpr int kPatterns = 11;
static char* memory;  // 1 MiB of noise, with strings and small numbers in it

static uint64_t noise() {
    static uint64_t state = 88172645463325252;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void fill(int pattern, long number, long (&a)[6]) {
    for (int i = 0; i < 6; ++i) {
        switch (pattern) {
            case 0:
                a[i] = 0;
                break;
            case 1:
                a[i] = -1;
                break;
            case 2:
                a[i] = (long)0xdeadbeef000;
                break;
            case 3:
                a[i] = (long)0xffff888000000000;
                break;
            case 4:
                a[i] = (long)(memory + i * 4096);
                break;
            case 5: {
                long values[] = {3, (long)memory, 4096, (long)(memory + 8192), 8, 0};
                a[i] = values[i];
                break;
            }
            case 6:
                a[i] = (long)noise();
                break;
            case 7:  // around the end of what applications may use, where the stub's own pages lie
                a[i] = (long)(0x7ffffffff000 - (long)(noise() % 4096) * 4096);
                break;
            case 8: {
                long values[] = {AT_FDCWD, (long)(memory + 65536), (long)(memory + 65536 + 64), 0x7fffffff, 0xffff, 1};
                a[i] = values[i];
                break;
            }
            case 9: {
                long pid = host_pids.empty() ? 99999 : host_pids[(size_t)number % host_pids.size()];
                long values[] = {pid, 9, (long)memory, 8, (long)memory, 0};
                a[i] = values[i];
                break;
            }
            default:
                a[i] = (long)(memory + (1 << 20) - 1 - i);  // the last bytes before a hole
        }
    }
    // These three would end the attackers themselves rather than anything of the host's.
    bool kills = number == SYS_kill || number == SYS_tkill;
    if (kills && (a[0] == -1 || a[0] == 0 || a[0] == 1)) a[1] = 0;
    if (number == SYS_tgkill && (a[0] == -1 || a[0] == 0 || a[0] == 1)) a[2] = 0;
}

static void one_call(long number) {
    for (int pattern = 0; pattern < kPatterns; ++pattern) {
        pid_t pid = fork();
        if (pid < 0) continue;
        if (pid == 0) {
            alarm(1);
            // Mounts that a call changes are this child's own.
            (void)!unshare(CLONE_NEWNS);
            int null = open("/dev/null", O_RDWR);
            if (null >= 0) {
                dup2(null, 0);
                dup2(null, 1);
            }
            (void)!open("/etc/passwd", O_RDONLY);
            long a[6];
            fill(pattern, number, a);
            syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
            syscall(SYS_exit_group, 0);
        }
        int status;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
    }
}

static int calls() {
    memory = (char*)mmap(nullptr, (1 << 20) + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(memory + (1 << 20), 4096);
    for (size_t i = 0; i < (1 << 20); i += 8) {
        uint64_t value = i % 64 == 0 ? noise() : noise() % 64;
        memcpy(memory + i, &value, 8);
    }
    strcpy(memory + 65536, "/etc/../../../../../../proc/1/root/../../etc/shadow");
    strcpy(memory + 65536 + 64, "/proc/self/fd/../../1/cwd");
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    char line[64];
    while (fgets(line, sizeof(line), stdin) != nullptr) {
        long number = strtol(line, nullptr, 0);
        one_call(number);
        while (waitpid(-1, nullptr, WNOHANG) > 0) {
        }
        printf("%ld done\n", number);
        fflush(stdout);
    }
    return 0;
}

// ---- processes of the host

static void tell(const char* name, long pid, long result) {
    printf("%s %ld %s\n", name, pid, result < 0 ? error_name() : "OK");
    errno = 0;
}

static int pids() {
    char buffer[4096];
    iovec local{buffer, 64}, remote{(void*)0x400000, 64};
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    sched_param priority{};
    rlimit limit{1, 1};
    siginfo_t info{};
    info.si_code = -1;
    for (long pid : host_pids) {
        tell("kill", pid, syscall(SYS_kill, pid, SIGKILL));
        tell("kill-group", pid, syscall(SYS_kill, -pid, SIGKILL));
        tell("tkill", pid, syscall(SYS_tkill, pid, SIGKILL));
        tell("tgkill", pid, syscall(SYS_tgkill, pid, pid, SIGKILL));
        tell("rt_sigqueueinfo", pid, syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &info));
        tell("rt_tgsigqueueinfo", pid, syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGKILL, &info));
        tell("pidfd_open", pid, syscall(SYS_pidfd_open, pid, 0));
        tell("process_vm_readv", pid, syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0));
        tell("process_vm_writev", pid, syscall(SYS_process_vm_writev, pid, &local, 1, &remote, 1, 0));
        tell("ptrace-attach", pid, syscall(SYS_ptrace, PTRACE_ATTACH, pid, 0, 0));
        tell("ptrace-seize", pid, syscall(SYS_ptrace, PTRACE_SEIZE, pid, 0, 0));
        tell("sched_getaffinity", pid, syscall(SYS_sched_getaffinity, pid, sizeof(cpus), &cpus));
        tell("sched_setaffinity", pid, syscall(SYS_sched_setaffinity, pid, sizeof(cpus), &cpus));
        tell("sched_setscheduler", pid, syscall(SYS_sched_setscheduler, pid, SCHED_BATCH, &priority));
        tell("sched_getscheduler", pid, syscall(SYS_sched_getscheduler, pid));
        tell("getpriority", pid, syscall(SYS_getpriority, PRIO_PROCESS, pid));
        tell("setpriority", pid, syscall(SYS_setpriority, PRIO_PROCESS, pid, 19));
        tell("prlimit-read", pid, syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, nullptr, buffer));
        tell("prlimit-write", pid, syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, &limit, nullptr));
        tell("getpgid", pid, syscall(SYS_getpgid, pid));
        tell("getsid", pid, syscall(SYS_getsid, pid));
        tell("setpgid", pid, syscall(SYS_setpgid, pid, 0));
        tell("get_robust_list", pid, syscall(SYS_get_robust_list, pid, buffer, buffer + 8));
        tell("ioprio_get", pid, syscall(SYS_ioprio_get, 1, pid));
        tell("ioprio_set", pid, syscall(SYS_ioprio_set, 1, pid, 3 << 13));
        tell("kcmp", pid, syscall(SYS_kcmp, getpid(), pid, 0, 0, 0));
        tell("migrate_pages", pid, syscall(SYS_migrate_pages, pid, 8, buffer, buffer));
        tell("move_pages", pid, syscall(SYS_move_pages, pid, 0, nullptr, nullptr, nullptr, 0));
        perf_event_attr event{};
        event.size = sizeof(event);
        tell("perf_event_open", pid, syscall(SYS_perf_event_open, &event, pid, -1, -1, 0));
        snprintf(buffer, sizeof(buffer), "/proc/%ld/status", pid);
        tell("proc-status", pid, open(buffer, O_RDONLY));
        snprintf(buffer, sizeof(buffer), "/proc/%ld/root", pid);
        tell("proc-root", pid, open(buffer, O_RDONLY));
        snprintf(buffer, sizeof(buffer), "/proc/%ld/mem", pid);
        tell("proc-mem", pid, open(buffer, O_RDWR));
        snprintf(buffer, sizeof(buffer), "/proc/%ld/ns/mnt", pid);
        tell("proc-ns", pid, open(buffer, O_RDONLY));
        snprintf(buffer, sizeof(buffer), "/proc/%ld/fd/0", pid);
        tell("proc-fd", pid, open(buffer, O_RDWR));
    }
    return 0;
}

// ---- the stub's own pages

static sigjmp_buf back;
static void fault(int) { siglongjmp(back, 1); }
static void catch_faults() {
    static char stack[65536];
    stack_t alternate{};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof(stack);
    sigaltstack(&alternate, nullptr);
    struct sigaction action {};
    action.sa_handler = fault;
    action.sa_flags = SA_ONSTACK | SA_NODEFER;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS}) sigaction(signal, &action, nullptr);
}

// Every place above what /proc/self/maps shows that can be read.
static std::vector<uintptr_t> hidden_pages() {
    std::vector<uintptr_t> found;
    for (uintptr_t at = 0x7fffffffe000; at > 0x7fffffffe000 - (uintptr_t{8} << 30);) {
        if (sigsetjmp(back, 1) == 0) {
            volatile char c = *(volatile char*)at;
            (void)c;
            found.push_back(at);
            if (found.size() >= 4096) break;
            at -= 4096;
        } else {
            at -= 65536;
        }
    }
    return found;
}

static int own_pages(bool jump, bool write) {
    catch_faults();
    std::vector<uintptr_t> pages = hidden_pages();
    printf("pages %zu\n", pages.size());
    for (uintptr_t page : pages) {
        pid_t pid = jump ? fork() : 0;
        if (pid == 0) {
            if (jump) {
                alarm(1);
                signal(SIGSEGV, SIG_DFL);
                for (uintptr_t offset : {0, 1, 16, 64, 256, 1024, 2048}) {
                    if (fork() == 0) {
                        alarm(1);
                        ((void (*)(long, long, long))(page + offset))(9, (long)page, 231);
                        _exit(0);
                    }
                    wait(nullptr);
                }
                _exit(0);
            }
            if (sigsetjmp(back, 1) == 0 && write)
                for (size_t i = 0; i < 4096; i += 8) *(volatile uint64_t*)(page + i) = 0x4141414141414141;
        } else {
            int status;
            waitpid(pid, &status, 0);
        }
    }
    puts("survived");
    return 0;
}

// Everything it can reach: the maps, except for the code and stack it runs on, then the pages that are not shown.
static int scribble() {
    catch_faults();
    FILE* maps = fopen("/proc/self/maps", "r");
    std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
    char line[512];
    while (fgets(line, sizeof(line), maps) != nullptr) {
        uintptr_t start, end;
        char access[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, access) == 3) ranges.push_back({start, end});
    }
    std::vector<uintptr_t> pages = hidden_pages();
    puts("scribbling");
    fflush(stdout);
    for (uintptr_t page : pages)
        if (sigsetjmp(back, 1) == 0) memset((void*)page, 0xcc, 4096);
    for (auto [start, end] : ranges)
        if (sigsetjmp(back, 1) == 0) memset((void*)start, 0xcc, end - start);
    for (;;) syscall(SYS_getpid);
}

// Calls from one place, so many that they may be handed over in memory (%gs tells where), while other threads write
// that memory, and while the caller enters the code there with whatever registers.
static volatile uint64_t* slot;
static void* forge(void*) {
    for (unsigned i = 0;; ++i) {
        if (slot == nullptr) continue;
        uint64_t number = noise() % 8 == 0 ? noise() : (uint64_t)SYS_getpid;
        switch (noise() % 6) {
            case 5:
                // What the caller is told without asking; it needs no more than to be readable.
                slot[noise() % 2 ? -2 : -4] = noise() % 2 ? 0 : (uint64_t)(uintptr_t)memory;
                break;
            case 4:
                // Whether and how often the caller gives its CPU away.
                ((volatile uint32_t*)slot)[-11 + (int)(noise() % 2)] = noise() % 2 ? (uint32_t)noise() : noise() % 4;
                break;
            case 0:
                *(volatile uint32_t*)slot = (uint32_t)noise() & 0x3f;
                break;
            case 1:
                *(volatile uint32_t*)slot = 0x11;  // asks, in the other's name
                break;
            case 2:
                ((volatile uint32_t*)slot)[1] = (uint32_t)number;
                break;
            default:
                slot[1 + noise() % 6] = noise() % 2 ? noise() : (uint64_t)(uintptr_t)memory;
        }
    }
}
static int slots() {
    catch_faults();
    memory = (char*)mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 8; ++round) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(2);
            for (int i = 0; i < 1000; ++i) syscall(SYS_getpid);
            uint64_t base = 0;
            asm volatile("rdgsbase %0" : "=r"(base));
            pthread_t threads[2];
            if (base != 0)
                for (pthread_t& thread : threads) pthread_create(&thread, nullptr, forge, nullptr);
            if (round % 2 == 1 && base != 0) {
                // Its own slot set to something before each call, and %gs to another's or to nothing.
                for (;;) {
                    if (sigsetjmp(back, 1) != 0) continue;
                    uint64_t other = noise() % 2 ? base : base + 0x4000 * (noise() % 8) - 0x10000;
                    asm volatile("wrgsbase %0" : : "r"(other));
                    for (int i = 0; i < 100; ++i) syscall(SYS_getpid);
                }
            }
            slot = (volatile uint64_t*)base;
            for (;;) {
                if (sigsetjmp(back, 1) != 0) continue;
                syscall(SYS_getpid);
                syscall(SYS_getppid);
            }
        }
        int status = 0;
        waitpid(pid, &status, 0);
    }
    puts("survived");
    return 0;
}

// Calls that wait, while others write where the waiting is done: words, deadlines, saved registers, questions in the
// name of the one who sleeps. It may sleep for ever or wake with nothing; it dies when it is killed.
static void* forge_waits(void*) {
    static const long kNumbers[] = {SYS_read, SYS_write, SYS_futex, SYS_epoll_wait, SYS_poll, SYS_getpid};
    for (;;) {
        if (slot == nullptr) continue;
        switch (noise() % 6) {
            case 0:
                *(volatile uint32_t*)slot = (uint32_t)noise() & 0xff;
                break;
            case 1:
                *(volatile uint32_t*)slot = 0x51;  // asks and waits
                break;
            case 2:
                slot[8 + noise() % 4] = noise() % 2 ? noise() : noise() % 4;
                break;
            case 3:
                slot[1 + noise() % 7] = noise();
                break;
            case 4:
                ((volatile uint32_t*)slot)[1] = (uint32_t)kNumbers[noise() % 6];
                break;
            default:
                usleep(1);  // lets it get somewhere
        }
    }
}
static int waits() {
    catch_faults();
    for (int round = 0; round < 8; ++round) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(2);
            static int there[2], back_again[2];
            if (pipe(there) != 0 || pipe(back_again) != 0) _exit(1);
            pthread_t peer, threads[2];
            pthread_create(
                &peer, nullptr,
                [](void*) -> void* {
                    char c;
                    for (;;)
                        if (read(there[0], &c, 1) == 1 && write(back_again[1], &c, 1) != 1) continue;
                },
                nullptr);
            char c = 0;
            auto turn = [&] { return write(there[1], &c, 1) == 1 && read(back_again[0], &c, 1) == 1; };
            for (int i = 0; i < 2000; ++i) turn();
            uint64_t base = 0;
            asm volatile("rdgsbase %0" : "=r"(base));
            slot = (volatile uint64_t*)base;
            for (pthread_t& thread : threads) pthread_create(&thread, nullptr, forge_waits, nullptr);
            for (;;) {
                if (sigsetjmp(back, 1) != 0) continue;
                turn();
            }
        }
        int status = 0;
        waitpid(pid, &status, 0);
    }
    puts("survived");
    return 0;
}

// Registers that no compiler would leave at a system call.
static int registers() {
    struct Attack {
        const char* name;
        void (*body)();
    } attacks[] = {
        {"stack-null",
         [] {
             asm volatile("xor %%rsp, %%rsp; mov $39, %%eax; syscall; ud2" ::: "memory");
         }},
        {"stack-kernel",
         [] {
             asm volatile("mov $-4096, %%rsp; mov $39, %%eax; syscall; push %%rax; ud2" ::: "memory");
         }},
        {"stack-non-canonical",
         [] {
             asm volatile("movabs $0x8000000000001000, %%rsp; mov $39, %%eax; syscall; push %%rax" ::: "memory");
         }},
        {"flags-trap",
         [] {
             asm volatile("pushf; orq $0x100, (%%rsp); popf; mov $39, %%eax; syscall; nop; nop" ::
                              : "rax", "rcx", "r11", "memory");
         }},
        {"flags-direction",
         [] {
             asm volatile("std; mov $39, %%eax; syscall; cld" ::: "rax", "rcx", "r11", "memory");
         }},
        {"flags-alignment",
         [] {
             asm volatile("pushf; orq $0x40000, (%%rsp); popf; mov $39, %%eax; syscall" ::
                              : "rax", "rcx", "r11", "memory");
         }},
        {"int80",
         [] {
             asm volatile("mov $20, %%eax; int $0x80" ::: "rax", "memory");
         }},
        {"int3", [] { asm volatile("int3"); }},
        {"sysenter",
         [] {
             asm volatile("mov $20, %%eax; mov %%rsp, %%rbp; sysenter" ::: "rax", "memory");
         }},
        {"hlt", [] { asm volatile("hlt"); }},
        {"cli", [] { asm volatile("cli"); }},
        {"in",
         [] {
             asm volatile("inb $0x80, %%al" ::: "rax");
         }},
        {"rdmsr",
         [] {
             asm volatile("rdmsr" ::: "rax", "rdx");
         }},
        {"wrmsr", [] { asm volatile("wrmsr"); }},
        {"lgdt",
         [] {
             asm volatile("lgdt (%%rsp)" ::: "memory");
         }},
        {"mov-cr0",
         [] {
             asm volatile("mov %%cr0, %%rax" ::: "rax");
         }},
        {"swapgs", [] { asm volatile("swapgs"); }},
        {"vmcall", [] { asm volatile("vmcall"); }},
        {"fs-kernel", [] { syscall(SYS_arch_prctl, 0x1002, 0xffff888000000000); }},
        {"gs-kernel", [] { syscall(SYS_arch_prctl, 0x1001, 0xffff888000000000); }},
        {"gs-selector",
         [] {
             asm volatile("mov $0x2b, %%ax; mov %%ax, %%gs; mov $39, %%eax; syscall" ::: "rax", "rcx", "r11");
         }},
        {"fs-selector",
         [] {
             asm volatile("mov $0x2b, %%ax; mov %%ax, %%fs; mov $39, %%eax; syscall; ud2" ::: "rax", "rcx", "r11");
         }},
        {"ss-null",
         [] {
             asm volatile("xor %%eax, %%eax; mov %%ax, %%ss" ::: "rax");
         }},
        {"far-return-32",
         [] {
             asm volatile("push $0x23; push $0x1000; lretq" ::: "memory");
         }},
        {"sigreturn-forged",
         [] {
             asm volatile("sub $1024, %%rsp; mov $15, %%eax; syscall; ud2" ::: "memory");
         }},
        {"sigreturn-null",
         [] {
             asm volatile("xor %%rsp, %%rsp; mov $15, %%eax; syscall; ud2" ::: "memory");
         }},
        {"x32", [] { syscall(0x40000000 | SYS_getpid); }},
        {"negative-number", [] { syscall(-1); }},
        {"huge-number", [] { syscall(0x7fffffffffffffff); }},
        {"high-bits-in-number", [] { syscall((long)0xffffffff00000000 | SYS_exit_group, 77); }},
        {"vsyscall-page", [] { ((long (*)(void*))0xffffffffff600400)(nullptr); }},
        {"vsyscall-middle", [] { ((long (*)(void*))0xffffffffff600123)(nullptr); }},
        {"jump-null", [] { ((void (*)()) nullptr)(); }},
        {"jump-kernel", [] { ((void (*)())0xffffffff81000000)(); }},
        {"jump-non-canonical",
         [] {
             asm volatile("movabs $0x8000000000001000, %%rax; jmp *%%rax" ::: "rax");
         }},
        {"mxcsr-reserved",
         [] {
             unsigned bad = 0xffffffff;
             asm volatile("ldmxcsr %0" : : "m"(bad));
         }},
        {"xrstor-garbage",
         [] {
             alignas(64) static char area[8192];
             memset(area, 0xff, sizeof(area));
             asm volatile("mov $-1, %%eax; mov $-1, %%edx; xrstor (%0)" : : "r"(area) : "rax", "rdx", "memory");
         }},
        {"stack-overflow",
         [] {
             struct Recurse {
                 static int down(volatile char* p) {
                     volatile char more[4096];
                     more[0] = *p;
                     return *p == 77 ? 0 : down(more) + more[0];
                 }
             };
             volatile char c = 0;
             Recurse::down(&c);
         }},
    };
    for (const Attack& attack : attacks) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(2);
            attack.body();
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        printf("%s %s %d\n", attack.name, WIFSIGNALED(status) ? "signal" : "exit",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        fflush(stdout);
    }
    puts("survived");
    return 0;
}

// ---- files and sockets

static int race(const char* folder, const char* secret) {
    if (chdir(folder) != 0) return 2;
    mkdir("swap", 0755);
    int fd = open("swap/file", O_CREAT | O_WRONLY, 0644);
    (void)!write(fd, "harmless", 8);
    close(fd);
    (void)!symlink(secret, "link");
    pid_t swapper = fork();
    if (swapper == 0) {
        for (;;) syscall(SYS_renameat2, AT_FDCWD, "swap", AT_FDCWD, "link", RENAME_EXCHANGE);
    }
    bool leaked = false;
    for (int i = 0; i < 3000; ++i) {
        char text[64] = {};
        fd = open("swap/file", O_RDONLY);
        if (fd < 0) continue;
        if (read(fd, text, sizeof(text) - 1) > 0 && strcmp(text, "harmless") != 0) leaked = true;
        close(fd);
    }
    kill(swapper, SIGKILL);
    wait(nullptr);
    puts(leaked ? "leaked" : "tight");
    return 0;
}

static int connect_host(int port, const char* name) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons((uint16_t)port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    tell("tcp", port, connect(tcp, (sockaddr*)&at, sizeof(at)));
    sockaddr_un abstract{};
    abstract.sun_family = AF_UNIX;
    size_t length = strlen(name);
    memcpy(abstract.sun_path + 1, name, length);
    int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    tell("abstract", port,
         connect(stream, (sockaddr*)&abstract, (socklen_t)(offsetof(sockaddr_un, sun_path) + 1 + length)));
    return 0;
}

static int handle(const char* folder, const char* hex) {
    alignas(8) unsigned char bytes[sizeof(file_handle) + 128] = {};
    auto* forged = (file_handle*)bytes;
    size_t length = strlen(hex) / 2;
    // type:4 bytes, then the handle
    for (size_t i = 0; i < length && i < 132; ++i) {
        unsigned value;
        sscanf(hex + i * 2, "%2x", &value);
        if (i < 4)
            ((unsigned char*)&forged->handle_type)[i] = (unsigned char)value;
        else
            forged->f_handle[i - 4] = (unsigned char)value;
    }
    forged->handle_bytes = (unsigned)(length - 4);
    int mount = open(folder, O_RDONLY);
    int fd = open_by_handle_at(mount, forged, O_RDONLY);
    tell("open_by_handle_at", 0, fd);
    return 0;
}

static int reopen(int fd) {
    tell("write", fd, write(fd, "x", 1));
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR);
    tell("open-rdwr", fd, again);
    if (again >= 0) tell("write-again", fd, write(again, "x", 1));
    int append = open(path, O_WRONLY | O_TRUNC);
    tell("open-trunc", fd, append);
    tell("ftruncate", fd, ftruncate(fd, 0));
    tell("fchmod", fd, fchmod(fd, 0777));
    tell("openat-up", fd, openat(fd, "..", O_RDONLY));
    tell("openat-file", fd, openat(fd, "secret", O_RDONLY));
    tell("fchdir", fd, fchdir(fd));
    tell("mmap-write", fd, mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    return 0;
}

static int eat(size_t mib) {
    for (size_t i = 0; i < mib; ++i) {
        char* at = (char*)mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) {
            puts("refused");
            return 1;
        }
        memset(at, 1, 1 << 20);
    }
    puts("ate");
    return 0;
}

int main(int argc, char** argv) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    if (argc < 2) return 2;
    const char* what = argv[1];
    bool takes_pids = strcmp(what, "calls") == 0 || strcmp(what, "pids") == 0;
    for (int i = 2; i < argc && takes_pids; ++i) host_pids.push_back(strtol(argv[i], nullptr, 10));
    if (strcmp(what, "calls") == 0) return calls();
    if (strcmp(what, "pids") == 0) return pids();
    if (strcmp(what, "jump") == 0) return own_pages(true, false);
    if (strcmp(what, "own-pages") == 0) return own_pages(false, true);
    if (strcmp(what, "slots") == 0) return slots();
    if (strcmp(what, "waits") == 0) return waits();
    if (strcmp(what, "scribble") == 0) return scribble();
    if (strcmp(what, "registers") == 0) return registers();
    if (strcmp(what, "race") == 0 && argc == 4) return race(argv[2], argv[3]);
    if (strcmp(what, "connect") == 0 && argc == 4) return connect_host(atoi(argv[2]), argv[3]);
    if (strcmp(what, "handle") == 0 && argc == 4) return handle(argv[2], argv[3]);
    if (strcmp(what, "reopen") == 0 && argc == 3) return reopen(atoi(argv[2]));
    if (strcmp(what, "eat") == 0 && argc == 3) return eat(strtoul(argv[2], nullptr, 10));
    return 2;
}
