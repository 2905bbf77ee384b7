// Clocks, sleeping, interval and POSIX timers, timerfd. Durations are checked one-sidedly: a loaded machine is late,
// never early.
#include <poll.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/timex.h>

#include "case.h"

static volatile int got, count;
static siginfo_t got_info;
static void note(int number, siginfo_t* info, void*) {
    got = number;
    count = count + 1;
    got_info = *info;
}
static void handle(int number) {
    struct sigaction action {};
    action.sa_sigaction = note;
    action.sa_flags = SA_SIGINFO;
    OK(sigaction(number, &action, nullptr));
}
static void wait_for_count(int wanted) {
    for (int i = 0; i < 5000 && count < wanted; ++i) sleep_ms(1);
    EXPECT(count >= wanted);
}

// ---- clocks

CASE(clock_gettime_kinds) {
    timespec now;
    for (clockid_t clock :
         {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
          CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_TAI}) {
        OK(clock_gettime(clock, &now));
        EXPECT(now.tv_nsec >= 0 && now.tv_nsec < 1000000000);
        OK(syscall(SYS_clock_gettime, clock, &now));
        EXPECT(now.tv_nsec >= 0 && now.tv_nsec < 1000000000);
    }
}
CASE(clock_gettime_errors) {
    timespec now;
    FAILS(clock_gettime(77, &now), EINVAL);
    FAILS(syscall(SYS_clock_gettime, CLOCK_REALTIME, bad()), EFAULT);
}
CASE(monotonic_never_goes_back) {
    uint64_t last = 0;
    for (int i = 0; i < 10000; ++i) {
        uint64_t now = now_ns();
        EXPECT(now >= last);
        last = now;
    }
}
CASE(vdso_agrees_with_syscall) {
    for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME})
        for (int i = 0; i < 20; ++i) {
            timespec before, middle, after;
            OK(clock_gettime(clock, &before));
            OK(syscall(SYS_clock_gettime, clock, &middle));
            OK(clock_gettime(clock, &after));
            auto ns = [](const timespec& t) { return t.tv_sec * 1000000000ll + t.tv_nsec; };
            EXPECT(ns(before) <= ns(middle));
            EXPECT(ns(middle) <= ns(after));
        }
}
CASE(vdso_is_announced_and_mapped) {
    unsigned long image = getauxval(AT_SYSINFO_EHDR);
    EXPECT(image != 0);
    EXPECT_EQ(memcmp((const void*)image, "\177ELF", 4), 0);
    char start[32];
    snprintf(start, sizeof start, "%lx-", image);
    std::string maps = read_all("/proc/self/maps");
    size_t line = maps.find(start);
    EXPECT(line != std::string::npos);
    std::string text = maps.substr(line, maps.find('\n', line) - line);
    EXPECT(text.find("r-xp") != std::string::npos);
    EXPECT(text.size() > 6 && text.substr(text.size() - 6) == "[vdso]");
    // A child has it at the same place.
    in_child([] { EXPECT(clock_gettime(CLOCK_MONOTONIC, new timespec) == 0); });
}
CASE(vdso_getcpu_keeps_to_the_affinity) {
    cpu_set_t all, one;
    OK(sched_getaffinity(0, sizeof all, &all));
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        OK(sched_setaffinity(0, sizeof one, &one));
        unsigned direct = 0;
        OK(syscall(SYS_getcpu, &direct, 0, 0));
        EXPECT_EQ(direct, unsigned(cpu));
        unsigned by_library = 0;
        OK(getcpu(&by_library, nullptr));
        EXPECT_EQ(by_library, unsigned(cpu));
    }
}
CASE(gettimeofday_agrees) {
    timeval tv;
    OK(gettimeofday(&tv, nullptr));
    time_t now = time(nullptr);
    EXPECT(llabs((long long)now - tv.tv_sec) <= 1);
    timeval direct;
    OK(syscall(SYS_gettimeofday, &direct, 0));
    EXPECT(llabs((long long)now - direct.tv_sec) <= 1);
    time_t stored = 0;
    EXPECT_EQ(syscall(SYS_time, &stored), stored);
    FAILS(syscall(SYS_gettimeofday, bad(), 0), EFAULT);
    FAILS(syscall(SYS_time, bad()), EFAULT);
}
CASE(time_is_after_2024) { EXPECT(time(nullptr) > 1704067200); }
CASE(clock_getres_kinds) {
    timespec res;
    OK(clock_getres(CLOCK_MONOTONIC, &res));
    EXPECT(res.tv_sec == 0 && res.tv_nsec >= 1);
    OK(syscall(SYS_clock_getres, CLOCK_REALTIME, 0));
    FAILS(clock_getres(77, &res), EINVAL);
}
CASE(clock_settime_refused_to_user) {
    if (geteuid() != 0) skip("needs root");
    in_child([] {
        OK(syscall(SYS_setresuid, 12345, 12345, 12345));
        timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        FAILS(clock_settime(CLOCK_REALTIME, &now), EPERM);
    });
    timespec now{};
    FAILS_ANY(clock_settime(CLOCK_MONOTONIC, &now), EINVAL, EPERM);
}
CASE(cpu_clock_counts_work) {
    uint64_t before = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t until = now_ns() + 50000000;
    while (now_ns() < until) {
    }
    EXPECT(now_ns(CLOCK_PROCESS_CPUTIME_ID) > before);
}
CASE(cpu_clock_of_sleeping_child) {
    pid_t pid = child([] { pause(); });
    EXPECT(reaches_state(pid, "S"));
    clockid_t clock;
    EXPECT_EQ(clock_getcpuclockid(pid, &clock), 0);
    uint64_t before = now_ns(clock);
    sleep_ms(30);
    EXPECT_EQ(now_ns(clock), before);
    kill(pid, SIGKILL);
    wait_for(pid);
}
CASE(times_call) {
    tms spent;
    clock_t a = OK(times(&spent));
    sleep_ms(30);
    EXPECT(times(&spent) >= a + 2);
    FAILS(syscall(SYS_times, bad()), EFAULT);
}
CASE(adjtimex_reads) {
    timex state{};
    EXPECT(adjtimex(&state) >= 0);
}

