#!/usr/bin/env python3
"""All six hooks end to end: order, place, state on standard input, time-outs and failures.

usage: hooks.py CASEMATE STATE_DIR BUNDLE       prints "ok NAME" and "not ok NAME: why" lines
"""
import copy
import json
import os
import subprocess
import sys
import time

casemate, state, bundle = sys.argv[1:4]
base = json.load(open(os.path.join(bundle, "config.json")))
base["process"]["terminal"] = False
base["root"]["readonly"] = False
rootfs = os.path.join(bundle, "rootfs")
log = os.path.join(rootfs, "hooks")  # the startContainer hook sees it as /hooks
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def command(*words):
    # To a file: a created container keeps its streams open.
    with open(os.path.join(bundle, "out"), "w+", errors="replace") as out:
        process = subprocess.run([casemate, "--root", state, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        out.seek(0)
        return subprocess.CompletedProcess(words, process.returncode, out.read())


def tell(name, good, why=""):
    print(f"ok hooks-{name}" if good else f"not ok hooks-{name}: {' | '.join(str(why).strip().splitlines()[-3:])}", flush=True)


def hook(kind, script, **more):
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "MARK=set"], **more}


def write(hooks, args=("/bin/sleep", "100")):
    config = copy.deepcopy(base)
    config["process"]["args"] = list(args)
    config["annotations"] = {"org.example.hook": "yes"}
    config["hooks"] = hooks
    json.dump(config, open(os.path.join(bundle, "config.json"), "w"))


def recorded(kind):
    try:
        return json.load(open(os.path.join(log, kind)))
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def clean():
    os.makedirs(log, exist_ok=True)
    os.chmod(log, 0o777)
    for name in os.listdir(log):
        os.remove(os.path.join(log, name))


def gone(id):
    return "does not exist" in command("state", id).stdout


def status(id):
    got = command("state", id)
    return json.loads(got.stdout)["status"] if got.returncode == 0 else got.stdout


# --- each is called once, in order, with the state ---
clean()
hooks = {}
for kind in KINDS:
    folder = "/hooks" if kind == "startContainer" else log
    hooks[kind] = [hook(kind, f"cat > {folder}/{kind}; echo {kind}-1 $MARK >> {folder}/order"),
                   hook(kind, f"echo {kind}-2 >> {folder}/order")]
write(hooks)
id = f"hooks-{os.getpid()}"
got = command("create", "--bundle", bundle, id)
order = open(os.path.join(log, "order")).read().split("\n") if got.returncode == 0 else []
tell("create-runs-its-three", order == [f"{k}-{i}{' set' if i == 1 else ''}" for k in KINDS[:3] for i in (1, 2)] + [""], f"{got.stdout} {order}")
pid = json.loads(command("state", id).stdout).get("pid")
got = command("start", id)
order = open(os.path.join(log, "order")).read().split("\n")
tell("start-runs-its-two", got.returncode == 0 and order[6:] == ["startContainer-1 set", "startContainer-2", "poststart-1 set", "poststart-2", ""], f"{got.stdout} {order[6:]}")
command("kill", id, "KILL")
for _ in range(100):
    if status(id) == "stopped":
        break
    time.sleep(0.05)
tell("none-at-the-end", len(open(os.path.join(log, "order")).read().split("\n")) == 11)
command("delete", id)
order = open(os.path.join(log, "order")).read().split("\n")
tell("delete-runs-poststop", order[10:] == ["poststop-1 set", "poststop-2", ""], order[10:])
wanted = {"prestart": "creating", "createRuntime": "creating", "createContainer": "creating", "startContainer": "created",
          "poststart": "running", "poststop": "stopped"}
for kind in KINDS:
    got = recorded(kind)
    good = (got.get("id") == id and got.get("bundle") == bundle and got.get("status") == wanted[kind] and
            got.get("annotations", {}).get("org.example.hook") == "yes" and "ociVersion" in got and
            (kind == "poststop" or got.get("pid") == pid))
    tell(f"state-{kind}", good, f"{got} wanted pid {pid}, status {wanted[kind]}")

