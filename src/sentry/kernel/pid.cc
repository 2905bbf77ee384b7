#include "sentry/kernel/pid.h"

#include <atomic>

#include "sentry/kernel/namespaces.h"

namespace casemate::sentry {

uint64_t next_namespace_inode() {
    static std::atomic<uint64_t> next{0xF0000000};
    return next.fetch_add(1);
}

PidNamespace::PidNamespace(Ref<PidNamespace> above)
    : parent(std::move(above)), level(parent ? parent->level + 1 : 0), inode(next_namespace_inode()) {}

namespace {

constexpr int kReserved = 300;  // after the first round, low numbers stay with early processes

SysResult<int> free_number(PidNamespace& space, int wanted) {
    if (wanted != 0) {
        if (wanted < 0 || wanted >= PidNamespace::kMaxPid) return Errno(EINVAL);
        if (space.pids.contains(wanted)) return Errno(EEXIST);
        return wanted;
    }
    int number = space.last + 1;
    for (int tried = 0; tried < PidNamespace::kMaxPid; ++tried, ++number) {
        if (number >= PidNamespace::kMaxPid) number = kReserved;
        if (!space.pids.contains(number)) {
            space.last = number;
            return number;
        }
    }
    return Errno(EAGAIN);
}

}  // namespace

SysResult<Ref<Pid>> Pid::create_locked(PidNamespace& space, const std::vector<int>& wanted) {
    std::vector<Number> numbers(space.level + 1);
    for (PidNamespace* at = &space; at != nullptr; at = at->parent.get())
        if (at->dead) return Errno(ENOMEM);
    if (wanted.size() > numbers.size()) return Errno(EINVAL);
    size_t depth = 0;
    for (PidNamespace* at = &space; at != nullptr; at = at->parent.get(), ++depth) {
        int number = TRY(free_number(*at, depth < wanted.size() ? wanted[depth] : 0));
        numbers[at->level].space = Ref<PidNamespace>(at);
        numbers[at->level].number = number;
    }
    auto pid = make_ref<Pid>();
    pid->numbers_ = std::move(numbers);
    for (Number& one : pid->numbers_) one.space->pids.emplace(one.number, pid.get());
    pid->listed_ = true;
    return pid;
}

void Pid::release_if_unused_locked() {
    if (!listed_ || task != nullptr || process != nullptr || !group_members.empty() || !session_members.empty()) return;
    listed_ = false;
    for (Number& one : numbers_) one.space->pids.erase(one.number);
}

}  // namespace casemate::sentry
