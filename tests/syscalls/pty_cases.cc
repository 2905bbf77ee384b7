// Pseudo terminals: line discipline, sessions and job control, window size, hang-up.
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "case.h"

struct Pty {
    int master, slave;
    std::string name;
    Pty() {
        master = OK(open("/dev/ptmx", O_RDWR | O_NOCTTY));
        int unlock = 0, number = -1;
        OK(ioctl(master, TIOCSPTLCK, &unlock));
        OK(ioctl(master, TIOCGPTN, &number));
        name = "/dev/pts/" + std::to_string(number);
        slave = OK(open(name.c_str(), O_RDWR | O_NOCTTY));
    }
    termios get() const {
        termios settings;
        OK(ioctl(slave, TCGETS, &settings));
        return settings;
    }
    void raw() const {
        termios settings;
        OK(tcgetattr(slave, &settings));
        cfmakeraw(&settings);
        OK(tcsetattr(slave, TCSANOW, &settings));
    }
    void local(tcflag_t on, tcflag_t off) const {
        termios settings;
        OK(tcgetattr(slave, &settings));
        settings.c_lflag = (settings.c_lflag | on) & ~off;
        OK(tcsetattr(slave, TCSANOW, &settings));
    }
};
static std::string take(int fd, int wait = 2000) {
    pollfd watch{fd, POLLIN, 0};
    if (poll(&watch, 1, wait) <= 0) return "";
    char buffer[4096];
    ssize_t size = read(fd, buffer, sizeof buffer);
    return size > 0 ? std::string(buffer, size) : "";
}
static std::string take_exactly(int fd, size_t size) {
    std::string all;
    while (all.size() < size) {
        std::string more = take(fd);
        if (more.empty()) break;
        all += more;
    }
    return all;
}
static void put(int fd, const std::string& text) { EXPECT_EQ(write(fd, text.data(), text.size()), text.size()); }
static bool quiet(int fd) {
    pollfd watch{fd, POLLIN, 0};
    return poll(&watch, 1, 20) == 0;
}

