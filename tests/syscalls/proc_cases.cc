// /proc, /sys and /dev as ps, top, free, getconf, python, node and the C library read them.
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "case.h"

static std::vector<std::string> words(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> all;
    for (std::string word; stream >> word;) all.push_back(word);
    return all;
}
static std::vector<std::string> lines(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> all;
    for (std::string line; std::getline(stream, line);) all.push_back(line);
    return all;
}
static std::map<std::string, std::string> fields(const std::string& text) {
    std::map<std::string, std::string> all;
    for (auto& line : lines(text)) {
        size_t colon = line.find(':');
        if (colon == std::string::npos) continue;
        size_t start = line.find_first_not_of(" \t", colon + 1);
        all[line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1)] =
            start == std::string::npos ? "" : line.substr(start);
    }
    return all;
}
static std::set<std::string> names(const std::string& path) {
    std::set<std::string> all;
    DIR* dir = opendir(path.c_str());
    if (!dir) fail("names", 0, "opendir " + path + ": " + errno_name(errno));
    while (dirent* entry = readdir(dir)) all.insert(entry->d_name);
    closedir(dir);
    return all;
}
static std::string link_of(const std::string& path) {
    char buffer[4096] = {};
    if (readlink(path.c_str(), buffer, sizeof buffer - 1) < 0)
        fail("link_of", 0, "readlink " + path + ": " + errno_name(errno));
    return buffer;
}
static std::string own(const std::string& what) { return read_all(("/proc/self/" + what).c_str()); }
static std::string of(pid_t pid, const std::string& what) {
    return read_all(("/proc/" + std::to_string(pid) + "/" + what).c_str());
}
// The fields of stat after the name, the third of the manual page first.
static std::vector<std::string> stat_fields(pid_t pid) {
    std::string text = of(pid, "stat");
    return words(text.substr(text.rfind(')') + 2));
}

