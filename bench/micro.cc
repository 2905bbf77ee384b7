// The micro benchmarks: one static program that runs natively and in every sandbox, and prints its own numbers, one a
// line: `NAME VALUE UNIT`. A figure is the median of several batches, so that one interruption does not count.
//
//   micro [--seconds S] [--directory DIR] [NAME]...
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

namespace {

double batch_seconds = 0.03;
constexpr int kBatches = 5;
std::string self;

[[noreturn]] void die(const char* what) {
    fprintf(stderr, "micro: %s: %s\n", what, strerror(errno));
    exit(1);
}
double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// Prints the median time in microseconds of one call of `body`, which does `per_call` operations.
template <typename Body>
void measure(const char* name, Body body, double per_call = 1) {
    long calls = 1;
    for (;;) {
        double start = now();
        for (long i = 0; i < calls; ++i) body();
        double spent = now() - start;
        if (spent >= batch_seconds) break;
        calls = spent > batch_seconds / 10 ? long(calls * batch_seconds / spent) + 1 : calls * 8;
    }
    std::vector<double> batches;
    for (int batch = 0; batch < kBatches; ++batch) {
        double start = now();
        for (long i = 0; i < calls; ++i) body();
        batches.push_back((now() - start) * 1e6 / calls / per_call);
    }
    std::sort(batches.begin(), batches.end());
    printf("%s %.4f us\n", name, batches[kBatches / 2]);
    fflush(stdout);
}

int open_with(const char* path, size_t size) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) die(path);
    std::string data(size, 'x');
    if (write(fd, data.data(), size) != ssize_t(size)) die("write");
    return fd;
}

void null_syscall() {
    // getppid may be answered from a page; getpid by number is the classic. An unknown number always needs the kernel.
    measure("getpid", [] { syscall(SYS_getpid); });
}
void kernel_syscall() {
    measure("getpriority", [] { syscall(SYS_getpriority, 0, 0); });
}
void open_close() {
    close(open_with("opened", 100));
    measure("open+close", [] { close(open("opened", O_RDONLY)); });
}
void open_close_root() {
    measure("open+close /etc/passwd", [] { close(open("/etc/passwd", O_RDONLY)); });
}
void stat_call() {
    close(open_with("stated", 100));
    struct stat st;
    measure("stat", [&] { stat("stated", &st); });
}
void pread_4k() {
    int fd = open_with("read", 1 << 20);
    static char buffer[4096];
    measure("pread 4 KiB", [&] {
        if (pread(fd, buffer, 4096, 8192) != 4096) die("pread");
    });
}
void read_4k() {
    int fd = open_with("read", 4 << 20);
    static char buffer[4096];
    measure("read 4 KiB", [&] {
        if (read(fd, buffer, 4096) != 4096) lseek(fd, 0, SEEK_SET);
    });
}
void write_4k() {
    int fd = open_with("written", 4096);
    static char buffer[4096];
    measure("pwrite 4 KiB", [&] {
        if (pwrite(fd, buffer, 4096, 0) != 4096) die("pwrite");
    });
}
void write_null() {
    int fd = open("/dev/null", O_WRONLY);
    measure("write /dev/null", [&] {
        if (write(fd, "x", 1) != 1) die("write");
    });
}

void pipe_ping_pong() {
    int there[2], back[2];
    if (pipe(there) || pipe(back)) die("pipe");
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        char c;
        close(there[1]);
        while (read(there[0], &c, 1) == 1)
            if (write(back[1], &c, 1) != 1) _exit(1);
        _exit(0);
    }
    char c = 0;
    measure("pipe ping-pong", [&] {
        if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) die("ping-pong");
    });
    close(there[1]);
    waitpid(pid, nullptr, 0);
}

void futex_ping_pong() {
    static std::atomic<uint32_t> word;
    static std::atomic<bool> stop;
    static auto wait_while = [](uint32_t value) {
        while (word.load() == value) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
    };
    static auto set = [](uint32_t value) {
        word.store(value);
        syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    };
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            for (;;) {
                wait_while(0);
                if (stop) return nullptr;
                set(0);
            }
        },
        nullptr);
    measure("futex ping-pong", [] {
        set(1);
        wait_while(1);
    });
    stop = true;
    set(1);
    pthread_join(thread, nullptr);
}

