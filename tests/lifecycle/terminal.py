#!/usr/bin/env python3
"""Terminal sessions end to end, as a person has them: `do -- bash`, `run` on a terminal and through --console-socket,
`exec -t`. Job control, ctrl-C, ctrl-Z and fg, window size at the start and when it changes, the exit status.

usage: terminal.py CASEMATE STATE_DIR BUNDLE       prints "ok NAME" and "not ok NAME: why" lines
"""
import array
import copy
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

casemate, state, bundle = sys.argv[1:4]
base = json.load(open(os.path.join(bundle, "config.json")))
PATIENCE = 20


def tell(name, good, why=""):
    print(f"ok terminal-{name}" if good else f"not ok terminal-{name}: {str(why)[-400:]!r}", flush=True)


def set_size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Session:
    """A person at a terminal: writes, and waits for what must come."""

    def __init__(self, master, process=None):
        self.master, self.process, self.seen, self.all = master, process, "", ""

    @staticmethod
    def run(words, rows=33, columns=101):
        master, slave = pty.openpty()
        set_size(master, rows, columns)
        process = subprocess.Popen([casemate, "--root", state, *words], stdin=slave, stdout=slave, stderr=slave,
                                   preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)))
        os.close(slave)
        return Session(master, process)

    def send(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, patience=PATIENCE):
        """True once `text` has come; what came before it is forgotten."""
        end = time.monotonic() + patience
        while text not in self.seen:
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                return False
            try:
                got = os.read(self.master, 65536)
            except OSError:
                return False
            if not got:
                return False
            self.seen += got.decode(errors="replace")
            self.all += got.decode(errors="replace")
        self.seen = self.seen[self.seen.index(text) + len(text):]
        return True

    def ask(self, command, answer):
        # The echo of the line must not be taken for the answer: the line has it in two pieces.
        self.send(command + "\n")
        return self.expect(answer)

    def comes_to_say(self, command, answer):
        """What is on its way may come after the command has been given: asked again until it is there."""
        return any(self.send(command + "\n") or self.expect(answer, 1) for _ in range(PATIENCE))

    def end(self):
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.all += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    pass
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            return "does not end"
        os.close(self.master)
        return self.process.returncode


def shell_tests(name, session, winch=False):
    """What every interactive shell must be able to do; `session` has just started one."""
    tell(f"{name}-shell", session.ask("PS1='pro''mpt> '", "prompt> "), session.all)
    tell(f"{name}-size", session.ask("stty size", "33 101"), session.all)
    tell(f"{name}-tty", session.ask("tty", "/dev/"), session.all)
    session.expect("prompt> ")
    session.ask("(echo be''gun; exec sleep 1000)", "begun")
    session.send("\x03")
    tell(f"{name}-ctrl-c", session.expect("prompt> ") and session.ask("echo status''-$?", "status-130"), session.all)
    session.expect("prompt> ")
    session.ask("(trap 'echo con''tinued' CONT; echo be''gun; while :; do sleep 0.1; done)", "begun")
    session.send("\x1a")
    tell(f"{name}-ctrl-z", session.expect("Stopped"), session.all)
    tell(f"{name}-jobs", session.ask("jobs", "Stopped"), session.all)
    session.expect("prompt> ")
    session.ask("fg", "continued")
    session.send("\x03")
    tell(f"{name}-fg", session.expect("prompt> ") and session.ask("jobs; echo no''ne", "none"), session.all)
    tell(f"{name}-background", session.ask("sleep 0.2 & wait; echo wai''ted", "waited"), session.all)
    session.expect("prompt> ")
    if winch:  # not in busybox's shell, whose line editor takes the signal for itself
        # The shell is kept off its prompt until the size has come: readline reads the size and writes it back (its
        # set_winsize()), there, and a size set between the two is lost, natively too.
        session.send("trap 'echo win''ched; came=1' WINCH; echo wai''ting; while [ -z \"$came\" ]; do :; done\n")
        session.expect("waiting")
    else:
        for rows in range(10, 40):  # as of a window that is being drawn larger: the last one counts
            set_size(session.master, rows, 90)
    set_size(session.master, 44, 122)
    if winch:
        tell(f"{name}-winch", session.expect("winched"), session.all)
        session.expect("prompt> ")
    tell(f"{name}-resize", session.comes_to_say("stty size", "44 122"), session.all)
    session.send("echo one two\x7f\x7f\x7f2\n")
    tell(f"{name}-erase", session.expect("one 2"), session.all)


