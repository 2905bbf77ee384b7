#!/usr/bin/env python3
"""Every field of config.json is either honoured or refused by its path: one row a field.

usage: fields.py CASEMATE STATE_DIR BUNDLE      (BUNDLE: a rootfs with busybox and a default config.json)

A row changes the default configuration and says what must come of it:
  inside(...)   the shell command's output matches the pattern
  cgroup(...)   a file of the container's cgroup has the value, where this host has that file
  refused(...)  status 1 and a sentence that names the field
Prints "ok NAME" and "not ok NAME: why" lines; "skip NAME: why" where the host cannot do it.
"""
import copy
import json
import os
import re
import subprocess
import sys
import time

casemate, state, bundle = sys.argv[1:4]
only = sys.argv[4] if len(sys.argv) > 4 else ""
base = json.load(open(os.path.join(bundle, "config.json")))
base["process"]["terminal"] = False
count = 0


def command(*words):
    # To a file: a created container keeps its streams open.
    with open(os.path.join(bundle, "out"), "w+", errors="replace") as out:
        process = subprocess.run([casemate, "--root", state, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        out.seek(0)
        return subprocess.CompletedProcess(words, process.returncode, out.read())


def merge(into, change):
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def write(change, args=None):
    config = copy.deepcopy(base)
    if callable(change):
        change(config)
    else:
        merge(config, change)
    if args is not None:
        config["process"]["args"] = args
    with open(os.path.join(bundle, "config.json"), "w") as file:
        json.dump(config, file)


def tell(name, good, why=""):
    print(f"ok {name}" if good else f"not ok {name}: {' | '.join(why.strip().splitlines()[-3:])}", flush=True)


def inside(name, change, shell, pattern, status=0):
    if only not in name:
        return
    write(change, ["/bin/sh", "-c", shell])
    got = command("run", "--bundle", bundle, f"field-{next_id()}")
    good = got.returncode == status and re.search(pattern, got.stdout, re.M) is not None
    tell(name, good, f"status {got.returncode}, wanted {pattern!r}\n{got.stdout}")


def refused(name, change, pattern):
    if only not in name:
        return
    write(change, ["/bin/true"])
    got = command("run", "--bundle", bundle, f"field-{next_id()}")
    tell(name, got.returncode == 1 and re.search(pattern, got.stdout) is not None,
         f"status {got.returncode}, wanted {pattern!r}\n{got.stdout}")


def cgroup(name, change, controller, files, expected):
    """`files`: of cgroup v1, then v2; `expected`: what one of them must read."""
    if only not in name:
        return
    id = f"field-{next_id()}"
    write({"linux": {"cgroupsPath": f"/casemate-fields/{id}"}}, ["/bin/sleep", "60"])
    config = json.load(open(os.path.join(bundle, "config.json")))
    merge(config, change)
    json.dump(config, open(os.path.join(bundle, "config.json"), "w"))
    got = command("create", "--bundle", bundle, id)
    if got.returncode != 0:
        # What the host cannot do is refused by the field's path.
        field = re.search(r"linux\.resources\.\w+", got.stdout)
        if field:
            print(f"skip {name}: {got.stdout.strip()}")
        else:
            tell(name, False, got.stdout)
        return
    value = None
    for file in files:
        for path in (f"/sys/fs/cgroup/{controller}/casemate-fields/{id}/{file}", f"/sys/fs/cgroup/casemate-fields/{id}/{file}"):
            if os.path.exists(path):
                value = open(path).read().strip()
    if isinstance(expected, int):  # with room for the pod's own memory
        good = value is not None and expected <= int(value) <= expected + (80 << 20)
    else:
        good = value is not None and re.search(expected, value, re.M) is not None
    tell(name, good, f"{files} is {value!r}, wanted {expected!r}")
    command("delete", "--force", id)


def next_id():
    global count
    count += 1
    return f"{os.getpid()}-{count}"


def capability_sets(*names):
    return {"process": {"capabilities": {kind: list(names) for kind in
                                         ("bounding", "effective", "inheritable", "permitted", "ambient")}}}


def without_namespace(kind):
    def change(config):
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != kind]
    return change


def namespace_path(kind, path):
    def change(config):
        without_namespace(kind)(config)
        config["linux"]["namespaces"].append({"type": kind, "path": path})
    return change


def user_mapping(config):
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 2000}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 3000}]


