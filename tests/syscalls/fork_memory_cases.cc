// What fork makes of memory, and stacks that grow.
#include <pthread.h>
#include <sys/resource.h>

#include "memory_cases.h"

// ---- fork of much memory: however it is shared at first, nobody sees what the other writes

static const size_t kMuch = 24 << 20;
static char* much() {
    char* at = map(kMuch);
    memset(at, 'p', kMuch);
    return at;
}
static bool all(const char* at, size_t size, char value) {
    for (size_t i = 0; i < size; i += kPage)
        if (at[i] != value) return false;
    return true;
}

CASE(fork_big_child_sleeps) {
    char* at = much();
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        memset(at, 'c', kPage);
        OK(read(ends[0], scratch(), 1));
        EXPECT_EQ(at[0], 'c');
        EXPECT(all(at + kPage, kMuch - kPage, 'p'));
    });
    memset(at, 'q', kMuch);
    OK(write(ends[1], "x", 1));
    EXPECT_EXIT(pid, 0);
    EXPECT(all(at, kMuch, 'q'));
}
CASE(fork_big_child_computes) {
    char* at = much();
    char* shared = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    pid_t pid = child([&] {
        // Without a system call until the parent has written: it must not be held for ever.
        size_t i = 0;
        while (__atomic_load_n(shared, __ATOMIC_ACQUIRE) == 0) {
            at[i % kMuch] = 'c';
            i += kPage;
        }
        EXPECT(all(at + (i < kMuch ? i : kMuch), i < kMuch ? kMuch - i : 0, 'p'));
        EXPECT(all(at, i < kMuch ? i : kMuch, 'c'));
    });
    memset(at, 'q', kMuch);
    __atomic_store_n(shared, 1, __ATOMIC_RELEASE);
    EXPECT_EXIT(pid, 0);
    EXPECT(all(at, kMuch, 'q'));
}
CASE(fork_big_changes_of_maps) {
    char* at = much();
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        OK(madvise(at, kPage, MADV_DONTNEED));
        EXPECT_EQ(at[0], 0);
        OK(munmap(at + kPage, kPage));
        EXPECT_EQ(writes(at + kPage), SIGSEGV);
        OK(mprotect(at + 2 * kPage, kPage, PROT_NONE));
        OK(mprotect(at + 3 * kPage, kPage, PROT_READ));
        EXPECT_EQ(writes(at + 3 * kPage), SIGSEGV);
        char* moved = (char*)OK(mremap(at + 4 * kPage, kPage, 2 * kPage, MREMAP_MAYMOVE));
        EXPECT_EQ(moved[0], 'p');
        EXPECT_EQ(moved[kPage], 0);
        OK(read(ends[0], at + 6 * kPage, 1));
        EXPECT_EQ(at[6 * kPage], 'x');
        OK(mprotect(at + 2 * kPage, kPage, PROT_READ));
        EXPECT_EQ(at[2 * kPage], 'p');
        EXPECT_EQ(at[0], 0);
        EXPECT(all(at + 7 * kPage, kMuch - 7 * kPage, 'p'));
    });
    memset(at, 'q', kMuch);
    OK(write(ends[1], "x", 1));
    EXPECT_EXIT(pid, 0);
    EXPECT(all(at, kMuch, 'q'));
}
CASE(fork_big_grandchildren) {
    char* at = much();
    in_child([&] {
        memset(at, 'c', kMuch / 2);
        in_child([&] {
            EXPECT(all(at, kMuch / 2, 'c'));
            EXPECT(all(at + kMuch / 2, kMuch / 2, 'p'));
            memset(at, 'g', kMuch);
        });
        EXPECT(all(at, kMuch / 2, 'c'));
        EXPECT(all(at + kMuch / 2, kMuch / 2, 'p'));
    });
    EXPECT(all(at, kMuch, 'p'));
}
CASE(fork_big_threads_in_child) {
    static char* at;
    at = much();
    in_child([&] {
        auto write = [](void* from) -> void* {
            memset(from, 't', kMuch / 2);
            return nullptr;
        };
        pthread_t one, two;
        pthread_create(&one, nullptr, write, at);
        pthread_create(&two, nullptr, write, at + kMuch / 2);
        pthread_join(one, nullptr);
        pthread_join(two, nullptr);
        EXPECT(all(at, kMuch, 't'));
    });
    EXPECT(all(at, kMuch, 'p'));
}
CASE(fork_big_threads_in_parent) {
    // A thread of the parent counts on in memory that the child must see standing still.
    static char* at;
    static bool stop;
    at = much();
    auto count = [](void*) -> void* {
        while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) __atomic_fetch_add((uint64_t*)at, 1, __ATOMIC_RELAXED);
        return nullptr;
    };
    pthread_t thread;
    pthread_create(&thread, nullptr, count, nullptr);
    for (int i = 0; i < 5; ++i)
        in_child([] {
            uint64_t first = *(volatile uint64_t*)at;
            sleep_ms(5);
            EXPECT_EQ(*(volatile uint64_t*)at, first);
            EXPECT(all(at + kPage, kMuch - kPage, 'p'));
        });
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, nullptr);
}
CASE(fork_big_parent_killed) {
    char* at = much();
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        pid_t parent = getpid();
        pid_t orphan = fork();
        if (orphan == 0) {
            kill(parent, SIGKILL);
            for (uint64_t until = now_ns() + 20'000'000; now_ns() < until;) {
            }
            char verdict = all(at, kMuch, 'p') ? 'y' : 'n';
            OK(write(ends[1], &verdict, 1));
            _exit(0);
        }
        memset(at, 'k', kMuch);
        for (;;) pause();
    });
    EXPECT_SIGNAL(pid, SIGKILL);
    char verdict = 0;
    EXPECT_EQ(read(ends[0], &verdict, 1), 1);
    EXPECT_EQ(verdict, 'y');
}
CASE(fork_big_vfork_in_child) {
    char* at = much();
    in_child([&] {
        at[0] = 'c';
        pid_t pid = vfork();
        if (pid == 0) _exit(at[0] == 'c' && at[kPage] == 'p' ? 0 : 1);
        EXPECT_EXIT(pid, 0);
        EXPECT(all(at + kPage, kMuch - kPage, 'p'));
    });
    EXPECT(all(at, kMuch, 'p'));
}
CASE(fork_big_exec_in_child) {
    char* at = much();
    for (int i = 0; i < 10; ++i) {
        pid_t pid = child([&] {
            memset(at, 'c', 3 * kPage);
            execl("/bin/true", "true", (char*)nullptr);
            _exit(errno == ENOENT ? 0 : 1);
        });
        EXPECT_EXIT(pid, 0);
        EXPECT(all(at, kMuch, 'p'));
    }
}

