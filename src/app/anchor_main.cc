// casemate-anchor: the host process that stands for one container (or one exec) of a pod towards whoever supervises it.
//
// Supervisors (conmon, containerd's shim) learn of the end of a container by reaping its process. The processes of a
// sandbox are no host processes, so this one takes the place: it ends with their exit status, passes signals on, holds
// the terminal whose size it reports, and lives in the container's cgroup. It is a program of its own, with nothing in
// it, because a pod has one per container.
//
// Descriptor 3 is the socket to the sandbox host (AnchorMessage, anchor_protocol.h), descriptor 4 the terminal's slave
// if "terminal" is the first argument. If the sandbox host dies, so does this process; if this process is killed, the
// sandbox host sees the socket close and kills the container.
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sandbox/anchor_protocol.h"

namespace {

using casemate::sandbox::AnchorMessage;

constexpr int kSocket = 3;
constexpr int kTerminal = 4;

bool send(AnchorMessage message) {
    return ::send(kSocket, &message, sizeof message, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof message);
}

void send_size() {
    winsize size = {};
    if (ioctl(kTerminal, TIOCGWINSZ, &size) == 0) send({AnchorMessage::kResize, size.ws_row, size.ws_col});
}

}  // namespace

int main(int argc, char** argv) {
    bool terminal = argc > 1 && strcmp(argv[1], "terminal") == 0;
    setsid();
    if (terminal) ioctl(kTerminal, TIOCSCTTY, 0);
    for (int fd = 0; fd < 3; ++fd) close(fd);
    if (close_range(terminal ? 5 : 4, ~0u, 0) != 0) return 255;
    if (chdir("/") != 0) return 255;
    prctl(PR_SET_DUMPABLE, 0);

    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) return 255;
    if (terminal) send_size();

    pollfd polled[] = {{kSocket, POLLIN, 0}, {signals, POLLIN, 0}};
    while (poll(polled, 2, -1) >= 0 || errno == EINTR) {
        signalfd_siginfo info;
        while (read(signals, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo == SIGWINCH && terminal)
                send_size();
            else if (info.ssi_signo != SIGCHLD && info.ssi_signo != SIGPIPE)
                send({AnchorMessage::kSignal, info.ssi_signo, 0});
        }
        if (polled[0].revents == 0) continue;
        AnchorMessage message = {};
        if (recv(kSocket, &message, sizeof message, 0) != static_cast<ssize_t>(sizeof message)) break;
        if (message.kind == AnchorMessage::kExit) _exit(static_cast<int>(message.first));
    }
    // The sandbox host is gone, and with it the container.
    kill(getpid(), SIGKILL);
    return 255;
}
