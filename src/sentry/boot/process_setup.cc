// Processes that the host asks for: streams, terminal, ids, capabilities, limits and the program.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "guest_api/errors.h"
#include "sentry/boot/pod.h"
#include "sentry/fs/host_stream_inode.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_clone.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/loader/loader.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

using guest_api::failure;
using guest_api::invalid;
using guest_api::not_supported;

Ref<Credentials> credentials_of(const PodContainer& container, const oci::Process& wanted) {
    auto made = make_ref<Credentials>();
    made->uid = made->euid = made->suid = made->fsuid = wanted.user.uid;
    made->gid = made->egid = made->sgid = made->fsgid = wanted.user.gid;
    made->groups = wanted.user.additional_gids;
    made->no_new_privileges = wanted.no_new_privileges;
    made->user_namespace = container.user_namespace;
    made->bounding = 0;
    if (wanted.capabilities) {
        const oci::Capabilities& caps = *wanted.capabilities;
        made->bounding = caps.bounding & kAllCapabilities;
        made->permitted = caps.permitted & kAllCapabilities;
        made->effective = caps.effective & made->permitted;
        made->inheritable = caps.inheritable & kAllCapabilities;
        made->ambient = caps.ambient & made->permitted & made->inheritable;
    }
    return made;
}

// Whether a pod's first process is no init but somebody's command: what ends a process by default ends it, too.
bool is_command(const PodContainer& container) {
    auto kind = container.spec.annotations.find("dev.casemate.first-process");
    return kind != container.spec.annotations.end() && kind->second == "command";
}

}  // namespace

BootResult<std::unique_ptr<PodProcess>> Pod::make_process(PodContainer& container, const oci::Process& wanted,
                                                          const v1::Stdio& stdio, RequestStreams& streams,
                                                          const std::string& exec_id) {
    auto made = std::make_unique<PodProcess>(*this, container.id, exec_id);
    if (wanted.scheduler)
        return BootError(not_supported("the sentry has no scheduler settings yet", "process.scheduler"));
    SpawnRequest request;
    request.container = container.kernel_container;
    request.pid_namespace = container.pid_namespace;
    request.namespaces = container.namespaces;
    request.fs = container.fs->clone();
    request.files = make_ref<FdTable>();
    request.credentials = credentials_of(container, wanted);
    request.observer = made.get();
    {
        std::lock_guard lock(kernel_.tasks().mutex);
        request.new_init = container.pid_namespace->init == nullptr;
    }
    for (const oci::Rlimit& limit : wanted.rlimits)
        if (limit.resource >= 0 && limit.resource < static_cast<int>(request.limits.size()))
            request.limits[static_cast<size_t>(limit.resource)] = {limit.soft, limit.hard};
    if (wanted.user.umask) request.fs->set_umask(*wanted.user.umask);

    Ref<File> slave;
    if (stdio.terminal()) {
        // The pty is made before the process, which gets its slave as controlling terminal.
        auto pair = container.terminals->open_master(nullptr, Path(), O_RDWR | O_NOCTTY);
        if (!pair.ok()) return boot_error(pair.error(), "make a terminal", "process.terminal");
        pair->terminal->set_locked(false);
        winsize size{};
        size.ws_row = static_cast<unsigned short>(stdio.rows());
        size.ws_col = static_cast<unsigned short>(stdio.columns());
        pair->terminal->set_window(size);
        UniqueFd host = streams.take(stdio.console());
        if (!host) return BootError(invalid("a terminal needs a console stream", "stdio.console"));
        request.terminal = Ref<ControllingTerminal>(pair->terminal.get());
        auto console = Console::start(pair->master, pair->terminal, std::move(host));
        if (!console.ok()) return boot_error(console.error(), "start the console");
        made->console = console.take_value();
    }
    auto task = TaskBuilder::create_process(kernel_, std::move(request));
    if (!task.ok()) return boot_error(task.error(), "make the process");
    made->task = task.take_value();
    made->process = Ref<Process>(&made->task->process());
    made->pid = made->task->pid().root_number();
    if (container.filter) set_first_filter(*made->task, container.filter);
    if (is_command(container)) {
        std::lock_guard lock(made->process->signal_mutex);
        made->process->unkillable = false;
    }
    if (wanted.oom_score_adj) made->process->oom_score_adj = *wanted.oom_score_adj;
    auto filled = make_descriptors(container, *made->task, stdio, streams, *made);
    if (!filled.ok()) {
        TaskBuilder::discard_process(*made->task);
        return filled.take_error();
    }
    return made;
}

BootResult<Ref<File>> Pod::make_stream(Task& task, UniqueFd host, int flags, int number) {
    std::string name = fmt::format("host:[{}]", number);
    StreamPlace place = host_stream_place(kernel_, task.credentials(), name);
    auto stream = HostStream::create(poller_, std::move(host), place.path, flags, name);
    if (!stream.ok()) return boot_error(stream.error(), fmt::format("stream for descriptor {}", number));
    place.inode->bind(**stream);
    return Ref<File>(stream.take_value());
}

