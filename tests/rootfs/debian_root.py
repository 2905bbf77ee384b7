"""A Debian root made by debootstrap, kept in ~/.cache/casemate-tests, and programs in it: by `casemate run`, and natively in a
chroot with namespaces of its own. Each side writes into an overlay of its own, so the kept root never changes."""
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import termios

PACKAGES = """procps psmisc vim-tiny less git gcc g++ make sqlite3 nodejs golang-go redis-server perl python3 xz-utils zstd
bzip2 gawk file strace gdb libboost-regex1.74.0 libc6-dev ca-certificates""".split()
cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "casemate-tests")
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
CAPABILITIES = ["CAP_" + name for name in """CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
NET_BIND_SERVICE SYS_CHROOT KILL SYS_PTRACE""".split()]


def begin(terminal):
    """In the child: signals as at a login, whatever the shell of this suite ignores; its terminal."""
    for signo in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(signo, signal.SIG_DFL)
    os.setsid()
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Unavailable(Exception):
    """Why there is no root here."""


def kept_root():
    """The folder of the kept root; made once: some minutes, 1.5 GB."""
    name = "root-" + hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:12]
    root = os.path.join(cache, name)
    if os.path.exists(root):
        return root
    os.makedirs(cache, exist_ok=True)
    new = root + ".new"
    subprocess.run(["rm", "-rf", "--one-file-system", new], check=True)
    try:
        made = subprocess.run(["debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), "bookworm", new],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError as error:
        raise Unavailable(f"no debootstrap: {error}") from error
    if made.returncode != 0:
        raise Unavailable(f"debootstrap fails: {made.stdout.strip().splitlines()[-1:]}")
    # What would be compiled anew by each first `go build`.
    with open(f"{new}/tmp/warm.go", "w") as source:
        source.write('package main\nimport ("fmt"; "os"; "sync"; "time"; "strings"; "os/exec")\n'
                     'func main() { var m sync.Mutex; m.Lock(); exec.Command("true").Run()\n'
                     'fmt.Println(os.Args, time.Now(), strings.ToUpper("a")) }\n')
    subprocess.run(["unshare", "-m", "sh", "-c", f'mount -t proc proc {new}/proc && mount --bind /dev {new}/dev && '
                    f'chroot {new} env HOME=/root CGO_ENABLED=0 sh -c "cd /tmp && go build -o /dev/null warm.go"'], check=True)
    shutil.rmtree(f"{new}/var/cache/apt", ignore_errors=True)
    os.rename(new, root)
    return root


class Side:
    """One of the two: where a command is run, and its own overlay over the kept root."""

    def __init__(self, name, work, root, cases):
        self.name, self.folder = name, os.path.join(work, name)
        for part in ("upper/cases", "upper/trial", "overlay", "rootfs"):
            os.makedirs(f"{self.folder}/{part}")
        for case in os.listdir(cases):
            shutil.copy(os.path.join(cases, case), f"{self.folder}/upper/cases/{case}")
        self.root = f"{self.folder}/rootfs"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={root},upperdir={self.folder}/upper,workdir={self.folder}/overlay", self.root], check=True)

    def close(self):
        subprocess.run(["umount", self.root], check=False)

    def run(self, words, patience):
        """(status, output) of the command without a terminal; 124 when it did not end in time."""
        process = subprocess.Popen(self.command(words, False), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, preexec_fn=lambda: begin(False))
        try:
            return process.communicate(timeout=patience)[0].decode(errors="replace"), process.wait()
        except subprocess.TimeoutExpired:
            self.stop(process)
            return process.communicate()[0].decode(errors="replace") + f"[no end within {patience} s]", 124

    def on_terminal(self, words, slave):
        return subprocess.Popen(self.command(words, True), stdin=slave, stdout=slave, stderr=slave,
                                preexec_fn=lambda: begin(True))


class Native(Side):
    def __init__(self, work, root, cases):
        super().__init__("native", work, root, cases)

    def command(self, words, terminal):
        r = self.root
        prepare = (f"mount -t proc proc {r}/proc && mount -t tmpfs dev {r}/dev && mkdir {r}/dev/pts {r}/dev/shm && "
                   f"for node in null zero full random urandom tty; do touch {r}/dev/$node && "
                   f"mount --bind /dev/$node {r}/dev/$node; done && mount -t tmpfs -o mode=1777 shm {r}/dev/shm && "
                   f"mount -t devpts -o newinstance,ptmxmode=0666,gid=5 devpts {r}/dev/pts && ln -s pts/ptmx {r}/dev/ptmx && "
                   f"ln -s /proc/self/fd {r}/dev/fd && mount -t sysfs -o ro sysfs {r}/sys && hostname casemate && "
                   f"ip link set lo up && ulimit -n 1024 && ")
        environment = [*ENVIRONMENT, "TERM=linux"]
        bounding = ",".join("+" + name[4:].lower() for name in CAPABILITIES)
        return ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-c",
                prepare + 'cd / && exec env -i "$@"', "sh", *environment, "setpriv", "--inh-caps=-all",
                "--bounding-set=-all," + bounding, "chroot", r, "/usr/bin/env", "-C", "/trial", *words]

    def stop(self, process):
        process.kill()


class Inside(Side):
    def __init__(self, work, root, cases, casemate):
        super().__init__("inside", work, root, cases)
        self.casemate = [casemate, "--root", f"{self.folder}/state"]
        self.count = 0
        subprocess.run([casemate, "spec", "--bundle", self.folder], check=True)
        with open(f"{self.folder}/config.json") as spec:
            self.spec = json.load(spec)

    def command(self, words, terminal):
        self.count += 1
        bundle = f"{self.folder}/bundle{self.count}"
        os.mkdir(bundle)
        process = self.spec["process"]
        process["terminal"] = terminal
        process["args"], process["cwd"] = words, "/trial"
        process["env"] = [*ENVIRONMENT, "TERM=linux"]
        process["capabilities"] = {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")}
        process["noNewPrivileges"] = False
        self.spec["root"] = {"path": self.root, "readonly": False}
        with open(f"{bundle}/config.json", "w") as out:
            json.dump(self.spec, out)
        return [*self.casemate, "run", "--bundle", bundle, f"c{self.count}"]

    def stop(self, process):
        subprocess.run([*self.casemate, "delete", "-f", f"c{self.count}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
