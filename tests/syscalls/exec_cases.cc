// execve and the loader: arguments, environment, auxiliary vector, scripts, what survives and what does not, and files
// that are no programs. The binary runs itself again as a helper (`--helper=WHAT`).
#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <vector>

#include "case.h"

extern char** environ;

static std::string own_path() {
    char buffer[4096] = {};
    OK(readlink("/proc/self/exe", buffer, sizeof buffer - 1));
    return buffer;
}
// What the helper prints when run with these arguments.
static std::string run_helper(const std::string& what, const std::vector<std::string>& more = {},
                              const std::vector<std::string>& environment = {}, void (*before)() = nullptr) {
    int ends[2];
    OK(pipe(ends));
    std::string path = own_path();
    pid_t pid = child([&] {
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        if (before) before();
        std::string option = "--helper=" + what;
        std::vector<char*> arguments{(char*)path.c_str(), (char*)option.c_str()}, variables;
        for (auto& one : more) arguments.push_back((char*)one.c_str());
        for (auto& one : environment) variables.push_back((char*)one.c_str());
        arguments.push_back(nullptr);
        variables.push_back(nullptr);
        OK(execve(path.c_str(), arguments.data(), variables.data()));
    });
    close(ends[1]);
    std::string output = read_all_fd(ends[0]);
    EXPECT_EXIT(pid, 0);
    return output;
}
static void fails_to_run(const char* path, int error) {
    char* arguments[] = {(char*)path, nullptr};
    char* none[] = {nullptr};
    FAILS(execve(path, arguments, none), error);
}
static void write_program(const char* path, const std::string& content, mode_t mode = 0755) {
    write_file(path, content);
    OK(chmod(path, mode));
}
static void copy_self(const char* path, mode_t mode = 0755) { write_program(path, read_all("/proc/self/exe"), mode); }

int helper_main(int argc, char** argv) {
    std::string what = argv[1] + 9;
    if (what == "arguments") {
        for (int i = 2; i < argc; ++i) printf("[%s]", argv[i]);
    } else if (what == "argument0") {
        printf("%s", argv[0]);
    } else if (what == "environment") {
        for (char** one = environ; *one; ++one) printf("[%s]", *one);
    } else if (what == "length") {
        size_t total = 0;
        for (int i = 2; i < argc; ++i) total += strlen(argv[i]);
        printf("%d %zu", argc - 2, total);
    } else if (what == "signals") {
        struct sigaction handled, ignored;
        sigset_t mask, pending;
        sigaction(SIGUSR1, nullptr, &handled);
        sigaction(SIGUSR2, nullptr, &ignored);
        sigprocmask(0, nullptr, &mask);
        sigpending(&pending);
        stack_t stack{};
        sigaltstack(nullptr, &stack);
        printf("%d %d %d %d %d", handled.sa_handler == SIG_DFL, ignored.sa_handler == SIG_IGN,
               sigismember(&mask, SIGALRM), sigismember(&pending, SIGALRM), (stack.ss_flags & SS_DISABLE) != 0);
    } else if (what == "fds") {
        printf("%d %d", fcntl(100, F_GETFD) >= 0, fcntl(101, F_GETFD) >= 0);
    } else if (what == "auxv") {
        auto random = (const unsigned char*)getauxval(AT_RANDOM);
        printf("%lu %lu %lu %lu %d %s", getauxval(AT_PAGESZ), getauxval(AT_UID), getauxval(AT_SECURE),
               getauxval(AT_CLKTCK), random != nullptr, (const char*)getauxval(AT_EXECFN));
    } else if (what == "ids") {
        printf("%d %d %d %d", getpid(), getppid(), getpgrp(), getsid(0));
    } else if (what == "euid") {
        printf("%d %d %lu", getuid(), geteuid(), getauxval(AT_SECURE));
    } else if (what == "threads") {
        int threads = 0;
        std::string status = read_all("/proc/self/status");
        sscanf(status.c_str() + status.find("Threads:"), "Threads:%d", &threads);
        printf("%d %d", threads, getpid() == syscall(SYS_gettid));
    } else if (what == "name") {
        char name[17] = {};
        prctl(PR_GET_NAME, name);
        printf("%s", name);
    } else if (what == "stack") {
        printf("%d", ((uintptr_t)__builtin_frame_address(0) & 15) == 0);
    } else if (what == "exit") {
        return atoi(argv[2]);
    } else if (what == "wait" || what == "fork-and-wait") {
        if (what != "wait" && fork() != 0) return 0;
        char byte = 'x';
        if (write(1, &byte, 1) != 1) return 1;
        return read(0, &byte, 1) == 0 ? 0 : 1;
    } else if (what == "exec") {
        char* arguments[] = {(char*)"x", (char*)"--helper=wait", nullptr};
        execve(argv[2], arguments, environ);
        return 2;
    } else if (what == "limits") {
        rlimit limit;
        getrlimit(RLIMIT_CORE, &limit);
        printf("%lu", (unsigned long)limit.rlim_cur);
        printf(" %o", umask(0));
    }
    return 0;
}