CASE(canonical_line) {
    Pty p;
    put(p.master, "hello");
    EXPECT(quiet(p.slave));
    put(p.master, "\n");
    EXPECT_EQ(take(p.slave), "hello\n");
}
CASE(echo_and_crlf) {
    Pty p;
    put(p.master, "ab\n");
    EXPECT_EQ(take_exactly(p.master, 4), "ab\r\n");
    put(p.slave, "x\n");
    EXPECT_EQ(take_exactly(p.master, 3), "x\r\n");
}
CASE(echo_off) {
    Pty p;
    p.local(0, ECHO | ECHONL);
    put(p.master, "secret\n");
    EXPECT_EQ(take(p.slave), "secret\n");
    EXPECT(quiet(p.master));
}
CASE(carriage_return_becomes_newline) {
    Pty p;
    put(p.master, "a\r");
    EXPECT_EQ(take(p.slave), "a\n");
}
CASE(erase_and_kill) {
    Pty p;
    put(p.master, "abc\x7f\x7fz\n");
    EXPECT_EQ(take(p.slave), "az\n");
    put(p.master, "abc\x15xyz\n");
    EXPECT_EQ(take(p.slave), "xyz\n");
}
CASE(word_erase) {
    Pty p;
    put(p.master, "one two\x17three\n");
    EXPECT_EQ(take(p.slave), "one three\n");
}
CASE(end_of_file_character) {
    Pty p;
    put(p.master, "ab\x04");
    EXPECT_EQ(take(p.slave), "ab");
    put(p.master, "\x04");
    EXPECT_EQ(read(p.slave, scratch(), 10), 0);
}
CASE(literal_next) {
    Pty p;
    put(p.master, "\x16\x03\n");
    EXPECT_EQ(take(p.slave), "\x03\n");
}
CASE(short_reads_of_a_line) {
    Pty p;
    put(p.master, "abcdef\n");
    char buffer[4] = {};
    EXPECT_EQ(read(p.slave, buffer, 3), 3);
    EXPECT_EQ(std::string(buffer), "abc");
    EXPECT_EQ(take(p.slave), "def\n");
}
CASE(raw_mode) {
    Pty p;
    p.raw();
    put(p.master, "a");
    EXPECT_EQ(take(p.slave), "a");
    put(p.master, "\x03\x04\r");
    EXPECT_EQ(take(p.slave), "\x03\x04\r");
    put(p.slave, "x\n");
    EXPECT_EQ(take(p.master), "x\n");
    EXPECT(quiet(p.master));
}
CASE(raw_minimum_zero) {
    Pty p;
    p.raw();
    termios settings = {};
    OK(tcgetattr(p.slave, &settings));
    settings.c_cc[VMIN] = 0;
    settings.c_cc[VTIME] = 0;
    OK(tcsetattr(p.slave, TCSANOW, &settings));
    EXPECT_EQ(read(p.slave, scratch(), 10), 0);
    settings.c_cc[VTIME] = 1;
    OK(tcsetattr(p.slave, TCSANOW, &settings));
    EXPECT_EQ(read(p.slave, scratch(), 10), 0);
}
CASE(raw_minimum_several) {
    Pty p;
    p.raw();
    termios settings = {};
    OK(tcgetattr(p.slave, &settings));
    settings.c_cc[VMIN] = 3;
    OK(tcsetattr(p.slave, TCSANOW, &settings));
    pid_t pid = child([&] { EXPECT_EQ(read(p.slave, scratch(), 10), 3); });
    put(p.master, "ab");
    EXPECT(reaches_state(pid, "S"));
    put(p.master, "c");
    EXPECT_EXIT(pid, 0);
}
CASE(default_settings) {
    Pty p;
    termios settings = p.get();
    EXPECT(settings.c_lflag & ICANON);
    EXPECT(settings.c_lflag & ECHO);
    EXPECT(settings.c_lflag & ISIG);
    EXPECT(settings.c_iflag & ICRNL);
    EXPECT(settings.c_oflag & OPOST);
    EXPECT_EQ(settings.c_cc[VINTR], 3);
    EXPECT_EQ(settings.c_cc[VEOF], 4);
    EXPECT_EQ(cfgetospeed(&settings), B38400);
}
CASE(settings_shared_by_both_ends) {
    Pty p;
    p.raw();
    termios settings;
    OK(tcgetattr(p.master, &settings));
    EXPECT_EQ(settings.c_lflag & ICANON, 0);
}
CASE(flush_discards) {
    Pty p;
    put(p.master, "abc\n");
    OK(tcflush(p.slave, TCIFLUSH));
    EXPECT(quiet(p.slave));
    FAILS(tcflush(p.slave, 77), EINVAL);
}
CASE(window_size) {
    Pty p;
    winsize size{};
    OK(ioctl(p.slave, TIOCGWINSZ, &size));
    EXPECT_EQ(size.ws_row, 0);
    size = {50, 132, 1, 2};
    OK(ioctl(p.master, TIOCSWINSZ, &size));
    winsize seen{};
    OK(ioctl(p.slave, TIOCGWINSZ, &seen));
    EXPECT_EQ(seen.ws_row, 50);
    EXPECT_EQ(seen.ws_col, 132);
    FAILS(ioctl(p.slave, TIOCGWINSZ, bad()), EFAULT);
}
CASE(is_a_terminal) {
    Pty p;
    EXPECT_EQ(isatty(p.slave), 1);
    EXPECT_EQ(isatty(p.master), 1);
    struct stat st;
    OK(fstat(p.slave, &st));
    EXPECT(S_ISCHR(st.st_mode));
    char name[64] = {};
    OK(readlink(("/proc/self/fd/" + std::to_string(p.slave)).c_str(), name, 63));
    EXPECT_EQ(std::string(name), p.name);
}
CASE(bytes_waiting) {
    Pty p;
    int count = -1;
    put(p.master, "abc\n");
    for (int i = 0; i < 200 && (OK(ioctl(p.slave, FIONREAD, &count)), count == 0); ++i) sleep_ms(5);
    EXPECT_EQ(count, 4);
}
CASE(master_closed) {
    Pty p;
    close(p.master);
    EXPECT_EQ(read(p.slave, scratch(), 10), 0);
    FAILS(write(p.slave, "x", 1), EIO);
    pollfd watch{p.slave, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT(watch.revents & POLLHUP);
}
CASE(slave_closed) {
    Pty p;
    put(p.slave, "last");
    close(p.slave);
    EXPECT_EQ(take(p.master), "last");
    FAILS(read(p.master, scratch(), 10), EIO);
    int again = OK(open(p.name.c_str(), O_RDWR | O_NOCTTY));
    put(again, "back");
    EXPECT_EQ(take(p.master), "back");
}
CASE(slave_locked_until_unlocked) {
    int master = OK(open("/dev/ptmx", O_RDWR | O_NOCTTY)), number;
    OK(ioctl(master, TIOCGPTN, &number));
    FAILS(open(("/dev/pts/" + std::to_string(number)).c_str(), O_RDWR | O_NOCTTY), EIO);
}
CASE(slave_name_vanishes) {
    Pty p;
    std::string name = p.name;
    close(p.slave);
    close(p.master);
    FAILS_ANY(open(name.c_str(), O_RDWR | O_NOCTTY), ENOENT, EIO);
}
CASE(peer_ioctl) {
    Pty p;
    int peer = ioctl(p.master, 0x5441 /* TIOCGPTPEER */, O_RDWR | O_NOCTTY);
    OK(peer);
    put(peer, "p");
    EXPECT_EQ(take(p.master), "p");
}
CASE(packet_mode) {
    Pty p;
    int on = 1;
    OK(ioctl(p.master, TIOCPKT, &on));
    put(p.slave, "x");
    EXPECT(take(p.master) == std::string("\0x", 2));
}

// Runs `body` in a session of its own whose controlling terminal is the pty's slave.
template <typename Body>
static pid_t in_session(const Pty& p, Body body) {
    return child([&] {
        OK(setsid());
        OK(ioctl(p.slave, TIOCSCTTY, 0));
        body();
    });
}
CASE(controlling_terminal) {
    Pty p;
    EXPECT_EXIT(in_session(p,
                           [&] {
                               int tty = OK(open("/dev/tty", O_RDWR));
                               put(tty, "via tty");
                               EXPECT_EQ(tcgetpgrp(p.slave), getpid());
                               EXPECT_EQ(tcgetsid(p.slave), getpid());
                           }),
                0);
    EXPECT_EQ(take(p.master), "via tty");
}
CASE(controlling_terminal_by_open) {
    Pty p;
    EXPECT_EXIT(child([&] {
                    OK(setsid());
                    OK(open(p.name.c_str(), O_RDWR));
                    OK(open("/dev/tty", O_RDWR));
                }),
                0);
}
CASE(controlling_terminal_given_up) {
    Pty p;
    EXPECT_EXIT(in_session(p,
                           [&] {
                               signal(SIGHUP, SIG_IGN);
                               OK(ioctl(p.slave, TIOCNOTTY));
                               FAILS(open("/dev/tty", O_RDWR), ENXIO);
                           }),
                0);
}
CASE(interrupt_character) {
    Pty p;
    pid_t pid = in_session(p, [&] {
        put(p.slave, "R");
        for (;;) pause();
    });
    EXPECT_EQ(take(p.master), "R");
    put(p.master, "\x03");
    EXPECT_SIGNAL(pid, SIGINT);
    EXPECT_EQ(take(p.master), "^C");
}
CASE(quit_and_suspend_characters) {
    Pty p;
    pid_t pid = in_session(p, [&] {
        pid_t job = child([&] {
            setpgid(0, 0);
            for (;;) pause();
        });
        setpgid(job, job);
        signal(SIGTTOU, SIG_IGN);
        OK(tcsetpgrp(p.slave, job));
        put(p.slave, "R");
        int status;
        EXPECT_EQ(waitpid(job, &status, WUNTRACED), job);
        EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
        OK(kill(job, SIGCONT));
        put(p.slave, "C");
        EXPECT_SIGNAL(job, SIGQUIT);
    });
    EXPECT_EQ(take(p.master), "R");
    put(p.master, "\x1a");
    std::string seen;
    while (seen.find('C') == std::string::npos) {
        std::string more = take(p.master);
        if (more.empty()) break;
        seen += more;
    }
    put(p.master, "\x1c");
    EXPECT_EXIT(pid, 0);
}
CASE(background_read_stops) {
    Pty p;
    EXPECT_EXIT(in_session(p,
                           [&] {
                               pid_t job = child([&] {
                                   setpgid(0, 0);
                                   read(p.slave, scratch(), 1);
                               });
                               int status;
                               EXPECT_EQ(waitpid(job, &status, WUNTRACED), job);
                               EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
                               kill(job, SIGKILL);
                               wait_for(job);
                           }),
                0);
}
CASE(background_write_with_tostop) {
    Pty p;
    p.local(TOSTOP, 0);
    EXPECT_EXIT(in_session(p,
                           [&] {
                               pid_t job = child([&] {
                                   setpgid(0, 0);
                                   put(p.slave, "x");
                               });
                               int status;
                               EXPECT_EQ(waitpid(job, &status, WUNTRACED), job);
                               EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTOU);
                               kill(job, SIGKILL);
                               wait_for(job);
                           }),
                0);
}
CASE(background_read_ignoring_fails) {
    Pty p;
    EXPECT_EXIT(in_session(p,
                           [&] {
                               in_child([&] {
                                   setpgid(0, 0);
                                   signal(SIGTTIN, SIG_IGN);
                                   FAILS(read(p.slave, scratch(), 1), EIO);
                               });
                           }),
                0);
}
CASE(window_change_signal) {
    Pty p;
    pid_t pid = in_session(p, [&] {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGWINCH);
        sigprocmask(SIG_BLOCK, &set, nullptr);
        put(p.slave, "R");
        EXPECT_EQ(sigwaitinfo(&set, nullptr), SIGWINCH);
    });
    EXPECT_EQ(take(p.master), "R");
    winsize size{10, 20, 0, 0};
    OK(ioctl(p.master, TIOCSWINSZ, &size));
    EXPECT_EXIT(pid, 0);
}
CASE(hangup_on_master_close) {
    Pty p;
    pid_t pid = in_session(p, [&] {
        close(p.master);
        put(p.slave, "R");
        for (;;) pause();
    });
    EXPECT_EQ(take(p.master), "R");
    close(p.master);
    EXPECT_SIGNAL(pid, SIGHUP);
}
CASE(hangup_when_leader_exits) {
    Pty p;
    int ends[2];
    OK(pipe(ends));
    pid_t pid = in_session(p, [&] {
        pid_t job = child([&] {
            static int out;
            out = ends[1];
            signal(SIGHUP, [](int) {
                write(out, "H", 1);
                _exit(0);
            });
            write(ends[1], "R", 1);
            for (;;) pause();
        });
        (void)job;
        char c;
        EXPECT_EQ(read(ends[0], &c, 1), 1);
    });
    EXPECT_EXIT(pid, 0);
    char c = 0;
    EXPECT_EQ(read(ends[0], &c, 1), 1);
    EXPECT_EQ(c, 'H');
}
CASE(errors) {
    Pty p;
    int value;
    FAILS(ioctl(p.slave, TIOCGPGRP, &value), ENOTTY);
    FAILS(ioctl(p.slave, TIOCSPGRP, &value), ENOTTY);
    FAILS(ioctl(p.slave, TCGETS, bad()), EFAULT);
    FAILS(ioctl(p.slave, 0x54ff, &value), ENOTTY);
    FAILS(lseek(p.slave, 0, SEEK_SET), ESPIPE);
}
