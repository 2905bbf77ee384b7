// Asynchronous I/O by io_setup and relatives, as databases and their C library use it.
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <vector>

#include "case.h"

static long setup(unsigned events, aio_context_t* context) { return syscall(SYS_io_setup, events, context); }
static long submit(aio_context_t context, std::vector<iocb*> list) {
    return syscall(SYS_io_submit, context, (long)list.size(), list.data());
}
static long get_events(aio_context_t context, long least, long most, io_event* events, timespec* timeout = nullptr) {
    return syscall(SYS_io_getevents, context, least, most, events, timeout);
}
static aio_context_t new_context(unsigned events = 16) {
    aio_context_t context = 0;
    OK(setup(events, &context));
    EXPECT(context != 0);
    return context;
}
static iocb operation(int opcode, int fd, void* buffer = nullptr, uint64_t size = 0, int64_t offset = 0) {
    iocb block{};
    block.aio_data = 0x1234;
    block.aio_lio_opcode = (uint16_t)opcode;
    block.aio_fildes = (uint32_t)fd;
    block.aio_buf = (uint64_t)buffer;
    block.aio_nbytes = size;
    block.aio_offset = offset;
    return block;
}
// What the operation ends with.
static int64_t result_of(aio_context_t context, iocb block) {
    EXPECT_EQ(submit(context, {&block}), 1);
    io_event event{};
    EXPECT_EQ(get_events(context, 1, 1, &event), 1);
    EXPECT_EQ(event.data, 0x1234);
    EXPECT_EQ(event.obj, (uint64_t)&block);
    return event.res;
}
static int file_with(const std::string& content) {
    write_file("file", content);
    return OK(open("file", O_RDWR));
}

