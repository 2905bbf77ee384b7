/* Runs in the lab, statically linked. It starts a monitor, waits for a marker on its output, and reads what it costs.
     measure time NAME MARK CMD...           one line of figures (see report()), then the monitor is killed
     measure keep NAME MARK CMD...           the same, but waits for EOF on stdin before the kill
     measure http SOCK METHOD PATH [BODY]    one request over a Unix socket, waits for the socket; prints code and ms
   Times are CLOCK_MONOTONIC since just before fork. "first_run" is the first kvm:kvm_entry trace event. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRACE "/sys/kernel/tracing/"
enum { guest_mib = 120 }; /* a writable mapping at least this large is guest memory */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_TRUNC);
    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0) perror(path);
        close(fd);
    }
}
static long number(const char *path) {
    FILE *f = fopen(path, "r");
    long v = -1;
    if (f) {
        if (fscanf(f, "%ld", &v) != 1) v = -1;
        fclose(f);
    }
    return v;
}
static double first_entry(void) {
    FILE *f = fopen(TRACE "trace", "r");
    char line[512], *p;
    double at = 0;
    while (f && !at && fgets(line, sizeof line, f))
        if ((p = strstr(line, ": kvm_entry"))) {
            while (p > line && p[-1] != ' ') p--;
            at = atof(p) * 1e3;
        }
    if (f) fclose(f);
    return at;
}
static long stat_of(const char *what) {
    char path[128];
    snprintf(path, sizeof path, "/sys/kernel/debug/kvm/%s", what);
    return number(path);
}
/* "reason count" pairs of an event's histogram, if a job has set one; read at the marker */
static void histogram(const char *event, char *out, size_t size) {
    char path[128], line[512];
    long key, hits;
    size_t used = 0;
    snprintf(path, sizeof path, TRACE "events/kvm/%s/hist", event);
    FILE *f = fopen(path, "r");
    out[0] = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "{ %*[a-z_]: %ld } hitcount: %ld", &key, &hits) == 2 && used + 40 < size)
            used += snprintf(out + used, size - used, " %ld:%ld", key, hits);
    if (f) fclose(f);
}
struct memory { long rss, pss, anon, file, guest, kernel; };
/* Guest memory: the large mapping, and what else is of its file, if it has one. */
static struct memory memory_of(int pid) {
    struct memory m = {0};
    char line[512], path[64], perm[8], name[256];
    unsigned long a, b, inode, file_of_guest = 0;
    long kb;
    int guest = 0, kernel = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &a, &b, perm, &inode) == 4 && perm[1] == 'w' &&
            b - a >= (unsigned long)guest_mib << 20)
            file_of_guest = inode;
    if (f) rewind(f);
    while (f && fgets(line, sizeof line, f)) {
        name[0] = 0;
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu %255s", &a, &b, perm, &inode, name) >= 4)
            guest = perm[1] == 'w' && (b - a >= (unsigned long)guest_mib << 20 || (inode && inode == file_of_guest)),
            kernel = !!strstr(name, "/guest/");
        else if (sscanf(line, "Rss: %ld", &kb) == 1) *(guest ? &m.guest : kernel ? &m.kernel : &m.rss) += kb;
        else if (guest || kernel) continue;
        else if ( sscanf(line, "Pss: %ld", &kb) == 1) m.pss += kb;
        else if (sscanf(line, "Anonymous: %ld", &kb) == 1) m.anon += kb;
    }
    if (f) fclose(f);
    m.file = m.rss - m.anon;
    return m;
}
static int descriptors(int pid) {
    char path[64];
    int n = -2;
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}
static void status_of(int pid, char *out, size_t size) {
    char line[256], path[64];
    long threads = 0, filters = 0, f1;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char p[400];
        snprintf(p, sizeof p, "/proc/%d/task/%s/status", pid, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(p, "r");
        if (!f) continue;
        threads++;
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "Seccomp_filters: %ld", &f1) == 1) filters += f1;
        fclose(f);
    }
    if (d) closedir(d);
    snprintf(out, size, "threads=%ld filters=%ld fds=%d", threads, filters, descriptors(pid));
}
/* The process that holds the guest: a monitor in a jail is a child of the command. */
static int monitor_of(int pid) {
    char path[64];
    int child = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%d", &child) != 1) child = 0;
    if (f) fclose(f);
    return child ? child : pid;
}
static int monitor(char **argv, int keep) {
    const char *name = argv[0], *mark = argv[1];
    int out[2];
    if (pipe(out)) return 1;
    put(TRACE "trace_clock", "mono");
    put(TRACE "trace", "");
    put(TRACE "events/kvm/kvm_entry/trigger", "traceoff:1");
    put(TRACE "events/kvm/kvm_entry/enable", "1");
    put(TRACE "tracing_on", "1");
    double start = now();
    int pid = fork();
    if (!pid) {
        setpgid(0, 0);
        int in = open("/dev/null", O_RDONLY);
        dup2(in, 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(out[0]);
        execv(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    close(out[1]);
    static char text[1 << 20];
    size_t have = 0;
    double at = 0, limit = start + (getenv("LIMIT") ? atof(getenv("LIMIT")) : 10000);
    while (!at && now() < limit) {
        struct pollfd p = {out[0], POLLIN, 0};
        if (poll(&p, 1, 1000) <= 0) continue;
        ssize_t n = read(out[0], text + have, sizeof text - 1 - have);
        if (n <= 0) break;
        have += n;
        text[have] = 0;
        if (strstr(text, mark)) at = now();
    }
    long exits = stat_of("exits"), io = stat_of("io_exits"), mmio = stat_of("mmio_exits"), halt = stat_of("halt_exits");
    static char exit_reasons[4096], user_reasons[4096];
    histogram("kvm_exit", exit_reasons, sizeof exit_reasons);
    histogram("kvm_userspace_exit", user_reasons, sizeof user_reasons);
    put(TRACE "tracing_on", "0");
    put(TRACE "events/kvm/kvm_entry/enable", "0");
    put(TRACE "events/kvm/kvm_entry/trigger", "!traceoff:1");
    if (!at) {
        printf("F %s no marker; output: %.1500s\n", name, text);
    } else {
        double run = first_entry();
        if (!keep) usleep(300000);
        struct memory m = memory_of(monitor_of(pid));
        char status[128];
        status_of(monitor_of(pid), status, sizeof status);
        printf("R %s first_run=%.1f ready=%.1f exits=%ld io=%ld mmio=%ld halt=%ld rss=%ld pss=%ld anon=%ld file=%ld "
               "guest=%ld kernel=%ld %s\n", name, run ? run - start : -1, at - start, exits, io, mmio, halt, m.rss, m.pss, m.anon,
               m.file, m.guest, m.kernel, status);
    }
    if (*exit_reasons) printf("E %s exits%s; to the monitor%s\n", name, exit_reasons, user_reasons);
    fflush(stdout);
    if (keep && at)
        for (;;) { /* drain the guest's dots until the caller closes our stdin */
            struct pollfd p[2] = {{out[0], POLLIN, 0}, {0, POLLIN, 0}};
            poll(p, 2, -1);
            if (p[0].revents && read(out[0], text, sizeof text) <= 0) break;
            if (p[1].revents) break;
        }
    double kill_at = now();
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (at && !keep) printf("T %s teardown=%.1f\n", name, now() - kill_at);
    if (getenv("VERBOSE")) printf("%s\n", text);
    return !at;
}
static int http(int argc, char **argv) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, argv[0], sizeof to.sun_path - 1);
    double begin = now();
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    while (connect(s, (struct sockaddr *)&to, sizeof to))
        if (now() - begin > 20000) return 1;
        else usleep(1000);
    const char *body = argc > 3 ? argv[3] : "";
    char text[8192];
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", argv[1], argv[2], strlen(body), body);
    double sent = now();
    if (write(s, text, n) != n) return 1;
    n = read(s, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    char *end = strchr(text, '\r'), *detail = strstr(text, "\r\n\r\n");
    printf("H %s %s %.*s wait=%.1f request=%.1f %s\n", argv[1], argv[2], end ? (int)(end - text) : 0, text, sent - begin,
           now() - sent, detail && strncmp(text + 9, "20", 2) ? detail + 4 : "");
    return 0;
}
int main(int argc, char **argv) {
    if (argc >= 5 && !strcmp(argv[1], "time")) return monitor(argv + 2, 0);
    if (argc >= 5 && !strcmp(argv[1], "keep")) return monitor(argv + 2, 1);
    if (argc >= 5 && !strcmp(argv[1], "http")) return http(argc - 2, argv + 2);
    return 2;
}
