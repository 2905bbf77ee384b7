#include "case.h"

#include <dirent.h>
#include <fnmatch.h>
#include <ftw.h>
#include <poll.h>
#include <sys/resource.h>

#include <vector>

namespace casemate::syscalls {

namespace {

constexpr int kReportFd = 1000;
constexpr int kPassed = 0, kFailed = 101, kSkipped = 102;
Case* first_case = nullptr;
Case** last_case = &first_case;
const char* family = "";

void report(const std::string& text) {
    ssize_t ignored = write(kReportFd, text.data(), text.size());
    (void)ignored;
}

int remove_entry(const char* path, const struct stat*, int, struct FTW*) {
    remove(path);
    return 0;
}

// Everything a case may have left behind in its process group is ended too.
void end_group(pid_t pid) {
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
}

struct Outcome {
    enum Kind { kOk, kNotOk, kSkip } kind;
    std::string reason;
};

[[noreturn]] void run_body(const Case& one, const char* directory) {
    setpgid(0, 0);
    if (chdir(directory) != 0) fail(__FILE__, __LINE__, std::string("chdir: ") + errno_name(errno));
    umask(022);
    // Whatever the shell that started us ignored: in the background that is SIGINT and SIGQUIT.
    for (int number = 1; number <= SIGRTMAX; ++number) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    one.body();
    _exit(kPassed);
}

Outcome run_case(const Case& one, const std::string& directory, int timeout_seconds) {
    int report_pipe[2];
    if (pipe2(report_pipe, O_CLOEXEC) != 0) return {Outcome::kNotOk, "pipe2: " + errno_name(errno)};
    if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
        return {Outcome::kNotOk, "mkdir " + directory + ": " + errno_name(errno)};
    fflush(nullptr);
    pid_t pid = fork();
    if (pid < 0) return {Outcome::kNotOk, "fork: " + errno_name(errno)};
    if (pid == 0) {
        close(report_pipe[0]);
        if (dup3(report_pipe[1], kReportFd, O_CLOEXEC) < 0) _exit(103);
        close(report_pipe[1]);
        run_body(one, directory.c_str());
    }
    close(report_pipe[1]);
    uint64_t deadline = now_ns() + uint64_t(timeout_seconds) * 1000000000;
    int status = 0;
    bool timed_out = false;
    for (long nap = 100000;; nap = nap < 5000000 ? nap * 2 : nap) {
        pid_t done = waitpid(pid, &status, WNOHANG);
        if (done == pid) break;
        if (done < 0) return {Outcome::kNotOk, "waitpid: " + errno_name(errno)};
        if (now_ns() > deadline) {
            timed_out = true;
            end_group(pid);
            for (int i = 0; i < 200 && waitpid(pid, &status, WNOHANG) == 0; ++i) sleep_ms(10);
            break;
        }
        timespec pause{0, nap};
        nanosleep(&pause, nullptr);
    }
    kill(-pid, SIGKILL);
    std::string reason;
    char buffer[512];
    fcntl(report_pipe[0], F_SETFL, O_NONBLOCK);
    ssize_t size = read(report_pipe[0], buffer, sizeof buffer);
    if (size > 0) reason.assign(buffer, size);
    close(report_pipe[0]);
    if (reason.find('\n') != std::string::npos) reason.resize(reason.find('\n'));
    nftw(directory.c_str(), remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    if (timed_out)
        return {Outcome::kNotOk, reason.empty() ? "timed out after " + std::to_string(timeout_seconds) + " s" : reason};
    if (WIFEXITED(status) && WEXITSTATUS(status) == kSkipped) return {Outcome::kSkip, reason};
    if (WIFEXITED(status) && WEXITSTATUS(status) == kPassed && reason.empty()) return {Outcome::kOk, ""};
    if (!reason.empty()) return {Outcome::kNotOk, reason};
    if (WIFSIGNALED(status)) return {Outcome::kNotOk, "ended by signal " + std::to_string(WTERMSIG(status))};
    return {Outcome::kNotOk, "exit status " + std::to_string(WEXITSTATUS(status))};
}

int run(int argc, char** argv) {
    const char* slash = strrchr(argv[0], '/');
    family = slash ? slash + 1 : argv[0];
    bool list = false;
    int timeout_seconds = 10;
    std::vector<std::string> filters;
    for (int i = 1; i < argc; ++i) {
        std::string argument = argv[i];
        if (argument == "--list") {
            list = true;
        } else if (argument == "--filter" && i + 1 < argc) {
            filters.push_back(argv[++i]);
        } else if (argument == "--timeout" && i + 1 < argc) {
            timeout_seconds = atoi(argv[++i]);
        } else {
            fprintf(stderr, "usage: %s [--list] [--filter PATTERN]... [--timeout SECONDS]\n", argv[0]);
            return 2;
        }
    }
    const char* base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    std::string directory = std::string(base) + "/casemate-syscalls-" + family + "-" + std::to_string(getpid());
    if (!list && mkdir(directory.c_str(), 0755) != 0) {
        printf("Bail out! mkdir %s: %s\n", directory.c_str(), errno_name(errno).c_str());
        return 1;
    }
    int counts[3] = {};
    for (Case* one = first_case; one; one = one->next) {
        std::string name = std::string(family) + "." + one->name;
        bool wanted = filters.empty();
        for (const auto& filter : filters)
            wanted = wanted || fnmatch(filter.c_str(), name.c_str(), 0) == 0 || name.find(filter) != std::string::npos;
        if (!wanted) continue;
        if (list) {
            printf("%s\n", name.c_str());
            continue;
        }
        Outcome outcome = run_case(*one, directory + "/" + one->name, timeout_seconds);
        ++counts[outcome.kind];
        if (outcome.kind == Outcome::kOk) printf("ok %s\n", name.c_str());
        if (outcome.kind == Outcome::kNotOk) printf("not ok %s: %s\n", name.c_str(), outcome.reason.c_str());
        if (outcome.kind == Outcome::kSkip) printf("skip %s: %s\n", name.c_str(), outcome.reason.c_str());
        fflush(stdout);
    }
    if (list) return 0;
    rmdir(directory.c_str());
    printf("# %s: %d passed, %d failed, %d skipped\n", family, counts[0], counts[1], counts[2]);
    return counts[1] == 0 ? 0 : 1;
}

}  // namespace

Case::Case(const char* case_name, void (*case_body)()) : name(case_name), body(case_body) {
    *last_case = this;
    last_case = &next;
}

void fail(const char* file, int line, const std::string& reason) {
    const char* slash = strrchr(file, '/');
    report(std::string(slash ? slash + 1 : file) + ":" + std::to_string(line) + ": " + reason + "\n");
    _exit(kFailed);
}

void skip(const std::string& reason) {
    report(reason + "\n");
    _exit(kSkipped);
}

std::string errno_name(int error) {
    const char* name = strerrorname_np(error);
    return name ? name : std::to_string(error);
}

void* bad() {
    static void* page = nullptr;
    if (!page) page = mmap(nullptr, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page;
}

char* scratch() {
    static char memory[1 << 20];
    return memory;
}

int wait_for(pid_t pid) {
    int status = 0;
    for (;;) {
        pid_t done = waitpid(pid, &status, 0);
        if (done == pid) return status;
        if (done < 0 && errno != EINTR) fail("wait_for", 0, "waitpid: " + errno_name(errno));
    }
}

void expect_exit(const char* file, int line, pid_t pid, int code) {
    int status = wait_for(pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == code) return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == kFailed) _exit(kFailed);  // the child reported why
    if (WIFEXITED(status) && WEXITSTATUS(status) == kSkipped) _exit(kSkipped);
    fail(file, line,
         WIFEXITED(status)
             ? "child exited with " + std::to_string(WEXITSTATUS(status)) + ", should be " + std::to_string(code)
             : "child ended by signal " + std::to_string(WTERMSIG(status)));
}

void expect_signal(const char* file, int line, pid_t pid, int number) {
    int status = wait_for(pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == number) return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == kFailed) _exit(kFailed);
    fail(file, line,
         WIFEXITED(status) ? "child exited with " + std::to_string(WEXITSTATUS(status)) + ", should end by signal " +
                                 std::to_string(number)
                           : "child ended by signal " + std::to_string(WTERMSIG(status)));
}

void write_file(const char* path, const std::string& content) {
    int fd = OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    EXPECT_EQ(write(fd, content.data(), content.size()), content.size());
    OK(close(fd));
}

std::string read_all_fd(int fd) {
    std::string content;
    char buffer[4096];
    for (;;) {
        ssize_t size = OK(read(fd, buffer, sizeof buffer));
        if (size == 0) return content;
        content.append(buffer, size);
    }
}

std::string read_all(const char* path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) fail("read_all", 0, std::string("open ") + path + ": " + errno_name(errno));
    std::string content = read_all_fd(fd);
    close(fd);
    return content;
}

void sleep_ms(int milliseconds) {
    timespec left{milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

uint64_t now_ns(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return uint64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

bool reaches_state(pid_t pid, const char* letters) {
    std::string path = "/proc/" + std::to_string(pid) + "/stat";
    for (int i = 0; i < 500; ++i) {
        int fd = open(path.c_str(), O_RDONLY);
        char buffer[512] = {};
        if (fd >= 0) {
            ssize_t size = read(fd, buffer, sizeof buffer - 1);
            close(fd);
            char* after = size > 0 ? strrchr(buffer, ')') : nullptr;
            if (after && strchr(letters, after[2])) return true;
        }
        sleep_ms(10);
    }
    return false;
}

int main(int argc, char** argv) { return run(argc, argv); }

}  // namespace casemate::syscalls

// exec cases run their own binary again as a small helper; the helper is answered before any case runs.
__attribute__((weak)) int helper_main(int, char**) { return -1; }

int main(int argc, char** argv) {
    if (argc > 1 && strncmp(argv[1], "--helper=", 9) == 0) return helper_main(argc, argv);
    return casemate::syscalls::main(argc, argv);
}
