#!/usr/bin/env python3
"""Podman on a real Debian root made by debootstrap (kept in ~/.cache/casemate-tests): what people do with it day by day,
terminal, stop and stats included.

usage: podman_debian.py CASEMATE WORK_DIR      prints "ok NAME", "not ok NAME: why" and "skip NAME: why" lines
"""
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

casemate, work = sys.argv[1:3]
cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "casemate-tests")
podman = ["podman", "--root", f"{work}/debian-podman", "--runroot", f"{work}/debian-podman-run", "--storage-driver", "overlay",
          "--runtime", casemate, "--cgroup-manager", "cgroupfs"]
BASE = ["--network", "none"]


def tell(name, good, why=""):
    print(f"ok podman-debian-{name}" if good else f"not ok podman-debian-{name}: {str(why)[-300:]!r}", flush=True)


def call(*words, patience=60, **more):
    try:
        done = subprocess.run([*podman, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=patience, text=True, **more)
        # Podman's own warnings go to the other stream; they count only where it fails.
        return done.returncode, done.stdout + (done.stderr if done.returncode != 0 else "")
    except subprocess.TimeoutExpired as late:
        return 124, f"no end within {patience} s: {late.stdout}"


def debian():
    """The root's archive, made once: 100 MB or so, a minute or two."""
    archive = f"{cache}/debian.tar"
    if os.path.exists(archive):
        return archive
    os.makedirs(cache, exist_ok=True)
    root = f"{work}/debian"
    made = subprocess.run(["debootstrap", "--variant=minbase", "--include=procps", "bookworm", root],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode != 0:
        print(f"skip podman-debian: debootstrap fails: {made.stdout.strip().splitlines()[-1:]}")
        sys.exit()
    subprocess.run(["tar", "-C", root, "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "-cf", archive + ".new", "."],
                   check=True)
    os.rename(archive + ".new", archive)
    subprocess.run(["rm", "-rf", root])
    return archive


def on_terminal(words, script, patience=60):
    """A session on a terminal of 40 lines and 90 columns: (wait for, then type) pairs. What was seen, and the status."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
    process = subprocess.Popen([*podman, *words], stdin=slave, stdout=slave, stderr=slave,
                               preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)))
    os.close(slave)
    seen, end, position = "", time.monotonic() + patience, 0
    for wanted, typed in [*script, (None, "")]:
        while wanted is None or wanted not in seen[position:]:
            if not select.select([master], [], [], max(0, end - time.monotonic()))[0]:
                process.kill()
                return seen + f"[nothing more; {wanted!r} did not come]", None
            try:
                data = os.read(master, 65536)
            except OSError:
                data = b""
            if not data:
                if wanted is None:
                    return seen, process.wait(timeout=patience)
                process.kill()
                return seen + f"[ended before {wanted!r}]", process.wait()
            seen += data.decode(errors="replace")
        position = seen.index(wanted, position) + len(wanted)
        os.write(master, typed.encode())


archive = debian()
status, out = call("import", archive, "debian:own", patience=300)
if status != 0:
    print(f"skip podman-debian: cannot import the root: {out.strip().splitlines()[-1:]}")
    sys.exit()

status, out = call("run", "--rm", *BASE, "debian:own", "bash", "-c", "uname -r; . /etc/os-release; echo $VERSION_ID; dpkg -l | wc -l")
tell("run", status == 0 and "casemate" in out.split()[0] and out.split()[1] == "12" and int(out.split()[2]) > 80, out)

seen, status = on_terminal(["run", "--rm", "-it", *BASE, "debian:own", "bash", "--norc"],
                           [("# ", "stty size; tty\n"), ("/dev/pts", "sleep 100 &\n"), ("# ", "jobs\n"), ("Running", ""),
                            ("# ", "sh -c \"echo in''side; exec cat\"\n"), ("inside", "\x03"), ("# ", "kill %1; exit 5\n")])
tell("run-it", status == 5 and "40 90" in seen, f"status {status}: {seen}")

status, out = call("run", "-d", "--name", "box", *BASE, "--memory", "256m", "debian:own", "bash", "-c",
                   "trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.2; done")
tell("detached", status == 0, out)
for _ in range(100):
    status, out = call("logs", "box")
    if "begun" in out:
        break
    time.sleep(0.1)
tell("logs", status == 0 and out == "begun\n", out)
status, out = call("exec", "box", "ps", "-eo", "pid,comm", "--no-headers")
tell("exec-ps", status == 0 and out.split()[:2] == ["1", "bash"], out)
seen, status = on_terminal(["exec", "-it", "box", "bash", "--norc"], [("# ", "tty; exit 4\n")])
tell("exec-it", status == 4 and "/dev/pts/" in seen, f"status {status}: {seen}")
status, out = call("exec", "-u", "nobody", "-w", "/tmp", "-e", "A=b", "box", "sh", "-c", "id -un; pwd; echo $A")
tell("exec-user-folder-environment", (status, out) == (0, "nobody\n/tmp\nb\n"), out)
status, out = call("stats", "--no-stream", "--format", "json", "box")
try:
    row = json.loads(out)[0]
    tell("stats", status == 0 and row["name"] == "box" and "MB" in row["mem_usage"] and "268.4MB" in row["mem_usage"], out)
except (ValueError, LookupError):
    tell("stats", False, out)
status, out = call("pause", "box")
state = call("inspect", "--format", "{{.State.Status}}", "box")[1].strip()
tell("pause", status == 0 and state == "paused", out + state)
status, out = call("unpause", "box")
state = call("inspect", "--format", "{{.State.Status}}", "box")[1].strip()
tell("unpause", status == 0 and state == "running", out + state)
call("exec", "box", "sh", "-c", "echo made inside >/root/made")
status, out = call("stop", "-t", "20", "box")
code = call("inspect", "--format", "{{.State.ExitCode}}", "box")[1].strip()
tell("stop", status == 0 and code == "3" and "ended" in call("logs", "box")[1], f"{out} exit code {code}")
status, out = call("cp", "box:/root/made", f"{work}/made")
tell("cp-out-of-stopped", status == 0 and open(f"{work}/made").read() == "made inside\n", out)
status, out = call("cp", "/etc/hostname", "box:/root/copied")
tell("cp-into-stopped", status == 0, out)
status, out = call("start", "box")
state = call("inspect", "--format", "{{.State.Status}}", "box")[1].strip()
tell("start-again", status == 0 and state == "running", out + state)
status, out = call("exec", "box", "cat", "/root/copied")
tell("cp-seen-inside", (status, out) == (0, open("/etc/hostname").read()), out)
status, out = call("kill", "-s", "KILL", "box")
for _ in range(100):
    code = call("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "box")[1].strip()
    if code.startswith("exited"):
        break
    time.sleep(0.1)
tell("kill", status == 0 and code == "exited 137", f"{out} {code}")
status, out = call("rm", "box")
tell("rm", status == 0 and call("ps", "-aq")[1] == "", out)
os.makedirs(f"{work}/volume", exist_ok=True)
status, out = call("run", "--rm", *BASE, "-v", f"{work}/volume:/data", "--tmpfs", "/scratch", "--read-only", "debian:own", "sh", "-c",
                   "echo kept >/data/file; echo x >/scratch/y && touch /etc/no 2>&1 | grep -o 'Read-only file system'")
tell("volume-tmpfs-read-only", status == 0 and "Read-only file system" in out and open(f"{work}/volume/file").read() == "kept\n", out)
call("rmi", "-f", "debian:own")
