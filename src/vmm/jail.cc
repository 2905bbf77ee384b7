#include "vmm/jail.h"

#include <fmt/core.h>
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include "base/log.h"
#include "linux/process.h"
#include "vmm/confine.h"

namespace casemate::vmm {

namespace {

// Behind 0 to 2 come the descriptors of the options in their order, then the memory file.
constexpr int kFirstFd = 3;

}  // namespace

Result<host::JailedProcess> spawn_monitor(const std::string& program, MonitorOptions options) {
    host::JailSpec spec;
    spec.program = program;
    spec.stderr_fd = STDERR_FILENO;
    spec.oom_score_adj = 0;
    linux::Pipe pipe;  // larger than the jail could make it, if this process is root's
    if (options.kernel >= 0) {
        auto made = create_image_pipe();
        if (!made.ok()) return sys_error("make a pipe for the kernel image", made.error().value);
        pipe = made.take_value();
        options.image_pipe_in = pipe.write_end.get();
        options.image_pipe_out = pipe.read_end.get();
    }
    int next = kFirstFd;
    for (int* fd : options.descriptors()) {
        spec.fds.push_back(*fd);
        *fd = next++;
    }
    // Reserved huge pages are a kind of memfd of their own; a restored machine has its memory already.
    if (options.restore_memory < 0 && options.huge_pages != HugePages::kReserved) {
        spec.memory_file = true;
        options.memory_file = next;
    }
    options.vsock_path.clear();  // a path of this side's
    spec.args = options.to_words();
    spec.args.insert(spec.args.begin(), "casemate-vmm");
    return host::spawn_jailed(spec);
}

int run_jailed_monitor(const std::vector<std::string>& words) {
    log::set_component("vmm");
    linux::set_process_name("casemate-vmm");  // it was executed by a descriptor
    ::signal(SIGPIPE, SIG_IGN);
    ::mallopt(M_ARENA_MAX, 1);  // threads allocate next to nothing
    auto run = [&]() -> Result<MachineEnd> {
        if (auto set = linux::set_dumpable(false); !set.ok()) return sys_error("prctl", set.error().value);
        MonitorOptions options = TRY(MonitorOptions::from_words(words));
        options.may_take = true;
        MonitorHooks hooks;
        hooks.confine_main = [] { return confine_thread(ThreadKind::kMain); };
        hooks.confine_vcpu = [] { return confine_thread(ThreadKind::kVcpu); };
        return run_monitor(options, hooks);
    };
    auto end = run();
    if (!end.ok()) {
        log::error("{}", end.error().message());
        return 1;
    }
    if (end->end == GuestEnd::kFailed) log::error("{}", end->why);
    return exit_status(end->end);
}

}  // namespace casemate::vmm
