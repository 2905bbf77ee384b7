// What the guest kernel looks like inside, for people (`casemate debug`). Touches no guest process: everything is read
// from the sentry's own objects, and what a guest wrote is printed without control characters.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>

#include "guest_api/errors.h"
#include "sentry/boot/pod.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/syscall_watch.h"
#include "sentry/kernel/task_set.h"
#include "sentry/net/socket.h"

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

Ref<AddressSpace> memory_of(Kernel& kernel, Process& process) {
    for (const Ref<Task>& task : kernel.tasks().threads_of(process))
        if (Ref<AddressSpace> memory = task->memory_of()) return memory;
    return nullptr;
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

std::string describe(Socket& socket) {
    auto waiting = socket.unread();
    return fmt::format(" family {} type {} {}{} -> {} unread {}", socket.family(), socket.type(),
                       socket.listening() ? "listening on " : "", address_text(socket.local_address()),
                       address_text(socket.peer_address()), waiting.ok() ? std::to_string(*waiting) : "-");
}

std::string files_text(Kernel& kernel, const std::vector<Ref<Process>>& processes, bool sockets_only) {
    std::string text = fmt::format("{:>6} {:>5} {:<10} {}\n", "pid", "fd", "flags", "file");
    for (const Ref<Process>& process : processes) {
        for (const Ref<Task>& task : kernel.tasks().threads_of(*process)) {
            Ref<FdTable> table = task->files_of();
            if (!table) continue;
            std::vector<int> open = table->open_fds();
            size_t shown = 0;
            for (int fd : open) {
                auto file = table->get(fd, true);
                if (!file.ok() || (sockets_only && (*file)->as_socket() == nullptr)) continue;
                if (++shown > kMostFiles) {
                    text +=
                        fmt::format("{:>6} ... ({} descriptors in all)\n", process->pid->root_number(), open.size());
                    break;
                }
                std::string more;
                if (Socket* socket = (*file)->as_socket(); socket != nullptr && sockets_only) more = describe(*socket);
                text += fmt::format("{:>6} {:>5} {:#010o} {}{}\n", process->pid->root_number(), fd, (*file)->flags(),
                                    printable((*file)->link_name(*task), 1024), more);
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
        for (const std::string& one : request.sections())
            if (one == name || (one == "stacks" && name == "tasks")) return true;
        return false;
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
    if (wanted("memory")) add("memory", memory_text(kernel_, processes));
    if (wanted("files")) add("files", files_text(kernel_, processes, false));
    if (wanted("sockets")) add("sockets", files_text(kernel_, processes, true));
    if (wanted("log")) add("log", kernel_.log().text(KernelLog::kSize));
    if (wanted("counters"))
        add("counters",
            fmt::format("tasks: {}\nfile server round trips: {}\nmemory file KiB: {}\nuptime s: {}\n",
                        kernel_.tasks().task_count(), files_.round_trips(), kernel_.memory().bytes_used() / 1024,
                        (monotonic_now() - kernel_.boot_time()) / kSecond));
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
