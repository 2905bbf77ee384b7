// memfd, shared memory of both kinds, and memory of other processes.
#include <sys/shm.h>
#include <sys/uio.h>

#include "memory_cases.h"

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