CASE(self_is_a_link) {
    EXPECT_EQ(link_of("/proc/self"), std::to_string(getpid()));
    EXPECT_EQ(link_of("/proc/thread-self"), std::to_string(getpid()) + "/task/" + std::to_string(getpid()));
}
CASE(lists_processes) {
    pid_t pid = child([] { pause(); });
    auto all = names("/proc");
    EXPECT(all.count(std::to_string(getpid())));
    EXPECT(all.count(std::to_string(pid)));
    for (const char* name : {"self", "meminfo", "stat", "cpuinfo", "mounts", "uptime", "loadavg", "version", "sys"})
        if (!all.count(name)) fail(__FILE__, __LINE__, std::string("/proc has no ") + name);
    kill(pid, SIGKILL);
    wait_for(pid);
    EXPECT(!names("/proc").count(std::to_string(pid)));
    FAILS(access(("/proc/" + std::to_string(pid)).c_str(), F_OK), ENOENT);
}
CASE(stat_fields) {
    auto all = stat_fields(getpid());
    EXPECT(all.size() >= 42);
    EXPECT_EQ(all[0], "R");
    EXPECT_EQ(atoi(all[1].c_str()), getppid());
    EXPECT_EQ(atoi(all[2].c_str()), getpgrp());
    EXPECT_EQ(atoi(all[3].c_str()), getsid(0));
    EXPECT_EQ(all[17], "1");
    EXPECT(atoll(all[20].c_str()) > 0);
    EXPECT(atoll(all[21].c_str()) > 0);
}
CASE(stat_name_with_parentheses) {
    OK(prctl(PR_SET_NAME, "a) b ("));
    EXPECT(own("stat").find("(a) b () R") != std::string::npos);
    EXPECT_EQ(own("comm"), "a) b (\n");
}
CASE(comm_writable) {
    int fd = OK(open("/proc/self/comm", O_WRONLY));
    EXPECT_EQ(write(fd, "changed", 7), 7);
    EXPECT_EQ(own("comm"), "changed\n");
}
CASE(stat_states) {
    pid_t pid = child([] { pause(); });
    EXPECT(reaches_state(pid, "S"));
    kill(pid, SIGSTOP);
    EXPECT(reaches_state(pid, "T"));
    kill(pid, SIGKILL);
    EXPECT(reaches_state(pid, "Z"));
    wait_for(pid);
}
CASE(stat_start_time_grows) {
    pid_t a = child([] { pause(); });
    sleep_ms(30);
    pid_t b = child([] { pause(); });
    EXPECT(atoll(stat_fields(b)[19].c_str()) > atoll(stat_fields(a)[19].c_str()));
    kill(a, SIGKILL);
    kill(b, SIGKILL);
}
CASE(status_fields) {
    auto all = fields(own("status"));
    EXPECT_EQ(all["Pid"], std::to_string(getpid()));
    EXPECT_EQ(all["Tgid"], std::to_string(getpid()));
    EXPECT_EQ(all["PPid"], std::to_string(getppid()));
    EXPECT_EQ(all["Threads"], "1");
    EXPECT_EQ(words(all["Uid"]).at(1), std::to_string(geteuid()));
    EXPECT_EQ(words(all["Gid"]).at(0), std::to_string(getgid()));
    for (const char* name : {"Name",
                             "State",
                             "TracerPid",
                             "FDSize",
                             "Groups",
                             "VmSize",
                             "VmRSS",
                             "VmPeak",
                             "SigQ",
                             "SigPnd",
                             "SigBlk",
                             "SigIgn",
                             "SigCgt",
                             "CapInh",
                             "CapPrm",
                             "CapEff",
                             "CapBnd",
                             "CapAmb",
                             "NoNewPrivs",
                             "Seccomp",
                             "Cpus_allowed",
                             "Cpus_allowed_list",
                             "Mems_allowed_list",
                             "voluntary_ctxt_switches"})
        if (!all.count(name)) fail(__FILE__, __LINE__, std::string("status has no ") + name);
}
CASE(status_signals) {
    signal(SIGUSR1, [](int) {});
    signal(SIGUSR2, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGALRM);
    auto all = fields(own("status"));
    auto bit = [&](const char* name, int number) {
        return strtoull(all[name].c_str(), nullptr, 16) >> (number - 1) & 1;
    };
    EXPECT(bit("SigCgt", SIGUSR1));
    EXPECT(bit("SigIgn", SIGUSR2));
    EXPECT(bit("SigBlk", SIGALRM));
    EXPECT(bit("SigPnd", SIGALRM) || bit("ShdPnd", SIGALRM));
}
CASE(status_memory_grows) {
    auto rss = [] { return atoll(fields(own("status"))["VmRSS"].c_str()); };
    long long before = rss();
    char* at = (char*)OK(mmap(nullptr, 32 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    memset(at, 1, 32 << 20);
    EXPECT(rss() >= before + 20 * 1024);
}
CASE(statm_fields) {
    auto all = words(own("statm"));
    EXPECT_EQ(all.size(), 7);
    EXPECT(atoll(all[0].c_str()) >= atoll(all[1].c_str()));
}
CASE(cmdline_and_environ) {
    std::string line = own("cmdline");
    EXPECT(line.find("proc") != std::string::npos);
    EXPECT_EQ(line.back(), 0);
    own("environ");
}
CASE(cmdline_of_zombie_is_empty) {
    pid_t pid = child([] {});
    EXPECT(reaches_state(pid, "Z"));
    EXPECT_EQ(of(pid, "cmdline"), "");
    wait_for(pid);
}
CASE(exe_cwd_root) {
    char cwd[4096] = {};
    OK(syscall(SYS_getcwd, cwd, sizeof cwd));
    EXPECT_EQ(link_of("/proc/self/cwd"), cwd);
    EXPECT_EQ(link_of("/proc/self/root"), "/");
    struct stat a, b;
    OK(stat("/proc/self/exe", &a));
    OK(stat(link_of("/proc/self/exe").c_str(), &b));
    EXPECT_EQ(a.st_ino, b.st_ino);
}
CASE(cwd_deleted) {
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    std::string link = link_of("/proc/self/cwd");
    EXPECT(link.size() > 10 && link.substr(link.size() - 10) == " (deleted)");
}
CASE(fd_links) {
    write_file("f", "x");
    int fd = OK(open("f", O_RDONLY));
    char cwd[4096] = {};
    OK(syscall(SYS_getcwd, cwd, sizeof cwd));
    std::string path = "/proc/self/fd/" + std::to_string(fd);
    EXPECT_EQ(link_of(path), std::string(cwd) + "/f");
    OK(rename("f", "g"));
    EXPECT_EQ(link_of(path), std::string(cwd) + "/g");
    OK(unlink("g"));
    EXPECT_EQ(link_of(path), std::string(cwd) + "/g (deleted)");
    EXPECT_EQ(read_all(path.c_str()), "x");
    EXPECT(names("/proc/self/fd").count(std::to_string(fd)));
    close(fd);
    FAILS(access(path.c_str(), F_OK), ENOENT);
}
CASE(fd_of_other_process) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 77);
        write(77, "r", 1);
        pause();
    });
    OK(read(ends[0], scratch(), 1));
    int fd = OK(open(("/proc/" + std::to_string(pid) + "/fd/77").c_str(), O_WRONLY));
    EXPECT_EQ(write(fd, "x", 1), 1);
    EXPECT_EQ(read(ends[0], scratch(), 10), 1);
    kill(pid, SIGKILL);
}
CASE(fdinfo_fields) {
    write_file("f", "0123456789");
    int fd = OK(open("f", O_RDONLY));
    OK(lseek(fd, 7, SEEK_SET));
    auto all = fields(own("fdinfo/" + std::to_string(fd)));
    EXPECT_EQ(all["pos"], "7");
    EXPECT(all.count("flags") && all.count("mnt_id"));
}
CASE(fd_anonymous_names) {
    int fd = OK(syscall(SYS_eventfd2, 0, 0));
    EXPECT_EQ(link_of("/proc/self/fd/" + std::to_string(fd)), "anon_inode:[eventfd]");
    fd = OK(syscall(SYS_epoll_create1, 0));
    EXPECT_EQ(link_of("/proc/self/fd/" + std::to_string(fd)), "anon_inode:[eventpoll]");
    fd = OK(syscall(SYS_memfd_create, "thing", 0));
    EXPECT_EQ(link_of("/proc/self/fd/" + std::to_string(fd)), "/memfd:thing (deleted)");
}
CASE(dev_fd_links) {
    int ends[2];
    OK(pipe(ends));
    write(ends[1], "abc", 3);
    close(ends[1]);
    EXPECT_EQ(read_all(("/dev/fd/" + std::to_string(ends[0])).c_str()), "abc");
    OK(access("/dev/stdin", F_OK));
}
CASE(maps_show_mapping) {
    void* at = OK(mmap(nullptr, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mprotect((char*)at + 4096, 4096, PROT_READ | PROT_WRITE));
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%lx-%lx rw-p 00000000 00:00 0", (long)at + 4096, (long)at + 8192);
    EXPECT(own("maps").find(wanted) != std::string::npos);
}
CASE(maps_show_file) {
    write_file("f", std::string(8192, 'x'));
    int fd = OK(open("f", O_RDONLY));
    OK(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 4096));
    char cwd[4096] = {};
    OK(syscall(SYS_getcwd, cwd, sizeof cwd));
    bool found = false;
    for (auto& line : lines(own("maps"))) {
        auto parts = words(line);
        if (parts.size() == 6 && parts[5] == std::string(cwd) + "/f") {
            found = true;
            EXPECT_EQ(parts[1], "r--s");
            EXPECT_EQ(parts[2], "00001000");
            struct stat st;
            OK(fstat(fd, &st));
            EXPECT_EQ(parts[4], std::to_string(st.st_ino));
        }
    }
    EXPECT(found);
}
CASE(maps_special_names) {
    std::string text = own("maps");
    for (const char* name : {"[stack]", "[heap]", "[vdso]"})
        if (text.find(name) == std::string::npos) {
            if (!strcmp(name, "[heap]")) continue;
            fail(__FILE__, __LINE__, std::string("no ") + name);
        }
}
CASE(maps_sorted_and_apart) {
    unsigned long last = 0;
    for (auto& line : lines(own("maps"))) {
        unsigned long from, to;
        EXPECT_EQ(sscanf(line.c_str(), "%lx-%lx", &from, &to), 2);
        EXPECT(from >= last && to > from);
        last = to;
    }
}
CASE(smaps_rollup_or_smaps) {
    std::string text = own("smaps");
    EXPECT(text.find("Rss:") != std::string::npos);
    EXPECT(text.find("Pss:") != std::string::npos);
}
CASE(mem_reads_and_writes) {
    static char word[] = "secret";
    int fd = OK(open("/proc/self/mem", O_RDWR));
    char copy[7] = {};
    EXPECT_EQ(pread(fd, copy, 6, (off_t)word), 6);
    EXPECT_EQ(std::string(copy), "secret");
    EXPECT_EQ(pwrite(fd, "S", 1, (off_t)word), 1);
    EXPECT_EQ(word[0], 'S');
    FAILS(pread(fd, copy, 6, 0x10), EIO);
}
CASE(mem_of_a_child) {
    static volatile int word = 7;
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        char c;
        close(ends[1]);
        if (read(ends[0], &c, 1) != 0 || word != 9) _exit(1);
    });
    close(ends[0]);
    int fd = OK(open(("/proc/" + std::to_string(pid) + "/mem").c_str(), O_RDWR));
    int value = 0;
    EXPECT_EQ(pread(fd, &value, sizeof(value), (off_t)&word), (long)sizeof(value));
    EXPECT_EQ(value, 7);
    value = 9;
    EXPECT_EQ(OK(lseek(fd, (off_t)&word, SEEK_SET)), (long)&word);
    EXPECT_EQ(write(fd, &value, sizeof(value)), (long)sizeof(value));
    EXPECT_EQ(word, 7);
    close(ends[1]);
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(pread(fd, &value, sizeof(value), (off_t)&word), 0);
}
CASE(task_directory) {
    pthread_t thread;
    static volatile pid_t tid;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            prctl(PR_SET_NAME, "worker");
            tid = syscall(SYS_gettid);
            for (;;) pause();
        },
        nullptr);
    while (tid == 0) sleep_ms(1);
    EXPECT_EQ(names("/proc/self/task").size(), 4);
    EXPECT_EQ(own("task/" + std::to_string(tid) + "/comm"), "worker\n");
    OK(access(("/proc/" + std::to_string(tid) + "/status").c_str(), F_OK));
    EXPECT(!names("/proc").count(std::to_string(tid)));
}
// A thread of this name, which waits for ever.
static pid_t waiting_thread(const char* name, void* (*more)(void*) = nullptr) {
    static volatile pid_t tid;
    static void* (*body)(void*);
    tid = 0;
    body = more;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void* called) -> void* {
            prctl(PR_SET_NAME, called);
            if (body) body(nullptr);
            tid = syscall(SYS_gettid);
            for (;;) pause();
        },
        (void*)name);
    while (tid == 0) sleep_ms(1);
    return tid;
}
CASE(directory_of_a_thread) {
    pid_t tid = waiting_thread("worker");
    std::string number = std::to_string(tid);
    EXPECT_EQ(of(tid, "comm"), "worker\n");
    auto status = fields(of(tid, "status"));
    EXPECT_EQ(status["Name"], "worker");
    EXPECT_EQ(status["Pid"], number);
    EXPECT_EQ(status["Tgid"], std::to_string(getpid()));
    EXPECT_EQ(of(tid, "stat").substr(0, number.size() + 2), number + " (");
    EXPECT_EQ(names("/proc/" + number + "/task").size(), 4);
    EXPECT(names("/proc/" + number + "/task").count(std::to_string(getpid())));
    EXPECT_EQ(read_all(("/proc/" + number + "/task/" + number + "/comm").c_str()), "worker\n");
    EXPECT_EQ(link_of("/proc/" + number + "/exe"), link_of("/proc/self/exe"));
    EXPECT_EQ(of(tid, "cmdline"), own("cmdline"));
    int fd = OK(open("file", O_CREAT | O_RDWR, 0600));
    EXPECT_EQ(link_of("/proc/" + number + "/fd/" + std::to_string(fd)), link_of("/proc/self/fd/" + std::to_string(fd)));
    EXPECT(!names("/proc").count(number));
    // As a leader it has what threads do not show, and the other way round.
    for (const char* name : {"timens_offsets", "coredump_filter", "task", "mountstats"}) {
        EXPECT(names("/proc/" + number).count(name));
        if (name != std::string("coredump_filter")) EXPECT(!names("/proc/self/task/" + number).count(name));
    }
    EXPECT(!names("/proc/" + number).count("children"));
}
CASE(directory_of_a_thread_ends_with_it) {
    static volatile bool go;
    static volatile pid_t tid;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            tid = syscall(SYS_gettid);
            while (!go) sleep_ms(1);
            return nullptr;
        },
        nullptr);
    while (tid == 0) sleep_ms(1);
    std::string path = "/proc/" + std::to_string(tid);
    int directory = OK(open(path.c_str(), O_RDONLY | O_DIRECTORY));
    close(OK(openat(directory, "stat", O_RDONLY)));
    go = true;
    pthread_join(thread, nullptr);
    for (int i = 0; i < 5000 && access(path.c_str(), F_OK) == 0; ++i) sleep_ms(1);
    FAILS(access(path.c_str(), F_OK), ENOENT);
    FAILS_ANY(openat(directory, "stat", O_RDONLY), ENOENT, ESRCH);
}
CASE(thread_files) {
    std::string path = "/proc/self/task/" + std::to_string(getpid());
    auto all = names(path);
    for (const char* name :
         {"attr",        "auxv",    "cgroup",  "cmdline",      "comm",    "cwd",       "environ",
          "exe",         "fd",      "fdinfo",  "io",           "limits",  "maps",      "mem",
          "mountinfo",   "mounts",  "net",     "ns",           "oom_adj", "oom_score", "oom_score_adj",
          "personality", "root",    "smaps",   "smaps_rollup", "stat",    "statm",     "status",
          "syscall",     "uid_map", "gid_map", "projid_map",   "wchan"})
        if (!all.count(name)) fail(__FILE__, __LINE__, std::string("no ") + name);
    EXPECT(names(path + "/net").count("tcp"));
    EXPECT_EQ(read_all((path + "/projid_map").c_str()), own("projid_map"));
}
CASE(descriptors_after_exec_of_another_thread) {
    // The leader is another task then; its directory stays that of the process.
    int ends[2];
    OK(pipe(ends));
    int fd = OK(open("file", O_CREAT | O_RDWR, 0600));
    pid_t pid = child([&] {
        static int input;
        input = ends[0];
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                dup2(input, 0);  // it waits there
                execl("/bin/cat", "cat", nullptr);
                _exit(1);
            },
            nullptr);
        for (;;) pause();
    });
    if (access("/bin/cat", X_OK) != 0) skip("no /bin/cat");
    std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
    // The entry is in the cache before and after.
    for (int i = 0; i < 5000 && of(pid, "comm") != "cat\n"; ++i) {
        char text[64];
        (void)!readlink(path.c_str(), text, sizeof text);  // not there for a moment
        sleep_ms(1);
    }
    EXPECT_EQ(of(pid, "comm"), "cat\n");
    // For moments around the exec it is not there.
    char target[4096] = "";
    for (int i = 0; i < 5000 && readlink(path.c_str(), target, sizeof target - 1) < 0; ++i) sleep_ms(1);
    EXPECT_EQ(std::string(target), link_of("/proc/self/fd/" + std::to_string(fd)));
    kill(pid, SIGKILL);
    wait_for(pid);
}
CASE(children_of_threads) {
    static pid_t made;
    pid_t tid = waiting_thread("maker", [](void*) -> void* {
        made = child([] { pause(); });
        return nullptr;
    });
    std::string base = "/proc/self/task/";
    if (access((base + std::to_string(tid) + "/children").c_str(), F_OK) != 0) skip("the kernel has no children file");
    EXPECT_EQ(read_all((base + std::to_string(tid) + "/children").c_str()), std::to_string(made) + " ");
    EXPECT_EQ(read_all((base + std::to_string(getpid()) + "/children").c_str()), "");
    kill(made, SIGKILL);
    wait_for(made);
    EXPECT_EQ(read_all((base + std::to_string(tid) + "/children").c_str()), "");
}
CASE(attributes_without_security_module) {
    std::string text;
    int fd = open("/proc/self/attr/current", O_RDONLY);
    if (fd < 0) skip("no attributes");
    char byte;
    if (read(fd, &byte, 1) >= 0) skip("there is a security module");
    FAILS(pread(fd, &byte, 1, 0), EINVAL);
    fd = OK(open("/proc/self/attr/exec", O_WRONLY));
    FAILS(write(fd, "x", 1), EINVAL);
}
CASE(oom_adj_follows) {
    pid_t pid = child([] { pause(); });
    std::string base = "/proc/" + std::to_string(pid) + "/";
    write_file((base + "oom_score_adj").c_str(), "500");
    EXPECT_EQ(of(pid, "oom_adj"), "8\n");
    write_file((base + "oom_adj").c_str(), "10");
    EXPECT_EQ(of(pid, "oom_score_adj"), "588\n");
    write_file((base + "oom_adj").c_str(), "15");
    EXPECT_EQ(of(pid, "oom_score_adj"), "1000\n");
    EXPECT_EQ(of(pid, "oom_adj"), "15\n");
    int fd = OK(open((base + "oom_adj").c_str(), O_WRONLY));
    FAILS(write(fd, "16", 2), EINVAL);
    FAILS(write(fd, "-18", 3), EINVAL);
    kill(pid, SIGKILL);
    wait_for(pid);
}
CASE(numa_maps_file) {
    if (access("/proc/self/numa_maps", F_OK) != 0) skip("the kernel has no numa_maps");
    std::string text = own("numa_maps");
    EXPECT(text.find(" default") != std::string::npos);
    EXPECT(text.find(" stack") != std::string::npos);
    EXPECT(text.find("file=" + link_of("/proc/self/exe")) != std::string::npos);
}
CASE(mountstats_file) {
    std::string text = own("mountstats");
    EXPECT(text.find(" mounted on / with fstype ") != std::string::npos);
    EXPECT(text.find(" mounted on /proc with fstype proc\n") != std::string::npos);
}
CASE(children_file) {
    pid_t pid = child([] { pause(); });
    std::string path = "task/" + std::to_string(getpid()) + "/children";
    if (access(("/proc/self/" + path).c_str(), F_OK) != 0) skip("the kernel has no children file");
    EXPECT_EQ(atoi(own(path).c_str()), pid);
    kill(pid, SIGKILL);
}
CASE(limits_file) {
    rlimit limit{123, 456};
    OK(setrlimit(RLIMIT_NOFILE, &limit));
    for (auto& line : lines(own("limits")))
        if (line.rfind("Max open files", 0) == 0) {
            auto parts = words(line);
            EXPECT_EQ(parts.at(3), "123");
            EXPECT_EQ(parts.at(4), "456");
            return;
        }
    fail(__FILE__, __LINE__, "limits has no Max open files");
}
CASE(oom_score_adj) {
    int fd = OK(open("/proc/self/oom_score_adj", O_RDWR));
    EXPECT_EQ(write(fd, "500", 3), 3);
    EXPECT_EQ(atoi(own("oom_score_adj").c_str()), 500);
    FAILS(write(fd, "5000", 4), EINVAL);
    EXPECT(atoi(own("oom_score").c_str()) >= 0);
}
CASE(cgroup_file) {
    for (auto& line : lines(own("cgroup"))) EXPECT(line.find(':') != std::string::npos);
}
CASE(id_maps) {
    auto all = words(own("uid_map"));
    EXPECT(all.size() >= 3);
    EXPECT(words(own("gid_map")).size() >= 3);
}
CASE(namespace_links) {
    for (const char* name : {"mnt", "pid", "net", "ipc", "uts", "user"}) {
        std::string link = link_of(std::string("/proc/self/ns/") + name);
        EXPECT_EQ(link.substr(0, strlen(name) + 2), std::string(name) + ":[");
        OK(open((std::string("/proc/self/ns/") + name).c_str(), O_RDONLY));
    }
}
CASE(namespace_files_stat_and_setns) {
    int uts = OK(open("/proc/self/ns/uts", O_RDONLY)), same = OK(open("/proc/self/ns/uts", O_RDONLY));
    struct stat one, two;
    OK(fstat(uts, &one));
    OK(fstat(same, &two));
    EXPECT_EQ(one.st_ino, two.st_ino);
    EXPECT_EQ(one.st_dev, two.st_dev);
    EXPECT_EQ("uts:[" + std::to_string(one.st_ino) + "]", link_of("/proc/self/ns/uts"));
    FAILS(open("/proc/self/ns/uts", O_RDWR), EPERM);
    FAILS(setns(uts, CLONE_NEWNET), EINVAL);
    FAILS(setns(0, 0), EINVAL);
    in_child([&] {
        if (unshare(CLONE_NEWUTS) != 0) skip("may not unshare");
        OK(stat("/proc/self/ns/uts", &two));
        EXPECT(one.st_ino != two.st_ino);
        OK(setns(uts, CLONE_NEWUTS));
        OK(stat("/proc/self/ns/uts", &two));
        EXPECT_EQ(one.st_ino, two.st_ino);
        OK(setns(uts, 0));
    });
}
CASE(mounts_files) {
    bool proc = false, root = false;
    for (auto& line : lines(own("mounts"))) {
        auto parts = words(line);
        EXPECT_EQ(parts.size(), 6);
        proc = proc || (parts[1] == "/proc" && parts[2] == "proc");
        root = root || parts[1] == "/";
    }
    EXPECT(proc && root);
    EXPECT_EQ(link_of("/proc/mounts"), "self/mounts");
}
CASE(mountinfo_file) {
    for (auto& line : lines(own("mountinfo"))) {
        EXPECT(words(line).size() >= 9);
        EXPECT(line.find(" - ") != std::string::npos);
    }
}
CASE(personality_and_others_exist) {
    for (const char* name :
         {"wchan", "auxv", "io", "sched", "schedstat", "stack", "syscall", "timerslack_ns", "loginuid", "mountstats"})
        access(("/proc/self/" + std::string(name)).c_str(), F_OK);
    EXPECT(own("auxv").size() % 16 == 0);
}
CASE(write_to_read_only_file) {
    FAILS_ANY(open("/proc/new-file", O_WRONLY | O_CREAT, 0600), ENOENT, EACCES, EPERM);
    FAILS_ANY(mkdir("/proc/new", 0700), ENOENT, EACCES, EPERM);
    FAILS_ANY(unlink("/proc/stat"), EPERM, EACCES, ENOENT);
}
CASE(small_reads_join) {
    int fd = OK(open("/proc/self/status", O_RDONLY));
    std::string joined;
    char c;
    while (read(fd, &c, 1) == 1) joined += c;
    EXPECT(joined.find("Pid:\t" + std::to_string(getpid()) + "\n") != std::string::npos);
    OK(lseek(fd, 0, SEEK_SET));
    EXPECT_EQ(read(fd, &c, 1), 1);
    EXPECT_EQ(c, 'N');
}
CASE(sizes_are_zero) {
    struct stat st;
    OK(stat("/proc/self/status", &st));
    EXPECT(S_ISREG(st.st_mode));
    EXPECT_EQ(st.st_size, 0);
    OK(stat("/proc/self", &st));
    EXPECT(S_ISDIR(st.st_mode));
    EXPECT_EQ(st.st_uid, geteuid());
}
CASE(user_sees_others) {
    if (geteuid() != 0) skip("needs root");
    pid_t parent = getpid();
    in_child([&] {
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        of(parent, "stat");
        of(parent, "cmdline");
        FAILS(open(("/proc/" + std::to_string(parent) + "/mem").c_str(), O_RDONLY), EACCES);
        FAILS(readlink(("/proc/" + std::to_string(parent) + "/exe").c_str(), scratch(), 100), EACCES);
    });
}