CASE(arguments_passed) {
    EXPECT_EQ(run_helper("arguments", {"one", "", "three four", "\xff\n"}), "[one][][three four][\xff\n]");
}
CASE(argument0_free) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 1);
        close(ends[1]);
        char* arguments[] = {(char*)"anything", (char*)"--helper=argument0", nullptr};
        OK(execve(own_path().c_str(), arguments, environ));
    });
    close(ends[1]);
    EXPECT_EQ(read_all_fd(ends[0]), "anything");
    EXPECT_EXIT(pid, 0);
}
CASE(environment_passed) { EXPECT_EQ(run_helper("environment", {}, {"A=1", "odd", "B="}), "[A=1][odd][B=]"); }
CASE(many_arguments) { EXPECT_EQ(run_helper("length", std::vector<std::string>(5000, "0123456789")), "5000 50000"); }
CASE(longest_argument) {
    EXPECT_EQ(run_helper("length", {std::string(131071, 'a')}), "1 131071");
    in_child([] {
        std::string large(131072, 'a');
        char* arguments[] = {(char*)"x", large.data(), nullptr};
        FAILS(execve(own_path().c_str(), arguments, environ), E2BIG);
    });
}
CASE(arguments_too_large) {
    in_child([] {
        std::string large(100000, 'a');
        std::vector<char*> arguments(100, large.data());
        arguments.push_back(nullptr);
        FAILS(execve(own_path().c_str(), arguments.data(), environ), E2BIG);
    });
}
CASE(argument_errors) {
    in_child([] {
        std::string path = own_path();
        char* wrong[] = {(char*)bad(), nullptr};
        FAILS(execve(path.c_str(), wrong, environ), EFAULT);
        FAILS(execve(path.c_str(), (char**)bad(), environ), EFAULT);
        FAILS(execve(path.c_str(), environ, (char**)bad()), EFAULT);
        FAILS(execve((char*)bad(), environ, environ), EFAULT);
    });
}
CASE(signals_over_exec) {
    EXPECT_EQ(run_helper("signals", {}, {},
                         [] {
                             signal(SIGUSR1, [](int) {});
                             signal(SIGUSR2, SIG_IGN);
                             sigset_t set;
                             sigemptyset(&set);
                             sigaddset(&set, SIGALRM);
                             sigprocmask(SIG_BLOCK, &set, nullptr);
                             raise(SIGALRM);
                             stack_t stack{scratch(), 0, 65536};
                             sigaltstack(&stack, nullptr);
                         }),
              "1 1 1 1 1");
}
CASE(descriptors_over_exec) {
    EXPECT_EQ(run_helper("fds", {}, {},
                         [] {
                             dup2(0, 100);
                             dup3(0, 101, O_CLOEXEC);
                         }),
              "1 0");
}
CASE(auxiliary_vector) { EXPECT_EQ(run_helper("auxv"), "4096 " + std::to_string(getuid()) + " 0 100 1 " + own_path()); }
CASE(identity_kept) {
    static int ends[2];
    OK(pipe(ends));
    std::string output = run_helper("ids", {}, {}, [] {
        setsid();
        int ids[] = {getpid(), getppid()};
        write(ends[1], ids, sizeof ids);
    });
    int ids[2];
    OK(read(ends[0], ids, sizeof ids));
    std::string pid = std::to_string(ids[0]);
    EXPECT_EQ(output, pid + " " + std::to_string(ids[1]) + " " + pid + " " + pid);
}
CASE(threads_end) {
    EXPECT_EQ(run_helper("threads", {}, {},
                         [] {
                             pthread_t thread;
                             for (int i = 0; i < 3; ++i)
                                 pthread_create(
                                     &thread, nullptr,
                                     [](void*) -> void* {
                                         for (;;) pause();
                                     },
                                     nullptr);
                             sleep_ms(10);
                         }),
              "1 1");
}
CASE(exec_from_thread) {
    static std::string path;
    path = own_path();
    pid_t pid = child([] {
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"21", nullptr};
                execve(path.c_str(), arguments, environ);
                return nullptr;
            },
            nullptr);
        for (;;) pause();
    });
    EXPECT_EXIT(pid, 21);
}
CASE(name_is_set) {
    copy_self("a-rather-long-program-name");
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 1);
        close(ends[1]);
        char* arguments[] = {(char*)"x", (char*)"--helper=name", nullptr};
        OK(execve("a-rather-long-program-name", arguments, environ));
    });
    close(ends[1]);
    EXPECT_EQ(read_all_fd(ends[0]), "a-rather-long-p");
    EXPECT_EXIT(pid, 0);
}
CASE(stack_aligned) {
    for (const char* text : {"", "a", "ab", "abcdefg"}) EXPECT_EQ(run_helper("stack", {text}), "1");
}
CASE(limits_and_umask_kept) {
    EXPECT_EQ(run_helper("limits", {}, {},
                         [] {
                             rlimit limit{4096, 8192};
                             setrlimit(RLIMIT_CORE, &limit);
                             umask(0123);
                         }),
              run_helper("limits", {}, {}, [] {
                  rlimit limit{4096, 8192};
                  setrlimit(RLIMIT_CORE, &limit);
                  umask(0123);
              }));
}
CASE(proc_shows_new_program) {
    copy_self("program");
    pid_t pid = child([] {
        char* arguments[] = {(char*)"first", (char*)"--helper=exit", (char*)"0", nullptr};
        ::raise(SIGSTOP);
        execve("program", arguments, environ);
    });
    int status;
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    kill(pid, SIGCONT);
    EXPECT_EXIT(pid, 0);
}
CASE(exec_many_times) {
    for (int i = 0; i < 20; ++i) EXPECT_EQ(run_helper("arguments", {std::to_string(i)}), "[" + std::to_string(i) + "]");
}
CASE(vfork_exec) {
    std::string path = own_path();
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"17", nullptr};
    pid_t pid = vfork();
    if (pid == 0) {
        execve(path.c_str(), arguments, environ);
        _exit(99);
    }
    EXPECT_EXIT(pid, 17);
}
CASE(vfork_exec_failure_leaves_parent) {
    char* arguments[] = {nullptr};
    static volatile int error;
    pid_t pid = vfork();
    if (pid == 0) {
        execve("/nothing", arguments, arguments);
        error = errno;
        _exit(3);
    }
    EXPECT_EXIT(pid, 3);
    EXPECT_EQ(error, ENOENT);
}
CASE(execveat_forms) {
    copy_self("program");
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"8", nullptr};
    int dir = OK(open(".", O_RDONLY | O_DIRECTORY)), file = OK(open("program", O_RDONLY));
    EXPECT_EXIT(child([&] { OK(syscall(SYS_execveat, dir, "program", arguments, environ, 0)); }), 8);
    EXPECT_EXIT(child([&] { OK(syscall(SYS_execveat, file, "", arguments, environ, AT_EMPTY_PATH)); }), 8);
    in_child([&] {
        FAILS(syscall(SYS_execveat, file, "", arguments, environ, 0), ENOENT);
        FAILS(syscall(SYS_execveat, -1, "program", arguments, environ, 0), EBADF);
        FAILS(syscall(SYS_execveat, dir, "program", arguments, environ, 0x77), EINVAL);
        OK(symlink("program", "l"));
        FAILS(syscall(SYS_execveat, dir, "l", arguments, environ, AT_SYMLINK_NOFOLLOW), ELOOP);
    });
}
CASE(fexecve_of_unlinked) {
    copy_self("program");
    int fd = OK(open("program", O_RDONLY | O_CLOEXEC));
    OK(unlink("program"));
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"9", nullptr};
    EXPECT_EXIT(child([&] { OK(fexecve(fd, arguments, environ)); }), 9);
}
CASE(exec_of_memfd) {
    int fd = OK(syscall(SYS_memfd_create, "program", 0));
    std::string self = read_all("/proc/self/exe");
    EXPECT_EQ(write(fd, self.data(), self.size()), self.size());
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"6", nullptr};
    EXPECT_EXIT(child([&] { OK(fexecve(fd, arguments, environ)); }), 6);
}