def add_mount(**mount):
    def change(config):
        config["mounts"].append(mount)
    return change


def both(*changes):
    def change(config):
        for one in changes:
            one(config) if callable(one) else merge(config, one)
    return change


writable = {"root": {"readonly": False}}
shared_folder = os.path.join(bundle, "volume")
os.makedirs(shared_folder, exist_ok=True)
open(os.path.join(shared_folder, "there"), "w").write("volume content\n")

# --- ociVersion, root, annotations ---
refused("ociVersion", {"ociVersion": "2.0.0"}, "ociVersion")
refused("root.path", {"root": {"path": "nowhere"}}, "root")
inside("root.readonly", {"root": {"readonly": True}}, "echo x > /file || echo refused", "^refused$")
inside("root.readonly-false", writable, "echo x > /file && cat /file && rm /file", "^x$")
inside("annotations", {"annotations": {"org.example.any": "thing"}}, "echo ran", "^ran$")
refused("annotations-type", {"annotations": {"a": 1}}, "annotations")
refused("annotations-casemate", {"annotations": {"dev.casemate.nosuch": "1"}}, "dev.casemate.nosuch")

# --- process ---
inside("process.cwd", {"process": {"cwd": "/bin"}}, "pwd", "^/bin$")
inside("process.env", {"process": {"env": ["PATH=/bin", "KEY=some value"]}}, "echo $KEY", "^some value$")
inside("process.user.uid", {"process": {"user": {"uid": 1234, "gid": 0}}}, "id -u", "^1234$")
inside("process.user.gid", {"process": {"user": {"uid": 0, "gid": 4321}}}, "id -g", "^4321$")
inside("process.user.additionalGids", {"process": {"user": {"uid": 0, "gid": 0, "additionalGids": [7, 77]}}}, "id -G", r"\b7\b.*\b77\b")
inside("process.user.umask", {"process": {"user": {"uid": 0, "gid": 0, "umask": 0o77}}}, "umask", "^0077$")
inside("process.rlimits", {"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 111, "hard": 222}]}}, "ulimit -Sn; ulimit -Hn", "^111\n222$")
refused("process.rlimits-type", {"process": {"rlimits": [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]}}, r"process\.rlimits\[0\]")
inside("process.capabilities", capability_sets("CAP_NET_BIND_SERVICE"), "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | grep -c 0000000000000400", "^5$")
inside("process.noNewPrivileges", {"process": {"noNewPrivileges": True}}, "grep NoNewPrivs /proc/self/status", r"\s1$")
inside("process.noNewPrivileges-false", {"process": {"noNewPrivileges": False}}, "grep NoNewPrivs /proc/self/status", r"\s0$")
inside("process.oomScoreAdj", {"process": {"oomScoreAdj": 321}}, "cat /proc/self/oom_score_adj", "^321$")
refused("process.apparmorProfile", {"process": {"apparmorProfile": "confined"}}, r"process\.apparmorProfile")
inside("process.apparmorProfile-unconfined", {"process": {"apparmorProfile": "unconfined"}}, "echo ran", "^ran$")
refused("process.selinuxLabel", {"process": {"selinuxLabel": "system_u:system_r:svirt_t:s0"}}, r"process\.selinuxLabel")
refused("process.scheduler", {"process": {"scheduler": {"policy": "SCHED_FIFO", "priority": 10}}}, r"process\.scheduler")
refused("process.ioPriority", {"process": {"ioPriority": {"class": "IOPRIO_CLASS_NOSUCH", "priority": 4}}}, r"process\.ioPriority")
refused("process.execCPUAffinity", {"process": {"execCPUAffinity": {"initial": "0"}}}, r"process\.execCPUAffinity")
refused("process.terminal", {"process": {"terminal": True}}, "terminal")

# --- names ---
inside("hostname", {"hostname": "fields-host"}, "cat /proc/sys/kernel/hostname", "^fields-host$")
inside("domainname", {"domainname": "fields.domain"}, "cat /proc/sys/kernel/domainname", r"^fields\.domain$")
refused("hostname-without-uts", both(without_namespace("uts"), {"hostname": "x"}), "hostname")

# --- mounts ---
inside("mounts.bind", add_mount(destination="/mnt/v", type="bind", source=shared_folder, options=["rbind"]), "cat /mnt/v/there", "^volume content$")
inside("mounts.relative-source", add_mount(destination="/mnt/v", source="volume", options=["bind"]), "cat /mnt/v/there", "^volume content$")
inside("mounts.options.ro", add_mount(destination="/mnt/v", source=shared_folder, options=["bind", "ro"]), "echo x > /mnt/v/new || echo refused", "^refused$")
inside("mounts.options.rw", add_mount(destination="/mnt/v", source=shared_folder, options=["bind", "rw"]), "echo x > /mnt/v/new && rm /mnt/v/new && echo written", "^written$")
inside("mounts.options.rro", add_mount(destination="/mnt/v", source=shared_folder, options=["rbind", "rro"]), "echo x > /mnt/v/new || echo refused", "^refused$")
inside("mounts.options.noexec", both(writable, add_mount(destination="/mnt/t", type="tmpfs", options=["noexec"])), "cp /bin/busybox /mnt/t/b; /mnt/t/b true || echo refused", "^refused$")
inside("mounts.options.nosuid", add_mount(destination="/mnt/t", type="tmpfs", options=["nosuid", "nodev"]), "grep ' /mnt/t ' /proc/mounts", "nosuid,nodev")
inside("mounts.tmpfs.size", add_mount(destination="/mnt/t", type="tmpfs", options=["size=64k"]), "dd if=/dev/zero of=/mnt/t/f bs=1k count=100 2>&1 | grep -i space", "space")
inside("mounts.tmpfs.mode", add_mount(destination="/mnt/t", type="tmpfs", options=["mode=0750"]), "ls -ld /mnt/t", "^drwxr-x---")
inside("mounts.tmpcopyup", add_mount(destination="/bin", type="tmpfs", options=["tmpcopyup"]), "/bin/busybox ls /bin/busybox", "^/bin/busybox$")
inside("mounts.propagation", add_mount(destination="/mnt/t", type="tmpfs", options=["shared"]), "grep ' /mnt/t ' /proc/self/mountinfo", "shared:")
inside("mounts.order", both(add_mount(destination="/mnt/t", type="tmpfs"), add_mount(destination="/mnt/t/v", source=shared_folder, options=["bind"])), "cat /mnt/t/v/there", "^volume content$")
inside("mounts.file", add_mount(destination="/mnt/file", source=os.path.join(shared_folder, "there"), options=["bind"]), "cat /mnt/file", "^volume content$")
for kind in ("proc", "sysfs", "mqueue", "devpts", "cgroup"):
    inside(f"mounts.type.{kind}", add_mount(destination="/mnt/k", type=kind, source=kind), "grep ' /mnt/k ' /proc/mounts", "/mnt/k")
refused("mounts.type", add_mount(destination="/mnt/x", type="nfs", source="server:/"), r"mounts\[\d+\]\.type")
refused("mounts.source", add_mount(destination="/mnt/x", source="/no/such", options=["bind"]), r"mounts\[\d+\]\.source")
refused("mounts.options", add_mount(destination="/mnt/x", type="tmpfs", options=["nosuch=1"]), r"mounts\[\d+\]")
refused("mounts.options.idmap", add_mount(destination="/mnt/x", source=shared_folder, options=["bind", "idmap"], uidMappings=[{"containerID": 0, "hostID": 1, "size": 1}], gidMappings=[{"containerID": 0, "hostID": 1, "size": 1}]), r"mounts\[\d+\]")
refused("mounts.destination", add_mount(destination="", type="tmpfs"), r"mounts\[\d+\]\.destination")

# --- linux: namespaces, mappings, clocks ---
inside("linux.namespaces.pid", {}, "echo $$", "^1$")
inside("linux.namespaces.network", {}, "grep -c : /proc/net/dev", "^1$")
for kind in ("ipc", "mount", "cgroup"):
    inside(f"linux.namespaces.{kind}-left-out", without_namespace(kind), "echo ran", "^ran$")
refused("linux.namespaces.path", namespace_path("pid", "/proc/1/ns/pid"), r"linux\.namespaces\[\d+\]\.path")
refused("linux.namespaces.path-wrong-type", namespace_path("network", "/proc/1/ns/pid"), "linux.namespaces")
refused("linux.namespaces.mount-path", namespace_path("mount", "/proc/1/ns/mnt"), r"linux\.namespaces\[\d+\]\.path")
refused("linux.namespaces.type", {"linux": {"namespaces": [{"type": "nosuch"}]}}, r"linux\.namespaces\[0\]\.type")
inside("linux.uidMappings", user_mapping, "cat /proc/self/uid_map /proc/self/gid_map", r"\s0\s+1000\s+2000\n\s+0\s+1000\s+3000")
inside("linux.uidMappings-files", user_mapping, "ls -ln /bin/busybox", "65534 +65534")
os.chown(shared_folder, 1005, 1006)
os.chmod(shared_folder, 0o777)
inside("linux.uidMappings-volume", both(user_mapping, add_mount(destination="/mnt/v", source=shared_folder, options=["bind"])), "ls -ldn /mnt/v; touch /mnt/v/mine; ls -ln /mnt/v/mine; cat /proc/1/status >/dev/null", r" 5 +6 [^\n]*\n.* 0 +0 ")
mine = os.path.join(shared_folder, "mine")
tell("linux.uidMappings-host-owner", os.path.exists(mine) and os.stat(mine).st_uid == 1000, "the host's owner is not the mapped one")
os.chown(shared_folder, 0, 0)
refused("linux.uidMappings-overlap", both(user_mapping, {"linux": {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 5}, {"containerID": 3, "hostID": 9, "size": 5}]}}), r"linux\.uidMappings")
refused("linux.timeOffsets", both({"linux": {"timeOffsets": {"boottime": {"secs": 100, "nanosecs": 0}}}}, lambda c: c["linux"]["namespaces"].append({"type": "time"})), r"linux\.timeOffsets")

