// Says what a process in a jail sees of itself, a "key value" line each; or does what its first argument asks.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <linux/capability.h>

static void list(const char* path) {
    DIR* dir = opendir(path);
    printf("list %s", path);
    if (dir == NULL) printf(" !%d", errno);
    for (struct dirent* e; dir != NULL && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.') printf(" %s", e->d_name);
    printf("\n");
}

int main(int argc, char** argv) {
    if (argc > 1 && strcmp(argv[1], "exit") == 0) return atoi(argv[2]);
    if (argc > 1 && strcmp(argv[1], "sleep") == 0)
        for (;;) pause();
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2];
    syscall(SYS_capget, &header, caps);
    unsigned long long bounding = 0;
    for (int i = 0; i < 64; i++)
        if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1) bounding |= 1ull << i;
    struct utsname uts;
    uname(&uts);
    struct rlimit nofile;
    getrlimit(RLIMIT_NOFILE, &nofile);
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    printf("uid %d\ngid %d\ngroups %d\npid %d\nsid %d\n", getuid(), getgid(), getgroups(0, NULL), getpid(), getsid(0));
    printf("effective %x%08x\npermitted %x%08x\nbounding %llx\n", caps[1].effective, caps[0].effective,
           caps[1].permitted, caps[0].permitted, bounding);
    printf("no_new_privs %d\nhostname %s\nnofile %llu\nblocked_usr1 %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
           uts.nodename, (unsigned long long)nofile.rlim_cur, sigismember(&blocked, SIGUSR1));
    printf("fds");
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) printf(" %d", fd);
    printf("\nargs");
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    printf("\nenv");
    for (char** e = environ; *e != NULL; e++) printf(" %s", *e);
    printf("\n");
    list("/");
    for (int i = 1; i < argc; i++) {
        char* rest = argv[i] + 2;
        if (strncmp(argv[i], "l:", 2) == 0) list(rest);
        if (strncmp(argv[i], "w:", 2) == 0) {
            int fd = open(rest, O_WRONLY | O_CREAT, 0600);
            printf("write %s %d\n", rest, fd < 0 ? errno : 0);
            if (fd >= 0) close(fd);
        }
        if (strncmp(argv[i], "m:", 2) == 0) {
            int fd = atoi(rest);
            struct stat st;
            int truncated = ftruncate(fd, 4 << 20);
            char* at = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0);
            if (at != MAP_FAILED) at[0] = 1;
            fstat(fd, &st);
            printf("memory %d %d %lld %lld\n", truncated, at == MAP_FAILED ? errno : 0, (long long)st.st_blocks,
                   (long long)st.st_nlink);
        }
    }
    return 0;
}
