// mmap and its family, protection faults, shared and private mappings of files, brk, memfd and shared memory.
#include <linux/memfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/uio.h>

#include "case.h"

static const size_t kPage = 4096;

static char* map(size_t size, int prot = PROT_READ | PROT_WRITE, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1,
                 off_t offset = 0, void* where = nullptr) {
    return (char*)OK(mmap(where, size, prot, flags, fd, offset));
}

static int file_with(const std::string& content) {
    int fd = OK(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    EXPECT_EQ(write(fd, content.data(), content.size()), content.size());
    return fd;
}

static sigjmp_buf after_fault;
static siginfo_t fault;
static void on_fault(int, siginfo_t* info, void*) {
    fault = *info;
    siglongjmp(after_fault, 1);
}
// 0, or the signal that the access got.
template <typename Access>
static int faults(Access access) {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    OK(sigaction(SIGSEGV, &action, nullptr));
    OK(sigaction(SIGBUS, &action, nullptr));
    if (sigsetjmp(after_fault, 1) == 0) {
        access();
        return 0;
    }
    return fault.si_signo;
}
static int reads(const char* at) {
    return faults([&] { (void)*(volatile const char*)at; });
}
static int writes(char* at) {
    return faults([&] { *(volatile char*)at = 1; });
}

static bool mapped(const void* at) {
    unsigned char state;
    return mincore((void*)((uintptr_t)at & ~(kPage - 1)), 1, &state) == 0;
}

// ---- mmap

CASE(mmap_anonymous_is_zero) {
    char* at = map(10 * kPage);
    for (size_t i = 0; i < 10 * kPage; ++i) EXPECT_EQ(at[i], 0);
    memset(at, 7, 10 * kPage);
    OK(munmap(at, 10 * kPage));
    EXPECT_EQ(reads(at), SIGSEGV);
}
CASE(mmap_sizes_round_up) {
    char* at = map(kPage + 1);
    at[2 * kPage - 1] = 1;
    OK(munmap(at, kPage + 1));
    EXPECT(!mapped(at + kPage));
}
CASE(mmap_errors) {
    FAILS(mmap(nullptr, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(mmap(nullptr, kPage, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
    FAILS(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, file_with("a"), 5), EINVAL);
    FAILS(mmap((void*)12345, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    FAILS(mmap(nullptr, 1ull << 62, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), ENOMEM);
}
CASE(mmap_file_access_modes) {
    file_with("abc");
    int read_only = OK(open("f", O_RDONLY)), write_only = OK(open("f", O_WRONLY));
    FAILS(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, read_only, 0), EACCES);
    FAILS(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, write_only, 0), EACCES);
    map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, read_only);
    FAILS(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, OK(open(".", O_RDONLY)), 0), ENODEV);
}
CASE(mmap_fixed_replaces) {
    char* at = map(3 * kPage);
    memset(at, 9, 3 * kPage);
    EXPECT(map(kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0, at + kPage) == at + kPage);
    EXPECT_EQ(at[0], 9);
    EXPECT_EQ(at[kPage], 0);
    EXPECT_EQ(at[2 * kPage], 9);
}
CASE(mmap_fixed_noreplace) {
    char* at = map(2 * kPage);
    OK(munmap(at + kPage, kPage));
    FAILS(mmap(at, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    EXPECT(map(kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0, at + kPage) == at + kPage);
}
CASE(mmap_hint_taken) {
    char* at = map(8 * kPage);
    OK(munmap(at, 8 * kPage));
    EXPECT(map(kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, at) == at);
}
CASE(mmap_null_page_refused) {
    in_child([] {
        if (geteuid() == 0 && syscall(SYS_setresuid, 12345, 12345, 12345) != 0) skip("cannot drop root");
        FAILS_ANY(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EPERM, EACCES);
    });
}
CASE(mmap_32bit) {
    char* at = map(kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT);
    EXPECT((uintptr_t)at < 0x80000000u);
}
CASE(mmap_private_file_not_written) {
    int fd = file_with("hello");
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    at[0] = 'J';
    EXPECT_EQ(std::string(at, 5), "Jello");
    EXPECT_EQ(read_all("f"), "hello");
}
CASE(mmap_private_sees_later_write) {
    int fd = file_with("hello");
    char* at = map(kPage, PROT_READ, MAP_PRIVATE, fd);
    EXPECT_EQ(pwrite(fd, "J", 1, 0), 1);
    EXPECT_EQ(at[0], 'J');
}
CASE(mmap_shared_file_written) {
    int fd = file_with("hello");
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    at[0] = 'J';
    EXPECT_EQ(read_all("f"), "Jello");
    EXPECT_EQ(pwrite(fd, "y", 1, 4), 1);
    EXPECT_EQ(at[4], 'y');
    OK(msync(at, kPage, MS_SYNC));
}
CASE(mmap_survives_close_and_unlink) {
    int fd = file_with("hello");
    char* at = map(kPage, PROT_READ, MAP_SHARED, fd);
    OK(close(fd));
    OK(unlink("f"));
    EXPECT_EQ(std::string(at, 5), "hello");
}
CASE(mmap_two_views_coherent) {
    int fd = file_with(std::string(kPage, 'a'));
    char* a = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    char* b = map(kPage, PROT_READ, MAP_SHARED, fd);
    a[100] = 'z';
    EXPECT_EQ(b[100], 'z');
}
CASE(mmap_file_offset) {
    int fd = file_with(std::string(kPage, 'a') + std::string(kPage, 'b'));
    EXPECT_EQ(map(kPage, PROT_READ, MAP_PRIVATE, fd, kPage)[0], 'b');
}
CASE(mmap_tail_of_last_page_is_zero) {
    int fd = file_with("abc");
    char* at = map(kPage, PROT_READ, MAP_PRIVATE, fd);
    for (size_t i = 3; i < kPage; ++i) EXPECT_EQ(at[i], 0);
}
CASE(mmap_past_end_is_sigbus) {
    int fd = file_with("abc");
    char* at = map(2 * kPage, PROT_READ, MAP_PRIVATE, fd);
    EXPECT_EQ(reads(at), 0);
    EXPECT_EQ(reads(at + kPage), SIGBUS);
    EXPECT_EQ(fault.si_code, BUS_ADRERR);
    EXPECT(fault.si_addr == at + kPage);
}
CASE(mmap_truncate_then_sigbus) {
    int fd = file_with(std::string(2 * kPage, 'a'));
    char* at = map(2 * kPage, PROT_READ, MAP_SHARED, fd);
    EXPECT_EQ(at[kPage], 'a');
    OK(ftruncate(fd, 10));
    EXPECT_EQ(reads(at + kPage), SIGBUS);
    EXPECT_EQ(at[0], 'a');
    EXPECT_EQ(at[10], 0);
    OK(ftruncate(fd, 2 * kPage));
    EXPECT_EQ(at[kPage], 0);
}
CASE(mmap_shared_anonymous_over_fork) {
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    in_child([&] { at[5] = 'c'; });
    EXPECT_EQ(at[5], 'c');
}
CASE(mmap_private_over_fork_isolated) {
    char* at = map(64 * kPage);
    memset(at, 'p', 64 * kPage);
    in_child([&] {
        EXPECT_EQ(at[kPage], 'p');
        memset(at, 'c', 64 * kPage);
    });
    EXPECT_EQ(at[kPage], 'p');
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        OK(read(ends[0], scratch(), 1));
        for (int i = 0; i < 64; ++i) EXPECT_EQ(at[i * kPage], 'p');
    });
    memset(at, 'q', 64 * kPage);
    OK(write(ends[1], "x", 1));
    EXPECT_EXIT(pid, 0);
}

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

// ---- munmap, mprotect, faults

CASE(munmap_errors) {
    char* at = map(kPage);
    FAILS(munmap(at + 1, kPage), EINVAL);
    FAILS(munmap(at, 0), EINVAL);
    OK(munmap(at, kPage));
    OK(munmap(at, kPage));
    FAILS(munmap((void*)0xfffffffffffff000, kPage), EINVAL);
}
CASE(munmap_middle_splits) {
    char* at = map(3 * kPage);
    memset(at, 5, 3 * kPage);
    OK(munmap(at + kPage, kPage));
    EXPECT_EQ(at[0], 5);
    EXPECT_EQ(at[2 * kPage], 5);
    EXPECT_EQ(reads(at + kPage), SIGSEGV);
    EXPECT_EQ(fault.si_code, SEGV_MAPERR);
    EXPECT(fault.si_addr == at + kPage);
}
CASE(munmap_over_several) {
    char* at = map(4 * kPage);
    OK(munmap(at + kPage, kPage));
    OK(munmap(at, 4 * kPage));
    EXPECT(!mapped(at) && !mapped(at + 3 * kPage));
}
CASE(mprotect_read_only) {
    char* at = map(kPage);
    at[0] = 1;
    OK(mprotect(at, kPage, PROT_READ));
    EXPECT_EQ(reads(at), 0);
    EXPECT_EQ(writes(at), SIGSEGV);
    EXPECT_EQ(fault.si_code, SEGV_ACCERR);
    OK(mprotect(at, kPage, PROT_READ | PROT_WRITE));
    EXPECT_EQ(writes(at), 0);
}
CASE(mprotect_none_and_back_keeps_content) {
    char* at = map(kPage);
    at[0] = 77;
    OK(mprotect(at, kPage, PROT_NONE));
    EXPECT_EQ(reads(at), SIGSEGV);
    OK(mprotect(at, kPage, PROT_READ));
    EXPECT_EQ(at[0], 77);
}
CASE(mprotect_middle) {
    char* at = map(3 * kPage);
    OK(mprotect(at + kPage, kPage, PROT_READ));
    EXPECT_EQ(writes(at), 0);
    EXPECT_EQ(writes(at + kPage), SIGSEGV);
    EXPECT_EQ(writes(at + 2 * kPage), 0);
}
CASE(mprotect_errors) {
    char* at = map(kPage);
    FAILS(mprotect(at + 1, kPage, PROT_READ), EINVAL);
    FAILS(mprotect(at, kPage, 0x80), EINVAL);
    OK(munmap(at, kPage));
    FAILS(mprotect(at, kPage, PROT_READ), ENOMEM);
    OK(mprotect(at, 0, PROT_READ));
}
CASE(mprotect_shared_read_only_file) {
    file_with("abc");
    char* at = map(kPage, PROT_READ, MAP_SHARED, OK(open("f", O_RDONLY)));
    FAILS(mprotect(at, kPage, PROT_READ | PROT_WRITE), EACCES);
}
CASE(mprotect_executes) {
    char* at = map(kPage);
    const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};  // mov $42, %eax; ret
    memcpy(at, code, sizeof code);
    EXPECT_EQ(faults([&] { ((int (*)())at)(); }), SIGSEGV);
    OK(mprotect(at, kPage, PROT_READ | PROT_EXEC));
    EXPECT_EQ(((int (*)())at)(), 42);
}
CASE(mmap_writable_executable_changes_code) {
    char* at = map(kPage, PROT_READ | PROT_WRITE | PROT_EXEC);
    const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    memcpy(at, code, sizeof code);
    EXPECT_EQ(((int (*)())at)(), 42);
    at[1] = 43;
    EXPECT_EQ(((int (*)())at)(), 43);
}
CASE(mmap_code_with_syscall) {
    char* at = map(kPage, PROT_READ | PROT_WRITE | PROT_EXEC);
    const unsigned char code[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};  // mov $39 (getpid), %eax; syscall; ret
    memcpy(at, code, sizeof code);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(((int (*)())at)(), getpid());
    EXPECT(memcmp(at, code, sizeof code) == 0);
}
CASE(fault_null_read) {
    EXPECT_EQ(reads(nullptr), SIGSEGV);
    EXPECT_EQ(fault.si_code, SEGV_MAPERR);
    EXPECT(fault.si_addr == nullptr);
}
CASE(fault_noncanonical) {
    EXPECT_EQ(reads((char*)0x8000000000000000), SIGSEGV);
    EXPECT_EQ(fault.si_code, SI_KERNEL);
}
CASE(fault_kernel_address) { EXPECT_EQ(reads((char*)0xffffffff81000000), SIGSEGV); }
CASE(fault_kills_by_default) {
    EXPECT_SIGNAL(child([] { *(volatile char*)bad() = 1; }), SIGSEGV);
}
CASE(fault_handled_by_mapping) {
    static char* lazy = map(kPage, PROT_NONE);
    struct sigaction action {};
    action.sa_handler = [](int) { mprotect(lazy, kPage, PROT_READ | PROT_WRITE); };
    OK(sigaction(SIGSEGV, &action, nullptr));
    *(volatile char*)lazy = 5;
    EXPECT_EQ(lazy[0], 5);
}

// ---- mremap, madvise, mincore, mlock, msync

CASE(mremap_grows_in_place_or_moves) {
    char* at = map(kPage);
    at[0] = 'x';
    char* larger = (char*)OK(mremap(at, kPage, 20 * kPage, MREMAP_MAYMOVE));
    EXPECT_EQ(larger[0], 'x');
    EXPECT_EQ(larger[20 * kPage - 1], 0);
}
CASE(mremap_shrinks) {
    char* at = map(4 * kPage);
    EXPECT((char*)mremap(at, 4 * kPage, kPage, 0) == at);
    EXPECT(!mapped(at + kPage));
}
CASE(mremap_blocked_in_place) {
    char* at = map(3 * kPage);
    FAILS(mremap(at, kPage, 2 * kPage, 0), ENOMEM);
}
CASE(mremap_fixed_moves) {
    char* at = map(2 * kPage);
    char* target = map(2 * kPage);
    memset(at, 'm', 2 * kPage);
    EXPECT((char*)mremap(at, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    EXPECT_EQ(target[kPage], 'm');
    EXPECT(!mapped(at));
}
CASE(mremap_dontunmap) {
    char* at = map(kPage);
    at[0] = 'd';
    char* moved = (char*)mremap(at, kPage, kPage, MREMAP_MAYMOVE | 4 /* DONTUNMAP */, nullptr);
    if (moved == MAP_FAILED) fail(__FILE__, __LINE__, "mremap: " + errno_name(errno));
    EXPECT_EQ(moved[0], 'd');
    EXPECT_EQ(at[0], 0);
}
CASE(mremap_file_mapping) {
    int fd = file_with(std::string(kPage, 'a') + std::string(kPage, 'b'));
    char* at = map(kPage, PROT_READ, MAP_SHARED, fd);
    char* larger = (char*)OK(mremap(at, kPage, 2 * kPage, MREMAP_MAYMOVE));
    EXPECT_EQ(larger[kPage], 'b');
}
CASE(mremap_errors) {
    char* at = map(2 * kPage);
    FAILS(mremap(at + 1, kPage, 2 * kPage, MREMAP_MAYMOVE), EINVAL);
    FAILS(mremap(at, kPage, 0, MREMAP_MAYMOVE), EINVAL);
    FAILS(mremap(at, kPage, kPage, 0x40), EINVAL);
    FAILS(mremap(at, kPage, kPage, MREMAP_FIXED, at), EINVAL);
    FAILS(mremap(at, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, at + kPage), EINVAL);
    OK(munmap(at, 2 * kPage));
    FAILS(mremap(at, kPage, 2 * kPage, MREMAP_MAYMOVE), EFAULT);
}
CASE(madvise_dontneed_zeroes) {
    char* at = map(4 * kPage);
    memset(at, 5, 4 * kPage);
    OK(madvise(at + kPage, kPage, MADV_DONTNEED));
    EXPECT_EQ(at[0], 5);
    EXPECT_EQ(at[kPage], 0);
    EXPECT_EQ(at[2 * kPage], 5);
}
CASE(madvise_dontneed_file_rereads) {
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_with("hello"));
    at[0] = 'J';
    OK(madvise(at, kPage, MADV_DONTNEED));
    EXPECT_EQ(at[0], 'h');
}
CASE(madvise_dontneed_shared_keeps) {
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    at[0] = 5;
    OK(madvise(at, kPage, MADV_DONTNEED));
    EXPECT_EQ(at[0], 5);
}
CASE(madvise_free) {
    char* at = map(kPage);
    at[0] = 5;
    OK(madvise(at, kPage, MADV_FREE));
    at[0] = 6;
    EXPECT_EQ(at[0], 6);
}
CASE(madvise_remove_shared) {
    char* at = map(2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    memset(at, 5, 2 * kPage);
    OK(madvise(at, kPage, MADV_REMOVE));
    EXPECT_EQ(at[0], 0);
    EXPECT_EQ(at[kPage], 5);
}
CASE(madvise_dontfork) {
    char* at = map(2 * kPage);
    OK(madvise(at, kPage, MADV_DONTFORK));
    in_child([&] {
        EXPECT(!mapped(at));
        EXPECT(mapped(at + kPage));
    });
}
CASE(madvise_wipeonfork) {
    char* at = map(kPage);
    at[0] = 5;
    OK(madvise(at, kPage, MADV_WIPEONFORK));
    in_child([&] { EXPECT_EQ(at[0], 0); });
    EXPECT_EQ(at[0], 5);
}
CASE(madvise_hints_accepted) {
    char* at = map(4 * kPage);
    for (int advice : {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP})
        OK(madvise(at, 4 * kPage, advice));
}
CASE(madvise_errors) {
    char* at = map(kPage);
    FAILS(madvise(at + 1, kPage, MADV_DONTNEED), EINVAL);
    FAILS(madvise(at, kPage, 9999), EINVAL);
    OK(munmap(at, kPage));
    FAILS(madvise(at, kPage, MADV_DONTNEED), ENOMEM);
    OK(madvise(at, 0, MADV_DONTNEED));
}
CASE(mincore_errors) {
    char* at = map(kPage);
    unsigned char state;
    FAILS(mincore(at + 1, kPage, &state), EINVAL);
    FAILS(mincore(at, kPage, (unsigned char*)bad()), EFAULT);
    OK(munmap(at, kPage));
    FAILS(mincore(at, kPage, &state), ENOMEM);
}
CASE(mlock_kinds) {
    char* at = map(2 * kPage);
    OK(mlock(at, kPage));
    OK(munlock(at, kPage));
    OK(mlock2(at, kPage, MLOCK_ONFAULT));
    FAILS(mlock2(at, kPage, 0x10), EINVAL);
    OK(munmap(at, 2 * kPage));
    FAILS(mlock(at, kPage), ENOMEM);
    FAILS(munlock(at, kPage), ENOMEM);
}
CASE(mlockall_kinds) {
    in_child([] {
        OK(mlockall(MCL_FUTURE));
        OK(munlockall());
        FAILS(mlockall(0), EINVAL);
        FAILS(mlockall(0x100), EINVAL);
    });
}
CASE(mlock_limit) {
    if (geteuid() != 0) skip("needs root");
    in_child([] {
        rlimit none{0, 0};
        OK(setrlimit(RLIMIT_MEMLOCK, &none));
        OK(syscall(SYS_setresuid, 12345, 12345, 12345));
        FAILS_ANY(mlock(map(kPage), kPage), EPERM, ENOMEM);
    });
}
CASE(msync_errors) {
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file_with("abc"));
    OK(msync(at, kPage, MS_ASYNC));
    OK(msync(at, kPage, MS_SYNC | MS_INVALIDATE));
    FAILS(msync(at + 1, kPage, MS_SYNC), EINVAL);
    FAILS(msync(at, kPage, MS_SYNC | MS_ASYNC), EINVAL);
    FAILS(msync(at, kPage, 0x80), EINVAL);
    OK(munmap(at, kPage));
    FAILS(msync(at, kPage, MS_SYNC), ENOMEM);
}

// ---- brk

CASE(brk_grows_and_shrinks) {
    char* start = (char*)syscall(SYS_brk, 0);
    char* top = (char*)syscall(SYS_brk, start + 10 * kPage);
    EXPECT(top == start + 10 * kPage);
    memset(start, 3, 10 * kPage);
    EXPECT((char*)syscall(SYS_brk, start + kPage) == start + kPage);
    EXPECT((char*)syscall(SYS_brk, start + 10 * kPage) == start + 10 * kPage);
    uintptr_t page = ((uintptr_t)start + kPage + kPage - 1) & ~(kPage - 1);
    EXPECT_EQ(*(char*)page, 0);
}
CASE(brk_failure_returns_current) {
    long now = syscall(SYS_brk, 0);
    EXPECT_EQ(syscall(SYS_brk, 1), now);
    EXPECT_EQ(syscall(SYS_brk, 0x7fffffffffffffff), now);
}
CASE(brk_copied_by_fork) {
    char* start = (char*)syscall(SYS_brk, 0);
    EXPECT((char*)syscall(SYS_brk, start + kPage) == start + kPage);
    start[0] = 'b';
    in_child([&] {
        EXPECT_EQ(start[0], 'b');
        EXPECT((char*)syscall(SYS_brk, 0) == start + kPage);
        start[0] = 'c';
    });
    EXPECT_EQ(start[0], 'b');
}

// ---- memfd

CASE(memfd_is_a_file) {
    int fd = OK(memfd_create("name", 0));
    EXPECT_EQ(write(fd, "hello", 5), 5);
    OK(ftruncate(fd, kPage));
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    EXPECT_EQ(std::string(at, 5), "hello");
    at[0] = 'J';
    char c;
    EXPECT_EQ(pread(fd, &c, 1, 0), 1);
    EXPECT_EQ(c, 'J');
}
CASE(memfd_errors) {
    FAILS(memfd_create("x", 0x8000), EINVAL);
    FAILS(memfd_create(std::string(250, 'x').c_str(), 0), EINVAL);
    FAILS(memfd_create((char*)bad(), 0), EFAULT);
}
CASE(memfd_cloexec) {
    EXPECT_EQ(fcntl(OK(memfd_create("x", MFD_CLOEXEC)), F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(OK(memfd_create("x", 0)), F_GETFD), 0);
}
CASE(memfd_seals) {
    int fd = OK(memfd_create("x", MFD_ALLOW_SEALING));
    OK(ftruncate(fd, kPage));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    FAILS(ftruncate(fd, 2 * kPage), EPERM);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    FAILS(ftruncate(fd, 10), EPERM);
    EXPECT_EQ(write(fd, "x", 1), 1);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    FAILS(write(fd, "x", 1), EPERM);
    FAILS(mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
}
CASE(memfd_seal_write_while_mapped) {
    int fd = OK(memfd_create("x", MFD_ALLOW_SEALING));
    OK(ftruncate(fd, kPage));
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    OK(munmap(at, kPage));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
}
CASE(memfd_without_sealing) {
    int fd = OK(memfd_create("x", 0));
    EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
}
CASE(memfd_reopen_by_proc) {
    int fd = OK(memfd_create("x", 0));
    EXPECT_EQ(write(fd, "hello", 5), 5);
    EXPECT_EQ(read_all(("/proc/self/fd/" + std::to_string(fd)).c_str()), "hello");
}
CASE(seals_of_other_files) {
    int fd = file_with("x");
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EINVAL);
}

// ---- shared memory, System V and POSIX

CASE(shm_shared_over_fork) {
    int id = OK(shmget(IPC_PRIVATE, kPage, IPC_CREAT | 0600));
    char* at = (char*)OK(shmat(id, nullptr, 0));
    OK(shmctl(id, IPC_RMID, nullptr));
    in_child([&] { at[0] = 's'; });
    EXPECT_EQ(at[0], 's');
    OK(shmdt(at));
    FAILS_ANY(shmat(id, nullptr, 0), EINVAL, EIDRM);
}
CASE(shm_stat) {
    int id = OK(shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0640));
    shmid_ds info{};
    OK(shmctl(id, IPC_STAT, &info));
    EXPECT_EQ(info.shm_segsz, 5000);
    EXPECT_EQ(info.shm_nattch, 0);
    EXPECT_EQ(info.shm_cpid, getpid());
    EXPECT_EQ(info.shm_perm.mode & 0777, 0640);
    void* at = OK(shmat(id, nullptr, 0));
    OK(shmctl(id, IPC_STAT, &info));
    EXPECT_EQ(info.shm_nattch, 1);
    OK(shmdt(at));
    OK(shmctl(id, IPC_RMID, nullptr));
}
CASE(shm_key) {
    key_t key = 0x12340000 + getpid() % 0x10000;
    int id = OK(shmget(key, kPage, IPC_CREAT | IPC_EXCL | 0600));
    FAILS(shmget(key, kPage, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    EXPECT_EQ(shmget(key, 0, 0), id);
    FAILS(shmget(key, 100 * kPage, 0), EINVAL);
    OK(shmctl(id, IPC_RMID, nullptr));
    FAILS(shmget(key, 0, 0), ENOENT);
}
CASE(shm_read_only) {
    int id = OK(shmget(IPC_PRIVATE, kPage, IPC_CREAT | 0600));
    char* at = (char*)OK(shmat(id, nullptr, SHM_RDONLY));
    OK(shmctl(id, IPC_RMID, nullptr));
    EXPECT_EQ(reads(at), 0);
    EXPECT_EQ(writes(at), SIGSEGV);
}
CASE(shm_errors) {
    FAILS(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
    FAILS(shmat(99999999, nullptr, 0), EINVAL);
    FAILS(shmdt(scratch()), EINVAL);
    FAILS(shmctl(99999999, IPC_RMID, nullptr), EINVAL);
}
CASE(shm_file_system) {
    struct stat st;
    if (stat("/dev/shm", &st) != 0) skip("no /dev/shm");
    std::string path = "/dev/shm/casemate-" + std::to_string(getpid());
    int fd = OK(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    OK(ftruncate(fd, kPage));
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    in_child([&] {
        int own = OK(open(path.c_str(), O_RDWR));
        map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, own)[7] = 'k';
    });
    EXPECT_EQ(at[7], 'k');
    OK(unlink(path.c_str()));
}

// ---- other processes' memory, and syscalls that meet bad memory

CASE(process_vm_readv_child) {
    char* at = map(2 * kPage);
    memset(at, 'v', 2 * kPage);
    pid_t pid = child([] { pause(); });
    char local[100] = {};
    iovec here{local, 100}, there{at + kPage - 50, 100};
    EXPECT_EQ(process_vm_readv(pid, &here, 1, &there, 1, 0), 100);
    EXPECT_EQ(local[99], 'v');
    EXPECT_EQ(process_vm_writev(pid, &here, 1, &there, 1, 0), 100);
    FAILS(process_vm_readv(pid, &here, 1, &there, 1, 1), EINVAL);
    there.iov_base = bad();
    FAILS(process_vm_readv(pid, &here, 1, &there, 1, 0), EFAULT);
    kill(pid, SIGKILL);
    wait_for(pid);
    FAILS(process_vm_readv(pid, &here, 1, &there, 1, 0), ESRCH);
}
CASE(read_into_fresh_mapping) {
    int fd = file_with(std::string(64 * kPage, 'r'));
    char* at = map(64 * kPage);
    EXPECT_EQ(pread(fd, at, 64 * kPage, 0), 64 * kPage);
    EXPECT_EQ(at[63 * kPage], 'r');
}
CASE(write_from_untouched_mapping) {
    int fd = file_with("");
    EXPECT_EQ(write(fd, map(4 * kPage), 4 * kPage), 4 * kPage);
    EXPECT(read_all("f") == std::string(4 * kPage, '\0'));
}
CASE(read_into_read_only_mapping) {
    int fd = file_with("abc");
    FAILS(pread(fd, map(kPage, PROT_READ), 3, 0), EFAULT);
}
CASE(read_into_private_copy_after_fork) {
    int fd = file_with("abc");
    char* at = map(kPage);
    at[0] = 'p';
    in_child([&] { EXPECT_EQ(pread(fd, at, 3, 0), 3); });
    EXPECT_EQ(at[0], 'p');
}
CASE(write_from_code) {
    int fd = file_with("");
    EXPECT_EQ(write(fd, (void*)(uintptr_t)&wait_for, 64), 64);
    char copy[64];
    EXPECT_EQ(pread(fd, copy, 64, 0), 64);
    EXPECT(memcmp(copy, (void*)(uintptr_t)&wait_for, 64) == 0);
}
CASE(many_mappings) {
    for (int i = 0; i < 1000; ++i) {
        char* at = map(kPage, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        if (i % 2 == 0) at[0] = 1;
    }
}
CASE(map_unmap_many_times) {
    for (int i = 0; i < 2000; ++i) {
        char* at = map(4 * kPage);
        at[kPage] = 1;
        OK(munmap(at, 4 * kPage));
    }
}
CASE(pkey_unsupported_or_working) {
    int key = syscall(SYS_pkey_alloc, 0, 0);
    if (key < 0) {
        EXPECT(errno == ENOSPC || errno == EINVAL || errno == ENOSYS);
        skip("no protection keys here");
    }
    OK(syscall(SYS_pkey_mprotect, map(kPage), kPage, PROT_READ, key));
    OK(syscall(SYS_pkey_free, key));
}
