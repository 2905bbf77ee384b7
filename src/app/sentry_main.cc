// casemate-sentry: the application kernel of one pod. Started by the sandbox host in its jail (host/jail.h).
//
// Descriptors: 3 guest API (ttrpc), 4 descriptor channel, 5 file server, 6 log, 7 memory file; with --host-network 7 is
// the way to casemate-sockets, 8 to 12 are files of the host's /proc/net, and 13 the memory file.
// The order is the point: everything that needs the host is made first, then the process confines itself, and only then
// the first byte from outside is read.
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"
#include "fmt/core.h"
#include "guest_api/guest_server.h"
#include "linux/file.h"
#include "sentry/boot/confine.h"
#include "sentry/boot/pod.h"
#include "sentry/boot/syscall_report.h"
#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/kernel/host_memory.h"
#include "sentry/mm/guarded_copy.h"
#include "sentry/net/host/host_sockets.h"
#include "sentry/platform/seccomp/seccomp_platform.h"

namespace casemate::sentry {
namespace {

constexpr int kApiFd = 3, kChannelFd = 4, kFilesFd = 5, kLogFd = 6, kBehindFd = 7;

struct Arguments {
    unsigned cpus = 0;
    uint64_t memory = 0;
    bool debug = false;
    bool host_network = false;
};

Result<Arguments> parse(int argc, char** argv) {
    Arguments arguments;
    for (int i = 1; i < argc; i++) {
        std::string_view name = argv[i];
        if (name == "--debug") {
            arguments.debug = true;
        } else if (name == "--host-network") {
            arguments.host_network = true;
        } else if ((name == "--cpus" || name == "--memory") && i + 1 < argc) {
            uint64_t value = strtoull(argv[++i], nullptr, 10);
            if (name == "--cpus")
                arguments.cpus = static_cast<unsigned>(value);
            else
                arguments.memory = value;
        } else {
            return Error(fmt::format("casemate-sentry: unknown option {}; it is started by casemate only", name));
        }
    }
    return arguments;
}

unsigned host_cpus() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? static_cast<unsigned>(CPU_COUNT(&set)) : 1;
}

Result<void> run(int argc, char** argv) {
    Arguments arguments = TRY(parse(argc, argv));
    log::set_component("sentry");
    log::set_sink(kLogFd, log::Format::kText, arguments.debug ? log::Level::kDebug : log::Level::kWarning);
    prctl(PR_SET_DUMPABLE, 0);
    mallopt(M_ARENA_MAX, 2);  // memory counts per pod; and the default would read how many CPUs there are, from a file
    // What a fork takes and gives back stays in the heap.
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
    mallopt(M_TOP_PAD, 64 << 10);
    signal(SIGPIPE, SIG_IGN);
    install_fault_guard();

    int memory_fd = kBehindFd;
    UniqueFd sockets;
    std::vector<UniqueFd> tables;
    if (arguments.host_network) {
        sockets.reset(memory_fd++);
        for (int i = 0; i < HostSockets::kTables; i++) tables.emplace_back(memory_fd++);
    }
    auto memory = TRY(MemoryFile::create(UniqueFd(memory_fd), arguments.memory));
    auto platform = TRY(seccomp::SeccompPlatform::create(memory->fd()));
    KernelOptions options;
    options.cpus = arguments.cpus != 0 ? arguments.cpus : host_cpus();
    platform->set_cpus(options.cpus);
    options.memory_limit = arguments.memory;
    auto poller = HostPoller::create();
    if (!poller.ok()) return sys_error("make the poller of standard streams", poller.error().value);
    std::unique_ptr<HostSockets> host_sockets;
    if (arguments.host_network) {
        auto made = HostSockets::create(std::move(sockets), std::move(tables));
        if (!made.ok()) return sys_error("make the poller of host sockets", made.error().value);
        host_sockets = std::move(*made);
    }
    Kernel kernel(*platform, *memory, options);
    kernel.set_anonymous_files(Ref<FileSystem>(make_ref<AnonymousFiles>()));
    HostFiles files{UniqueFd(kFilesFd)};
    Pod pod(kernel, files, **poller);
    auto server = TRY(guest_api::GuestServer::create(
        pod, UniqueFd(kApiFd), std::make_unique<guest_api::DescriptorReceiver>(UniqueFd(kChannelFd))));
    pod.set_server(*server);
    if (host_sockets != nullptr) pod.set_host_sockets(*host_sockets);
    host_memory();
    auto prepared = files.prepare_sharing();
    if (!prepared.ok()) return sys_error("memory to share with the file server", prepared.error().value);
    UniqueFd listener = TRY(confine(arguments.host_network));
    if (listener) {
        auto shared = files.share(std::move(listener));
        if (!shared.ok()) return sys_error("share memory with the file server", shared.error().value);
    }
    auto served = server->run();
    // Threads of applications still run and hold parts of the kernel: the process ends as a whole.
    if (!served.ok()) log::warning("{}", served.error().message());
    _exit(0);
}

}  // namespace
}  // namespace casemate::sentry

int main(int argc, char** argv) {
    // `casemate syscalls` asks for the table: nothing is set up for that.
    if (argc == 3 && std::string_view(argv[1]) == "--syscalls") {
        std::string text = casemate::sentry::syscall_report(argv[2]);
        return casemate::linux::write_all(1, text).ok() ? 0 : 1;
    }
    auto done = casemate::sentry::run(argc, argv);
    if (!done.ok()) casemate::log::error("{}", done.error().message());
    return 1;
}
