#include "sentry/fs/proc/ipc_settings.h"

#include <fmt/core.h>

#include <charconv>
#include <functional>

#include "sentry/ipc/ipc_state.h"
#include "sentry/ipc/mqueue.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

SysResult<uint64_t> number_in(std::string_view text, uint64_t least, uint64_t most) {
    text = trimmed(text);
    uint64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) return Errno(EINVAL);
    return value;
}

// A setting that is one number between two bounds.
IpcSetting number(std::string path, uint64_t least, uint64_t most, std::function<uint64_t(IpcState&)> get,
                  std::function<void(IpcState&, uint64_t)> set) {
    IpcSetting setting;
    setting.path = std::move(path);
    setting.make = [get](Task& task) -> SysResult<std::string> { return fmt::format("{}\n", get(*ipc_of(task))); };
    setting.take = [=](Task& task, std::string_view text) -> SysResult<void> {
        uint64_t value = TRY(number_in(text, least, most));
        set(*ipc_of(task), value);
        return {};
    };
    return setting;
}

IpcSetting of_queues(const char* name, long least, long most, std::atomic<long> MqueueFileSystem::Settings::*field) {
    return number(
        std::string("fs/mqueue/") + name, static_cast<uint64_t>(least), static_cast<uint64_t>(most),
        [field](IpcState& ipc) { return static_cast<uint64_t>((ipc.posix_queues().settings.*field).load()); },
        [field](IpcState& ipc, uint64_t value) { ipc.posix_queues().settings.*field = static_cast<long>(value); });
}

}  // namespace

std::vector<IpcSetting> ipc_settings(Kernel& kernel) {
    using Queues = MqueueFileSystem;
    std::vector<IpcSetting> settings;
    settings.push_back(number(
        "kernel/shm_rmid_forced", 0, 1, [](IpcState& ipc) { return ipc.segments->removal_is_forced() ? 1 : 0; },
        [&kernel](IpcState& ipc, uint64_t value) {
            ipc.segments->force_removal(value != 0);
            if (value == 0) return;
            ipc.segments->remove_orphans([&](const Pid& creator) {
                std::lock_guard lock(kernel.tasks().mutex);
                return creator.process == nullptr;
            });
        }));
    settings.push_back(number(
        "kernel/shmmax", 0, UINT64_MAX, [](IpcState& ipc) { return ipc.segments->most_size.load(); },
        [](IpcState& ipc, uint64_t value) { ipc.segments->most_size = value; }));
    settings.push_back(number(
        "kernel/shmall", 0, UINT64_MAX, [](IpcState& ipc) { return ipc.segments->most_pages.load(); },
        [](IpcState& ipc, uint64_t value) { ipc.segments->most_pages = value; }));
    settings.push_back(number(
        "kernel/shmmni", 0, 32768, [](IpcState& ipc) { return ipc.segments->table.most(); },
        [](IpcState& ipc, uint64_t value) { ipc.segments->table.set_most(value); }));
    settings.push_back(of_queues("queues_max", 0, 65536, &Queues::Settings::queues_max));
    settings.push_back(of_queues("msg_max", 1, Queues::kHardMessages, &Queues::Settings::msg_max));
    settings.push_back(of_queues("msg_default", 1, Queues::kHardMessages, &Queues::Settings::msg_default));
    settings.push_back(of_queues("msgsize_max", 128, Queues::kHardSize, &Queues::Settings::msgsize_max));
    settings.push_back(of_queues("msgsize_default", 128, Queues::kHardSize, &Queues::Settings::msgsize_default));
    return settings;
}

}  // namespace casemate::sentry