// ---- stacks

__attribute__((noinline)) static uint64_t use_stack(int depth) {
    volatile char frame[32 << 10];
    for (size_t i = 0; i < sizeof(frame); i += kPage) frame[i] = (char)depth;
    uint64_t below = depth > 0 ? use_stack(depth - 1) : 0;
    return below + (uint64_t)frame[0];
}
CASE(stack_is_used_deep) {
    struct rlimit limit;
    OK(getrlimit(RLIMIT_STACK, &limit));
    if (limit.rlim_cur < 8 << 20) skip("a small stack limit");
    EXPECT_EQ(use_stack(100), 5050u);
    in_child([] { EXPECT_EQ(use_stack(120), 120u * 121 / 2); });
}
CASE(stack_untouched_takes_a_read) {
    int fd = file_with(std::string(3 << 20, 'z'));
    volatile size_t size = 3 << 20;
    char* deep = (char*)__builtin_alloca(size);
    EXPECT_EQ(pread(fd, deep, size, 0), size);
    EXPECT_EQ(deep[0], 'z');
    EXPECT_EQ(deep[size - 1], 'z');
}
CASE(stack_of_thread) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 4 << 20);
    pthread_t thread;
    EXPECT_EQ(pthread_create(
                  &thread, &attributes, [](void*) -> void* { return (void*)use_stack(90); }, nullptr),
              0);
    void* result = nullptr;
    pthread_join(thread, &result);
    EXPECT_EQ((uint64_t)result, 90u * 91 / 2);
}

CASE(mmap_private_file_over_fork) {
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_with("hello"));
    at[0] = '1';
    in_child([&] {
        EXPECT_EQ(at[0], '1');
        EXPECT_EQ(at[1], 'e');
        at[1] = '2';
    });
    EXPECT_EQ(at[1], 'e');
}
CASE(mmap_read_into_mapping_of_same_file) {
    int fd = file_with(std::string(kPage, 'a') + std::string(kPage, 'b'));
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    EXPECT_EQ(pread(fd, at, kPage, kPage), kPage);
    EXPECT_EQ(at[0], 'b');
}
CASE(mmap_dev_zero) {
    int fd = OK(open("/dev/zero", O_RDWR));
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    EXPECT_EQ(at[10], 0);
    at[10] = 1;
}
CASE(mmap_populate) {
    char* at = map(16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE);
    unsigned char state[16];
    OK(mincore(at, 16 * kPage, state));
    for (int i = 0; i < 16; ++i) EXPECT(state[i] & 1);
}
CASE(mmap_large_sparse) {
    char* at = map(8ull << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    at[5ull << 30] = 1;
    EXPECT_EQ(at[(5ull << 30) + kPage], 0);
}
CASE(mmap_address_space_limit) {
    in_child([] {
        rlimit limit{256 << 20, 256 << 20};
        OK(setrlimit(RLIMIT_AS, &limit));
        FAILS(mmap(nullptr, 1 << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
        map(1 << 20);
    });
}
CASE(mmap_grows_down) {
    char* at = map(64 * kPage);
    OK(munmap(at, 64 * kPage));
    char* stack = map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0,
                      at + 62 * kPage);
    EXPECT_EQ(writes(stack), 0);
}
CASE(stack_grows) {
    in_child([] {
        volatile char deep[2 << 20];
        for (size_t i = 0; i < sizeof deep; i += kPage) deep[i] = 1;
        EXPECT_EQ(deep[0], 1);
    });
}
// A recursion that the compiler cannot turn into a loop.
static int endless(int depth) {
    volatile char frame[4096];
    frame[0] = depth;
    return depth < 0 ? 0 : endless(depth + 1) + frame[0];
}
CASE(stack_limit_is_sigsegv) {
    EXPECT_SIGNAL(child([] {
                      rlimit limit{1 << 20, 1 << 20};
                      OK(setrlimit(RLIMIT_STACK, &limit));
                      _exit(endless(0) & 1);
                  }),
                  SIGSEGV);
}
