#!/usr/bin/env python3
"""Containers without end: cycles, kill -9 of any process at random moments, and what is left behind afterwards.

usage: soak.py CASEMATE STATE_DIR BUNDLE [CYCLES] [KILLS] [SEED]
prints "ok NAME" and "not ok NAME: why" lines

Everything is counted before and after: processes, mounts, cgroups, namespaces, sockets, files of the state folder and
of /tmp and /dev/shm. Only what carries our names is counted, so that other work on the machine does not matter.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time

casemate, state, bundle = sys.argv[1:4]
cycles = int(sys.argv[4]) if len(sys.argv) > 4 else 200
kills = int(sys.argv[5]) if len(sys.argv) > 5 else 100
seed = int(sys.argv[6]) if len(sys.argv) > 6 else int(time.time())
chance = random.Random(seed)
print(f"# seed {seed}")
tag = f"soak{os.getpid()}"

config = json.load(open(os.path.join(bundle, "config.json")))
config["process"]["terminal"] = False
config["process"]["args"] = ["/bin/sh", "-c", "while :; do /bin/true; sleep 0.01; done"]
json.dump(config, open(os.path.join(bundle, "config.json"), "w"))


def tell(name, good, why=""):
    print(f"ok {name}" if good else f"not ok {name}: {str(why).strip()[:2000]}", flush=True)


def start_command(*words):
    return subprocess.Popen([casemate, "--root", state, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, errors="replace")


def command(*words, timeout=60):
    # To a file: what a created container inherits must not keep us waiting.
    with open(os.path.join(bundle, "out"), "w+") as out:
        process = subprocess.Popen([casemate, "--root", state, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -1, f"{words} hangs"
        out.seek(0)
        return code, out.read()


def status(id):
    code, text = command("state", id)
    return json.loads(text)["status"] if code == 0 else "gone"


def until(wanted, id, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if status(id) == wanted:
            return True
        time.sleep(0.02)
    return False


def all_processes():
    """pid -> (ppid, name), kernel threads apart."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = open(f"/proc/{entry}/stat").read()
            except OSError:
                continue
            name = text[text.index("(") + 1:text.rindex(")")]
            rest = text[text.rindex(")") + 2:].split()
            found[int(entry)] = (int(rest[1]), name, rest[0])
    return found


def environment_of(pid):
    try:
        return open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return ""


def family(roots):
    processes = all_processes()
    found = [pid for pid in roots if pid in processes]
    for pid in found:
        found += [child for child, (parent, _, _) in processes.items() if parent == pid and child not in found]
    return found


def leftovers():
    """What of ours is there: a set of strings."""
    found = set()
    mine = os.getpid()
    for pid, (parent, name, run) in all_processes().items():
        if run == "Z" and parent != mine:
            continue
        # Processes of pods that belong to this run were given our environment or lie in our cgroups.
        try:
            cgroup = open(f"/proc/{pid}/cgroup").read()
        except OSError:
            continue
        if tag in cgroup:
            found.add(f"process {pid} {name}")
    for line in open("/proc/self/mountinfo"):
        if tag in line or bundle in line or state in line:
            found.add("mount " + line.split()[4])
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if tag in name:
                found.add(f"cgroup {folder}/{name}")
    for line in open("/proc/net/unix"):
        if state in line:
            found.add("socket " + line.split()[-1])
    if os.path.isdir(state):
        found |= {f"file {state}/{name}" for name in os.listdir(state)}
    for folder in ("/tmp", "/dev/shm", "/run"):
        found |= {f"file {folder}/{name}" for name in os.listdir(folder) if tag in name}
    return found


def ours():
    """Processes of casemate that were not there at the beginning, and the namespaces they are in."""
    return {pid for pid, (_, name, run) in all_processes().items() if name.startswith("casemate") and run != "Z"}


def settled(check, seconds=30):
    end = time.monotonic() + seconds
    while True:
        left = check()
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


before = leftovers()
begin = time.monotonic()
wrong = []
for i in range(cycles):
    id = f"{tag}-c{i}"
    code, text = command("create", "--bundle", bundle, id)
    if code == 0:
        code, text = command("start", id)
    if code == 0:
        code, text = command("kill", id, "KILL")
    if code == 0 and not until("stopped", id):
        code, text = 1, f"{id} does not stop: {status(id)}"
    if code == 0:
        code, text = command("delete", id)
    if code != 0:
        wrong.append(f"cycle {i}: {text}")
        command("delete", "--force", id)
tell(f"soak-{cycles}-cycles", not wrong, f"{len(wrong)} wrong: {wrong[:3]}")
print(f"# {cycles} cycles in {time.monotonic() - begin:.0f} s")
left = settled(lambda: leftovers() - before)
tell("soak-cycles-leave-nothing", not left, sorted(left)[:20])

# --- kill -9: any process, the command itself, any moment ---
wrong = []
victims = {}
for i in range(kills):
    id = f"{tag}-k{i}"
    verb = chance.choice(("create", "start", "run", "exec", "kill", "delete", "do", "state", "pause"))
    children = []
    if verb in ("start", "exec", "kill", "delete", "state", "pause"):
        code, text = command("create", "--bundle", bundle, id)
        if code != 0:
            wrong.append(f"kill {i}: create: {text}")
            continue
        if verb != "start":
            code, text = command("start", id)
            if code != 0:
                wrong.append(f"kill {i}: start: {text}")
    words = {"create": ["create", "--bundle", bundle, id], "start": ["start", id], "run": ["run", "--bundle", bundle, id],
             "exec": ["exec", id, "/bin/sh", "-c", "sleep 0.05"], "kill": ["kill", id, "KILL"], "delete": ["delete", "--force", id],
             "do": ["do", "--", "/bin/sh", "-c", "sleep 0.05"], "state": ["state", id], "pause": ["pause", id]}[verb]
    process = subprocess.Popen([casemate, "--root", state, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(chance.random() * chance.choice((0.005, 0.02, 0.06)))
    # The command, or any process of the pod.
    roots = [process.pid]
    try:
        record = subprocess.run([casemate, "--root", state, "state", id], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
        roots.append(json.loads(record.stdout)["pid"])
    except (ValueError, KeyError):
        pass
    candidates = [pid for pid in family(roots) if pid > 1]
    if candidates:
        victim = process.pid if chance.random() < 0.3 else chance.choice(candidates)
        name = all_processes().get(victim, (0, "gone", ""))[1]
        victims[name] = victims.get(name, 0) + 1
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        if verb == "run":
            time.sleep(0.05)
            process.kill()
        process.wait(30)
    except subprocess.TimeoutExpired:
        wrong.append(f"kill {i}: {words} hangs")
        process.kill()
        process.wait()
    truth = status(id)
    code, text = command("delete", "--force", id)
    if code != 0:
        wrong.append(f"kill {i} ({verb}, {truth}): delete --force: {text}")
    elif status(id) != "gone":
        wrong.append(f"kill {i} ({verb}): state after delete: {status(id)}")
tell(f"soak-{kills}-kills", not wrong, f"{len(wrong)} wrong: {wrong[:5]}")
print(f"# killed: {victims}")
command("do", "--", "/bin/true")  # a `do` that was killed leaves a folder to the next one at most
left = settled(lambda: leftovers() - before)
tell("soak-kills-leave-nothing", not left, sorted(left)[:20])
