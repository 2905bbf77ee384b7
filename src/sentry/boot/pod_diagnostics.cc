// What the guest kernel looks like inside, for people (`casemate debug`). Touches no guest process: everything is read
// from the sentry's own objects, and what a guest wrote is printed without control characters.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <climits>

#include "guest_api/errors.h"
#include "sentry/boot/pod.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/syscall_watch.h"
#include "sentry/kernel/task_set.h"
#include "sentry/net/host/host_socket.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/network.h"
#include "sentry/net/socket.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/mount.h"

namespace casemate::sentry {
namespace {

using guest_api::invalid;
using guest_api::printable;

constexpr size_t kSectionLimit = 512 << 10;
constexpr size_t kMostFiles = 1000;  // of a process

// The processes that are asked for.
std::vector<Ref<Process>> wanted_processes(Kernel& kernel, const std::string& container, uint32_t pid) {
    std::vector<Ref<Process>> wanted;
    TaskSet& tasks = kernel.tasks();
    for (Ref<Process>& process : tasks.processes(*tasks.root_space)) {
        if (!container.empty() && process->container->id() != container) continue;
        if (pid != 0 && static_cast<uint32_t>(process->pid->root_number()) != pid) continue;
        wanted.push_back(std::move(process));
    }
    return wanted;
}

// Where a file is in the pod's tree, whichever root its user has: no task is asked, which may end at any time. Of a
// name longer than a path may be, the end.
std::string name_of(const File& file) {
    std::string text;
    for (Path at = file.path(); at && text.size() < PATH_MAX;) {
        if (at.mount && at.dentry == at.mount->root()) {
            Path below = at.mount->mountpoint();
            if (!below) break;
            at = std::move(below);
            continue;
        }
        Ref<Dentry> parent = at.dentry->parent();
        if (parent == at.dentry) {  // never in a directory: "/memfd:x"
            text.insert(0, at.dentry->name());
            break;
        }
        text.insert(0, "/" + at.dentry->name());
        at = Path(at.mount, std::move(parent));
    }
    return text.empty() ? "/" : text;
}

// Where it is: in which call, with which arguments and where in the application.
std::string place_of(Task& task, char state) {
    const Task::Parts::Call& call = task.parts().call;
    const SyscallRow* row = find_syscall(call.number.load());
    const char* name = row != nullptr ? row->name : "?";
    if (state == 'Z' || state == 'X') return "ended";
    if (!call.inside.load()) return fmt::format("application code, since {} at {:#x}", name, call.ip.load());
    std::string text = fmt::format("{}(", name);
    for (size_t i = 0; i < 6; ++i) text += fmt::format("{}{:#x}", i != 0 ? ", " : "", call.arguments[i].load());
    return text + fmt::format(") called at {:#x}", call.ip.load());
}

std::string tasks_text(Kernel& kernel, const std::vector<Ref<Process>>& processes) {
    std::string text = fmt::format("{:>6} {:>6} {:>6} {} {:>10} {:>10} {:<15} {}\n", "pid", "tid", "parent", "state",
                                   "user ms", "system ms", "name", "where");
    for (const Ref<Process>& process : processes) {
        int parent;
        {
            std::lock_guard lock(kernel.tasks().mutex);
            parent = kernel.tasks().parent_pid_locked(*process, *kernel.tasks().root_space);
        }
        CpuTimes times = process_cpu_times(*process);
        bool first = true;
        for (const Ref<Task>& task : kernel.tasks().threads_of(*process)) {
            char state = task->state();
            SeccompStatus seccomp = seccomp_status(*task);
            text += fmt::format(
                "{:>6} {:>6} {:>6} {:<5} {:>10} {:>10} {:<15} {}{}{}\n", process->pid->root_number(),
                task->pid().root_number(), parent, state, first ? times.user_ns / 1'000'000 : 0,
                first ? times.system_ns / 1'000'000 : 0, printable(task->name(), 15), place_of(*task, state),
                task->signal_mask() != 0 || task->pending_signals() != 0
                    ? fmt::format(" blocked {:x} pending {:x}", task->signal_mask(), task->pending_signals())
                    : "",
                seccomp.mode != 0 ? fmt::format(" seccomp {}", seccomp.filters) : "");
            first = false;
        }
    }
    return text;
}

// Registers and return addresses of every task, the latter as offsets in what is mapped there, which is what addr2line
// wants. A task that sleeps in a call shows where it made it.
std::string stacks_text(Kernel& kernel, const std::vector<Ref<Process>>& processes) {
    constexpr size_t kMostFrames = 32, kMostTasks = 1000;
    constexpr Nanoseconds kPatience = kSecond / 2;
    struct Asked {
        Ref<Task> task;
        Ref<TaskPicture> picture;
    };
    std::vector<Asked> asked;
    for (const Ref<Process>& process : processes)
        for (const Ref<Task>& task : kernel.tasks().threads_of(*process))
            if (asked.size() < kMostTasks) asked.push_back({task, ask_for_picture(*task)});
    Nanoseconds deadline = monotonic_now() + kPatience;
    std::string text;
    for (const Asked& one : asked) {
        Task& task = *one.task;
        Ref<AddressSpace> memory = task.memory_of();
        char state = task.state();
        text += fmt::format("{} {} {}: {}\n", task.pid().root_number(), printable(task.name(), 15), state,
                            place_of(task, state));
        if (!memory) continue;
        auto maps = memory->snapshot();
        auto map_of = [&](GuestAddr address) -> const AddressSpace::VmaInfo* {
            auto after = std::ranges::upper_bound(maps, address, {}, &AddressSpace::VmaInfo::start);
            if (after == maps.begin() || address >= std::prev(after)->end) return nullptr;
            return &*std::prev(after);
        };
        auto line = [&](size_t number, GuestAddr address) {
            const AddressSpace::VmaInfo* map = map_of(address);
            std::string place = "not mapped";
            if (map != nullptr) {
                std::string name = map->file ? name_of(*map->file) : map->name.empty() ? "[anonymous]" : map->name;
                place = fmt::format("{}+{:#x}", printable(name, 500), address - map->start + map->offset);
            }
            text += fmt::format("  #{:<2} {:#018x} {}\n", number, address, place);
        };
        if (!one.picture->wait_until(deadline)) {
            line(0, task.parts().call.ip.load());
            continue;
        }
        const Registers& r = one.picture->registers;
        text += fmt::format(
            "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}\n"
            "  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}\n  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}\n"
            "  rip {:016x} flags {:08x} fs {:016x} gs {:016x}\n",
            r.ax, r.bx, r.cx, r.dx, r.si, r.di, r.bp, r.sp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.ip,
            r.flags, r.fs_base, r.gs_base);
        auto reads = [&](GuestAddr end, std::byte* into, size_t size) {
            const AddressSpace::VmaInfo* map = map_of(end - 1);
            if (map == nullptr || (map->protection & PROT_EXEC) == 0 || end - map->start < size) return false;
            return memory->copy_in(end - size, into, size).ok();
        };
        size_t number = 0;
        for (GuestAddr address : backtrace_of(*one.picture, reads, kMostFrames)) line(number++, address);
    }
    return text;
}

std::string memory_text(Kernel& kernel, const std::vector<Ref<Process>>& processes) {
    std::string text = fmt::format(
        "guest memory: {} KiB used, limit {}\n", kernel.memory().bytes_used() / 1024,
        kernel.memory().limit() != 0 ? fmt::format("{} KiB", kernel.memory().limit() / 1024) : std::string("none"));
    text += fmt::format("{:>6} {:>12} {:>12} {:>12} {:>6} {:>10} {}\n", "pid", "virtual KiB", "resident KiB",
                        "shared KiB", "maps", "faults", "oom kills of the container");
    for (const Ref<Process>& process : processes) {
        Ref<AddressSpace> memory = memory_of(kernel, *process);
        if (!memory) continue;
        auto usage = memory->usage();
        text += fmt::format("{:>6} {:>12} {:>12} {:>12} {:>6} {:>10} {}\n", process->pid->root_number(),
                            usage.virtual_bytes / 1024, usage.resident_bytes / 1024, usage.shared_bytes / 1024,
                            memory->snapshot().size(), process->faults.load(), process->container->oom_kills.load());
    }
    // The largest maps of each, which is what one looks for.
    for (const Ref<Process>& process : processes) {
        Ref<AddressSpace> memory = memory_of(kernel, *process);
        if (!memory) continue;
        auto maps = memory->snapshot();
        std::ranges::sort(maps, [](const auto& a, const auto& b) { return a.resident > b.resident; });
        if (maps.size() > 8) maps.resize(8);
        for (const auto& map : maps)
            text += fmt::format("{:>6} {:012x}-{:012x} {:>10} KiB resident {:>10} KiB {}\n",
                                process->pid->root_number(), map.start, map.end, (map.end - map.start) / 1024,
                                map.resident / 1024, printable(map.name, 200));
    }
    return text;
}

std::string address_text(const SysResult<SocketAddress>& found) {
    if (!found.ok() || found->size == 0) return "-";
    char text[INET6_ADDRSTRLEN] = "";
    switch (found->family()) {
        case AF_INET: {
            auto address = found->as<sockaddr_in>();
            inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
            return fmt::format("{}:{}", text, ntohs(address.sin_port));
        }
        case AF_INET6: {
            auto address = found->as<sockaddr_in6>();
            inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof(text));
            return fmt::format("[{}]:{}", text, ntohs(address.sin6_port));
        }
        case AF_UNIX: {
            auto address = found->as<sockaddr_un>();
            size_t length = std::min(found->size, sizeof(address)) - offsetof(sockaddr_un, sun_path);
            if (found->size <= offsetof(sockaddr_un, sun_path)) return "unnamed";
            std::string name(address.sun_path, length);
            if (name[0] == '\0')
                name[0] = '@';
            else
                name = name.c_str();
            return printable(name, 200);
        }
        default:
            return fmt::format("family {}", found->family());
    }
}

std::string protocol_name(Socket& socket) {
    switch (socket.family()) {
        case AF_INET:
        case AF_INET6: {
            const char* six = socket.family() == AF_INET6 ? "6" : "";
            switch (socket.protocol()) {
                case IPPROTO_TCP:
                    return fmt::format("tcp{}", six);
                case IPPROTO_UDP:
                    return fmt::format("udp{}", six);
                case IPPROTO_UDPLITE:
                    return fmt::format("udplite{}", six);
                default:
                    return fmt::format("{}{}:{}", socket.type() == SOCK_RAW ? "raw" : "ip", six, socket.protocol());
            }
        }
        case AF_UNIX:
            return socket.type() == SOCK_STREAM ? "unix" : socket.type() == SOCK_DGRAM ? "unix-dgram" : "unix-seq";
        case AF_NETLINK:
            return fmt::format("netlink:{}", socket.protocol());
        case AF_PACKET:
            return "packet";
        default:
            return fmt::format("family {}", socket.family());
    }
}

// As ss names TCP's states.
const char* state_name(int state) {
    static constexpr const char* kNames[] = {"-",          "estab",      "syn-sent",  "syn-recv",
                                             "fin-wait-1", "fin-wait-2", "time-wait", "unconn",
                                             "close-wait", "last-ack",   "listen",    "closing"};
    return state >= 0 && static_cast<size_t>(state) < std::size(kNames) ? kNames[state] : "-";
}

std::string endpoint_text(const InetEndpoint& endpoint) {
    char text[INET6_ADDRSTRLEN] = "";
    if (endpoint.address.is_v4()) {
        in_addr v4{htonl(endpoint.address.as_v4())};
        inet_ntop(AF_INET, &v4, text, sizeof(text));
        return fmt::format("{}:{}", text, endpoint.port);
    }
    in6_addr v6 = endpoint.address.as_v6();
    inet_ntop(AF_INET6, &v6, text, sizeof(text));
    return fmt::format("[{}]:{}", text, endpoint.port);
}

constexpr const char* kSocketLine = "{:>6} {:>5} {:<10} {:<10} {:>8} {:>8} {:<28} {:<28} {}\n";

std::string socket_line(int pid, int fd, Socket& socket, const std::string& owner) {
    std::string local, peer, state;
    size_t receiving = 0, sending = 0;
    bool internet = socket.family() == AF_INET || socket.family() == AF_INET6;
    auto take = [&](const auto& status) {
        state = state_name(status.state);
        local = endpoint_text(status.local);
        peer = endpoint_text(status.peer);
        receiving = status.receiving;
        sending = status.sending;
    };
    // SAFETY: sockets of these families are of the one class, or in host network mode of the other.
    if (internet && socket.network().host() != nullptr) {
        take(static_cast<HostSocket&>(socket).status());
    } else if (internet) {
        take(static_cast<InetSocket&>(socket).status());
    } else {
        auto waiting = socket.unread();
        receiving = waiting.ok() ? *waiting : 0;
        local = address_text(socket.local_address());
        auto other = socket.peer_address();
        peer = address_text(other);
        state = socket.listening() ? "listen" : other.ok() ? "estab" : "unconn";
    }
    return fmt::format(kSocketLine, pid, fd, protocol_name(socket), state, receiving, sending, local, peer, owner);
}

// Connections and other sockets, with the process that has them; then the ends of connections that nobody has any more.
std::string sockets_text(Kernel& kernel, const std::vector<Ref<Process>>& processes, Network* network) {
    std::string text =
        fmt::format(kSocketLine, "pid", "fd", "protocol", "state", "receive", "send", "local", "remote", "process");
    for (const Ref<Process>& process : processes) {
        for (const Ref<Task>& task : kernel.tasks().threads_of(*process)) {
            Ref<FdTable> table = task->files_of();
            if (!table) continue;
            size_t shown = 0;
            for (int fd : table->open_fds()) {
                auto file = table->get(fd, true);
                if (!file.ok() || (*file)->as_socket() == nullptr) continue;
                if (++shown > kMostFiles) {
                    text += fmt::format("{:>6} ...\n", process->pid->root_number());
                    break;
                }
                text +=
                    socket_line(process->pid->root_number(), fd, *(*file)->as_socket(), printable(task->name(), 15));
            }
            break;  // threads share the table
        }
    }
    if (network == nullptr) return text;
    for (const Network::Orphan& one : network->orphans())
        text += fmt::format(kSocketLine, "-", "-", one.local.address.is_v4() ? "tcp" : "tcp6", state_name(one.state), 0,
                            0, endpoint_text(one.local), endpoint_text(one.peer), "-");
    return text;
}

std::string files_text(Kernel& kernel, const std::vector<Ref<Process>>& processes) {
    std::string text = fmt::format("{:>6} {:>5} {:<10} {}\n", "pid", "fd", "flags", "file");
    for (const Ref<Process>& process : processes) {
        for (const Ref<Task>& task : kernel.tasks().threads_of(*process)) {
            Ref<FdTable> table = task->files_of();
            if (!table) continue;
            std::vector<int> open = table->open_fds();
            size_t shown = 0;
            for (int fd : open) {
                auto file = table->get(fd, true);
                if (!file.ok()) continue;
                if (++shown > kMostFiles) {
                    text +=
                        fmt::format("{:>6} ... ({} descriptors in all)\n", process->pid->root_number(), open.size());
                    break;
                }
                text += fmt::format("{:>6} {:>5} {:#010o} {}\n", process->pid->root_number(), fd, (*file)->flags(),
                                    printable((*file)->path() ? name_of(**file) : (*file)->link_name(*task), 1024));
            }
            break;  // threads share the table
        }
    }
    return text;
}

}  // namespace

