/* Streams for the suite, in the guest and on the host; statically linked.
     peer pattern BYTES            writes the pattern
     peer check BYTES              reads it, and nothing else; status 0 if it was right
     peer connect PORT             in the guest: stdin to the host's vsock port, what comes back to stdout
     peer listen PORT              in the guest: accepts one stream
     peer tcp-connect ADDRESS PORT, peer tcp-listen ADDRESS PORT
     peer unix-connect PATH PORT   on the host: by "CONNECT PORT" to the guest
     peer unix-listen PATH         on the host: accepts one stream
     peer files FOLDER             makes each call of a file system's once
     peer control PATH WORD        asks the monitor at PATH as soon as that listens; prints for how many ms it has done so
   A stream ends when both directions have ended. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}
static void write_all(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t done = write(fd, bytes, size);
        if (done < 0 && errno != EINTR) die("write");
        if (done > 0) bytes += done, size -= (size_t)done;
    }
}
/* Byte i of the pattern: no period that a buffer's size could hide. */
static uint64_t state;
static char next(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (char)(state >> 56);
}
static int pattern(uint64_t size, int check) {
    static char bytes[65536];
    while (size > 0) {
        size_t piece = size < sizeof bytes ? size : sizeof bytes;
        if (check) {
            ssize_t got = read(0, bytes, piece);
            if (got <= 0) return fprintf(stderr, "%llu bytes are missing\n", (unsigned long long)size), 1;
            piece = (size_t)got;
            for (size_t i = 0; i < piece; i++)
                if (bytes[i] != next()) return fprintf(stderr, "wrong %llu bytes before the end\n", (unsigned long long)(size - i)), 1;
        } else {
            for (size_t i = 0; i < piece; i++) bytes[i] = next();
            write_all(1, bytes, piece);
        }
        size -= piece;
    }
    char more;
    if (check && read(0, &more, 1) != 0) return fprintf(stderr, "more than was sent\n"), 1;
    return 0;
}
static int stream(int s) {
    static char bytes[65536];
    int in = 0, out = 1;
    while (in >= 0 || out >= 0) {
        struct pollfd p[2] = {{in, POLLIN, 0}, {out >= 0 ? s : -1, POLLIN, 0}};
        if (poll(p, 2, 60000) <= 0) return fprintf(stderr, "nothing for a minute\n"), 1;
        if (p[0].revents) {
            ssize_t got = read(in, bytes, sizeof bytes);
            if (got > 0) write_all(s, bytes, (size_t)got);
            else in = -1, shutdown(s, SHUT_WR);
        }
        if (p[1].revents) {
            ssize_t got = read(s, bytes, sizeof bytes);
            if (got > 0) write_all(1, bytes, (size_t)got);
            else if (got < 0) die("read");
            else out = -1;
        }
    }
    return 0;
}
static int accept_one(int s, const struct sockaddr *to, socklen_t size) {
    if (s < 0 || bind(s, to, size) || listen(s, 1)) die("listen");
    int c = accept(s, NULL, NULL);
    if (c < 0) die("accept");
    return c;
}
#define DO(call) ((call) < 0 ? die(#call) : (void)0)
static int files(const char *folder) {
    struct timespec times[2] = {{1000, 0}, {2000, 0}};
    struct statfs space;
    struct stat st;
    char bytes[64] = {0};
    loff_t from = 0, to = 0;
    DO(chdir(folder));
    int fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0600), copy = open("copy", O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || copy < 0) die("open");
    DO(write(fd, "some bytes", 10));
    DO(pread(fd, bytes, sizeof bytes, 0));
    if (memcmp(bytes, "some bytes", 10)) die("read");
    DO(fsync(fd));
    DO(fdatasync(fd));
    DO(ftruncate(fd, 100000));
    DO(fallocate(fd, 0, 0, 200000));
    DO(lseek(fd, 0, SEEK_HOLE));
    if (copy_file_range(fd, &from, copy, &to, 1000, 0) != 1000) die("copy_file_range");
    DO(fcntl(fd, F_SETFL, O_APPEND));
    DO(syncfs(fd));
    DO(fstatfs(fd, &space));
    DO(setxattr("file", "user.name", "value", 5, 0));
    if (getxattr("file", "user.name", bytes, sizeof bytes) != 5) die("getxattr");
    DO(listxattr("file", bytes, sizeof bytes));
    DO(removexattr("file", "user.name"));
    DO(chmod("file", 0640));
    DO(chown("file", 1, 2));
    DO(utimensat(AT_FDCWD, "file", times, 0));
    DO(stat("file", &st));
    if (st.st_uid != 1 || st.st_gid != 2 || st.st_mtime != 2000 || (st.st_mode & 0777) != 0640) die("stat");
    DO(mkdir("folder", 0700));
    DO(mkfifo("fifo", 0600));
    DO(link("file", "second"));
    DO(symlink("file", "link"));
    if (readlink("link", bytes, sizeof bytes) != 4) die("readlink");
    DO(rename("second", "folder/third"));
    DO(renameat2(AT_FDCWD, "file", AT_FDCWD, "copy", RENAME_EXCHANGE));
    int seen = 0;
    DIR *dir = opendir(".");
    while (dir && readdir(dir)) seen++;
    if (seen != 7) die("readdir");
    rewinddir(dir);
    closedir(dir);
    DO(unlink("folder/third"));
    DO(rmdir("folder"));
    DO(unlink("fifo"));
    DO(unlink("link"));
    DO(unlink("file"));
    DO(unlink("copy"));
    return 0;
}
/* Without the time that it takes to start a program of some size, in an emulated machine. */
static int control(const char *path, const char *word) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct timespec listens, answered;
    char answer[256];
    strncpy(to.sun_path, path, sizeof to.sun_path - 1);
    int s = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    while (connect(s, (struct sockaddr *)&to, sizeof to)) usleep(2000);
    clock_gettime(CLOCK_MONOTONIC, &listens);
    DO(write(s, word, strlen(word)));
    ssize_t size = read(s, answer, sizeof answer);
    if (size < 2 || memcmp(answer, "ok", 2)) return 1;
    clock_gettime(CLOCK_MONOTONIC, &answered);
    printf("%ld\n", (answered.tv_sec - listens.tv_sec) * 1000 + (answered.tv_nsec - listens.tv_nsec) / 1000000 + 3);
    return 0;
}
int main(int argc, char **argv) {
    alarm(480); /* whoever waits for a guest that never comes */
    const char *verb = argc > 2 ? argv[1] : "";
    if (!strcmp(verb, "pattern")) return pattern(strtoull(argv[2], NULL, 10), 0);
    if (!strcmp(verb, "control") && argc > 3) return control(argv[2], argv[3]);
    if (!strcmp(verb, "files")) return files(argv[2]);
    if (!strcmp(verb, "check")) return pattern(strtoull(argv[2], NULL, 10), 1);
    if (!strcmp(verb, "connect") || !strcmp(verb, "listen")) {
        struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_port = (unsigned)atoi(argv[2]), .svm_cid = VMADDR_CID_HOST};
        int s = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (*verb == 'c') {
            if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to)) die("connect");
            return stream(s);
        }
        to.svm_cid = VMADDR_CID_ANY;
        return stream(accept_one(s, (struct sockaddr *)&to, sizeof to));
    }
    if (!strncmp(verb, "tcp-", 4) && argc > 3) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
        inet_pton(AF_INET, argv[2], &to.sin_addr);
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (!strcmp(verb, "tcp-listen")) return stream(accept_one(s, (struct sockaddr *)&to, sizeof to));
        if (connect(s, (struct sockaddr *)&to, sizeof to)) die("connect");
        return stream(s);
    }
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, argc > 2 ? argv[2] : "", sizeof to.sun_path - 1);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!strcmp(verb, "unix-listen")) return stream(accept_one(s, (struct sockaddr *)&to, sizeof to));
    if (!strcmp(verb, "unix-connect") && argc > 3) {
        /* Until the guest listens. */
        for (int i = 0;; i++) {
            char line[64];
            int n = snprintf(line, sizeof line, "CONNECT %s\n", argv[3]);
            if (connect(s, (struct sockaddr *)&to, sizeof to) == 0) {
                write_all(s, line, (size_t)n);
                char c = 0;
                while (read(s, &c, 1) == 1 && c != '\n') {}
                if (c == '\n') return stream(s);
            }
            if (i > 1200) return fprintf(stderr, "the guest never listened\n"), 1;
            close(s);
            usleep(100000);
            s = socket(AF_UNIX, SOCK_STREAM, 0);
        }
    }
    return 2;
}