// Both ends of a connection over 127.0.0.1.
void connect_loopback(int& client, int& server) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(where);
    if (bind(listener, (sockaddr*)&where, size) || listen(listener, 1) ||
        getsockname(listener, (sockaddr*)&where, &size))
        die("listen");
    client = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client, (sockaddr*)&where, size)) die("connect");
    server = accept(listener, nullptr, nullptr);
    if (server < 0) die("accept");
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    close(listener);
}
void tcp_loopback() {
    int client, server;
    connect_loopback(client, server);
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        char c;
        close(client);
        while (read(server, &c, 1) == 1)
            if (write(server, &c, 1) != 1) _exit(1);
        _exit(0);
    }
    close(server);
    char c = 0;
    measure("TCP loopback, ping-pong", [&] {
        if (write(client, &c, 1) != 1 || read(client, &c, 1) != 1) die("ping-pong");
    });
    close(client);
    waitpid(pid, nullptr, 0);

    connect_loopback(client, server);
    static char buffer[128 << 10];
    pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        close(server);
        while (write(client, buffer, sizeof(buffer)) > 0) continue;
        _exit(0);
    }
    close(client);
    double total = 0, start = now();
    while (now() - start < batch_seconds * 10) {
        ssize_t got = read(server, buffer, sizeof(buffer));
        if (got <= 0) die("stream");
        total += double(got);
    }
    printf("TCP loopback, stream %.1f MB/s\n", total / 1e6 / (now() - start));
    close(server);
    waitpid(pid, nullptr, 0);
}

void map_touch_sequential() {
    constexpr size_t kSize = 16 << 20;
    measure(
        "first touch, sequential (a page)",
        [] {
            char* at = (char*)mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (at == MAP_FAILED) die("mmap");
            for (size_t i = 0; i < kSize; i += 4096) at[i] = 1;
            munmap(at, kSize);
        },
        kSize / 4096);
}
void map_touch_scattered() {
    measure(
        "map 8 pages, touch, unmap (a page)",
        [] {
            char* at = (char*)mmap(nullptr, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (at == MAP_FAILED) die("mmap");
            for (int i = 7; i >= 0; --i) at[i * 4096] = 1;
            munmap(at, 8 * 4096);
        },
        8);
}
// Many small maps that live together, as an allocator with threads makes them: of four pages, the first a guard.
struct SmallMaps {
    static constexpr int kCount = 512, kTouched = 3;
    char* maps[kCount];

    void make(int index) {
        void* at = mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) die("mmap");
        maps[index] = (char*)at;
        mprotect(at, 4096, PROT_NONE);
    }
    void touch(int index) {
        for (int i = 1; i <= kTouched; ++i) maps[index][i * 4096] = 1;
    }
    void remove() {
        for (char* at : maps) munmap(at, 4 * 4096);
    }
};
void touch_small_maps() {
    static SmallMaps all;
    measure(
        "small maps: made, touched, removed (a page)",
        [] {
            for (int i = 0; i < SmallMaps::kCount; ++i) {
                all.make(i);
                all.touch(i);
            }
            all.remove();
        },
        SmallMaps::kCount * SmallMaps::kTouched);
    // The touch alone: a fault of the host's, or more.
    std::vector<double> passes;
    for (double end = now() + batch_seconds * kBatches * 4; now() < end || passes.size() < kBatches;) {
        for (int i = 0; i < SmallMaps::kCount; ++i) all.make(i);
        double start = now();
        for (int i = 0; i < SmallMaps::kCount; ++i) all.touch(i);
        passes.push_back((now() - start) * 1e6 / SmallMaps::kCount / SmallMaps::kTouched);
        all.remove();
    }
    std::sort(passes.begin(), passes.end());
    printf("small maps: the touch alone (a page) %.4f us\n", passes[passes.size() / 2]);
    fflush(stdout);
}