# --- linux: devices, paths, propagation, labels, personality ---
inside("linux.devices", {"linux": {"devices": [{"path": "/dev/own-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o646, "uid": 5, "gid": 6}]}}, "ls -ln /dev/own-null; echo x > /dev/own-null && echo written", r"^crw-r--rw- .* 5 +6 +1, +3.*\nwritten$")
inside("linux.devices.fifo", {"linux": {"devices": [{"path": "/dev/own-fifo", "type": "p", "fileMode": 0o600}]}}, "ls -l /dev/own-fifo", "^prw-------")
inside("linux.devices.no-driver", {"linux": {"devices": [{"path": "/dev/none", "type": "c", "major": 10, "minor": 666}]}}, "cat /dev/none 2>&1", "No such device", status=1)
if os.path.exists("/dev/loop0") or os.path.exists("/sys/dev/block/7:0"):
    refused("linux.devices.host", {"linux": {"devices": [{"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0}]}}, r"linux\.devices\[0\]")
inside("linux.maskedPaths", {"linux": {"maskedPaths": ["/proc/version"]}}, "echo start; cat /proc/version; echo end", "^start\nend$")
inside("linux.readonlyPaths", both(writable, {"linux": {"readonlyPaths": ["/bin"]}}), "touch /bin/x || echo refused", "^refused$")
for word, mark in (("shared", "shared:"), ("slave", " / "), ("private", " / "), ("unbindable", "unbindable")):
    inside(f"linux.rootfsPropagation.{word}", {"linux": {"rootfsPropagation": word}}, "grep ' / / ' /proc/self/mountinfo", mark)
refused("linux.mountLabel", {"linux": {"mountLabel": "system_u:object_r:svirt_sandbox_file_t:s0"}}, r"linux\.mountLabel")
refused("linux.personality", {"linux": {"personality": {"domain": "LINUX32"}}}, r"linux\.personality")
inside("linux.personality-linux", {"linux": {"personality": {"domain": "LINUX"}}}, "echo ran", "^ran$")
inside("linux.sysctl", {"linux": {"sysctl": {"net.ipv4.ip_forward": "1"}}}, "cat /proc/sys/net/ipv4/ip_forward", "^1$")
refused("linux.sysctl-unknown", {"linux": {"sysctl": {"vm.nosuch": "1"}}}, r"linux\.sysctl")
refused("linux.intelRdt", {"linux": {"intelRdt": {"closID": "x", "l3CacheSchema": "L3:0=f"}}}, r"linux\.intelRdt")
inside("linux.seccomp", {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}}}, "cd /bin || echo refused", "^refused$")
refused("linux.seccomp.listenerPath", {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock", "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_NOTIFY"}]}}}, r"linux\.seccomp")
refused("linux.cgroupsPath", {"linux": {"cgroupsPath": "/../../x"}}, r"linux\.cgroupsPath")

# --- linux.resources ---
def resources(**groups):
    return {"linux": {"resources": groups}}

mib = 1 << 20
cgroup("linux.resources.memory.limit", resources(memory={"limit": 256 * mib}), "memory", ["memory.limit_in_bytes", "memory.max"], 256 * mib)
cgroup("linux.resources.memory.reservation", resources(memory={"reservation": 128 * mib}), "memory", ["memory.soft_limit_in_bytes", "memory.low"], f"^{128 * mib}$")
cgroup("linux.resources.memory.swap", resources(memory={"limit": 256 * mib, "swap": 512 * mib}), "memory", ["memory.memsw.limit_in_bytes"], 512 * mib)
cgroup("linux.resources.memory.swappiness", resources(memory={"swappiness": 30}), "memory", ["memory.swappiness"], "^30$")
cgroup("linux.resources.memory.disableOOMKiller", resources(memory={"limit": 256 * mib, "disableOOMKiller": True}), "memory", ["memory.oom_control"], "oom_kill_disable 1")
cgroup("linux.resources.cpu.shares", resources(cpu={"shares": 512}), "cpu", ["cpu.shares", "cpu.weight"], "^(512|20)$")
cgroup("linux.resources.cpu.quota", resources(cpu={"quota": 50000, "period": 100000}), "cpu", ["cpu.cfs_quota_us", "cpu.max"], "^50000")
cgroup("linux.resources.cpu.burst", resources(cpu={"quota": 50000, "period": 100000, "burst": 10000}), "cpu", ["cpu.cfs_burst_us", "cpu.max.burst"], "^10000$")
cgroup("linux.resources.cpu.idle", resources(cpu={"idle": 1}), "cpu", ["cpu.idle"], "^1$")
cgroup("linux.resources.cpu.cpus", resources(cpu={"cpus": "0"}), "cpuset", ["cpuset.cpus"], "^0$")
cgroup("linux.resources.cpu.mems", resources(cpu={"mems": "0"}), "cpuset", ["cpuset.mems"], "^0$")
cgroup("linux.resources.cpu.realtimeRuntime", resources(cpu={"realtimePeriod": 1000000, "realtimeRuntime": 0}), "cpu", ["cpu.rt_period_us"], "^1000000$")
cgroup("linux.resources.pids.limit", resources(pids={"limit": 77}), "pids", ["pids.max"], r"^\d+$")
inside("linux.resources.pids.limit-inside", resources(pids={"limit": 60}), "for i in $(seq 80); do sleep 2 & done 2>&1", "fork", status=2)
cgroup("linux.resources.blockIO.weight", resources(blockIO={"weight": 300}), "blkio", ["blkio.weight", "blkio.bfq.weight", "io.bfq.weight"], "300")
cgroup("linux.resources.hugepageLimits", resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * mib}]), "hugetlb", ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"], f"^{4 * mib}$")
cgroup("linux.resources.network.classID", resources(network={"classID": 7}), "net_cls", ["net_cls.classid"], "^7$")
cgroup("linux.resources.rdma", resources(rdma={"mlx": {"hcaHandles": 3}}), "rdma", ["rdma.max"], "hca_handle=3")
cgroup("linux.resources.devices", resources(devices=[{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]), "devices", ["devices.list"], "^c 10:229 rw$")
cgroup("linux.resources.unified", resources(unified={"memory.high": "1000000"}), "unified", ["memory.high"], r"^\d+$")
refused("linux.resources.memory.limit-type", resources(memory={"limit": "lots"}), r"linux\.resources\.memory\.limit")

for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"):
    refused(f"hooks.{kind}.path", {"hooks": {kind: [{"path": "relative"}]}}, rf"hooks\.{kind}\[0\]\.path")
    refused(f"hooks.{kind}.timeout", {"hooks": {kind: [{"path": "/bin/true", "timeout": -1}]}}, rf"hooks\.{kind}\[0\]\.timeout")

def descendants(pid):
    """Of a process of the host, itself not included."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as children:
            for child in map(int, children.read().split()):
                found += [child, *descendants(child)]
    return found


def limits_hold_for_programs():
    """A program that wants all of a CPU is held back, and nothing of its pod is outside of the container's cgroup."""
    name, id = "linux.resources.cpu.quota-holds", f"field-{next_id()}"
    if only not in name:
        return
    write({"linux": {"cgroupsPath": f"/casemate-fields/{id}"}}, ["/bin/sh", "-c", "while :; do :; done"])
    config = json.load(open(os.path.join(bundle, "config.json")))
    merge(config, resources(cpu={"quota": 10000, "period": 100000}))
    json.dump(config, open(os.path.join(bundle, "config.json"), "w"))
    got = command("run", "--detach", "--bundle", bundle, id)
    if got.returncode != 0:
        return tell(name, False, got.stdout)

    def throttled():
        for path in (f"/sys/fs/cgroup/cpu/casemate-fields/{id}/cpu.stat", f"/sys/fs/cgroup/casemate-fields/{id}/cpu.stat"):
            if os.path.exists(path):
                return int(re.search(r"nr_throttled (\d+)", open(path).read())[1])
        return 0
    until = time.monotonic() + 60
    while throttled() < 10 and time.monotonic() < until:
        time.sleep(0.1)
    tell(name, throttled() >= 10, f"throttled {throttled()} times")
    # The container's process stands for it; the sandbox host is its parent.
    pid = json.loads(command("state", id).stdout)["pid"]
    host = int(re.search(r"^PPid:\s(\d+)", open(f"/proc/{pid}/status").read(), re.M)[1]) if pid else 0
    name = "linux.cgroupsPath-holds-everything"
    if "casemate" not in open(f"/proc/{host}/comm").read():
        host = pid
    pids, outside = [host, *descendants(host)], []
    for one in pids:
        controllers = [line for line in open(f"/proc/{one}/cgroup").read().splitlines()
                       if re.match(r"0::|\d+:([a-z_,]+,)?(cpu|pids|memory|freezer)[,:]", line)]
        wanted = [line for line in controllers if not line.startswith("0::/") or len(controllers) == 1]
        if not all(line.endswith(f"/casemate-fields/{id}") for line in wanted):
            outside.append(open(f"/proc/{one}/comm").read().strip())
    tell(name, len(pids) >= 5 and not outside, f"{len(pids)} processes, outside: {outside}")
    command("delete", "--force", id)


limits_hold_for_programs()

# The parent that our containers shared is nobody's. The memory hierarchy may have it below our own cgroup.
for folder, names, _ in os.walk("/sys/fs/cgroup"):
    if "casemate-fields" in names and not os.path.islink(os.path.join(folder, "casemate-fields")):
        try:
            os.rmdir(os.path.join(folder, "casemate-fields"))
        except OSError:
            pass