// ---- the whole system

CASE(meminfo_fields) {
    auto all = fields(read_all("/proc/meminfo"));
    for (const char* name : {"MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree",
                             "Active", "Inactive", "Shmem", "Slab"})
        if (!all.count(name)) fail(__FILE__, __LINE__, std::string("meminfo has no ") + name);
    EXPECT(atoll(all["MemTotal"].c_str()) >= atoll(all["MemAvailable"].c_str()));
    EXPECT(all["MemTotal"].find(" kB") != std::string::npos);
}
CASE(cpuinfo_counts) {
    int processors = 0;
    std::string text = read_all("/proc/cpuinfo");
    for (auto& line : lines(text)) processors += line.rfind("processor", 0) == 0;
    EXPECT_EQ(processors, sysconf(_SC_NPROCESSORS_ONLN));
    EXPECT(text.find("flags") != std::string::npos && text.find("model name") != std::string::npos);
}
CASE(stat_file) {
    std::string text = read_all("/proc/stat");
    auto all = lines(text);
    EXPECT(words(all[0])[0] == "cpu" && words(all[0]).size() >= 8);
    EXPECT_EQ(words(all[1])[0], "cpu0");
    for (const char* name : {"\nbtime ", "\nprocesses ", "\nctxt ", "\nprocs_running "})
        EXPECT(text.find(name) != std::string::npos);
}
CASE(uptime_and_loadavg) {
    auto up = words(read_all("/proc/uptime"));
    EXPECT(up.size() == 2 && atof(up[0].c_str()) > 0);
    auto load = words(read_all("/proc/loadavg"));
    EXPECT_EQ(load.size(), 5);
    EXPECT(load[3].find('/') != std::string::npos);
}
CASE(version_and_uname_agree) {
    utsname name;
    OK(uname(&name));
    EXPECT(read_all("/proc/version").find(std::string("Linux version ") + name.release) == 0);
    EXPECT_EQ(read_all("/proc/sys/kernel/osrelease"), std::string(name.release) + "\n");
    EXPECT_EQ(read_all("/proc/sys/kernel/ostype"), "Linux\n");
    EXPECT_EQ(read_all("/proc/sys/kernel/hostname"), std::string(name.nodename) + "\n");
}
CASE(sys_values) {
    EXPECT(atoll(read_all("/proc/sys/kernel/pid_max").c_str()) > 100);
    EXPECT(atoll(read_all("/proc/sys/fs/file-max").c_str()) > 100);
    EXPECT(atoll(read_all("/proc/sys/kernel/threads-max").c_str()) > 10);
    EXPECT(read_all("/proc/sys/vm/overcommit_memory").size() >= 2);
    EXPECT(atoll(read_all("/proc/sys/fs/pipe-max-size").c_str()) >= 65536);
    EXPECT(atoll(read_all("/proc/sys/kernel/ngroups_max").c_str()) >= 32);
    EXPECT_EQ(read_all("/proc/sys/kernel/random/uuid").size(), 37);
    EXPECT(read_all("/proc/sys/kernel/random/boot_id").size() == 37);
}
CASE(filesystems_file) {
    std::string text = read_all("/proc/filesystems");
    for (const char* name : {"proc", "tmpfs"}) EXPECT(text.find(std::string("nodev\t") + name) != std::string::npos);
}
CASE(net_files) {
    std::string text = read_all("/proc/net/dev");
    EXPECT(text.find("lo:") != std::string::npos);
    EXPECT(read_all("/proc/net/unix").find("Inode") != std::string::npos);
    EXPECT(link_of("/proc/net") == "self/net");
}
CASE(cmdline_of_kernel) { EXPECT(read_all("/proc/cmdline").back() == '\n'); }
CASE(statfs_of_proc) {
    struct statfs fs;
    OK(statfs("/proc/self", &fs));
    EXPECT_EQ(fs.f_type, 0x9fa0);
}
CASE(sys_cpu_files) {
    if (access("/sys/devices/system/cpu", F_OK) != 0) skip("no /sys");
    std::string online = read_all("/sys/devices/system/cpu/online");
    int first = 0, last = 0;
    if (sscanf(online.c_str(), "%d-%d", &first, &last) == 2) {
        EXPECT_EQ(last + 1, sysconf(_SC_NPROCESSORS_ONLN));
    } else {
        EXPECT_EQ(1, sysconf(_SC_NPROCESSORS_ONLN));
    }
    OK(access("/sys/devices/system/cpu/cpu0", F_OK));
    OK(access("/sys/devices/system/cpu/possible", F_OK));
}
CASE(sys_is_listed) {
    if (access("/sys/class", F_OK) != 0) skip("no /sys");
    auto all = names("/sys");
    for (const char* name : {"class", "devices", "fs", "kernel"})
        if (!all.count(name)) fail(__FILE__, __LINE__, std::string("/sys has no ") + name);
}
CASE(affinity_matches_cpuinfo) {
    cpu_set_t set;
    OK(sched_getaffinity(0, sizeof set, &set));
    EXPECT(CPU_COUNT(&set) <= sysconf(_SC_NPROCESSORS_CONF));
}

