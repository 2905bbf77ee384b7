"""Full-screen programs on a terminal of 24 lines and 80 columns: the same keys natively and inside, and the same screens.

A step waits until the screen shows what it waits for, so that no timing decides.
"""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

try:
    import pyte
except ImportError:
    pyte = None

PATIENCE = 30


class Terminal:
    def __init__(self, side, words):
        self.screen = pyte.Screen(80, 24)
        self.stream = pyte.ByteStream(self.screen)
        self.master, slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.screen.write_process_input = lambda data: os.write(self.master, data.encode())
        self.side = side
        self.process = side.on_terminal(words, slave)
        os.close(slave)

    def shown(self):
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def read(self, seconds):
        """False at the end."""
        if not select.select([self.master], [], [], max(0, seconds))[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            data = b""
        self.stream.feed(data)
        return data != b""

    def wait(self, pattern):
        """Until the screen matches; "" or why not."""
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.shown(), re.M):
            if time.monotonic() > end or not self.read(end - time.monotonic()):
                return f"{self.side.name}: no {pattern!r} on the screen:\n{self.shown()}"
        return ""

    def type(self, text):
        os.write(self.master, text.encode())

    def resize(self, lines, columns):
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self):
        """The status."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.read(end - time.monotonic()):
            pass
        try:
            return self.process.wait(timeout=max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None

    def close(self):
        if self.process.poll() is None:
            self.side.stop(self.process)
        os.close(self.master)


# Each: name, command, steps. A step is (pattern to wait for, keys to type then); the screen at the moment of a step with
# "same" is compared with the native one.
PROMPT = r"^\$\Z"
SESSIONS = [
    ("vim", ["vim.tiny", "-u", "NONE", "-N", "vim.txt"], [
        (r'"vim.txt" \[New\]', "ihello vim\x1b", "same"),
        (r"^hello vim", "yyppGoend\x1b:%s/hello/changed/\r", "same"),
        (r"3 substitutions|3 lines", ":set number\r"),
        (r"^ +4 end", "gg/end\r", "same"),
        (r"^ +4 end", ":!echo from shell\r"),
        (r"^from shell(.|\n)*Press ENTER", "\r"),
        (r"^ +4 end", ":wq\r"),
    ]),
    ("less", ["sh", "-c", "seq -f 'line %g' 500 | less"], [
        (r"^line 23\n:", " ", "same"),
        (r"^line 46\n:", "/line 333\r"),
        (r"\A(line 333|\.\.\.skipping)", "G"),
        (r"^line 500\n.*END", "g", "same"),
        (r"\Aline 1\n", "200g"),
        (r"\Aline 200\n", "q"),
    ]),
    ("top", ["top", "-d", "1"], [
        (r"^top - (.|\n)*^Tasks:(.|\n)*PID USER(.|\n)*top$", "h"),
        (r"^Help for Interactive Commands", "\x1b"),
        (r"^ +[0-9]+ root .* top$", "c"),
        (r"top -d 1", "q"),
    ]),
    ("job-control", ["env", "PS1=$ ", "bash", "--norc", "--noediting", "-i"], [
        # Each says when it runs: a key typed before would be the shell's.
        (PROMPT, """python3 -c 'import os, signal as s; s.signal(18, lambda *a: os.write(1, b"again\\n")); """
                 """print("begun", flush=True); [s.pause() for i in range(99)]'\r"""),
        (r"^begun", "\x1a"),
        (r"Stopped(.|\n)*\$\Z", "clear; jobs -s | head -c 12; fg\r"),
        (r"^again", "\x03"),
        (r"KeyboardInterrupt\n(.|\n)*\$\Z", "clear; sleep 1000 &\r"),
        (r"^\[1\] (.|\n)*\$\Z", "clear; jobs -r; kill -STOP %1; wait %1; bg; kill %1; wait %1; echo $?; (exit 130)\r"),
        (r"Running(.|\n)*^143\n\$\Z", "clear; echo status $?; cat\r"),
        (r"^status", "typed\r"),
        (r"^typed\ntyped", "\x04"),
        (r"^typed\ntyped\n\$", "stty -echo; echo hidden\r"),
        (r"^hidden", "stty sane; clear; stty -a | head -1; trap 'echo resized' WINCH\r"),
        (r"^speed.*columns 80(.|\n)*\$\Z", "sh -c 'echo begun; exec sleep 1000' | cat\r", "same"),
        (r"^begun$", "\x1c"),
        (r"Quit", "clear; kill %1; jobs; echo done\r"),
        (r"^done\n\$", "exit 7\r"),
    ]),
    ("python-prompt", ["env", "-u", "PYTHONSTARTUP", "python3", "-q"], [
        (r"^>>>", "import os; os.get_terminal_size()\r"),
        (r"terminal_size\(columns=80, lines=24\)\n>>>", "6*7\r", "same"),
        (r"^42\n>>>", "\x1b[A\x1b[A\r"),
        (r"(terminal_size(.|\n)*){4}>>>\Z", "input('name? ')\r"),
        (r"^name\?", "someone\r"),
        (r"^'someone'", "\x04"),
    ]),
]


def play(side, words, steps):
    """(problem, screens that shall be alike, status)"""
    terminal, screens = Terminal(side, words), []
    try:
        for pattern, keys, *same in steps:
            problem = terminal.wait(pattern)
            if problem:
                return problem, screens, None
            if same:
                # What belongs to one drawing may come in several pieces: until nothing more comes for a while.
                while select.select([terminal.master], [], [], 0.5)[0] and terminal.read(0):
                    pass
                screens.append(terminal.shown())
            terminal.type(keys)
        return "", screens, terminal.end()
    finally:
        terminal.close()


def check(sides, names):
    """Yields (name, "" or what is wrong, or None where it cannot be told)."""
    for name, words, steps in SESSIONS:
        if names and name not in names:
            continue
        if pyte is None:
            yield f"terminal {name}", None
            continue
        outcomes = [play(side, words, steps) for side in sides]
        problem = next((outcome[0] for outcome in outcomes if outcome[0]), "")
        if not problem and outcomes[0][1:] != outcomes[1][1:]:
            problem = f"natively {outcomes[0][1:]}, inside {outcomes[1][1:]}"
        yield f"terminal {name}", problem
