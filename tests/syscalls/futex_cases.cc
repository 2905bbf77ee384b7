// futex in all forms: wait and wake, bitset, requeue, operations, priority inheritance, robust lists, waitv; and the
// pthread objects that stand on them.
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/time.h>

#include <atomic>
#include <vector>

#include "case.h"

static long futex(void* word, int operation, uint32_t value = 0, const timespec* timeout = nullptr,
                  void* word2 = nullptr, uint32_t value3 = 0) {
    return syscall(SYS_futex, word, operation, value, timeout, word2, value3);
}
static uint32_t* shared_word() {
    return (uint32_t*)OK(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}
// Wakes until somebody was there to be woken: a loaded machine lets waiters come late.
static bool wakes_one(uint32_t* word, int operation) {
    for (int i = 0; i < 10000; ++i) {
        if (long woken = futex(word, operation, 1); woken != 0) return woken == 1;
        sleep_ms(1);
    }
    return false;
}
static const timespec kSoon{0, 20000000};
static const timespec kLong{5, 0};

struct Waiter {
    uint32_t* word;
    int operation;
    uint32_t value3;
    std::atomic<int> tid{0};
    std::atomic<long> result{-100};
    pthread_t thread;
    void start() {
        pthread_create(
            &thread, nullptr,
            [](void* self) -> void* {
                auto* waiter = (Waiter*)self;
                waiter->tid = syscall(SYS_gettid);
                waiter->result = futex(waiter->word, waiter->operation, 0, nullptr, nullptr, waiter->value3);
                return nullptr;
            },
            this);
        while (tid == 0) sleep_ms(1);
        sleep_ms(20);
    }
    long join() {
        pthread_join(thread, nullptr);
        return result;
    }
};

CASE(wait_value_differs) {
    uint32_t word = 1;
    FAILS(futex(&word, FUTEX_WAIT, 2), EAGAIN);
    FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 2), EAGAIN);
}
CASE(wait_times_out) {
    uint32_t word = 1;
    FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 1, &kSoon), ETIMEDOUT);
    FAILS(futex(&word, FUTEX_WAIT, 1, &kSoon), ETIMEDOUT);
    timespec zero{0, 0};
    FAILS(futex(&word, FUTEX_WAIT, 1, &zero), ETIMEDOUT);
}
CASE(wait_errors) {
    uint32_t words[2] = {};
    timespec wrong{0, 2000000000};
    FAILS(futex((char*)words + 1, FUTEX_WAIT, 0), EINVAL);
    FAILS(futex(bad(), FUTEX_WAIT_PRIVATE, 0), EFAULT);
    FAILS(futex(bad(), FUTEX_WAIT, 0), EFAULT);
    FAILS(futex(words, FUTEX_WAIT, 0, &wrong), EINVAL);
    FAILS(futex(words, FUTEX_WAIT, 0, (timespec*)bad()), EFAULT);
    FAILS(futex(words, 99, 0), ENOSYS);
}
CASE(wake_nobody) {
    uint32_t word = 0;
    EXPECT_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 1), 0);
    EXPECT_EQ(futex(&word, FUTEX_WAKE, 1), 0);
}
FAILS_CASE(wake_unaligned, futex(scratch() + 1, FUTEX_WAKE, 1), EINVAL)
CASE(wake_one_thread) {
    uint32_t word = 0;
    Waiter waiter{&word, FUTEX_WAIT_PRIVATE, 0};
    waiter.start();
    EXPECT_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 1), 1);
    EXPECT_EQ(waiter.join(), 0);
}
CASE(wake_counts) {
    uint32_t word = 0;
    Waiter waiters[4] = {{&word, FUTEX_WAIT_PRIVATE, 0},
                         {&word, FUTEX_WAIT_PRIVATE, 0},
                         {&word, FUTEX_WAIT_PRIVATE, 0},
                         {&word, FUTEX_WAIT_PRIVATE, 0}};
    for (auto& waiter : waiters) waiter.start();
    EXPECT_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 3), 3);
    EXPECT_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 100), 1);
    for (auto& waiter : waiters) EXPECT_EQ(waiter.join(), 0);
}
CASE(private_and_shared_are_apart) {
    uint32_t* word = shared_word();
    Waiter waiter{word, FUTEX_WAIT, 0};
    waiter.start();
    EXPECT_EQ(futex(word, FUTEX_WAKE_PRIVATE, 1), 0);
    EXPECT_EQ(futex(word, FUTEX_WAKE, 1), 1);
    waiter.join();
}
CASE(between_processes) {
    uint32_t* word = shared_word();
    pid_t pid = child([&] {
        while (*(volatile uint32_t*)word == 0)
            if (futex(word, FUTEX_WAIT, 0, &kLong) != 0) EXPECT_EQ(errno, EAGAIN);
    });
    EXPECT(reaches_state(pid, "S"));
    *(volatile uint32_t*)word = 1;
    EXPECT(wakes_one(word, FUTEX_WAKE));
    EXPECT_EXIT(pid, 0);
}
CASE(between_processes_other_address) {
    int fd = OK(memfd_create("futex", 0));
    OK(ftruncate(fd, 4096));
    auto* word = (uint32_t*)OK(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    pid_t pid = child([&] {
        auto* own = (uint32_t*)OK(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
        EXPECT(own != word);
        OK(futex(own, FUTEX_WAIT, 0, &kLong));
    });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    EXPECT(wakes_one(word, FUTEX_WAKE));
    EXPECT_EXIT(pid, 0);
}
CASE(bitset_selects) {
    uint32_t word = 0;
    Waiter a{&word, FUTEX_WAIT_BITSET_PRIVATE, 1}, b{&word, FUTEX_WAIT_BITSET_PRIVATE, 2};
    a.start();
    b.start();
    EXPECT_EQ(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, nullptr, nullptr, 4), 0);
    EXPECT_EQ(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, nullptr, nullptr, 2), 1);
    EXPECT_EQ(b.join(), 0);
    EXPECT_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10), 1);
    a.join();
}
CASE(bitset_absolute_time) {
    uint32_t word = 0;
    timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &until, nullptr, ~0u), ETIMEDOUT);
    clock_gettime(CLOCK_REALTIME, &until);
    FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &until, nullptr, ~0u), ETIMEDOUT);
}
CASE(bitset_zero) {
    uint32_t word = 0;
    FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &kSoon, nullptr, 0), EINVAL);
    FAILS(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, nullptr, nullptr, 0), EINVAL);
}
CASE(requeue_moves) {
    uint32_t a = 0, b = 0;
    Waiter waiters[3] = {{&a, FUTEX_WAIT_PRIVATE, 0}, {&a, FUTEX_WAIT_PRIVATE, 0}, {&a, FUTEX_WAIT_PRIVATE, 0}};
    for (auto& waiter : waiters) waiter.start();
    EXPECT_EQ(futex(&a, FUTEX_REQUEUE_PRIVATE, 1, (timespec*)10, &b), 3);
    EXPECT_EQ(futex(&a, FUTEX_WAKE_PRIVATE, 10), 0);
    EXPECT_EQ(futex(&b, FUTEX_WAKE_PRIVATE, 10), 2);
    for (auto& waiter : waiters) waiter.join();
}
CASE(cmp_requeue_compares) {
    uint32_t a = 5, b = 0;
    FAILS(futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 1, (timespec*)1, &b, 4), EAGAIN);
    EXPECT_EQ(futex(&a, FUTEX_CMP_REQUEUE_PRIVATE, 1, (timespec*)1, &b, 5), 0);
}
CASE(wake_op) {
    uint32_t a = 0, b = 3;
    Waiter on_a{&a, FUTEX_WAIT_PRIVATE, 0};
    on_a.start();
    uint32_t add_two_if_three = FUTEX_OP(FUTEX_OP_ADD, 2, FUTEX_OP_CMP_EQ, 3);
    EXPECT_EQ(futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (timespec*)1, &b, add_two_if_three), 1);
    EXPECT_EQ(b, 5);
    on_a.join();
    EXPECT_EQ(futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (timespec*)1, &b, FUTEX_OP(FUTEX_OP_SET, 9, FUTEX_OP_CMP_EQ, 0)), 0);
    EXPECT_EQ(b, 9);
    EXPECT_EQ(futex(&a, FUTEX_WAKE_OP_PRIVATE, 1, (timespec*)1, &b, FUTEX_OP(FUTEX_OP_XOR, 1, FUTEX_OP_CMP_EQ, 0)), 0);
    EXPECT_EQ(b, 8);
}
CASE(wait_interrupted) {
    uint32_t* word = shared_word();
    pid_t pid = child([&] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        OK(sigaction(SIGUSR1, &action, nullptr));
        FAILS(futex(word, FUTEX_WAIT, 0, &kLong), EINTR);
    });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    OK(kill(pid, SIGUSR1));
    EXPECT_EXIT(pid, 0);
}
CASE(wait_restarted_without_timeout) {
    uint32_t* word = shared_word();
    pid_t pid = child([&] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        action.sa_flags = SA_RESTART;
        OK(sigaction(SIGUSR1, &action, nullptr));
        OK(futex(word, FUTEX_WAIT, 0));
    });
    EXPECT(reaches_state(pid, "S"));
    OK(kill(pid, SIGUSR1));
    sleep_ms(30);
    EXPECT(wakes_one(word, FUTEX_WAKE));
    EXPECT_EXIT(pid, 0);
}
CASE(waiter_killed_leaves_queue) {
    uint32_t* word = shared_word();
    pid_t pid = child([&] { futex(word, FUTEX_WAIT, 0); });
    EXPECT(reaches_state(pid, "S"));
    OK(kill(pid, SIGKILL));
    EXPECT_SIGNAL(pid, SIGKILL);
    EXPECT_EQ(futex(word, FUTEX_WAKE, 1), 0);
}
CASE(pi_lock_unlock) {
    uint32_t word = 0;
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE));
    EXPECT_EQ(word & FUTEX_TID_MASK, syscall(SYS_gettid));
    FAILS(futex(&word, FUTEX_LOCK_PI_PRIVATE), EDEADLK);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE));
    EXPECT_EQ(word, 0);
    FAILS(futex(&word, FUTEX_UNLOCK_PI_PRIVATE), EPERM);
}
CASE(pi_contended) {
    static uint32_t word;
    static std::atomic<bool> locked;
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE));
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            errno = 0;
            if (futex(&word, FUTEX_TRYLOCK_PI_PRIVATE) != -1 || errno != EAGAIN) return (void*)1;
            if (futex(&word, FUTEX_LOCK_PI_PRIVATE) != 0) return (void*)2;
            locked = true;
            return (void*)(futex(&word, FUTEX_UNLOCK_PI_PRIVATE) == 0 ? 0l : 3l);
        },
        nullptr);
    for (int i = 0; i < 10000 && !(__atomic_load_n(&word, __ATOMIC_SEQ_CST) & FUTEX_WAITERS); ++i) sleep_ms(1);
    EXPECT(!locked);
    EXPECT(__atomic_load_n(&word, __ATOMIC_SEQ_CST) & FUTEX_WAITERS);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE));
    void* result;
    pthread_join(thread, &result);
    EXPECT_EQ((long)result, 0);
    EXPECT(locked);
}
CASE(pi_lock_times_out) {
    static uint32_t word;
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE));
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            return (void*)(long)(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, &until) == -1 ? errno : 0);
        },
        nullptr);
    void* result;
    pthread_join(thread, &result);
    EXPECT_EQ((long)result, ETIMEDOUT);
}
CASE(pi_owner_missing) {
    uint32_t word = 99999999 & FUTEX_TID_MASK;
    FAILS(futex(&word, FUTEX_LOCK_PI_PRIVATE), ESRCH);
}
CASE(robust_list_wakes_on_death) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    auto* mutex = (pthread_mutex_t*)shared_word();
    EXPECT_EQ(pthread_mutex_init(mutex, &kind), 0);
    in_child([&] { EXPECT_EQ(pthread_mutex_lock(mutex), 0); });
    EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD);
    EXPECT_EQ(pthread_mutex_consistent(mutex), 0);
    EXPECT_EQ(pthread_mutex_unlock(mutex), 0);
}
CASE(robust_list_killed_while_waited_for) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    auto* mutex = (pthread_mutex_t*)shared_word();
    EXPECT_EQ(pthread_mutex_init(mutex, &kind), 0);
    int ends[2];
    OK(pipe(ends));
    pid_t owner = child([&] {
        pthread_mutex_lock(mutex);
        write(ends[1], "x", 1);
        pause();
    });
    OK(read(ends[0], scratch(), 1));
    pid_t other = child([&] { EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD); });
    EXPECT(reaches_state(other, "S"));
    OK(kill(owner, SIGKILL));
    EXPECT_SIGNAL(owner, SIGKILL);
    EXPECT_EXIT(other, 0);
}
CASE(robust_list_calls) {
    void* head = nullptr;
    size_t size = 0;
    OK(syscall(SYS_get_robust_list, 0, &head, &size));
    EXPECT_EQ(size, sizeof(robust_list_head));
    FAILS(syscall(SYS_set_robust_list, head, 5), EINVAL);
    FAILS(syscall(SYS_get_robust_list, 99999999, &head, &size), ESRCH);
    FAILS(syscall(SYS_get_robust_list, 0, bad(), &size), EFAULT);
}
struct Waitv {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
};
CASE(waitv_forms) {
    static uint32_t a, b;
    Waitv list[2] = {{0, (uintptr_t)&a, 2 | 128, 0}, {0, (uintptr_t)&b, 2 | 128, 0}};
    timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    FAILS(syscall(449, list, 2, 0, &until, CLOCK_MONOTONIC), ETIMEDOUT);
    b = 1;
    FAILS(syscall(449, list, 2, 0, &until, CLOCK_MONOTONIC), EAGAIN);
    FAILS(syscall(449, list, 0, 0, &until, CLOCK_MONOTONIC), EINVAL);
    FAILS(syscall(449, list, 129, 0, &until, CLOCK_MONOTONIC), EINVAL);
    FAILS(syscall(449, bad(), 1, 0, &until, CLOCK_MONOTONIC), EFAULT);
    list[0].reserved = 1;
    FAILS(syscall(449, list, 2, 0, &until, CLOCK_MONOTONIC), EINVAL);
}
CASE(waitv_tells_which) {
    static uint32_t a, b;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            Waitv list[2] = {{0, (uintptr_t)&a, 2 | 128, 0}, {0, (uintptr_t)&b, 2 | 128, 0}};
            return (void*)syscall(449, list, 2, 0, nullptr, 0);
        },
        nullptr);
    EXPECT(wakes_one(&b, FUTEX_WAKE_PRIVATE));
    void* result;
    pthread_join(thread, &result);
    EXPECT_EQ((long)result, 1);
}
CASE(futex2_forms) {
    static uint32_t word = 5;
    const unsigned flags = 2 | 128;
    timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    FAILS(syscall(455, &word, 5, ~0u, flags, &until, CLOCK_MONOTONIC), ETIMEDOUT);
    FAILS(syscall(455, &word, 4, ~0u, flags, &until, CLOCK_MONOTONIC), EAGAIN);
    FAILS(syscall(455, &word, 5, 0, flags, &until, CLOCK_MONOTONIC), EINVAL);      // no bit
    FAILS(syscall(455, &word, 5, ~0ull, flags, &until, CLOCK_MONOTONIC), EINVAL);  // more than 32
    FAILS(syscall(455, &word, 1ull << 32, ~0u, flags, &until, CLOCK_MONOTONIC), EINVAL);
    FAILS(syscall(455, &word, 5, ~0u, 1 | 128, &until, CLOCK_MONOTONIC), EINVAL);  // 16 bits
    FAILS(syscall(455, &word, 5, ~0u, flags | 64, &until, CLOCK_MONOTONIC), EINVAL);
    FAILS(syscall(455, &word, 5, ~0u, flags, &until, CLOCK_BOOTTIME), EINVAL);
    FAILS(syscall(455, &word, 5, ~0u, flags, bad(), CLOCK_MONOTONIC), EFAULT);
    until.tv_nsec = 1000000000;
    FAILS(syscall(455, &word, 5, ~0u, flags, &until, CLOCK_MONOTONIC), EINVAL);
    FAILS(syscall(455, (char*)&word + 1, 5, ~0u, flags, nullptr, 0), EINVAL);
    FAILS(syscall(455, bad(), 5, ~0u, flags, nullptr, 0), EFAULT);
    EXPECT_EQ(syscall(454, &word, ~0u, 1, flags), 0);
    FAILS(syscall(454, &word, 0, 1, flags), EINVAL);
    FAILS(syscall(454, &word, ~0ull, 1, flags), EINVAL);
    FAILS(syscall(454, &word, ~0u, 1, 3 | 128), EINVAL);
    FAILS(syscall(454, (char*)&word + 2, ~0u, 1, flags), EINVAL);
    Waitv pair[2] = {{5, (uintptr_t)&word, flags, 0}, {0, (uintptr_t)&word, flags, 0}};
    EXPECT_EQ(syscall(456, pair, 0, 1, 1), 0);
    FAILS(syscall(456, pair, 1, 1, 1), EINVAL);
    FAILS(syscall(456, nullptr, 0, 1, 1), EINVAL);
    FAILS(syscall(456, bad(), 0, 1, 1), EFAULT);
    FAILS(syscall(456, pair, 0, -1, 1), EINVAL);
    pair[0].value = 4;
    FAILS(syscall(456, pair, 0, 1, 1), EAGAIN);
    pair[1].reserved = 1;
    FAILS(syscall(456, pair, 0, 1, 1), EINVAL);
}
namespace {
// A thread that sleeps by futex_wait; its result is what the call gave.
struct Futex2Sleeper {
    uint32_t* word;
    uint32_t mask;
    pthread_t thread{};
    void begin() {
        pthread_create(
            &thread, nullptr,
            [](void* self) -> void* {
                auto* sleeper = (Futex2Sleeper*)self;
                return (void*)syscall(455, sleeper->word, 0, sleeper->mask, 2 | 128, nullptr, 0);
            },
            this);
    }
    long end() {
        void* result;
        pthread_join(thread, &result);
        return (long)result;
    }
};
}  // namespace
CASE(futex2_wakes_by_mask) {
    static uint32_t word;
    Futex2Sleeper one{&word, 1}, two{&word, 2};
    one.begin();
    two.begin();
    EXPECT_EQ(syscall(454, &word, ~0u, 0, 2 | 128), 0);  // none means none
    while (syscall(454, &word, 2, 5, 2 | 128) == 0) sleep_ms(1);
    EXPECT_EQ(two.end(), 0);
    EXPECT_EQ(syscall(454, &word, 2, 5, 2 | 128), 0);
    while (syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 5, nullptr, nullptr, 0) == 0) sleep_ms(1);
    EXPECT_EQ(one.end(), 0);
}
CASE(futex2_requeues) {
    static uint32_t from, to;
    Futex2Sleeper sleepers[3] = {{&from, ~0u}, {&from, ~0u}, {&from, ~0u}};
    for (auto& sleeper : sleepers) sleeper.begin();
    Waitv pair[2] = {{0, (uintptr_t)&from, 2, 0}, {0, (uintptr_t)&to, 2 | 128, 0}};
    FAILS(syscall(456, pair, 0, 0, 3), EINVAL);  // from a shared word to a private one
    pair[0].flags |= 128;
    for (int moved = 0; moved < 3; sleep_ms(1)) moved += (int)OK(syscall(456, pair, 0, 0, 3));
    EXPECT_EQ(syscall(454, &from, ~0u, 3, 2 | 128), 0);
    EXPECT_EQ(syscall(454, &to, ~0u, 2, 2 | 128), 2);
    EXPECT_EQ(syscall(454, &to, ~0u, 2, 2 | 128), 1);
    for (auto& sleeper : sleepers) EXPECT_EQ(sleeper.end(), 0);
}
CASE(futex2_wait_and_a_signal) {
    static uint32_t word;
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    sigaction(SIGALRM, &action, nullptr);
    itimerval soon = {{0, 20000}, {0, 20000}};
    setitimer(ITIMER_REAL, &soon, nullptr);
    FAILS(syscall(455, &word, 0, ~0u, 2 | 128, nullptr, 0), EINTR);
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 1;
    FAILS(syscall(455, &word, 0, ~0u, 2 | 128, &until, CLOCK_MONOTONIC), ETIMEDOUT);
}
CASE(thread_exit_clears_and_wakes_tid) {
    uint32_t* word = shared_word();
    *word = 1;
    pid_t pid = OK(syscall(SYS_clone, 0x00200000 /* CLONE_CHILD_CLEARTID */ | SIGCHLD, 0, 0, word, 0));
    if (pid == 0) _exit(0);
    while (*(volatile uint32_t*)word != 0) {
        sleep_ms(1);
        if (waitpid(pid, nullptr, WNOHANG) == pid) break;
    }
    // The word is cleared only in memory that somebody else still uses.
    EXPECT(*word == 0 || *word == 1);
}

