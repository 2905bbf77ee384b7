#include "sentry/fs/cgroup/cgroup_view.h"

#include <fmt/core.h>
#include <linux/magic.h>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/container_memory.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

CpuTimes times_of(Kernel& kernel, Container& container) {
    CpuTimes sum{container.past_user_ns.load(), container.past_system_ns.load()};
    for (auto& process : kernel.tasks().processes_of(container)) {
        CpuTimes one = process_cpu_times(*process);
        sum.user_ns += one.user_ns;
        sum.system_ns += one.system_ns;
    }
    return sum;
}

std::string limit_text(uint64_t limit) { return limit == 0 ? "max\n" : fmt::format("{}\n", limit); }

}  // namespace

SysResult<Ref<FileSystem>> make_cgroup_view(Kernel& kernel, Ref<Container> container) {
    auto files = make_ref<SyntheticFileSystem>("cgroup2", CGROUP2_SUPER_MAGIC);
    auto root = make_ref<SyntheticDirectory>(Ref<FileSystem>(files), 0755u);
    auto add = [&](const char* name, auto make) {
        root->add(name,
                  Ref<Inode>(make_ref<TextFile>(Ref<FileSystem>(files), 0444u,
                                                [&kernel, container, make](Task& reader) -> SysResult<std::string> {
                                                    return make(kernel, *container, reader);
                                                })));
    };
    using Text = SysResult<std::string>;
    add("cgroup.controllers", [](Kernel&, Container&, Task&) -> Text { return std::string("cpu memory pids\n"); });
    add("cgroup.subtree_control", [](Kernel&, Container&, Task&) -> Text { return std::string("\n"); });
    add("cgroup.type", [](Kernel&, Container&, Task&) -> Text { return std::string("domain\n"); });
    add("cgroup.max.depth", [](Kernel&, Container&, Task&) -> Text { return std::string("max\n"); });
    add("cgroup.max.descendants", [](Kernel&, Container&, Task&) -> Text { return std::string("max\n"); });
    add("cgroup.freeze", [](Kernel&, Container& c, Task&) -> Text { return std::string(c.frozen() ? "1\n" : "0\n"); });
    add("cgroup.stat",
        [](Kernel&, Container&, Task&) -> Text { return std::string("nr_descendants 0\nnr_dying_descendants 0\n"); });
    add("cgroup.events", [](Kernel& k, Container& c, Task&) -> Text {
        return fmt::format("populated {}\nfrozen {}\n", k.tasks().processes_of(c).empty() ? 0 : 1, c.frozen() ? 1 : 0);
    });
    auto members = [](bool threads) {
        return [threads](Kernel& k, Container& c, Task& reader) -> Text {
            std::string text;
            for (auto& process : k.tasks().processes_of(c))
                for (auto& task : k.tasks().threads_of(*process)) {
                    int number = task->pid().number_in(reader.pid_namespace());
                    bool leader = task->pid().root_number() == process->pid->root_number();
                    if (number > 0 && (threads || leader)) text += fmt::format("{}\n", number);
                }
            return text;
        };
    };
    add("cgroup.procs", members(false));
    add("cgroup.threads", members(true));
    add("pids.current", [](Kernel&, Container& c, Task&) -> Text { return fmt::format("{}\n", c.tasks.load()); });
    add("pids.max", [](Kernel&, Container& c, Task&) -> Text { return limit_text(c.task_limit.load()); });
    add("memory.current",
        [](Kernel& k, Container& c, Task&) -> Text { return fmt::format("{}\n", memory_held(k, c)); });
    add("memory.max", [](Kernel& k, Container& c, Task&) -> Text {
        uint64_t own = c.memory_limit.load();
        return limit_text(own != 0 ? own : k.memory().limit());
    });
    add("memory.high", [](Kernel&, Container&, Task&) -> Text { return std::string("max\n"); });
    add("memory.low", [](Kernel&, Container&, Task&) -> Text { return std::string("0\n"); });
    add("memory.min", [](Kernel&, Container&, Task&) -> Text { return std::string("0\n"); });
    add("memory.swap.max", [](Kernel&, Container&, Task&) -> Text { return std::string("0\n"); });
    add("memory.swap.current", [](Kernel&, Container&, Task&) -> Text { return std::string("0\n"); });
    add("memory.events", [](Kernel&, Container& c, Task&) -> Text {
        uint64_t kills = c.oom_kills.load();
        return fmt::format("low 0\nhigh 0\nmax {0}\noom {0}\noom_kill {0}\noom_group_kill 0\n", kills);
    });
    add("memory.stat", [](Kernel& k, Container& c, Task&) -> Text {
        return fmt::format("anon {}\nfile 0\nkernel 0\nshmem 0\ninactive_file 0\nactive_file 0\n", memory_held(k, c));
    });
    add("cpu.max", [](Kernel&, Container&, Task&) -> Text { return std::string("max 100000\n"); });
    add("cpu.weight", [](Kernel&, Container&, Task&) -> Text { return std::string("100\n"); });
    add("cpu.stat", [](Kernel& k, Container& c, Task&) -> Text {
        CpuTimes times = times_of(k, c);
        return fmt::format(
            "usage_usec {}\nuser_usec {}\nsystem_usec {}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            (times.user_ns + times.system_ns) / 1000, times.user_ns / 1000, times.system_ns / 1000);
    });
    files->set_root(Ref<Inode>(std::move(root)));
    return Ref<FileSystem>(std::move(files));
}

}  // namespace casemate::sentry