// ---- scripts

static int run_program(const char* path, std::vector<const char*> arguments, std::string* output = nullptr) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 1);
        close(ends[1]);
        arguments.push_back(nullptr);
        OK(execve(path, (char**)arguments.data(), environ));
    });
    close(ends[1]);
    std::string text = read_all_fd(ends[0]);
    if (output) *output = text;
    int status = wait_for(pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
CASE(script_with_one_argument) {
    copy_self("interpreter");
    char cwd[4096];
    OK(syscall(SYS_getcwd, cwd, sizeof cwd));
    write_program("script", "#! " + std::string(cwd) + "/interpreter --helper=arguments\nrest\n");
    std::string output;
    EXPECT_EQ(run_program("./script", {"ignored", "a", "b"}, &output), 0);
    EXPECT_EQ(output, "[./script][a][b]");
}
CASE(script_arguments_are_one) {
    copy_self("interpreter");
    write_program("script", "#!./interpreter --helper=exit 5\n");
    // One argument: "--helper=exit 5", which is no helper's name, so nothing is printed.
    std::string output;
    EXPECT_EQ(run_program("./script", {"x"}, &output), 0);
    EXPECT_EQ(output, "");
}
CASE(script_of_script) {
    copy_self("interpreter");
    write_program("one", "#!./interpreter --helper=arguments\n");
    write_program("two", "#!./one second\n");
    std::string output;
    EXPECT_EQ(run_program("./two", {"x", "end"}, &output), 0);
    EXPECT_EQ(output, "[./one][second][./two][end]");
}
CASE(script_too_deep) {
    copy_self("interpreter");
    write_program("0", "#!./interpreter --helper=exit\n");
    for (int i = 1; i < 8; ++i) write_program(std::to_string(i).c_str(), "#!./" + std::to_string(i - 1) + "\n");
    in_child([] { fails_to_run("./7", ELOOP); });
}
CASE(script_missing_interpreter) {
    write_program("script", "#!/nothing/there\n");
    in_child([] { fails_to_run("./script", ENOENT); });
}
CASE(script_empty_interpreter) {
    write_program("script", "#!\n");
    in_child([] { fails_to_run("./script", ENOEXEC); });
}
CASE(script_without_newline) {
    copy_self("interpreter");
    write_program("script", "#!./interpreter --helper=arguments");
    std::string output;
    EXPECT_EQ(run_program("./script", {"x"}, &output), 0);
    EXPECT_EQ(output, "[./script]");
}

// ---- what does not run

CASE(not_programs) {
    write_program("empty", "");
    write_program("text", "hello there\n");
    write_program("plain", "#!/bin/true\n", 0644);
    OK(mkdir("d", 0755));
    in_child([] {
        fails_to_run("empty", ENOEXEC);
        fails_to_run("text", ENOEXEC);
        fails_to_run("plain", EACCES);
        fails_to_run("d", EACCES);
        fails_to_run("nothing", ENOENT);
        fails_to_run("text/x", ENOTDIR);
        fails_to_run("", ENOENT);
        fails_to_run("/dev/null", EACCES);
    });
}
static void broken_elf(void (*change)(Elf64_Ehdr*, std::string*), int error) {
    std::string program = read_all("/proc/self/exe");
    change((Elf64_Ehdr*)program.data(), &program);
    write_program("broken", program);
    in_child([&] { fails_to_run("./broken", error); });
}
CASE(elf_other_machine) {
    broken_elf([](Elf64_Ehdr* header, std::string*) { header->e_machine = EM_AARCH64; }, ENOEXEC);
}
CASE(elf_truncated_header) {
    broken_elf([](Elf64_Ehdr*, std::string* program) { program->resize(40); }, ENOEXEC);
}
CASE(elf_relocatable) {
    broken_elf([](Elf64_Ehdr* header, std::string*) { header->e_type = ET_REL; }, ENOEXEC);
}
CASE(elf_no_program_headers) {
    broken_elf([](Elf64_Ehdr* header, std::string*) { header->e_phnum = 0; }, ENOEXEC);
}
CASE(elf_program_headers_past_end) {
    broken_elf([](Elf64_Ehdr* header, std::string*) { header->e_phoff = 1ull << 40; }, ENOEXEC);
}
CASE(elf_odd_program_header_size) {
    broken_elf([](Elf64_Ehdr* header, std::string*) { header->e_phentsize = 7; }, ENOEXEC);
}
CASE(elf_missing_interpreter) {
    std::string program = read_all("/proc/self/exe");
    auto* header = (Elf64_Ehdr*)program.data();
    auto* segments = (Elf64_Phdr*)(program.data() + header->e_phoff);
    for (int i = 0; i < header->e_phnum; ++i)
        if (segments[i].p_type == PT_NOTE || segments[i].p_type == PT_GNU_STACK) {
            std::string path("/nothing/ld.so\0", 15);
            segments[i].p_type = PT_INTERP;
            segments[i].p_offset = program.size();
            segments[i].p_filesz = path.size();
            program += path;
            break;
        }
    write_program("broken", program);
    in_child([] { fails_to_run("./broken", ENOENT); });
}
CASE(elf_entry_nowhere_faults) {
    std::string program = read_all("/proc/self/exe");
    ((Elf64_Ehdr*)program.data())->e_entry = 0x10;
    write_program("broken", program);
    EXPECT_EQ(run_program("./broken", {"x"}), 1000 + SIGSEGV);
}

// ---- set-user-ID, busy text

CASE(set_user_id) {
    if (geteuid() != 0) skip("needs root");
    chmod(".", 0755);
    copy_self("program", 0755);
    OK(chown("program", 0, 0));
    OK(chmod("program", 04755));
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 1);
        OK(syscall(SYS_setresuid, 12345, 12345, 12345));
        char* arguments[] = {(char*)"x", (char*)"--helper=euid", nullptr};
        OK(execve("./program", arguments, environ));
    });
    close(ends[1]);
    std::string output = read_all_fd(ends[0]);
    EXPECT_EXIT(pid, 0);
    if (output == "12345 12345 0") skip("the file system is mounted nosuid");
    EXPECT_EQ(output, "12345 0 1");
}
CASE(set_user_id_with_no_new_privs) {
    if (geteuid() != 0) skip("needs root");
    chmod(".", 0755);
    copy_self("program", 0755);
    OK(chmod("program", 04755));
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 1);
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        OK(syscall(SYS_setresuid, 12345, 12345, 12345));
        char* arguments[] = {(char*)"x", (char*)"--helper=euid", nullptr};
        OK(execve("./program", arguments, environ));
    });
    close(ends[1]);
    EXPECT_EQ(read_all_fd(ends[0]), "12345 12345 0");
    EXPECT_EXIT(pid, 0);
}
CASE(exec_without_read_permission) {
    if (geteuid() != 0) skip("needs root");
    chmod(".", 0755);
    copy_self("program", 0711);
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"4", nullptr};
    EXPECT_EXIT(child([&] {
                    OK(syscall(SYS_setresuid, 12345, 12345, 12345));
                    FAILS(open("program", O_RDONLY), EACCES);
                    OK(execve("./program", arguments, environ));
                }),
                4);
}
CASE(text_busy_for_writing) {
    copy_self("program");
    int fd = OK(open("program", O_WRONLY));
    in_child([] { fails_to_run("./program", ETXTBSY); });
    close(fd);
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"4", nullptr};
    EXPECT_EXIT(child([&] { OK(execve("./program", arguments, environ)); }), 4);
}
CASE(text_busy_while_a_child_may_write) {
    copy_self("program");
    int fd = OK(open("program", O_RDWR | O_CLOEXEC));
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        close(ends[1]);
        read_all_fd(ends[0]);
    });
    close(fd);
    in_child([] { fails_to_run("./program", ETXTBSY); });
    close(ends[1]);
    EXPECT_EXIT(pid, 0);
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"4", nullptr};
    EXPECT_EXIT(child([&] { OK(execve("./program", arguments, environ)); }), 4);
}
CASE(text_busy_while_mapped_for_writing) {
    copy_self("program");
    int fd = OK(open("program", O_RDWR));
    void* map = OK(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    close(fd);
    in_child([] { fails_to_run("./program", ETXTBSY); });
    OK(munmap(map, 4096));
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"4", nullptr};
    EXPECT_EXIT(child([&] { OK(execve("./program", arguments, environ)); }), 4);
}
CASE(text_busy_by_descriptor) {
    copy_self("program");
    int fd = OK(open("program", O_RDWR));
    char* arguments[] = {(char*)"x", nullptr};
    in_child([&] { FAILS(syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH), ETXTBSY); });
}
CASE(text_busy_script) {
    write_program("script", "#!/bin/sh\nexit 3\n");
    int fd = OK(open("script", O_WRONLY));
    in_child([] { fails_to_run("./script", ETXTBSY); });
    close(fd);
    EXPECT_EQ(run_program("./script", {"x"}), 3);
}
// A copy of this program that runs until the pipe's other end is closed.
static pid_t running_copy(const char* path, int& end, bool forks = false) {
    int ends[2], ready[2];
    OK(pipe(ends));
    OK(pipe(ready));
    pid_t pid = child([&] {
        dup2(ends[0], 0);
        dup2(ready[1], 1);
        for (int fd : {ends[0], ends[1], ready[0], ready[1]}) close(fd);
        char* arguments[] = {(char*)"x", (char*)(forks ? "--helper=fork-and-wait" : "--helper=wait"), nullptr};
        OK(execve(path, arguments, environ));
    });
    close(ends[0]);
    close(ready[1]);
    char byte;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    end = ends[1];
    return pid;
}
CASE(text_busy_while_executed) {
    copy_self("program");
    int end;
    pid_t pid = running_copy("./program", end);
    FAILS(open("program", O_WRONLY), ETXTBSY);
    FAILS(open("program", O_RDWR | O_CREAT, 0700), ETXTBSY);
    FAILS(open("program", O_RDONLY | O_TRUNC), ETXTBSY);
    FAILS(truncate("program", 5), ETXTBSY);
    close(OK(open("program", O_RDONLY)));
    close(OK(open("program", O_PATH)));
    OK(chmod("program", 0700));
    OK(link("program", "other-name"));
    FAILS(open("other-name", O_WRONLY), ETXTBSY);
    OK(rename("program", "moved"));
    FAILS(open("moved", O_WRONLY), ETXTBSY);
    copy_self("program");  // another file of the same name
    close(end);
    EXPECT_EXIT(pid, 0);
    close(OK(open("moved", O_WRONLY | O_TRUNC)));
    OK(truncate("other-name", 5));
}
CASE(text_busy_until_a_forked_child_ends) {
    copy_self("program");
    int end;
    pid_t pid = running_copy("./program", end, true);
    // The program itself has ended; what it forked runs on.
    EXPECT_EXIT(pid, 0);
    FAILS(open("program", O_WRONLY), ETXTBSY);
    close(end);
    int fd = -1;
    for (int i = 0; i < 5000 && fd < 0; ++i) {
        fd = open("program", O_WRONLY);
        if (fd < 0) sleep_ms(1);
    }
    OK(fd);
}
CASE(text_not_busy_after_the_next_exec) {
    copy_self("program");
    copy_self("second");
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[0], 0);
        dup2(OK(open("/dev/null", O_WRONLY)), 1);
        close(ends[0]);
        close(ends[1]);
        char* arguments[] = {(char*)"x", (char*)"--helper=exec", (char*)"./second", nullptr};
        OK(execve("./program", arguments, environ));
    });
    int fd = -1;
    for (int i = 0; i < 5000 && fd < 0; ++i) {
        fd = open("second", O_WRONLY);
        if (fd < 0) break;
        close(fd);
        fd = -1;
        sleep_ms(1);
    }
    EXPECT_EQ(errno, ETXTBSY);
    // The new program's file is busy a moment before the old one's no longer is.
    for (int i = 0; i < 5000 && fd < 0; ++i) {
        fd = open("program", O_WRONLY);
        if (fd < 0) sleep_ms(1);
    }
    close(OK(fd));
    close(ends[1]);
    EXPECT_EXIT(pid, 0);
}
CASE(text_of_memory_is_busy_only_when_opened_anew) {
    std::string program = read_all("/proc/self/exe");
    int fd = OK(memfd_create("program", 0));
    EXPECT_EQ(write(fd, program.data(), program.size()), (long)program.size());
    // The descriptor that it was made with does not count.
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"4", nullptr};
    EXPECT_EXIT(child([&] { OK(syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH)); }), 4);
    std::string path = "/proc/self/fd/" + std::to_string(fd);
    int again = OK(open(path.c_str(), O_RDWR));
    in_child([&] { FAILS(syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH), ETXTBSY); });
    close(again);
    EXPECT_EXIT(child([&] { OK(syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH)); }), 4);
}
CASE(text_written_and_executed_often) {
    // Right after its writer closed it a program runs, every time.
    std::string program = read_all("/proc/self/exe");
    char* arguments[] = {(char*)"x", (char*)"--helper=exit", (char*)"4", nullptr};
    for (int i = 0; i < 30; ++i) {
        write_program("program", program);
        EXPECT_EXIT(child([&] { OK(execve("./program", arguments, environ)); }), 4);
    }
}
CASE(shell_runs) {
    if (access("/bin/sh", X_OK) != 0) skip("no /bin/sh");
    std::string output;
    EXPECT_EQ(run_program("/bin/sh", {"sh", "-c", "echo a | cat; exit 3"}, &output), 3);
    EXPECT_EQ(output, "a\n");
}