// ---- /dev

CASE(dev_nodes) {
    struct Node {
        const char* path;
        int major, minor;
    };
    for (auto& node : {Node{"/dev/null", 1, 3},
                       {"/dev/zero", 1, 5},
                       {"/dev/full", 1, 7},
                       {"/dev/random", 1, 8},
                       {"/dev/urandom", 1, 9},
                       {"/dev/tty", 5, 0}}) {
        struct stat st;
        if (stat(node.path, &st) != 0) fail(__FILE__, __LINE__, std::string("no ") + node.path);
        EXPECT(S_ISCHR(st.st_mode));
        EXPECT_EQ(st.st_rdev, makedev(node.major, node.minor));
        EXPECT_EQ(st.st_mode & 0777, 0666);
    }
}
CASE(dev_random_reads) { EXPECT_EQ(read(OK(open("/dev/random", O_RDONLY)), scratch(), 32), 32); }
CASE(dev_links) {
    EXPECT_EQ(link_of("/dev/fd"), "/proc/self/fd");
    EXPECT_EQ(link_of("/dev/stdout"), "/proc/self/fd/1");
    OK(access("/dev/pts", F_OK));
    OK(access("/dev/ptmx", F_OK));
    OK(access("/dev/shm", F_OK));
}
CASE(unknown_entry) {
    FAILS(open("/proc/nothing", O_RDONLY), ENOENT);
    FAILS(open("/proc/self/nothing", O_RDONLY), ENOENT);
    FAILS(open("/proc/99999999/stat", O_RDONLY), ENOENT);
    FAILS(open("/proc/0/stat", O_RDONLY), ENOENT);
}
CASE(entry_of_ended_process) {
    pid_t pid = child([] { pause(); });
    int fd = OK(open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY));
    kill(pid, SIGKILL);
    wait_for(pid);
    FAILS(read(fd, scratch(), 100), ESRCH);
}
CASE(poll_of_mounts_and_files) {
    pollfd watch{OK(open("/proc/self/status", O_RDONLY)), POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
}