// ---- pthread objects

CASE(mutex_counts_right) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static long total;
    pthread_t threads[4];
    for (auto& thread : threads)
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                for (int i = 0; i < 5000; ++i) {
                    pthread_mutex_lock(&mutex);
                    ++total;
                    pthread_mutex_unlock(&mutex);
                }
                return nullptr;
            },
            nullptr);
    for (auto& thread : threads) pthread_join(thread, nullptr);
    EXPECT_EQ(total, 20000);
}
CASE(condition_broadcast) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    static bool go;
    pthread_t threads[8];
    for (auto& thread : threads)
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                pthread_mutex_lock(&mutex);
                while (!go) pthread_cond_wait(&condition, &mutex);
                pthread_mutex_unlock(&mutex);
                return nullptr;
            },
            nullptr);
    sleep_ms(20);
    pthread_mutex_lock(&mutex);
    go = true;
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
    for (auto& thread : threads) EXPECT_EQ(pthread_join(thread, nullptr), 0);
}
CASE(condition_timed_wait) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    pthread_mutex_lock(&mutex);
    EXPECT_EQ(pthread_cond_timedwait(&condition, &mutex, &until), ETIMEDOUT);
}
CASE(rwlock_readers_share) {
    static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
    EXPECT_EQ(pthread_rwlock_rdlock(&lock), 0);
    pthread_t thread;
    void* result;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            long a = pthread_rwlock_tryrdlock(&lock);
            pthread_rwlock_unlock(&lock);
            long b = pthread_rwlock_trywrlock(&lock);
            return (void*)(a == 0 && b == EBUSY ? 1l : 0l);
        },
        nullptr);
    pthread_join(thread, &result);
    EXPECT_EQ((long)result, 1);
}
CASE(semaphore_between_processes) {
    auto* semaphore = (sem_t*)shared_word();
    OK(sem_init(semaphore, 1, 0));
    pid_t pid = child([&] {
        for (int i = 0; i < 100; ++i) OK(sem_wait(semaphore));
    });
    for (int i = 0; i < 100; ++i) OK(sem_post(semaphore));
    EXPECT_EXIT(pid, 0);
}
CASE(barrier_meets) {
    static pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, nullptr, 6);
    pthread_t threads[6];
    std::atomic<int> serial{0};
    for (auto& thread : threads)
        pthread_create(
            &thread, nullptr,
            [](void* out) -> void* {
                for (int i = 0; i < 20; ++i)
                    if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) ++*(std::atomic<int>*)out;
                return nullptr;
            },
            &serial);
    for (auto& thread : threads) pthread_join(thread, nullptr);
    EXPECT_EQ(serial.load(), 20);
}
CASE(cancel_thread) {
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            for (;;) pause();
        },
        nullptr);
    sleep_ms(10);
    EXPECT_EQ(pthread_cancel(thread), 0);
    void* result;
    EXPECT_EQ(pthread_join(thread, &result), 0);
    EXPECT(result == PTHREAD_CANCELED);
}
// The end of the first wait passes in the second, which has none.
CASE(a_wait_without_an_end_outlives_the_end_of_the_one_before) {
    static uint32_t words[2];
    static std::atomic<int> asleep;
    pthread_t thread;
    auto waiter = [](void*) -> void* {
        const timespec soon{0, 4000000};
        for (int i = 0; i < 400; ++i) {
            // Long enough only now and then, to come through all of it often.
            __atomic_store_n(&words[0], 0, __ATOMIC_SEQ_CST);
            __atomic_store_n(&words[1], 0, __ATOMIC_SEQ_CST);
            asleep = 2 * i + 1;
            while (__atomic_load_n(&words[0], __ATOMIC_SEQ_CST) == 0) futex(&words[0], FUTEX_WAIT_PRIVATE, 0, &soon);
            asleep = 2 * i + 2;
            while (__atomic_load_n(&words[1], __ATOMIC_SEQ_CST) == 0) futex(&words[1], FUTEX_WAIT_PRIVATE, 0, nullptr);
        }
        return nullptr;
    };
    EXPECT_EQ(pthread_create(&thread, nullptr, waiter, nullptr), 0);
    for (int i = 0; i < 400; ++i) {
        for (int j = 0; j < 2; ++j) {
            while (asleep < 2 * i + 1 + j) sched_yield();
            if (i % 20 == 19) usleep(j == 0 ? 5000 : 60000);
            __atomic_store_n(&words[j], 1, __ATOMIC_SEQ_CST);
            futex(&words[j], FUTEX_WAKE_PRIVATE, 1);
        }
    }
    EXPECT_EQ(pthread_join(thread, nullptr), 0);
}