void Pod::get_diagnostics(v1::GetDiagnosticsRequest request, Answer<v1::GetDiagnosticsReply> answer) {
    constexpr std::string_view kKnown[] = {"tasks",   "stacks", "memory",   "files",
                                           "sockets", "log",    "counters", "profile"};
    for (const std::string& one : request.sections())
        if (std::ranges::find(kKnown, one) == std::end(kKnown))
            return static_cast<void>(answer.fail(invalid(fmt::format("there is no section {}", one), "sections")));
    auto wanted = [&](std::string_view name) {
        if (request.sections().empty()) return name != "profile";
        return std::ranges::find(request.sections(), name) != request.sections().end();
    };
    v1::GetDiagnosticsReply reply;
    auto add = [&](const char* name, std::string text) {
        if (text.size() > kSectionLimit) {
            text.resize(text.rfind('\n', kSectionLimit) + 1);
            text += "(cut)\n";
        }
        auto& section = *reply.add_sections();
        section.set_name(name);
        section.set_text(std::move(text));
    };
    auto processes = wanted_processes(kernel_, request.container_id(), request.pid());
    if (wanted("tasks")) add("tasks", tasks_text(kernel_, processes));
    if (wanted("stacks")) add("stacks", stacks_text(kernel_, processes));
    if (wanted("memory")) add("memory", memory_text(kernel_, processes));
    if (wanted("files")) add("files", files_text(kernel_, processes));
    if (wanted("sockets"))
        add("sockets", sockets_text(kernel_, processes, created_ && request.pid() == 0 ? &network() : nullptr));
    if (wanted("log")) add("log", kernel_.log().text(KernelLog::kSize));
    if (wanted("counters"))
        add("counters",
            fmt::format("tasks: {}\nfile server round trips: {} ({})\nmemory file KiB: {}\nuptime s: {}\n",
                        kernel_.tasks().task_count(), files_.round_trips(), files_.round_trips_by_kind(),
                        kernel_.memory().bytes_used() / 1024, (monotonic_now() - kernel_.boot_time()) / kSecond));
    if (wanted("profile")) add("profile", kernel_.watch().profile_text());
    answer.ok(reply);
}