BootResult<Ref<FdTable>> Pod::make_descriptors(PodContainer& container, Task& task, const v1::Stdio& stdio,
                                               RequestStreams& streams, PodProcess& process) {
    FdTable& table = task.files();
    auto put = [&](int fd, Ref<File> file) -> BootResult<void> {
        auto done = table.replace(fd, std::move(file), false, 1 << 20);
        if (!done.ok()) return boot_error(done.error(), fmt::format("descriptor {}", fd));
        return {};
    };
    if (process.console) {
        uint32_t number = process.console->terminal().number;
        std::string name = fmt::format("/dev/pts/{}", number);
        Path place;
        auto found = walk(task, AT_FDCWD, name);
        if (found.ok()) place = found.take_value();
        auto slave = container.terminals->open_slave(task, place, number, O_RDWR | O_NOCTTY);
        if (!slave.ok()) return boot_error(slave.error(), "open the terminal", "process.terminal");
        if (found.ok()) {
            // As runc does: the terminal belongs to the process's user, and /dev/console is it.
            static_cast<void>(place.inode().change({.uid = task.credentials().uid}));
            if (process.exec_id.empty())
                static_cast<void>(make_node(task, AT_FDCWD, "/dev/console", S_IFCHR | 0620, makedev(136, number)));
        }
        for (int fd = 0; fd < 3; fd++) TRY(put(fd, *slave));
    } else {
        const uint64_t tokens[3] = {stdio.stdin(), stdio.stdout(), stdio.stderr()};
        for (int fd = 0; fd < 3; fd++) {
            int flags = fd == 0 ? O_RDONLY : O_WRONLY;
            UniqueFd host = streams.take(tokens[fd]);
            if (!host) {
                auto null = sentry::open(task, AT_FDCWD, "/dev/null", O_RDWR, 0);
                if (null.ok()) TRY(put(fd, null.take_value()));
                continue;
            }
            int host_flags = fcntl(host.get(), F_GETFL);
            if (host_flags >= 0) flags = host_flags & (O_ACCMODE | O_APPEND);
            TRY(put(fd, TRY(make_stream(task, std::move(host), flags, fd))));
        }
    }
    for (const v1::PassedStream& passed : stdio.passed()) {
        UniqueFd host = streams.take(passed.token());
        if (!host || passed.descriptor() < 3 || passed.descriptor() > 1024)
            return BootError(invalid("a passed descriptor has a number of 3 to 1024 and a stream", "stdio.passed"));
        int host_flags = fcntl(host.get(), F_GETFL);
        auto number = static_cast<int>(passed.descriptor());
        Ref<File> stream =
            TRY(make_stream(task, std::move(host), host_flags >= 0 ? host_flags & O_ACCMODE : O_RDWR, number));
        TRY(put(number, std::move(stream)));
    }
    return Ref<FdTable>(&table);
}

BootResult<void> Pod::load_program(PodProcess& process, const oci::Process& wanted, const std::string& executable) {
    Task& task = *process.task;
    // The working directory, made if it is missing (as runc does for an image's WORKDIR).
    auto place = walk(task, AT_FDCWD, wanted.cwd, {.directory = true});
    if (!place.ok() && place.error().value == ENOENT) {
        for (size_t slash = 1; slash != std::string::npos;) {
            slash = wanted.cwd.find('/', slash + 1);
            static_cast<void>(make_directory(task, AT_FDCWD, wanted.cwd.substr(0, slash), 0755));
        }
        place = walk(task, AT_FDCWD, wanted.cwd, {.directory = true});
    }
    if (!place.ok()) return boot_error(place.error(), fmt::format("change to {}", wanted.cwd), "process.cwd");
    task.fs().set_working_directory(place.take_value());

    LoadRequest request;
    for (const std::string& one : wanted.args) request.arguments.append(one);
    bool has_home = false;
    std::string search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (const std::string& one : wanted.env) {
        request.environment.append(one);
        if (one.starts_with("PATH=")) search = one.substr(5);
        if (one.starts_with("HOME=")) has_home = true;
    }
    if (!has_home) request.environment.append(wanted.user.uid == 0 ? "HOME=/root" : "HOME=/");
    const std::string& program = executable.empty() ? wanted.args[0] : executable;
    Errno worst(ENOENT);
    auto attempt = [&](const std::string& path) {
        auto file = open_executable(task, AT_FDCWD, path, 0);
        if (file.ok()) {
            request.file = file.take_value();
            request.path = path;
            return true;
        }
        if (file.error().value != ENOENT && file.error().value != ENOTDIR) worst = file.error();
        return false;
    };
    bool found = false;
    if (program.find('/') != std::string::npos) {
        found = attempt(program);
    } else {
        for (size_t start = 0; start <= search.size() && !found;) {
            size_t end = std::min(search.find(':', start), search.size());
            std::string folder = search.substr(start, end - start);
            found = attempt((folder.empty() ? "." : folder) + "/" + program);
            start = end + 1;
        }
    }
    std::string field = process.exec_id.empty() ? "process.args[0]" : "args[0]";
    if (!found)
        return failure(rpc::Code::kInvalidArgument, worst.value,
                       worst.value == ENOENT && program.find('/') == std::string::npos
                           ? fmt::format("exec: \"{}\": executable file not found in $PATH", program)
                           : fmt::format("exec: \"{}\": {}", program, strerrordesc_np(worst.value)),
                       field);
    auto loaded = TaskBuilder::load_program(task, std::move(request));
    if (!loaded.ok())
        return failure(rpc::Code::kInvalidArgument, loaded.error().value,
                       fmt::format("exec: \"{}\": {}", program, strerrordesc_np(loaded.error().value)), field);
    return {};
}

}  // namespace casemate::sentry