CASE(setup_and_destroy) {
    aio_context_t context = new_context();
    OK(syscall(SYS_io_destroy, context));
    FAILS(syscall(SYS_io_destroy, context), EINVAL);
    io_event event;
    FAILS(get_events(context, 0, 1, &event), EINVAL);
}
CASE(setup_bad_arguments) {
    aio_context_t context = 0;
    FAILS(setup(0, &context), EINVAL);
    context = 7;
    FAILS(setup(1, &context), EINVAL);
    FAILS(setup(1, (aio_context_t*)bad()), EFAULT);
    context = 0;
    FAILS(setup(0x7fffffff, &context), EINVAL);
    FAILS(syscall(SYS_io_destroy, 0), EINVAL);
    FAILS(syscall(SYS_io_destroy, (aio_context_t)scratch()), EINVAL);
}
CASE(reads) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    char buffer[16] = {};
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREAD, fd, buffer, 4, 3)), 4);
    EXPECT_EQ(std::string(buffer), "3456");
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREAD, fd, buffer, 16, 8)), 2);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREAD, fd, buffer, 16, 100)), 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
}
CASE(writes) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PWRITE, fd, (void*)"ab", 2, 8)), 2);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PWRITE, fd, (void*)"cd", 2, 12)), 2);
    EXPECT_EQ(read_all("file"), std::string("01234567ab\0\0cd", 14));
}
CASE(vectors) {
    int fd = file_with("");
    aio_context_t context = new_context();
    iovec pieces[] = {{(void*)"one", 3}, {(void*)"two", 3}};
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PWRITEV, fd, pieces, 2, 1)), 6);
    char a[2] = {}, b[4] = {};
    iovec into[] = {{a, 1}, {b, 3}};
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREADV, fd, into, 2, 3)), 4);
    EXPECT_EQ(std::string(a) + std::string(b, 3), "etwo");
}
CASE(synchronises) {
    int fd = file_with("x");
    aio_context_t context = new_context();
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_FSYNC, fd)), 0);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_FDSYNC, fd)), 0);
    iocb block = operation(IOCB_CMD_FSYNC, fd, scratch());
    FAILS(submit(context, {&block}), EINVAL);
    int ends[2];
    OK(pipe(ends));
    block = operation(IOCB_CMD_FSYNC, ends[1]);
    FAILS(submit(context, {&block}), EINVAL);
}
CASE(several_at_once) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    char buffers[3][4] = {};
    iocb blocks[3];
    for (int i = 0; i < 3; ++i) {
        blocks[i] = operation(IOCB_CMD_PREAD, fd, buffers[i], 3, i * 3);
        blocks[i].aio_data = (uint64_t)i;
    }
    EXPECT_EQ(submit(context, {&blocks[0], &blocks[1], &blocks[2]}), 3);
    io_event events[4];
    EXPECT_EQ(get_events(context, 3, 4, events), 3);
    int seen = 0;
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(events[i].res, 3);
        seen |= 1 << events[i].data;
    }
    EXPECT_EQ(seen, 7);
    EXPECT_EQ(std::string(buffers[1]), "345");
    timespec none{};
    EXPECT_EQ(get_events(context, 1, 4, events, &none), 0);
}
CASE(a_bad_one_ends_the_list) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    char buffer[4];
    iocb good = operation(IOCB_CMD_PREAD, fd, buffer, 3), wrong = operation(99, fd);
    EXPECT_EQ(submit(context, {&good, &wrong, &good}), 1);
    FAILS(submit(context, {&wrong, &good}), EINVAL);
    io_event events[4];
    EXPECT_EQ(get_events(context, 1, 4, events), 1);
    iocb* list[] = {&good, (iocb*)bad()};
    EXPECT_EQ(syscall(SYS_io_submit, context, 2L, list), 1);
    EXPECT_EQ(get_events(context, 1, 4, events), 1);
    FAILS(syscall(SYS_io_submit, context, 1L, bad()), EFAULT);
    FAILS(syscall(SYS_io_submit, context, -1L, list), EINVAL);
    EXPECT_EQ(syscall(SYS_io_submit, context, 0L, list), 0);
}
CASE(errors_at_submission) {
    int fd = file_with("0123456789");
    int readable = OK(open("file", O_RDONLY)), writable = OK(open("file", O_WRONLY));
    aio_context_t context = new_context();
    char buffer[4];
    iocb block = operation(IOCB_CMD_PREAD, 1000, buffer, 3);
    FAILS(submit(context, {&block}), EBADF);
    block = operation(IOCB_CMD_PREAD, writable, buffer, 3);
    FAILS(submit(context, {&block}), EBADF);
    block = operation(IOCB_CMD_PWRITE, readable, buffer, 3);
    FAILS(submit(context, {&block}), EBADF);
    block = operation(IOCB_CMD_PREAD, fd, buffer, 3, -1);
    FAILS(submit(context, {&block}), EINVAL);
    block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    block.aio_reserved2 = 1;
    FAILS(submit(context, {&block}), EINVAL);
    block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    block.aio_rw_flags = 1 << 20;
    FAILS(submit(context, {&block}), EOPNOTSUPP);
    block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    block.aio_flags = IOCB_FLAG_RESFD;
    block.aio_resfd = (uint32_t)fd;
    FAILS(submit(context, {&block}), EINVAL);
    block.aio_resfd = 1000;
    FAILS_ANY(submit(context, {&block}), EINVAL, EBADF);
    io_event event;
    timespec none{};
    EXPECT_EQ(get_events(context, 1, 1, &event, &none), 0);
}
CASE(errors_of_the_operation) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREAD, fd, bad(), 3)), -EFAULT);
    rlimit limit{4, 4};
    OK(setrlimit(RLIMIT_FSIZE, &limit));
    signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PWRITE, fd, (void*)"abc", 3, 8)), -EFBIG);
}
CASE(key_is_set_and_nothing_to_cancel) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    char buffer[4];
    iocb block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    block.aio_key = 77;
    EXPECT_EQ(submit(context, {&block}), 1);
    EXPECT_EQ(block.aio_key, 0);
    io_event event;
    EXPECT_EQ(get_events(context, 1, 1, &event), 1);
    FAILS(syscall(SYS_io_cancel, context, &block, &event), EINVAL);
    FAILS(syscall(SYS_io_cancel, context, bad(), &event), EFAULT);
}
CASE(eventfd_counts) {
    int fd = file_with("0123456789"), notices = OK(eventfd(0, EFD_NONBLOCK));
    aio_context_t context = new_context();
    char buffer[4];
    iocb block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    block.aio_flags = IOCB_FLAG_RESFD;
    block.aio_resfd = (uint32_t)notices;
    EXPECT_EQ(submit(context, {&block}), 1);
    EXPECT_EQ(submit(context, {&block}), 1);
    io_event events[2];
    EXPECT_EQ(get_events(context, 2, 2, events), 2);
    uint64_t count = 0;
    EXPECT_EQ(read(notices, &count, 8), 8);
    EXPECT_EQ(count, 2);
}
CASE(sockets_and_pipes) {
    int ends[2], pair[2];
    OK(pipe(ends));
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    aio_context_t context = new_context();
    char buffer[8] = {};
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PWRITE, ends[1], (void*)"abc", 3)), 3);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREAD, ends[0], buffer, 8)), 3);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PWRITE, pair[1], (void*)"defg", 4)), 4);
    EXPECT_EQ(result_of(context, operation(IOCB_CMD_PREAD, pair[0], buffer, 8)), 4);
    EXPECT_EQ(std::string(buffer), "defg");
}
CASE(get_events_arguments) {
    aio_context_t context = new_context();
    io_event event;
    timespec little{0, 1000000};
    FAILS(get_events(context, 2, 1, &event), EINVAL);
    FAILS(get_events(context, -1, 1, &event), EINVAL);
    FAILS(get_events(context, 1, 1, &event, (timespec*)bad()), EFAULT);
    EXPECT_EQ(get_events(context, 0, 1, &event), 0);
    uint64_t before = now_ns();
    EXPECT_EQ(get_events(context, 1, 1, &event, &little), 0);
    EXPECT(now_ns() - before >= 1000000);
}
CASE(events_to_a_bad_address) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    char buffer[4];
    iocb block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    EXPECT_EQ(submit(context, {&block}), 1);
    FAILS(get_events(context, 1, 1, (io_event*)bad()), EFAULT);
}
CASE(waits_for_another_thread) {
    static aio_context_t context;
    static int fd;
    fd = file_with("0123456789");
    context = new_context();
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            static char buffer[4];
            static iocb block;
            EXPECT(reaches_state(getpid(), "S"));
            block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
            EXPECT_EQ(submit(context, {&block}), 1);
            return nullptr;
        },
        nullptr);
    io_event event;
    EXPECT_EQ(get_events(context, 1, 1, &event), 1);
    EXPECT_EQ(event.res, 3);
    pthread_join(thread, nullptr);
}
CASE(waiting_ends_with_a_signal) {
    aio_context_t context = new_context();
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
    pid_t parent = getpid();
    // As often as it takes: the first may come before the parent waits.
    pid_t pid = child([&] {
        for (;; sleep_ms(5)) kill(parent, SIGUSR1);
    });
    io_event event;
    FAILS(get_events(context, 1, 1, &event), EINTR);
    kill(pid, SIGKILL);
    EXPECT_SIGNAL(pid, SIGKILL);
}
CASE(pgetevents_mask) {
    aio_context_t context = new_context();
    signal(SIGUSR1, [](int) {});
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
    raise(SIGUSR1);
    uint64_t nothing = 0;
    struct {
        const uint64_t* mask;
        size_t size;
    } wanted = {&nothing, 8};
    io_event event;
    timespec long_time{100, 0};
    FAILS(syscall(SYS_io_pgetevents, context, 1L, 1L, &event, &long_time, &wanted), EINTR);
    sigset_t now;
    sigprocmask(SIG_BLOCK, nullptr, &now);
    EXPECT(sigismember(&now, SIGUSR1) == 1);
    wanted.size = 4;
    FAILS(syscall(SYS_io_pgetevents, context, 1L, 1L, &event, &long_time, &wanted), EINVAL);
}
CASE(children_have_no_context) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context();
    in_child([&] {
        char buffer[4];
        iocb block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
        FAILS(submit(context, {&block}), EINVAL);
        FAILS(syscall(SYS_io_destroy, context), EINVAL);
    });
    OK(syscall(SYS_io_destroy, context));
}
CASE(contexts_end_with_their_process) {
    // More than there may be at once.
    for (int i = 0; i < 6; ++i) in_child([] { new_context(20000); });
    for (int i = 0; i < 6; ++i) OK(syscall(SYS_io_destroy, new_context(20000)));
}
CASE(full_context) {
    int fd = file_with("0123456789");
    aio_context_t context = new_context(1);
    char buffer[4];
    iocb block = operation(IOCB_CMD_PREAD, fd, buffer, 3);
    // As many as asked for and some more, but not without end.
    long taken = 0;
    while (taken < 100000 && submit(context, {&block}) == 1) ++taken;
    EXPECT_EQ(errno, EAGAIN);
    EXPECT(taken >= 1);
    io_event event;
    EXPECT_EQ(get_events(context, 1, 1, &event), 1);
}
CASE(limits_are_told) {
    EXPECT(atol(read_all("/proc/sys/fs/aio-max-nr").c_str()) >= 65536);
    EXPECT(atol(read_all("/proc/sys/fs/aio-nr").c_str()) >= 0);
}