// ---- sleeping

CASE(nanosleep_lasts) {
    uint64_t start = now_ns();
    timespec wanted{0, 20000000};
    OK(nanosleep(&wanted, nullptr));
    EXPECT(now_ns() - start >= 20000000);
}
CASE(nanosleep_errors) {
    timespec wanted{0, 1000000000};
    FAILS(nanosleep(&wanted, nullptr), EINVAL);
    wanted = {-1, 0};
    FAILS(nanosleep(&wanted, nullptr), EINVAL);
    FAILS(syscall(SYS_nanosleep, bad(), 0), EFAULT);
    wanted = {0, 0};
    OK(nanosleep(&wanted, nullptr));
}
CASE(clock_nanosleep_absolute) {
    timespec until;
    OK(clock_gettime(CLOCK_MONOTONIC, &until));
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) until = {until.tv_sec + 1, until.tv_nsec - 1000000000};
    EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr), 0);
    timespec now;
    OK(clock_gettime(CLOCK_MONOTONIC, &now));
    EXPECT(now.tv_sec > until.tv_sec || now.tv_nsec >= until.tv_nsec);
    until = {1, 0};
    EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr), 0);
}
CASE(clock_nanosleep_errors) {
    timespec wanted{0, 2000000000};
    EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &wanted, nullptr), EINVAL);
    wanted = {0, 1};
    EXPECT_EQ(clock_nanosleep(77, 0, &wanted, nullptr), EINVAL);
    EXPECT_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &wanted, nullptr), EINVAL);
}
CASE(poll_timeout_lasts) {
    uint64_t start = now_ns();
    EXPECT_EQ(poll(nullptr, 0, 20), 0);
    EXPECT(now_ns() - start >= 20000000);
}

// ---- alarm and interval timers