# --- a startContainer hook is a program of the container ---
clean()
write({"startContainer": [hook("startContainer", "uname -r > /hooks/kernel; id -u > /hooks/uid; echo $$ > /hooks/pid")]}, ("/bin/true",))
command("run", "--bundle", bundle, id)
kernel = open(os.path.join(log, "kernel")).read() if os.path.exists(os.path.join(log, "kernel")) else ""
tell("startContainer-is-inside", "casemate" in kernel, kernel)

# --- failures ---
for kind in ("prestart", "createRuntime", "createContainer"):
    clean()
    write({kind: [hook(kind, "echo the reason; exit 3"), hook(kind, f"touch {log}/second")], "poststop": [hook("poststop", f"touch {log}/poststop")]})
    got = command("create", "--bundle", bundle, id)
    tell(f"failing-{kind}", got.returncode == 1 and f"hook {kind}[0]" in got.stdout and "the reason" in got.stdout and gone(id) and
         not os.path.exists(os.path.join(log, "second")), got.stdout)
clean()
write({"startContainer": [hook("startContainer", "echo the reason; exit 3"), hook("startContainer", "touch /hooks/second")]}, ("/bin/touch", "/hooks/ran"))
command("create", "--bundle", bundle, id)
got = command("start", id)
for _ in range(100):
    if status(id) == "stopped":
        break
    time.sleep(0.05)
tell("failing-startContainer", got.returncode == 1 and "hook startContainer[0]" in got.stdout and "status 3" in got.stdout and
     "the reason" in got.stdout and status(id) == "stopped" and not os.listdir(log), f"{got.stdout} {status(id)} {os.listdir(log)}")
command("delete", "--force", id)
for kind in ("poststart", "poststop"):
    clean()
    write({kind: [hook(kind, "exit 3"), hook(kind, f"touch {log}/second")]}, ("/bin/true",))
    got = command("run", "--bundle", bundle, id)
    tell(f"failing-{kind}-is-a-warning", got.returncode == 0 and os.path.exists(os.path.join(log, "second")) and gone(id), got.stdout)
write({"startContainer": [{"path": "/no/such"}]})
got = command("run", "--bundle", bundle, id)
tell("startContainer-no-such-program", got.returncode == 1 and "/no/such" in got.stdout and gone(id), got.stdout)

# --- time-outs ---
for kind in ("prestart", "createRuntime", "createContainer", "startContainer"):
    clean()
    write({kind: [hook(kind, "sleep 50", timeout=1)]})
    begin = time.monotonic()
    got = command("run", "--bundle", bundle, id)
    took = time.monotonic() - begin
    tell(f"timeout-{kind}", got.returncode == 1 and "longer than 1 s" in got.stdout and took < 25 and gone(id), f"{took:.1f} s {got.stdout}")
for kind in ("poststart", "poststop"):
    write({kind: [hook(kind, "sleep 50", timeout=1)]}, ("/bin/true",))
    begin = time.monotonic()
    got = command("run", "--bundle", bundle, id)
    took = time.monotonic() - begin
    tell(f"timeout-{kind}-is-a-warning", got.returncode == 0 and took < 25 and gone(id), f"{took:.1f} s {got.stdout}")

# --- a hook that writes more than a pipe holds, and one that does not read its input ---
write({"startContainer": [hook("startContainer", "dd if=/dev/zero bs=1k count=500 2>/dev/null; exec true")],
       "createRuntime": [hook("createRuntime", "dd if=/dev/zero bs=1k count=500 2>/dev/null; exec true", timeout=20)]}, ("/bin/true",))
got = command("run", "--bundle", bundle, id)
tell("much-output", got.returncode == 0, got.stdout)
