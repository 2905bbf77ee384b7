// mmap and its relatives, faults, the heap.
#include <sys/resource.h>
#include <sys/stat.h>

#include "memory_cases.h"

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
CASE(mmap_file_read_by_the_kernel_often) {
    std::string content(2 * kPage, 0);
    content[0] = content[kPage] = 'f';
    int fd = file_with(content);
    const char* at = map(4 * kPage, PROT_READ, MAP_SHARED, fd);
    struct stat st;
    auto found = [&](const char* path) { return stat(path, &st) == 0 ? 0 : errno; };
    for (int i = 0; i < 40; ++i) EXPECT_EQ(found(at), 0);
    EXPECT_EQ(found(at + kPage), 0);
    EXPECT_EQ(pwrite(fd, "absent", 7, 0), 7);
    EXPECT_EQ(found(at), ENOENT);
    EXPECT_EQ(pwrite(fd, "f", 2, 0), 2);
    EXPECT_EQ(found(at), 0);
    OK(ftruncate(fd, kPage));
    EXPECT_EQ(found(at), 0);
    EXPECT_EQ(found(at + kPage), EFAULT);
    OK(ftruncate(fd, 3 * kPage));
    EXPECT_EQ(found(at + kPage), ENOENT);  // an empty path
    EXPECT_EQ(pwrite(fd, "f", 2, 2 * kPage), 2);
    EXPECT_EQ(found(at + 2 * kPage), 0);
    EXPECT_EQ(found(at + 3 * kPage), EFAULT);
    OK(rename("f", "g"));
    EXPECT_EQ(found(at), ENOENT);
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
CASE(mremap_dontunmap_of_a_file) {
    int fd = file_with(std::string(kPage, 'a'));
    char* at = map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    at[0] = 'b';
    char* moved = (char*)OK(mremap(at, kPage, kPage, MREMAP_MAYMOVE | 4, nullptr));
    EXPECT_EQ(moved[0], 'b');
    EXPECT_EQ(at[0], 'a');
    char* shared = map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    char* second = (char*)OK(mremap(shared, kPage, kPage, MREMAP_MAYMOVE | 4, nullptr));
    second[1] = 'c';
    EXPECT_EQ(shared[1], 'c');
}
CASE(mremap_dontunmap_errors) {
    char* at = map(2 * kPage);
    FAILS(mremap(at, kPage, kPage, 4), EINVAL);
    FAILS(mremap(at, kPage, 2 * kPage, MREMAP_MAYMOVE | 4), EINVAL);
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
CASE(brk_gives_zeros_each_time) {
    char* start = (char*)(((uintptr_t)syscall(SYS_brk, 0) + kPage - 1) & ~(kPage - 1));
    EXPECT((char*)syscall(SYS_brk, start + 2 * kPage) == start + 2 * kPage);
    memset(start, 1, 2 * kPage);
    for (size_t pages : {3, 40, 70, 700, 5, 300}) {
        char* top = start + pages * kPage;
        EXPECT((char*)syscall(SYS_brk, top) == top);
        EXPECT_EQ(start[2 * kPage - 1], 1);
        for (char* at = start + 2 * kPage; at < top; at += kPage / 2) {
            EXPECT_EQ(*at, 0);
            *at = 2;
        }
        top[-1] = 3;
        EXPECT((char*)syscall(SYS_brk, top - kPage) == top - kPage);
        EXPECT((char*)syscall(SYS_brk, start + 2 * kPage) == start + 2 * kPage);
        FAILS(write(-1, top - 1, 1), EBADF);
        int ends[2];
        OK(pipe(ends));
        FAILS(write(ends[1], top - 1, 1), EFAULT);
        close(ends[0]);
        close(ends[1]);
    }
}
CASE(brk_given_back_faults) {
    char* start = (char*)(((uintptr_t)syscall(SYS_brk, 0) + kPage - 1) & ~(kPage - 1));
    EXPECT((char*)syscall(SYS_brk, start + 3 * kPage) == start + 3 * kPage);
    memset(start, 1, 3 * kPage);
    EXPECT((char*)syscall(SYS_brk, start + kPage) == start + kPage);
    EXPECT_EQ(reads(start + kPage), SIGSEGV);
}
CASE(brk_makes_room_for_others) {
    char* start = (char*)(((uintptr_t)syscall(SYS_brk, 0) + kPage - 1) & ~(kPage - 1));
    char* top = start + 20 * kPage;
    EXPECT((char*)syscall(SYS_brk, top) == top);
    memset(start, 1, 20 * kPage);
    EXPECT((char*)syscall(SYS_brk, start + kPage) == start + kPage);
    char* place = start + 8 * kPage;
    char* at =
        (char*)mmap(place, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    EXPECT(at == place);
    EXPECT_EQ(at[0], 0);
    at[0] = 9;
    EXPECT((char*)syscall(SYS_brk, start + 6 * kPage) == start + 6 * kPage);  // Linux leaves a page between
    EXPECT_EQ(start[0], 1);
    EXPECT_EQ(start[kPage], 0);
    EXPECT((char*)syscall(SYS_brk, top) == start + 6 * kPage);
    EXPECT_EQ(at[0], 9);
    OK(munmap(at, kPage));
    EXPECT((char*)syscall(SYS_brk, top) == top);
    EXPECT_EQ(at[0], 0);
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