CASE(alarm_fires) {
    handle(SIGALRM);
    EXPECT_EQ(alarm(1), 0);
    EXPECT_EQ(alarm(1), 1);
    wait_for_count(1);
    EXPECT_EQ(got, SIGALRM);
}
CASE(alarm_cancelled) {
    handle(SIGALRM);
    alarm(100);
    unsigned left = alarm(0);
    EXPECT(left == 100 || left == 99);
}
CASE(itimer_real_repeats) {
    handle(SIGALRM);
    itimerval every{{0, 5000}, {0, 5000}}, now{};
    OK(setitimer(ITIMER_REAL, &every, nullptr));
    wait_for_count(3);
    OK(getitimer(ITIMER_REAL, &now));
    EXPECT_EQ(now.it_interval.tv_usec, 5000);
    itimerval none{};
    OK(setitimer(ITIMER_REAL, &none, &now));
    EXPECT_EQ(got_info.si_code, SI_KERNEL);
}
CASE(itimer_virtual_and_prof) {
    handle(SIGVTALRM);
    handle(SIGPROF);
    itimerval once{{0, 0}, {0, 10000}};
    OK(setitimer(ITIMER_VIRTUAL, &once, nullptr));
    OK(setitimer(ITIMER_PROF, &once, nullptr));
    uint64_t until = now_ns() + 5000000000;
    while (count < 2 && now_ns() < until) {
    }
    EXPECT_EQ(count, 2);
}
CASE(itimer_not_inherited) {
    itimerval once{{0, 0}, {100, 0}};
    OK(setitimer(ITIMER_REAL, &once, nullptr));
    in_child([] {
        itimerval now{};
        OK(getitimer(ITIMER_REAL, &now));
        EXPECT_EQ(now.it_value.tv_sec, 0);
    });
}
CASE(itimer_errors) {
    itimerval value{};
    FAILS(getitimer((__itimer_which)77, &value), EINVAL);
    value.it_value.tv_usec = 1000000;
    FAILS(setitimer(ITIMER_REAL, &value, nullptr), EINVAL);
    FAILS(syscall(SYS_setitimer, 0, bad(), 0), EFAULT);
    FAILS(syscall(SYS_getitimer, 0, bad()), EFAULT);
}

// ---- POSIX timers (by syscall: libc adds threads of its own)

static int timer_new(int number, clockid_t clock = CLOCK_MONOTONIC, int value = 0) {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = number;
    event.sigev_value.sival_int = value;
    int id = -1;
    OK(syscall(SYS_timer_create, clock, &event, &id));
    return id;
}
CASE(timer_fires_with_value) {
    handle(SIGRTMIN);
    int id = timer_new(SIGRTMIN, CLOCK_MONOTONIC, 4711);
    itimerspec once{{0, 0}, {0, 5000000}};
    OK(syscall(SYS_timer_settime, id, 0, &once, 0));
    wait_for_count(1);
    EXPECT_EQ(got_info.si_code, SI_TIMER);
    EXPECT_EQ(got_info.si_value.sival_int, 4711);
}
CASE(timer_repeats_and_overruns) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    int id = timer_new(SIGRTMIN);
    itimerspec every{{0, 2000000}, {0, 2000000}};
    OK(syscall(SYS_timer_settime, id, 0, &every, 0));
    sleep_ms(30);
    siginfo_t info{};
    EXPECT_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
    EXPECT(info.si_overrun >= 1);
    EXPECT(syscall(SYS_timer_getoverrun, id) >= 0);
}
CASE(timer_gettime_and_stop) {
    int id = timer_new(SIGUSR1);
    itimerspec once{{0, 0}, {100, 0}}, now{}, none{};
    OK(syscall(SYS_timer_settime, id, 0, &once, 0));
    OK(syscall(SYS_timer_gettime, id, &now));
    EXPECT(now.it_value.tv_sec == 99 || now.it_value.tv_sec == 100);
    OK(syscall(SYS_timer_settime, id, 0, &none, &now));
    EXPECT(now.it_value.tv_sec >= 99);
    OK(syscall(SYS_timer_gettime, id, &now));
    EXPECT_EQ(now.it_value.tv_sec, 0);
}
CASE(timer_absolute_in_past_fires) {
    handle(SIGUSR1);
    int id = timer_new(SIGUSR1);
    itimerspec past{{0, 0}, {0, 1}};
    OK(syscall(SYS_timer_settime, id, TIMER_ABSTIME, &past, 0));
    wait_for_count(1);
}
CASE(timer_thread_target) {
    handle(SIGUSR1);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = syscall(SYS_gettid);
    int id;
    OK(syscall(SYS_timer_create, CLOCK_REALTIME, &event, &id));
    itimerspec once{{0, 0}, {0, 1000000}};
    OK(syscall(SYS_timer_settime, id, 0, &once, 0));
    wait_for_count(1);
}
CASE(timer_none_and_default) {
    sigevent event{};
    event.sigev_notify = SIGEV_NONE;
    int id;
    OK(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id));
    OK(syscall(SYS_timer_delete, id));
    OK(syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, &id));
    OK(syscall(SYS_timer_delete, id));
    FAILS(syscall(SYS_timer_delete, id), EINVAL);
}
CASE(timer_errors) {
    sigevent event{};
    int id;
    event.sigev_notify = 77;
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = 100;
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
    FAILS(syscall(SYS_timer_create, 77, 0, &id), EINVAL);
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, bad(), &id), EFAULT);
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, bad()), EFAULT);
    FAILS(syscall(SYS_timer_settime, 12345, 0, scratch(), 0), EINVAL);
    FAILS(syscall(SYS_timer_gettime, 12345, scratch()), EINVAL);
    FAILS(syscall(SYS_timer_getoverrun, 12345), EINVAL);
    id = timer_new(SIGUSR1);
    itimerspec wrong{{0, 0}, {0, 2000000000}};
    FAILS(syscall(SYS_timer_settime, id, 0, &wrong, 0), EINVAL);
}
CASE(timer_not_inherited) {
    int id = timer_new(SIGUSR1);
    in_child([&] { FAILS(syscall(SYS_timer_gettime, id, scratch()), EINVAL); });
}

