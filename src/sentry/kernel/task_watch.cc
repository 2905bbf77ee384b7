// Watchpoints of a traced task: its debug registers, as ptrace(2) gives them to a tracer.
//
// The host's debug registers cannot be had by an application's thread, so the task takes single steps while one is on,
// which its tracer does not see. A watchpoint on writing fires when the content has changed, one on execution in front
// of the instruction. Reading cannot be seen (check_watchpoint() refuses it).
#include <optional>
#include <utility>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/kernel/tracing.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kFlagTf = 0x100;
constexpr uint64_t kStatusStep = 1 << 14;  // DR6.BS
constexpr int kExecuted = 0, kWritten = 1;

int kind_of(uint64_t control, size_t i) { return static_cast<int>(control >> (16 + 4 * i) & 3); }
size_t length_of(uint64_t control, size_t i) {
    constexpr size_t kLengths[] = {1, 2, 8, 4};
    return kLengths[control >> (18 + 4 * i) & 3];
}
bool enabled(uint64_t control, size_t i) { return (control >> (2 * i) & 3) != 0; }

std::optional<uint64_t> content_of(Task& task, const Watchpoints& watch, size_t i) {
    uint64_t value = 0;
    if (!task.memory().copy_in(watch.address[i], &value, length_of(watch.control, i)).ok()) return std::nullopt;
    return value;
}

}  // namespace

SysResult<void> check_watchpoint(const Watchpoints& watch, size_t i, uint64_t top) {
    if (!enabled(watch.control, i)) return {};
    int kind = kind_of(watch.control, i);
    size_t length = length_of(watch.control, i);
    if (kind != kExecuted && kind != kWritten) return Errno(EINVAL);
    if (kind == kExecuted && length != 1) return Errno(EINVAL);
    if (watch.address[i] % length != 0 || watch.address[i] >= top) return Errno(EINVAL);
    return {};
}

// From here on changes count: what watched memory holds now.
void TaskRunner::note_watched(Task& task) {
    Watchpoints& watch = task.parts().tracing.watchpoints;
    task.parts().tracing.trap_flag_is_ours = true;
    for (size_t i = 0; i < Watchpoints::kCount; ++i)
        if (enabled(watch.control, i) && kind_of(watch.control, i) == kWritten)
            watch.content[i] = content_of(task, watch, i).value_or(watch.content[i]);
}

// A step of the application has ended. True: somebody is to hear of it as of a step.
bool TaskRunner::end_step(Task& task) {
    Tracing& tracing = task.parts().tracing;
    Watchpoints& watch = tracing.watchpoints;
    Registers& registers = task.registers();
    if (!is_traced(task) || !watch.on()) {
        // The application's own, its tracer's, or the last one of a watchpoint that is no more.
        if (!is_traced(task)) watch = Watchpoints{};
        if (!std::exchange(tracing.trap_flag_is_ours, false) || (is_traced(task) && tracing.steps())) return true;
        registers.flags &= ~kFlagTf;
        return false;
    }
    uint64_t hits = 0;
    for (size_t i = 0; i < Watchpoints::kCount; ++i) {
        if (!enabled(watch.control, i)) continue;
        bool hit;
        if (kind_of(watch.control, i) == kExecuted) {
            hit = registers.ip == watch.address[i];
        } else {
            auto now = content_of(task, watch, i);
            hit = now && *now != watch.content[i];
            if (hit) watch.content[i] = *now;
        }
        if (hit) hits |= uint64_t{1} << i;
    }
    if (tracing.steps()) watch.status |= kStatusStep;
    watch.status |= hits;
    if (hits == 0) return tracing.steps();  // goes on with the trap flag as it is
    siginfo_t info{};
    info.si_signo = SIGTRAP;
    info.si_code = TRAP_HWBKPT;
    info.si_addr = reinterpret_cast<void*>(registers.ip);
    force_signal(task, info);
    return false;
}

}  // namespace casemate::sentry