void Pod::set_trace(v1::SetTraceRequest request, RequestStreams streams, Answer<v1::SetTraceReply> answer) {
    if (request.kind() == v1::TRACE_PROFILE) {
        kernel_.watch().set_profiling(request.on());
        answer.ok();
        return;
    }
    if (!request.on()) {
        kernel_.watch().stop_record();
        answer.ok();
        return;
    }
    auto record = make_ref<SyscallWatch::Record>();
    record->container = request.container_id();
    record->pid = static_cast<int>(request.pid());
    for (const std::string& name : request.syscalls()) {
        bool found = false;
        for (const SyscallRow& row : all_syscalls()) {
            if (name != row.name || row.number >= SyscallWatch::kNumbers) continue;
            record->numbers.set(row.number);
            found = true;
        }
        if (!found)
            return static_cast<void>(answer.fail(invalid(fmt::format("there is no system call {}", name), "syscalls")));
    }
    if (request.output() != 0) {
        record->output = streams.take(request.output());
        // A reader that stops reading must not stop the pod.
        int flags = record->output ? fcntl(record->output.get(), F_GETFL) : -1;
        if (flags < 0 || fcntl(record->output.get(), F_SETFL, flags | O_NONBLOCK) != 0)
            return static_cast<void>(answer.fail(invalid("the output cannot be written without waiting", "output")));
    }
    kernel_.watch().start_record(std::move(record));
    answer.ok();
}

}  // namespace casemate::sentry
