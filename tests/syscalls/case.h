// What a syscall test is written in: a case is a function that runs in a forked child in a directory of its own, under
// a time-out, so that one crash or hang does not stop the rest. The same static binary runs natively and inside a
// sandbox; Linux decides what is right. Nothing here needs more of the kernel than fork, waitpid, a pipe and a clock.
//
//   CASE(open_creates) { int fd = OK(open("f", O_RDWR | O_CREAT, 0600)); EXPECT_EQ(write(fd, "x", 1), 1); }
//   FAILS_CASE(read_bad_fd, read(-1, scratch(), 1), EBADF)
//
// Output, one line a case: `ok NAME`, `not ok NAME: reason`, `skip NAME: reason`. A name is FAMILY.CASE.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace casemate::syscalls {

struct Case {
    Case(const char* case_name, void (*case_body)());
    const char* name;
    void (*body)();
    Case* next = nullptr;
};

// Ends the case (from any of its processes) with a reason.
[[noreturn]] void fail(const char* file, int line, const std::string& reason);
[[noreturn]] void skip(const std::string& reason);

// A path of an error: "EBADF" for 9.
std::string errno_name(int error);

// A page no access is allowed to, for EFAULT.
void* bad();
// 1 MiB of writable memory.
char* scratch();

// Runs `body` in a child; fails the case unless the child ends with 0.
template <typename Body>
void in_child(Body body);

// The status that waitpid() gives for this child.
int wait_for(pid_t pid);
void expect_exit(const char* file, int line, pid_t pid, int code);
void expect_signal(const char* file, int line, pid_t pid, int signal_number);

void write_file(const char* path, const std::string& content);
std::string read_all(const char* path);
std::string read_all_fd(int fd);
void sleep_ms(int milliseconds);
uint64_t now_ns(clockid_t clock = CLOCK_MONOTONIC);
// True once the state letter of /proc/PID/stat is one of `letters`; waits up to 5 s.
bool reaches_state(pid_t pid, const char* letters);

template <typename Body>
pid_t child(Body body) {
    fflush(nullptr);
    pid_t pid = fork();
    if (pid < 0) fail("fork", 0, "fork: " + errno_name(errno));
    if (pid == 0) {
        body();
        _exit(0);
    }
    return pid;
}

template <typename Body>
void in_child(Body body) {
    expect_exit("in_child", 0, child(body), 0);
}

// Value of a call that must not fail.
template <typename T>
T ok(const char* file, int line, const char* text, T value) {
    bool failed;
    if constexpr (std::is_pointer_v<T>)
        failed = value == reinterpret_cast<T>(-1);
    else
        failed = value == static_cast<T>(-1);
    if (failed) fail(file, line, std::string(text) + ": " + errno_name(errno));
    return value;
}

template <typename T>
void fails(const char* file, int line, const char* text, T value, std::initializer_list<int> expected) {
    int error = errno;
    bool failed;
    if constexpr (std::is_pointer_v<T>)
        failed = value == reinterpret_cast<T>(-1);
    else
        failed = value == static_cast<T>(-1);
    if (!failed) fail(file, line, std::string(text) + " should fail with " + errno_name(*expected.begin()));
    for (int wanted : expected)
        if (error == wanted) return;
    fail(file, line, std::string(text) + ": " + errno_name(error) + ", should be " + errno_name(*expected.begin()));
}

template <typename A, typename B>
void equal(const char* file, int line, const char* text, const A& actual, const B& wanted) {
    if constexpr (std::is_convertible_v<A, std::string> && std::is_convertible_v<B, std::string>) {
        std::string have = actual, want = wanted;
        if (have != want) fail(file, line, std::string(text) + " is '" + have + "', should be '" + want + "'");
    } else {
        auto have = (long long)actual;
        auto want = (long long)wanted;
        if (have != want) {
            std::string reason =
                std::string(text) + " is " + std::to_string(have) + ", should be " + std::to_string(want);
            if (have == -1) reason += " (errno " + errno_name(errno) + ")";
            fail(file, line, reason);
        }
    }
}

}  // namespace casemate::syscalls

#define CASE(name)                                                         \
    static void case_##name();                                             \
    static ::casemate::syscalls::Case register_##name(#name, case_##name); \
    static void case_##name()
#define OK(call) ::casemate::syscalls::ok(__FILE__, __LINE__, #call, (call))
#define FAILS(call, error) ::casemate::syscalls::fails(__FILE__, __LINE__, #call, (errno = 0, (call)), {error})
#define FAILS_ANY(call, ...) ::casemate::syscalls::fails(__FILE__, __LINE__, #call, (errno = 0, (call)), {__VA_ARGS__})
#define FAILS_CASE(name, call, error) \
    CASE(name) { FAILS(call, error); }
#define EXPECT(condition)                                                                         \
    do {                                                                                          \
        if (!(condition)) ::casemate::syscalls::fail(__FILE__, __LINE__, #condition " is false"); \
    } while (0)
#define EXPECT_EQ(actual, wanted) ::casemate::syscalls::equal(__FILE__, __LINE__, #actual, (actual), (wanted))
#define EXPECT_EXIT(pid, code) ::casemate::syscalls::expect_exit(__FILE__, __LINE__, (pid), (code))
#define EXPECT_SIGNAL(pid, number) ::casemate::syscalls::expect_signal(__FILE__, __LINE__, (pid), (number))

using namespace casemate::syscalls;
