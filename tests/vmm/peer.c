/* Streams for the suite, in the guest and on the host; statically linked.
     peer pattern BYTES            writes the pattern
     peer check BYTES              reads it, and nothing else; status 0 if it was right
     peer connect PORT             in the guest: stdin to the host's vsock port, what comes back to stdout
     peer listen PORT              in the guest: accepts one stream
     peer tcp-connect ADDRESS PORT, peer tcp-listen ADDRESS PORT
     peer unix-connect PATH PORT   on the host: by "CONNECT PORT" to the guest
     peer unix-listen PATH         on the host: accepts one stream
   A stream ends when both directions have ended. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
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
int main(int argc, char **argv) {
    alarm(240); /* whoever waits for a guest that never comes */
    const char *verb = argc > 2 ? argv[1] : "";
    if (!strcmp(verb, "pattern")) return pattern(strtoull(argv[2], NULL, 10), 0);
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
