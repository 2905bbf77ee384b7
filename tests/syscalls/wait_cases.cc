// exit and wait in all forms.
#include <sys/resource.h>
#include <sys/times.h>

#include "processes.h"

// ---- exit and wait

CASE(exit_status_low_byte) {
    EXPECT_EXIT(child([] { _exit(0x1234); }), 0x34);
}
CASE(exit_flushes_nothing_but_runs_atexit) {
    int ends[2];
    OK(pipe(ends));
    static int end_fd;
    end_fd = ends[1];
    pid_t pid = child([] {
        atexit([] { OK(write(end_fd, "A", 1)); });
        exit(0);
    });
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(read(ends[0], scratch(), 10), 1);
}
CASE(wait_any) {
    pid_t a = child([] { _exit(1); });
    int status;
    EXPECT_EQ(wait(&status), a);
    EXPECT_EQ(WEXITSTATUS(status), 1);
    FAILS(wait(&status), ECHILD);
}
CASE(wait_nohang) {
    pid_t pid = pause_child();
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
    end(pid);
    FAILS(waitpid(pid, nullptr, WNOHANG), ECHILD);
}
FAILS_CASE(wait_no_children, wait(nullptr), ECHILD)
FAILS_CASE(wait_not_my_child, waitpid(getppid(), nullptr, 0), ECHILD)
CASE(wait_errors) {
    pid_t pid = pause_child();
    FAILS(waitpid(pid, nullptr, 0x80), EINVAL);
    kill(pid, SIGKILL);
    FAILS(waitpid(pid, (int*)bad(), 0), EFAULT);
}
CASE(wait_killed) {
    pid_t pid = pause_child();
    kill(pid, SIGTERM);
    EXPECT_SIGNAL(pid, SIGTERM);
}
CASE(wait_by_group) {
    pid_t pid = child([] {
        setpgid(0, 0);
        _exit(3);
    });
    setpgid(pid, pid);
    int status;
    EXPECT_EQ(waitpid(-pid, &status, 0), pid);
    FAILS(waitpid(-pid, &status, 0), ECHILD);
}
CASE(wait_own_group) {
    pid_t pid = child([] { _exit(3); });
    EXPECT_EQ(waitpid(0, nullptr, 0), pid);
}
CASE(wait_stopped_and_continued) {
    pid_t pid = pause_child();
    int status;
    kill(pid, SIGSTOP);
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
    kill(pid, SIGCONT);
    EXPECT_EQ(waitpid(pid, &status, WCONTINUED), pid);
    EXPECT(WIFCONTINUED(status));
    end(pid);
}
CASE(wait4_usage) {
    pid_t pid = child([] {
        uint64_t until = now_ns() + 30000000;
        while (now_ns() < until) {
        }
    });
    rusage usage{};
    EXPECT_EQ(wait4(pid, nullptr, 0, &usage), pid);
    EXPECT(usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 0);
}
CASE(waitid_fields) {
    pid_t pid = child([] { _exit(6); });
    siginfo_t info{};
    OK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    EXPECT_EQ(info.si_pid, pid);
    EXPECT_EQ(info.si_code, CLD_EXITED);
    EXPECT_EQ(info.si_status, 6);
    EXPECT_EQ(info.si_signo, SIGCHLD);
    OK(waitid(P_ALL, 0, &info, WEXITED));
    FAILS(waitid(P_PID, pid, &info, WEXITED), ECHILD);
}
CASE(waitid_killed_and_nohang) {
    pid_t pid = pause_child();
    siginfo_t info;
    memset(&info, 1, sizeof info);
    OK(waitid(P_PID, pid, &info, WEXITED | WNOHANG));
    EXPECT_EQ(info.si_pid, 0);
    kill(pid, SIGUSR1);
    OK(waitid(P_PID, pid, &info, WEXITED));
    EXPECT_EQ(info.si_code, CLD_KILLED);
    EXPECT_EQ(info.si_status, SIGUSR1);
}
CASE(waitid_stop_not_eaten_by_exit_wait) {
    pid_t pid = pause_child();
    siginfo_t info{};
    kill(pid, SIGSTOP);
    OK(waitid(P_PID, pid, &info, WSTOPPED));
    EXPECT_EQ(info.si_code, CLD_STOPPED);
    kill(pid, SIGCONT);
    OK(waitid(P_PID, pid, &info, WCONTINUED));
    EXPECT_EQ(info.si_code, CLD_CONTINUED);
    end(pid);
}
CASE(waitid_errors) {
    siginfo_t info;
    FAILS(waitid(P_ALL, 0, &info, 0), EINVAL);
    FAILS(waitid((idtype_t)77, 0, &info, WEXITED), EINVAL);
    FAILS(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    FAILS(waitid(P_PID, 0, &info, WEXITED), EINVAL);
}
CASE(zombie_is_seen) {
    pid_t pid = child([] {});
    EXPECT(reaches_state(pid, "Z"));
    OK(kill(pid, 0));
    wait_for(pid);
    FAILS(kill(pid, 0), ESRCH);
}
CASE(sigchld_ignored_reaps) {
    signal(SIGCHLD, SIG_IGN);
    pid_t pid = child([] {});
    FAILS(waitpid(pid, nullptr, 0), ECHILD);
}
CASE(sigchld_nocldwait_reaps) {
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    action.sa_flags = SA_NOCLDWAIT;
    OK(sigaction(SIGCHLD, &action, nullptr));
    pid_t pid = child([] {});
    FAILS(waitpid(pid, nullptr, 0), ECHILD);
}
CASE(orphan_gets_new_parent) {
    int ends[2];
    OK(pipe(ends));
    pid_t me = getpid();
    in_child([&] {
        pid_t middle = getpid();
        child([=] {
            while (getppid() == middle) sleep_ms(1);
            pid_t parent = getppid();
            OK(write(ends[1], &parent, sizeof parent));
        });
    });
    pid_t parent = 0;
    EXPECT_EQ(read(ends[0], &parent, sizeof parent), sizeof parent);
    EXPECT(parent != me && parent >= 0);
}
CASE(subreaper_adopts) {
    OK(syscall(SYS_prctl, 36 /* PR_SET_CHILD_SUBREAPER */, 1, 0, 0, 0));
    int ends[2];
    OK(pipe(ends));
    in_child([&] {
        pid_t grandchild = child([] {
            sleep_ms(20);
            _exit(11);
        });
        OK(write(ends[1], &grandchild, sizeof grandchild));
    });
    pid_t grandchild = 0;
    EXPECT_EQ(read(ends[0], &grandchild, sizeof grandchild), sizeof grandchild);
    EXPECT_EXIT(grandchild, 11);
}
CASE(children_times_counted) {
    in_child([] {
        timespec used{};
        do {
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        } while (used.tv_sec == 0 && used.tv_nsec < 60000000);
    });
    tms spent{};
    OK(times(&spent));
    EXPECT(spent.tms_cutime + spent.tms_cstime >= 1);
}
