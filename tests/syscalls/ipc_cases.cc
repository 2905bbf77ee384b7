// System V semaphores and message queues, POSIX message queues. (Shared memory is in memory_cases.cc.)
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "case.h"

union Argument {
    int value;
    semid_ds* info;
    unsigned short* values;
};
struct Semaphores {
    explicit Semaphores(int count = 1) { id = OK(semget(IPC_PRIVATE, count, IPC_CREAT | 0600)); }
    ~Semaphores() { semctl(id, 0, IPC_RMID); }
    int id;
};
static int operate(int id, short change, short flags = 0, unsigned short number = 0) {
    sembuf operation{number, change, flags};
    return semop(id, &operation, 1);
}
static int value_of(int id, int number = 0) { return semctl(id, number, GETVAL); }

CASE(sem_values) {
    Semaphores s(3);
    Argument argument;
    EXPECT_EQ(value_of(s.id), 0);
    argument.value = 7;
    OK(semctl(s.id, 1, SETVAL, argument));
    EXPECT_EQ(value_of(s.id, 1), 7);
    unsigned short all[3] = {1, 2, 3};
    argument.values = all;
    OK(semctl(s.id, 0, SETALL, argument));
    unsigned short seen[3] = {};
    argument.values = seen;
    OK(semctl(s.id, 0, GETALL, argument));
    EXPECT_EQ(seen[2], 3);
}
CASE(sem_operations) {
    Semaphores s;
    OK(operate(s.id, 3));
    OK(operate(s.id, -2));
    EXPECT_EQ(value_of(s.id), 1);
    FAILS(operate(s.id, -2, IPC_NOWAIT), EAGAIN);
    FAILS(operate(s.id, 0, IPC_NOWAIT), EAGAIN);
    EXPECT_EQ(semctl(s.id, 0, GETPID), getpid());
}
CASE(sem_all_or_nothing) {
    Semaphores s(2);
    sembuf operations[] = {{0, 1, 0}, {1, -1, IPC_NOWAIT}};
    FAILS(semop(s.id, operations, 2), EAGAIN);
    EXPECT_EQ(value_of(s.id, 0), 0);
}
CASE(sem_waits) {
    Semaphores s;
    pid_t pid = child([&] { OK(operate(s.id, -1)); });
    EXPECT(reaches_state(pid, "S"));
    EXPECT_EQ(semctl(s.id, 0, GETNCNT), 1);
    OK(operate(s.id, 1));
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(value_of(s.id), 0);
}
CASE(sem_waits_for_zero) {
    Semaphores s;
    OK(operate(s.id, 1));
    pid_t pid = child([&] { OK(operate(s.id, 0)); });
    EXPECT(reaches_state(pid, "S"));
    OK(operate(s.id, -1));
    EXPECT_EXIT(pid, 0);
}
CASE(sem_undo) {
    Semaphores s;
    OK(operate(s.id, 5));
    in_child([&] { OK(operate(s.id, -3, SEM_UNDO)); });
    EXPECT_EQ(value_of(s.id), 5);
}
CASE(sem_timed) {
    Semaphores s;
    sembuf operation{0, -1, 0};
    timespec soon{0, 10000000};
    FAILS(semtimedop(s.id, &operation, 1, &soon), EAGAIN);
}
CASE(sem_removed_wakes) {
    int id = OK(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    pid_t pid = child([&] { FAILS(operate(id, -1), EIDRM); });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    OK(semctl(id, 0, IPC_RMID));
    EXPECT_EXIT(pid, 0);
    FAILS_ANY(operate(id, 1), EINVAL, EIDRM);
}
CASE(sem_errors) {
    Semaphores s;
    FAILS(semget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
    FAILS(semget(IPC_PRIVATE, 100000000, IPC_CREAT | 0600), EINVAL);
    FAILS(semop(s.id, nullptr, 0), EINVAL);
    FAILS(operate(s.id, 1, 0, 5), EFBIG);
    FAILS(operate(99999999, 1), EINVAL);
    FAILS(semop(s.id, (sembuf*)bad(), 1), EFAULT);
    FAILS(operate(s.id, 32767) + operate(s.id, 1), ERANGE);
    Argument argument;
    argument.value = -1;
    FAILS(semctl(s.id, 0, SETVAL, argument), ERANGE);
    FAILS(semctl(s.id, 9, GETVAL), EINVAL);
}
CASE(sem_key) {
    key_t key = 0x23450000 + getpid() % 0x10000;
    int id = OK(semget(key, 2, IPC_CREAT | IPC_EXCL | 0600));
    FAILS(semget(key, 2, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    EXPECT_EQ(semget(key, 0, 0), id);
    FAILS(semget(key, 5, 0), EINVAL);
    semid_ds info{};
    Argument argument;
    argument.info = &info;
    OK(semctl(id, 0, IPC_STAT, argument));
    EXPECT_EQ(info.sem_nsems, 2);
    OK(semctl(id, 0, IPC_RMID));
    FAILS(semget(key, 0, 0), ENOENT);
}

// ---- message queues, System V

struct Message {
    long type;
    char text[64];
};
struct Queue {
    Queue() { id = OK(msgget(IPC_PRIVATE, IPC_CREAT | 0600)); }
    ~Queue() { msgctl(id, IPC_RMID, nullptr); }
    int id;
    void put(long type, const char* text) const {
        Message message{type, {}};
        strcpy(message.text, text);
        OK(msgsnd(id, &message, strlen(text) + 1, 0));
    }
    std::string take(long type, int flags = IPC_NOWAIT) const {
        Message message{};
        OK(msgrcv(id, &message, sizeof message.text, type, flags));
        return message.text;
    }
};
CASE(msg_in_order) {
    Queue q;
    q.put(1, "one");
    q.put(2, "two");
    EXPECT_EQ(q.take(0), "one");
    EXPECT_EQ(q.take(0), "two");
}
CASE(msg_by_type) {
    Queue q;
    q.put(3, "three");
    q.put(2, "two");
    q.put(1, "one");
    EXPECT_EQ(q.take(2), "two");
    EXPECT_EQ(q.take(-5), "one");
    EXPECT_EQ(q.take(3), "three");
}
CASE(msg_except) {
    Queue q;
    q.put(1, "one");
    q.put(2, "two");
    EXPECT_EQ(q.take(1, MSG_EXCEPT | IPC_NOWAIT), "two");
}
CASE(msg_errors) {
    Queue q;
    Message message{1, "text"};
    FAILS(msgrcv(q.id, &message, 64, 0, IPC_NOWAIT), ENOMSG);
    message.type = 0;
    FAILS(msgsnd(q.id, &message, 5, 0), EINVAL);
    message.type = 1;
    FAILS(msgsnd(q.id, &message, 1 << 20, 0), EINVAL);
    FAILS(msgsnd(99999999, &message, 5, 0), EINVAL);
    FAILS(msgsnd(q.id, bad(), 5, 0), EFAULT);
    OK(msgsnd(q.id, &message, 5, 0));
    FAILS(msgrcv(q.id, &message, 2, 0, 0), E2BIG);
    EXPECT_EQ(msgrcv(q.id, &message, 2, 0, MSG_NOERROR), 2);
}
CASE(msg_waits) {
    Queue q;
    pid_t pid = child([&] { EXPECT_EQ(q.take(0, 0), "late"); });
    EXPECT(reaches_state(pid, "S"));
    q.put(1, "late");
    EXPECT_EXIT(pid, 0);
}
CASE(msg_full_and_stat) {
    Queue q;
    Message message{1, {}};
    int count = 0;
    while (count < 100000 && msgsnd(q.id, &message, 64, IPC_NOWAIT) == 0) ++count;
    EXPECT_EQ(errno, EAGAIN);
    msqid_ds info{};
    OK(msgctl(q.id, IPC_STAT, &info));
    EXPECT_EQ(info.msg_qnum, count);
    EXPECT_EQ(info.msg_lspid, getpid());
}

// ---- POSIX message queues

static std::string queue_name() { return "/casemate-" + std::to_string(getpid()); }
static mqd_t open_queue(long most = 4, long size = 32) {
    mq_attr attributes{};
    attributes.mq_maxmsg = most;
    attributes.mq_msgsize = size;
    mqd_t queue = mq_open(queue_name().c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    if (queue < 0 && errno == ENOSYS) skip("no message queues");
    OK(queue);
    mq_unlink(queue_name().c_str());
    return queue;
}
CASE(mq_by_priority) {
    mqd_t q = open_queue();
    OK(mq_send(q, "low", 4, 1));
    OK(mq_send(q, "high", 5, 9));
    unsigned priority;
    char buffer[32];
    EXPECT_EQ(mq_receive(q, buffer, 32, &priority), 5);
    EXPECT_EQ(std::string(buffer), "high");
    EXPECT_EQ(priority, 9);
    EXPECT_EQ(mq_receive(q, buffer, 32, nullptr), 4);
}
CASE(mq_attributes) {
    mqd_t q = open_queue(5, 16);
    OK(mq_send(q, "x", 1, 0));
    mq_attr attributes{};
    OK(mq_getattr(q, &attributes));
    EXPECT_EQ(attributes.mq_maxmsg, 5);
    EXPECT_EQ(attributes.mq_msgsize, 16);
    EXPECT_EQ(attributes.mq_curmsgs, 1);
    attributes.mq_flags = O_NONBLOCK;
    OK(mq_setattr(q, &attributes, nullptr));
    OK(mq_getattr(q, &attributes));
    EXPECT_EQ(attributes.mq_flags, O_NONBLOCK);
}
CASE(mq_full_and_empty) {
    mqd_t q = open_queue(2);
    mq_attr nonblocking{};
    nonblocking.mq_flags = O_NONBLOCK;
    OK(mq_setattr(q, &nonblocking, nullptr));
    FAILS(mq_receive(q, scratch(), 32, nullptr), EAGAIN);
    OK(mq_send(q, "a", 1, 0));
    OK(mq_send(q, "b", 1, 0));
    FAILS(mq_send(q, "c", 1, 0), EAGAIN);
}
CASE(mq_errors) {
    mqd_t q = open_queue();
    FAILS(mq_receive(q, scratch(), 10, nullptr), EMSGSIZE);
    FAILS(mq_send(q, scratch(), 33, 0), EMSGSIZE);
    FAILS(mq_send(q, "x", 1, 40000), EINVAL);
    FAILS(mq_open("/casemate-none", O_RDWR), ENOENT);
    FAILS(mq_unlink("/casemate-none"), ENOENT);
    timespec past{1, 0};
    FAILS(mq_timedreceive(q, scratch(), 32, nullptr, &past), ETIMEDOUT);
}
CASE(mq_waits_and_polls) {
    mqd_t q = open_queue();
    pid_t pid = child([&] { EXPECT_EQ(mq_receive(q, scratch(), 32, nullptr), 4); });
    EXPECT(reaches_state(pid, "S"));
    OK(mq_send(q, "late", 4, 0));
    EXPECT_EXIT(pid, 0);
    pollfd watch{q, POLLIN | POLLOUT, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EQ(watch.revents, POLLOUT);
    OK(mq_send(q, "x", 1, 0));
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EQ(watch.revents, POLLIN | POLLOUT);
}
CASE(mq_notify_signal) {
    mqd_t q = open_queue();
    static volatile int got;
    signal(SIGUSR1, [](int number) { got = number; });
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    OK(mq_notify(q, &event));
    FAILS(mq_notify(q, &event), EBUSY);
    OK(mq_send(q, "x", 1, 0));
    for (int i = 0; i < 1000 && got == 0; ++i) sleep_ms(1);
    EXPECT_EQ(got, SIGUSR1);
}

// Settings of an IPC namespace.
CASE(shm_settings) {
    OK(unshare(CLONE_NEWIPC));
    EXPECT_EQ(read_all("/proc/sys/kernel/shm_rmid_forced"), "0\n");
    int kept = OK(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    in_child([&] { OK(shmget(77, 4096, IPC_CREAT | 0600)); });
    int orphan = OK(shmget(77, 4096, 0));
    write_file("/proc/sys/kernel/shm_rmid_forced", "1");
    // What somebody who has ended left unmapped is gone at once; one's own goes with its last detach.
    FAILS(shmget(77, 4096, 0), ENOENT);
    shmid_ds info{};
    FAILS_ANY(shmctl(orphan, IPC_STAT, &info), EINVAL, EIDRM);
    OK(shmctl(kept, IPC_STAT, &info));
    char* at = (char*)OK(shmat(kept, nullptr, 0));
    OK(shmdt(at));
    FAILS_ANY(shmctl(kept, IPC_STAT, &info), EINVAL, EIDRM);
    in_child([&] { OK(shmget(78, 4096, IPC_CREAT | 0600)); });
    FAILS(shmget(78, 4096, 0), ENOENT);
    write_file("/proc/sys/kernel/shmmax", "8192");
    FAILS(shmget(IPC_PRIVATE, 8193, IPC_CREAT | 0600), EINVAL);
    write_file("/proc/sys/kernel/shmall", "1");
    FAILS(shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600), ENOSPC);
    write_file("/proc/sys/kernel/shmmni", "1");
    OK(shmget(79, 4096, IPC_CREAT | 0600));
    FAILS(shmget(80, 4096, IPC_CREAT | 0600), ENOSPC);
    int fd = OK(open("/proc/sys/kernel/shm_rmid_forced", O_WRONLY));
    FAILS(write(fd, "2", 1), EINVAL);
    close(fd);
}
CASE(mq_settings) {
    OK(unshare(CLONE_NEWIPC));
    EXPECT_EQ(read_all("/proc/sys/fs/mqueue/msg_max"), "10\n");
    write_file("/proc/sys/fs/mqueue/msg_max", "100");
    EXPECT_EQ(read_all("/proc/sys/fs/mqueue/msg_max"), "100\n");
    write_file("/proc/sys/fs/mqueue/msg_default", "20");
    write_file("/proc/sys/fs/mqueue/msgsize_default", "256");
    mqd_t queue = mq_open(queue_name().c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, nullptr);
    OK(queue);
    mq_attr attributes{};
    OK(mq_getattr(queue, &attributes));
    EXPECT_EQ(attributes.mq_maxmsg, 20);
    EXPECT_EQ(attributes.mq_msgsize, 256);
    mq_close(queue);
    mq_unlink(queue_name().c_str());
    write_file("/proc/sys/fs/mqueue/queues_max", "0");
    int fd = OK(open("/proc/sys/fs/mqueue/msg_max", O_WRONLY));
    FAILS(write(fd, "0", 1), EINVAL);
    FAILS(write(fd, "65537", 5), EINVAL);
    close(fd);
}
