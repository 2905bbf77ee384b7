#!/usr/bin/env python3
"""A pod that waits burns no CPU: neither its programs nor the sandbox around them. It made calls a moment before, so that
whatever polls for calls had its reason.

usage: idle.py CASEMATE STATE_DIR BUNDLE       prints "ok NAME" and "not ok NAME: why" lines
"""
import os
import subprocess
import sys
import time

casemate, state, _ = sys.argv[1:4]
SECONDS, BUDGET_MS = 4, 20  # a poller that never slept would take SECONDS * 1000


def family(pid):
    """A process and all below it."""
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as children:
            for child in children.read().split():
                found += family(int(child))
    return found


def cpu_ms(pids):
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as times:
                total += int(times.read().split()[0])
    return total / 1e6


def measure(name, words):
    process = subprocess.Popen([casemate, "--root", state, "do", "--", *words], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        line = process.stdout.readline().decode()
        if line != "waiting\n":
            print(f"not ok idle-{name}: {line.strip()!r}", flush=True)
            return
        time.sleep(2)
        pids = family(process.pid)
        before = cpu_ms(pids)
        time.sleep(SECONDS)
        took = cpu_ms(pids) - before
        if len(pids) < 3:
            print(f"not ok idle-{name}: {len(pids)} processes seen", flush=True)
        elif took <= BUDGET_MS:
            print(f"ok idle-{name}", flush=True)
        else:
            print(f"not ok idle-{name}: {took:.1f} ms of CPU in {SECONDS} s", flush=True)
    finally:
        process.kill()
        process.wait()


BUSY = "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); read line </etc/hostname; done; echo waiting; "
measure("sleep", ["bash", "-c", BUSY + "exec sleep 30"])
measure("pipe", ["bash", "-c", BUSY + "sleep 30 | cat"])
measure("threads", ["python3", "-c", "import os, socket, threading\n"
                    "for _ in range(20000): os.stat('/')\n"
                    "one, two = socket.socketpair()\n"
                    "for _ in range(3): threading.Thread(target=one.recv, args=(1,), daemon=True).start()\n"
                    "print('waiting', flush=True)\n"
                    "threading.Event().wait()\n"])