void fork_wait(const char* name, size_t touched) {
    char* at = nullptr;
    if (touched) {
        at = (char*)mmap(nullptr, touched, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) die("mmap");
        memset(at, 1, touched);
    }
    measure(name, [] {
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        if (pid < 0 || waitpid(pid, nullptr, 0) != pid) die("fork");
    });
    if (touched) munmap(at, touched);
}
void fork_small() { fork_wait("fork+exit+wait", 0); }
void fork_large() { fork_wait("fork+exit+wait, 16 MB touched", 16 << 20); }
void fork_exec() {
    measure("fork+exec+wait", [] {
        pid_t pid = fork();
        if (pid == 0) {
            execl(self.c_str(), self.c_str(), "--exit", nullptr);
            _exit(1);
        }
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) die("fork+exec");
    });
}
void thread_create() {
    measure("thread create+join", [] {
        pthread_t thread;
        if (pthread_create(
                &thread, nullptr, [](void* x) { return x; }, nullptr) != 0)
            die("pthread_create");
        pthread_join(thread, nullptr);
    });
}
void create_unlink_in(const std::string& folder, const char* where) {
    constexpr int kFiles = 10000;
    if (mkdir(folder.c_str(), 0755) != 0) return;
    auto path = [&](int i) { return folder + "/file-" + std::to_string(i); };
    double start = now();
    for (int i = 0; i < kFiles; ++i) {
        int fd = open(path(i).c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0) die("create");
        close(fd);
    }
    double created = now();
    for (int i = 0; i < kFiles; ++i)
        if (unlink(path(i).c_str()) != 0) die("unlink");
    double removed = now();
    printf("create 10,000 files%s (a file) %.3f us\n", where, (created - start) * 1e6 / kFiles);
    printf("unlink 10,000 files%s (a file) %.3f us\n", where, (removed - created) * 1e6 / kFiles);
    rmdir(folder.c_str());
}
// In the root, which the container has for itself, and in a volume that others may change meanwhile.
void create_unlink() {
    create_unlink_in("many", "");
    // On the host's tmpfs: ext4 goes round all inodes deleted within the last seconds, so that the second of two runs
    // would pay a millisecond a file for the first.
    create_unlink_in("/scratch/micro-" + std::to_string(getpid()), " in a volume");
}
void file_io() {
    constexpr size_t kSize = 64 << 20, kBlock = 1 << 16;
    static char buffer[kBlock];
    memset(buffer, 'b', sizeof buffer);
    int fd = open("large", O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) die("large");
    double start = now();
    for (size_t i = 0; i < kSize; i += kBlock)
        if (write(fd, buffer, kBlock) != ssize_t(kBlock)) die("write");
    double written = now();
    lseek(fd, 0, SEEK_SET);
    for (size_t i = 0; i < kSize; i += kBlock)
        if (read(fd, buffer, kBlock) != ssize_t(kBlock)) die("read");
    double read_back = now();
    uint32_t seed = 12345;
    constexpr int kRandom = 20000;
    for (int i = 0; i < kRandom; ++i) {
        seed = seed * 1664525 + 1013904223;
        if (pread(fd, buffer, 4096, off_t(seed >> 8) % (kSize / 4096) * 4096) != 4096) die("pread");
    }
    double random_read = now();
    for (int i = 0; i < kRandom; ++i) {
        seed = seed * 1664525 + 1013904223;
        if (pwrite(fd, buffer, 4096, off_t(seed >> 8) % (kSize / 4096) * 4096) != 4096) die("pwrite");
    }
    double random_write = now();
    printf("file write, sequential %.1f MB/s\n", kSize / 1e6 / (written - start));
    printf("file read, sequential %.1f MB/s\n", kSize / 1e6 / (read_back - written));
    printf("file read, random 4 KiB %.4f us\n", (random_read - read_back) * 1e6 / kRandom);
    printf("file write, random 4 KiB %.4f us\n", (random_write - random_read) * 1e6 / kRandom);
    unlink("large");
}

struct Benchmark {
    const char* name;
    void (*run)();
};
const Benchmark kBenchmarks[] = {
    {"getpid", null_syscall},
    {"getpriority", kernel_syscall},
    {"open", open_close},
    {"open-root", open_close_root},
    {"stat", stat_call},
    {"pread", pread_4k},
    {"read", read_4k},
    {"pwrite", write_4k},
    {"write-null", write_null},
    {"pipe", pipe_ping_pong},
    {"futex", futex_ping_pong},
    {"loopback", tcp_loopback},
    {"touch-sequential", map_touch_sequential},
    {"map-touch", map_touch_scattered},
    {"touch-scattered", touch_small_maps},
    {"fork", fork_small},
    {"fork-16", fork_large},
    {"fork-exec", fork_exec},
    {"thread", thread_create},
    {"create-unlink", create_unlink},
    {"file-io", file_io},
};

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && !strcmp(argv[1], "--exit")) return 0;
    self = argv[0];
    const char* directory = "/tmp";
    std::vector<std::string> wanted;
    for (int i = 1; i < argc; ++i) {
        std::string argument = argv[i];
        if (argument == "--seconds" && i + 1 < argc) {
            batch_seconds = atof(argv[++i]);
        } else if (argument == "--directory" && i + 1 < argc) {
            directory = argv[++i];
        } else {
            wanted.push_back(argument);
        }
    }
    std::string own = std::string(directory) + "/micro-" + std::to_string(getpid());
    if (mkdir(own.c_str(), 0755) != 0 || chdir(own.c_str()) != 0) die(own.c_str());
    int failed = 0;
    for (const Benchmark& one : kBenchmarks) {
        if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), one.name) == wanted.end()) continue;
        // A child each: what one leaves mapped or fails at does not change the next.
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) {
            alarm(60);
            one.run();
            exit(0);
        }
        int status = 0;
        if (waitpid(pid, &status, 0) != pid || status != 0) {
            printf("failed %s: status %d\n", one.name, status);
            failed = 1;
        }
    }
    for (const char* name : {"opened", "stated", "read", "written"}) unlink(name);
    if (chdir("/") == 0) rmdir(own.c_str());
    return failed;
}
