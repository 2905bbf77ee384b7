/* Moves bytes through a device and says how long that took; in the guest and as the peer outside. Statically linked.
     iobench file NAME PATH read|write BYTES BLOCK DEPTH seq|random [direct]   DEPTH requests at once (Linux AIO)
     iobench files NAME FOLDER COUNT                                           makes, writes and removes COUNT files
     iobench tcp|vsock NAME ADDRESS PORT send|receive BYTES                    in the guest; ADDRESS: IP, or the host's CID
     iobench serve tcp|vsock|unix ADDRESS PORT send|receive BYTES              takes one stream; unix: ADDRESS is the path
   Prints "I NAME milliseconds". In the lab a virtual millisecond is a million instructions, the guest's clock the same. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static void die(const char *what) {
    perror(what);
    exit(1);
}
static int file(char **a, int direct) {
    const char *name = a[0];
    int writes = !strcmp(a[2], "write"), random = !strcmp(a[6], "random");
    long bytes = atol(a[3]), block = atol(a[4]), depth = atol(a[5]), count = bytes / block, next = 0, done = 0;
    int fd = open(a[1], O_CREAT | (writes ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0), 0600);
    if (fd < 0) die(a[1]);
    char *memory = mmap(NULL, block * depth, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) die("mmap");
    memset(memory, 'x', block * depth);
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, depth, &context)) die("io_setup");
    struct iocb requests[128], *list[128];
    struct io_event events[128];
    uint64_t state = 1;
    double start = now();
    long idle[128], idles = depth;
    for (long i = 0; i < depth; i++) idle[i] = i;
    while (done < count) {
        long submit = 0;
        while (idles > 0 && next < count) {
            long slot = idle[--idles];
            state = state * 6364136223846793005u + 1442695040888963407u;
            long at = random ? (long)((state >> 33) % count) : next;
            requests[slot] = (struct iocb){.aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD, .aio_fildes = fd,
                                           .aio_buf = (uintptr_t)(memory + slot * block), .aio_nbytes = block,
                                           .aio_offset = at * block, .aio_data = slot};
            list[submit++] = &requests[slot];
            next++;
        }
        if (submit && syscall(SYS_io_submit, context, submit, list) != submit) die("io_submit");
        long got = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
        if (got < 0) die("io_getevents");
        for (long i = 0; i < got; i++) {
            if (events[i].res != block) return fprintf(stderr, "%s: a request ended with %lld\n", name, (long long)events[i].res), 1;
            idle[idles++] = (long)events[i].data;
        }
        done += got;
    }
    if (writes && fsync(fd)) die("fsync");
    printf("I %s %.2f\n", name, now() - start);
    return 0;
}
static int files(char **a) {
    long count = atol(a[2]);
    char path[512];
    double start = now();
    for (long i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/file%ld", a[1], i);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd < 0 || write(fd, path, sizeof path) != sizeof path || close(fd)) die(path);
    }
    for (long i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/file%ld", a[1], i);
        if (unlink(path)) die(path);
    }
    printf("I %s %.2f\n", a[0], now() - start);
    return 0;
}
static int open_stream(const char *kind, const char *address, const char *port, int listens) {
    struct sockaddr_in ip = {.sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = inet_addr(address)};
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_port = atoi(port), .svm_cid = listens ? VMADDR_CID_ANY : (unsigned)atoi(address)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    strncpy(un.sun_path, address, sizeof un.sun_path - 1);
    struct sockaddr *to = (void *)&ip;
    socklen_t size = sizeof ip;
    if (!strcmp(kind, "vsock")) to = (void *)&vm, size = sizeof vm;
    if (!strcmp(kind, "unix")) to = (void *)&un, size = sizeof un;
    int s = socket(to->sa_family, SOCK_STREAM, 0), one = 1;
    if (s < 0) die(kind);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!listens) {
        if (connect(s, to, size)) die("connect");
        return s;
    }
    if (bind(s, to, size) || listen(s, 1)) die("bind");
    int stream = accept(s, NULL, NULL);
    if (stream < 0) die("accept");
    return stream;
}
static char bytes[256 << 10];
/* Either way the side that received says one byte when it has got all. */
static void transfer(int s, int sends, long size) {
    for (long left = size; left > 0;) {
        long piece = left < (long)sizeof bytes ? left : (long)sizeof bytes;
        ssize_t done = sends ? write(s, bytes, piece) : read(s, bytes, piece);
        if (done <= 0) die("transfer");
        left -= done;
    }
    char ack = 'k';
    if (sends ? read(s, &ack, 1) != 1 : write(s, &ack, 1) != 1) die("end of transfer");
    if (!sends) read(s, &ack, 1); /* until the other side has closed */
    close(s);
}
int main(int argc, char **argv) {
    if (argc >= 9 && !strcmp(argv[1], "file")) return file(argv + 2, argc > 9);
    if (argc == 5 && !strcmp(argv[1], "files")) return files(argv + 2);
    if (argc == 7 && !strcmp(argv[1], "serve")) {
        transfer(open_stream(argv[2], argv[3], argv[4], 1), !strcmp(argv[5], "send"), atol(argv[6]));
        return 0;
    }
    if (argc == 7) {
        int s = open_stream(argv[1], argv[3], argv[4], 0);
        double start = now();
        transfer(s, !strcmp(argv[5], "send"), atol(argv[6]));
        printf("I %s %.2f\n", argv[2], now() - start);
        return 0;
    }
    return 2;
}
