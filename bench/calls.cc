// Threads that make system calls from places that can be patched, for bench/handover: prints microseconds a call of one
// thread, and how many calls all made together.
//
//   calls [--seconds S] [--start T] [--threads N] [--pause US] [--work US] getpriority|pread|openclose|mixed
//   calls --seconds S spin
//
// --start: not before then, in seconds since 1970. --work: computing between two calls; --pause: sleeping. `mixed`
// takes turns among the three with 2 us of work. `spin` makes none: a busy loop.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

namespace {

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

void work(double us) {
    if (us <= 0) return;
    const double end = now() + us * 1e-6;
    while (now() < end) {
    }
}

struct Options {
    double seconds = 1, work = 0, pause = 0, start = 0;
    int threads = 1;
    std::string what = "getpriority";
};

void call(const std::string& what, int fd) {
    static thread_local char buffer[4096];
    if (what == "pread") {
        if (pread(fd, buffer, sizeof(buffer), 0) < 0) abort();
    } else if (what == "openclose") {
        const int other = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
        if (other < 0 || close(other) != 0) abort();
    } else {
        syscall(SYS_getpriority, 0, 0);
    }
}

long run(const Options& options, double end) {
    if (options.what == "spin") {
        while (now() < end) {
        }
        return 0;
    }
    const int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    const char* const turns[] = {"getpriority", "pread", "openclose"};
    long calls = 0;
    do {
        for (int i = 0; i < 10; ++i, ++calls) {
            if (options.what == "mixed") {
                call(turns[calls % 3], fd);
                work(2);
            } else {
                call(options.what, fd);
                work(options.work);
            }
            if (options.pause > 0) usleep(static_cast<useconds_t>(options.pause));
        }
    } while (now() < end);
    close(fd);
    return calls;
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word.rfind("--", 0) != 0) {
            options.what = word;
            continue;
        }
        if (++i == argc) return 2;
        const double value = atof(argv[i]);
        if (word == "--seconds")
            options.seconds = value;
        else if (word == "--start")
            options.start = value;
        else if (word == "--work")
            options.work = value;
        else if (word == "--pause")
            options.pause = value;
        else if (word == "--threads")
            options.threads = static_cast<int>(value);
        else
            return 2;
    }
    run({.seconds = 0.1, .what = options.what}, now() + 0.1);  // sites are patched
    while (options.start > 0) {
        timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        if (double(t.tv_sec) + double(t.tv_nsec) * 1e-9 >= options.start) break;
        usleep(1000);
    }
    const double start = now();
    std::vector<long> calls(static_cast<size_t>(options.threads));
    std::vector<std::thread> threads;
    for (size_t i = 1; i < calls.size(); ++i)
        threads.emplace_back([&, i] { calls[i] = run(options, start + options.seconds); });
    calls[0] = run(options, start + options.seconds);
    for (auto& thread : threads) thread.join();
    const double spent = now() - start;
    long all = 0;
    for (const long count : calls) all += count;
    if (all != 0)
        printf("%s %.3f us %ld calls\n", options.what.c_str(), spent * 1e6 * options.threads / double(all), all);
    return 0;
}
