// The table of commands and options: what casemate understands, as data.
#include "cli/commands.h"

namespace casemate::cli {

namespace {

constexpr const char* kContainerId =
    "CONTAINER is the name of a container under --root: letters, digits and the characters _ + - . and at most 1024 of "
    "them.";

constexpr Option kHelp = {"help", 'h', nullptr, "print this text"};

constexpr Option kGlobal[] = {
    {"root", 0, "DIR",
     "where the state of containers is kept (default: /run/casemate, rootless "
     "$XDG_RUNTIME_DIR/casemate)"},
    {"log", 0, "FILE", "append log lines to FILE; errors are also printed on standard error"},
    {"log-format", 0, "FORMAT", "format of the log", "text|json"},
    {"debug", 0, nullptr, "log what is done, and keep a debug log of each sandbox in its state folder"},
    {"systemd-cgroup", 0, nullptr, "cgroupsPath has the form slice:prefix:name and the cgroup is made by systemd"},
    {"rootless", 0, "WHEN", "whether missing cgroup permissions are forgiven", "true|false|auto"},
    {"root-overlay", 0, "WHERE",
     "where what a container writes to its root goes: into the root, or into a layer that vanishes with the container, "
     "in its memory or in an unnamed file in the root's file system (key root_overlay)",
     "none|memory|self"},
    {"config", 0, "FILE", "configuration instead of /etc/casemate/config.toml and config.d"},
    {"version", 'v', nullptr, "print the version"},
    kHelp,
};

constexpr Option kBundle = {"bundle", 'b', "DIR",
                            "the bundle: a folder with config.json (default: the current folder)"};
constexpr Option kConsoleSocket = {"console-socket", 0, "PATH",
                                   "Unix socket that is sent the master of the terminal's pseudoterminal"};
constexpr Option kPidFile = {"pid-file", 0, "FILE", "write the id of the process that stands for the container's"};
constexpr Option kPreserve = {"preserve-fds", 0, "N",
                              "give the container descriptors 3 to 2 + N (behind those of $LISTEN_FDS) as well"};
constexpr Option kDetach = {"detach", 'd', nullptr, "do not wait for the end of the process"};
constexpr Option kNoPivot = {"no-pivot", 0, nullptr,
                             "accepted for runc's users: a sandbox never roots itself in the host's mount table"};
constexpr Option kNoKeyring = {"no-new-keyring", 0, nullptr,
                               "accepted for runc's users: a guest never sees a keyring of the host"};

constexpr Option kCreate[] = {kBundle, kConsoleSocket, kPidFile, kPreserve, kNoPivot, kNoKeyring, kHelp};
constexpr Option kRun[] = {kBundle,
                           kConsoleSocket,
                           kPidFile,
                           kPreserve,
                           kDetach,
                           {"keep", 0, nullptr, "do not delete the container after its end"},
                           {"no-subreaper", 0, nullptr, "accepted for runc's users: no process is ever orphaned here"},
                           kNoPivot,
                           kNoKeyring,
                           kHelp};
constexpr Option kHelpOnly[] = {kHelp};
constexpr Option kKill[] = {{"all", 'a', nullptr, "signal every process of the container"}, kHelp};
constexpr Option kDelete[] = {{"force", 'f', nullptr, "kill the container first if it still runs"}, kHelp};
constexpr Option kFormat = {"format", 'f', "FORMAT", "how to print", "table|json"};
constexpr Option kList[] = {kFormat, {"quiet", 'q', nullptr, "print only the names"}, kHelp};
constexpr Option kPs[] = {kFormat, kHelp};
constexpr Option kExec[] = {
    kConsoleSocket,
    {"cwd", 0, "DIR", "working folder in the container"},
    {"env", 'e', "NAME=VALUE", "set a variable of the environment (may be repeated)"},
    {"tty", 't', nullptr, "give the process a terminal"},
    {"user", 'u', "UID[:GID]", "user and group of the process"},
    {"additional-gids", 'g', "GID", "a further group of the process (may be repeated)"},
    {"process", 'p', "FILE", "process.json: the whole process in the form of config.json's \"process\""},
    kDetach,
    kPidFile,
    {"process-label", 0, "LABEL", "SELinux label; refused: a guest kernel has no SELinux"},
    {"apparmor", 0, "PROFILE", "AppArmor profile; refused: a guest kernel has no AppArmor"},
    {"no-new-privs", 0, nullptr, "set no_new_privs for the process"},
    {"cap", 'c', "CAPABILITY", "add a capability (may be repeated)"},
    kPreserve,
    {"cgroup", 0, "PATH", "sub-cgroup for the process; refused: processes of a sandbox share the pod's cgroup"},
    {"ignore-paused", 0, nullptr, "allow it in a paused container: the process runs when that is resumed"},
    kHelp};
constexpr Option kUpdate[] = {
    {"resources", 'r', "FILE", "resources in the form of config.json's \"linux.resources\"; - is standard input"},
    {"memory", 0, "BYTES", "memory limit"},
    {"memory-reservation", 0, "BYTES", "soft limit"},
    {"memory-swap", 0, "BYTES", "memory and swap together; -1: unlimited"},
    {"cpu-period", 0, "USEC", "CPU period"},
    {"cpu-quota", 0, "USEC", "CPU time allowed in a period"},
    {"cpu-share", 0, "N", "relative weight"},
    {"cpu-rt-period", 0, "USEC", "period for real-time processes"},
    {"cpu-rt-runtime", 0, "USEC", "real-time allowed in a period"},
    {"cpuset-cpus", 0, "LIST", "processors"},
    {"cpuset-mems", 0, "LIST", "memory nodes"},
    {"pids-limit", 0, "N", "number of processes; -1: unlimited"},
    {"blkio-weight", 0, "N", "relative weight of block I/O"},
    kHelp};
constexpr Option kEvents[] = {{"interval", 0, "TIME", "time between two statistics, as 5s, 500ms or 1m (default: 5s)"},
                              {"stats", 0, nullptr, "print the statistics once"},
                              kHelp};
constexpr Option kSpec[] = {{"bundle", 'b', "DIR", "where config.json is written (default: the current folder)"},
                            {"rootless", 0, nullptr, "for a container of an ordinary user"},
                            kHelp};
constexpr Option kDo[] = {
    {"engine", 0, "ENGINE", "which guest kernel", "auto|sentry|microvm"},
    {"net", 0, "NETWORK",
     "none, sandbox (both: loopback only), host (its sockets), or the path of a network namespace"},
    {"volume", 0, "SRC:DST[:ro]", "share a file or folder of the host (may be repeated)"},
    {"memory", 0, "SIZE", "memory of the sandbox, as 512m or 4g"},
    {"cpus", 0, "N", "processors of the sandbox"},
    {"env", 'e', "NAME=VALUE", "set a variable of the environment (may be repeated)"},
    {"cwd", 0, "DIR", "working folder (default: the current one)"},
    {"user", 'u', "UID[:GID]", "user and group of the process (default: the caller's)"},
    {"tty", 't', nullptr, "give the command a terminal also when standard input is none"},
    kHelp};
constexpr Option kDebug[] = {
    {"section", 's', "NAME", "print only this (may be repeated)",
     "tasks|stacks|memory|files|sockets|log|counters|profile"},
    {"pid", 'p', "PID", "only this process, by its number in the sandbox"},
    {"trace", 't', nullptr, "print each system call and signal as it comes, like strace, until interrupted"},
    {"syscall", 'e', "NAME", "with --trace: only this call (may be repeated)"},
    {"profile", 0, nullptr, "count for a while where the sentry's time goes, and print it"},
    {"seconds", 0, "N", "how long to --trace or --profile (default: 5 for a profile, for ever for a trace)"},
    kHelp};
constexpr Option kSyscalls[] = {{"format", 'f', "FORMAT", "how to print", "table|json|markdown"}, kHelp};
constexpr Option kVmm[] = {
    {"kernel", 0, "FILE", "kernel: ELF with the PVH note (a Linux vmlinux), or a bzImage"},
    {"initrd", 0, "FILE", "its first file system"},
    {"cmdline", 0, "TEXT", "the kernel's command line, instead of one for the serial console"},
    {"cpus", 0, "N", "processors, 1 to 64 (default: 1)"},
    {"memory", 0, "SIZE", "memory, as 512m or 4g (default: 256m)"},
    {"huge-pages", 0, "KIND", "huge pages for the memory: where the host has some, none, or from its reserve",
     "transparent|none|reserved"},
    {"map-images", 0, nullptr, "map the pages of kernel and initrd from their files instead of copying them"},
    {"preallocate", 0, nullptr, "take all of the memory from the host before the guest starts"},
    {"disk", 0, "FILE[,ro][,iops=N][,bps=SIZE]", "a raw image or block device (may be repeated)"},
    {"net", 0, "TAP[,pps=N][,bps=SIZE][,mtu=N]",
     "a network card on this tap; pps and bps limit frames and bytes a second, each way (may be repeated)"},
    {"fs", 0, "DIR[,ro][,tag=NAME]", "a directory to share by virtio-fs, as \"share\" or NAME (may be repeated)"},
    {"vsock", 0, "PATH",
     "streams: to the guest by connecting to PATH and writing \"CONNECT PORT\", from the guest to the sockets "
     "PATH_PORT"},
    {"console", 0, "KIND", "what standard input goes to", "serial|virtio"},
    {"restore", 0, "DIR", "go on from the snapshot in DIR instead of booting"},
    {"keep-clocks", 0, nullptr, "with --restore: the guest does not see the time since the snapshot as passed"},
    {"control", 0, "PATH", "Unix socket by which the machine is controlled"},
    {"send", 0, "REQUEST",
     "instead of running a machine, tell the one at --control: pause, resume, stop, status or \"snapshot DIR\""},
    {"inline", 0, nullptr, "run the monitor in this process instead of a jailed one"},
    kHelp};
constexpr Option kCheck[] = {{"json", 0, nullptr, "print JSON"}, kHelp};
constexpr Option kConfig[] = {{"json", 0, nullptr, "print JSON"}, kHelp};
constexpr Option kDocs[] = {
    {"man", 0, "DIR", "write the man pages to DIR"}, {"completion", 0, nullptr, "print the bash completion"}, kHelp};

constexpr Command kCommands[] = {
    {"create", "CONTAINER", "make a container from a bundle, ready to be started",
     "The sandbox, its guest kernel and the container's init process are made from the bundle's config.json; the "
     "program itself waits for `casemate start`. A container whose annotations name a sandbox of containerd or CRI-O "
     "is "
     "made inside that pod. ",
     kCreate, 1, 1, false, create_command},
    {"start", "CONTAINER", "run the program of a created container", kContainerId, kHelpOnly, 1, 1, false,
     start_command},
    {"run", "CONTAINER", "create, start, wait for the end, delete",
     "Standard streams and the terminal are those of the command, and so is the exit status. SIGINT, SIGTERM and other "
     "signals are passed on to the container.",
     kRun, 1, 1, false, run_command},
    {"state", "CONTAINER", "print the state of a container as JSON", kContainerId, kHelpOnly, 1, 1, false,
     state_command},
    {"kill", "CONTAINER [SIGNAL]", "send a signal to a container's init process",
     "SIGNAL is a number or a name, with or without SIG; the default is TERM.", kKill, 1, 2, false, kill_command},
    {"delete", "CONTAINER", "remove a stopped container", kContainerId, kDelete, 1, 1, false, delete_command},
    {"list", "", "list the containers under --root", "", kList, 0, 0, false, list_command},
    {"ps", "CONTAINER [PS-OPTION...]", "list the processes of a container",
     "Process ids are those of the sandbox: the host has no such processes. With --format json the ids alone are "
     "printed. Options of ps(1) are refused: the table has one form.",
     kPs, 1, -1, true, ps_command},
    {"exec", "CONTAINER COMMAND [ARGUMENT...]", "run one more process in a container",
     "Either a COMMAND, with the environment and the user of the container's process, or --process.", kExec, 1, -1,
     true, exec_command},
    {"pause", "CONTAINER", "stop all processes of a container", kContainerId, kHelpOnly, 1, 1, false, pause_command},
    {"resume", "CONTAINER", "let a paused container go on", kContainerId, kHelpOnly, 1, 1, false, resume_command},
    {"update", "CONTAINER", "change the resources of a container", "Values that are not given stay as they are.",
     kUpdate, 1, 1, false, update_command},
    {"events", "CONTAINER", "print statistics and out-of-memory events as JSON",
     "One object per line, in the form of runc's: statistics at each interval and \"oom\" when memory ran out.",
     kEvents, 1, 1, false, events_command},
    {"spec", "", "write a config.json to start from", "The file must not exist yet.", kSpec, 0, 0, false, spec_command},
    {"features", "", "print what this runtime supports, as the runtime specification's features document", "",
     kHelpOnly, 0, 0, false, features_command},
    {"do", "[--] COMMAND [ARGUMENT...]", "run a command in a sandbox on the host's own files",
     "The command sees the root file system of the host, read-only under a layer of its own that vanishes at its end, "
     "and runs under a kernel that is not the host's, in the same working folder, with the same terminal and the same "
     "exit status. No image is needed.",
     kDo, 1, -1, true, do_command},
    {"debug", "CONTAINER", "look into the guest kernel of a running container",
     "Tasks with the system calls they are in, memory, open files, sockets, the guest kernel's log and counters, from "
     "outside: the container is not touched and does not see it.",
     kDebug, 1, 1, false, debug_command},
    {"syscalls", "", "print the system calls of the sentry: what there is of each, and what is missing", "", kSyscalls,
     0, 0, false, syscalls_command},
    {"vmm", "", "run a virtual machine by the monitor that engine microvm will stand on",
     "For trying and testing the monitor. The serial port is standard input and output; Ctrl-] ends the machine. The "
     "exit status is 0 when the guest powered off, 3 for a reboot, 4 for a panic, 5 for a triple fault, 6 when it was "
     "stopped, 1 for an error. A panic is told from a reboot if the command line has reboot=panic_warm.",
     kVmm, 0, 0, false, vmm_command},
    {"check", "", "say what this host offers and which engine `auto` takes",
     "Each lack is printed with its remedy. The exit status is 0 if an engine can run.", kCheck, 0, 0, false,
     check_command},
    {"config", "", "print the effective configuration and where each value came from", "", kConfig, 0, 0, false,
     config_command},
    {"help", "[COMMAND]", "print help", "", kHelpOnly, 0, 1, false, help_command},
    {"docs", "", "write man pages and the bash completion", "", kDocs, 0, 0, false, docs_command, true},
};

}  // namespace

std::span<const Option> global_options() { return kGlobal; }
std::span<const Command> commands() { return kCommands; }

const Command* find_command(std::string_view name) {
    for (const Command& command : kCommands)
        if (name == command.name) return &command;
    return nullptr;
}

}  // namespace casemate::cli