// ---- timerfd

CASE(timerfd_counts) {
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    uint64_t expired = 0;
    FAILS(read(fd, &expired, 8), EAGAIN);
    itimerspec every{{0, 2000000}, {0, 2000000}};
    OK(timerfd_settime(fd, 0, &every, nullptr));
    sleep_ms(30);
    EXPECT_EQ(read(fd, &expired, 8), 8);
    EXPECT(expired >= 10);
}
CASE(timerfd_read_waits) {
    int fd = OK(timerfd_create(CLOCK_REALTIME, 0));
    itimerspec once{{0, 0}, {0, 10000000}};
    OK(timerfd_settime(fd, 0, &once, nullptr));
    uint64_t expired = 0;
    EXPECT_EQ(read(fd, &expired, 8), 8);
    EXPECT_EQ(expired, 1);
}
CASE(timerfd_poll) {
    int fd = OK(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC));
    pollfd watch{fd, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 0);
    itimerspec once{{0, 0}, {0, 1000000}};
    OK(timerfd_settime(fd, 0, &once, nullptr));
    EXPECT_EQ(poll(&watch, 1, 5000), 1);
}
CASE(timerfd_gettime_and_disarm) {
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, 0));
    itimerspec once{{3, 0}, {100, 0}}, now{}, none{};
    OK(timerfd_settime(fd, 0, &once, nullptr));
    OK(timerfd_gettime(fd, &now));
    EXPECT(now.it_value.tv_sec >= 99);
    EXPECT_EQ(now.it_interval.tv_sec, 3);
    OK(timerfd_settime(fd, 0, &none, &now));
    OK(timerfd_gettime(fd, &now));
    EXPECT_EQ(now.it_value.tv_sec, 0);
}
CASE(timerfd_absolute_past) {
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    itimerspec past{{0, 0}, {0, 1}};
    OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &past, nullptr));
    uint64_t expired = 0;
    pollfd watch{fd, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 5000), 1);
    EXPECT_EQ(read(fd, &expired, 8), 8);
    EXPECT_EQ(expired, 1);
}
CASE(timerfd_errors) {
    FAILS(timerfd_create(77, 0), EINVAL);
    FAILS(timerfd_create(CLOCK_MONOTONIC, 0x77), EINVAL);
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    itimerspec wrong{{0, 0}, {0, 2000000000}};
    FAILS(timerfd_settime(fd, 0, &wrong, nullptr), EINVAL);
    FAILS(timerfd_settime(fd, 0x100, &wrong, nullptr), EINVAL);
    wrong.it_value.tv_nsec = 0;
    FAILS(timerfd_settime(-1, 0, &wrong, nullptr), EBADF);
    FAILS(timerfd_settime(OK(open("/", O_RDONLY)), 0, &wrong, nullptr), EINVAL);
    FAILS(read(fd, scratch(), 4), EINVAL);
    FAILS_ANY(write(fd, scratch(), 8), EINVAL, EBADF);
}
CASE(sysinfo_uname) {
    struct {
        long uptime;
        char rest[200];
    } info{};
    OK(syscall(SYS_sysinfo, &info));
    EXPECT(info.uptime > 0);
    FAILS(syscall(SYS_sysinfo, bad()), EFAULT);
    struct {
        char field[6][65];
    } name{};
    OK(syscall(SYS_uname, &name));
    EXPECT_EQ(std::string(name.field[0]), "Linux");
    EXPECT_EQ(std::string(name.field[4]), "x86_64");
    FAILS(syscall(SYS_uname, bad()), EFAULT);
}