# --- do ---
session = Session.run(["do", "--", "bash", "--norc", "--noprofile", "-i"])
shell_tests("do", session, winch=True)
session.send("exit 7\n")
status = session.end()
tell("do-exit-status", status == 7, f"{status} {session.all}")
session = Session.run(["do", "--", "sh", "-c", "sleep 0.1; exit 9"])
status = session.end()
tell("do-status-without-input", status == 9, status)
session = Session.run(["do", "--", "cat"])
session.send("line\n")
answered = session.expect("line") and session.expect("line")
session.send("\x04")
status = session.end()
tell("do-ctrl-d", answered and status == 0, f"{status} {session.all}")

# --- run on the caller's terminal; exec -t ---
config = copy.deepcopy(base)
config["process"]["terminal"] = True
config["process"]["args"] = ["/bin/sh", "-i"]
config["process"]["env"] = ["PATH=/bin", "TERM=xterm"]
json.dump(config, open(os.path.join(bundle, "config.json"), "w"))
id = f"terminal-{os.getpid()}"
session = Session.run(["run", "--bundle", bundle, id])
shell_tests("run", session)
extra = Session.run(["exec", "-t", id, "/bin/sh", "-i"])
shell_tests("exec", extra)
extra.send("exit 5\n")
status = extra.end()
tell("exec-exit-status", status == 5, status)
session.send("exit 6\n")
status = session.end()
tell("run-exit-status", status == 6, status)


# --- through --console-socket, as conmon and containerd do it ---
def receive_terminal(listener):
    connection, _ = listener.accept()
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_LEN(fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[:fds.itemsize])
    connection.close()
    return fds[0]


path = os.path.join(bundle, "console.sock")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
listener.settimeout(PATIENCE)
config["process"]["consoleSize"] = {"height": 33, "width": 101}
json.dump(config, open(os.path.join(bundle, "config.json"), "w"))
id += "-console"
process = subprocess.run([casemate, "--root", state, "run", "--detach", "--console-socket", path, "--bundle", bundle, id],
                         stdin=subprocess.DEVNULL, timeout=PATIENCE)
tell("console-run", process.returncode == 0)
session = Session(receive_terminal(listener))
shell_tests("console", session)
# Its owner sets the size only after it has the terminal, before the process is there to be told: it must hold all the same,
# from the process' first instruction on.
config["process"].pop("consoleSize")
config["process"]["args"] = ["/bin/sh", "-c", "stty size; sleep 100"]
json.dump(config, open(os.path.join(bundle, "config.json"), "w"))
process = subprocess.run([casemate, "--root", state, "create", "--console-socket", path, "--bundle", bundle, id + "-later"],
                         stdin=subprocess.DEVNULL, timeout=PATIENCE)
later = Session(receive_terminal(listener))
set_size(later.master, 21, 61)
subprocess.run([casemate, "--root", state, "start", id + "-later"], stdin=subprocess.DEVNULL, timeout=PATIENCE)
tell("console-size-before-start", later.expect("21 61"), later.all)
subprocess.run([casemate, "--root", state, "delete", "--force", id + "-later"], timeout=PATIENCE)

exec_process = subprocess.run([casemate, "--root", state, "exec", "--detach", "-t", "--console-socket", path, id, "/bin/sh", "-i"],
                              stdin=subprocess.DEVNULL, timeout=PATIENCE)
tell("console-exec", exec_process.returncode == 0)
extra = Session(receive_terminal(listener))
set_size(extra.master, 33, 101)
extra.comes_to_say("stty size", "33 101")
shell_tests("console-exec", extra)
extra.send("exit\n")
extra.expect("nothing ever says this", 1)
# The owner goes away: the session's processes get SIGHUP, and the container ends.
os.close(session.master)
end = time.monotonic() + PATIENCE
stopped = False
while time.monotonic() < end and not stopped:
    got = subprocess.run([casemate, "--root", state, "state", id], stdout=subprocess.PIPE)
    stopped = b'"stopped"' in got.stdout
    time.sleep(0.1)
tell("console-hang-up", stopped)
subprocess.run([casemate, "--root", state, "delete", "--force", id], timeout=PATIENCE)
os.remove(path)
