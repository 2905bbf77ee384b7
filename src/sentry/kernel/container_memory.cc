#include "sentry/kernel/container_memory.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "sentry/kernel/container.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/oom_killer.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kBytesPerMillisecond = uint64_t{4} << 20;  // about as fast as a host gives pages
constexpr Nanoseconds kMillisecond = kSecond / 1000;
constexpr Nanoseconds kShortest = 20 * kMillisecond, kWhenQuiet = 100 * kMillisecond, kLongest = kSecond;
constexpr Nanoseconds kPatience = 5 * kSecond;  // for a victim that does not go
// Of the time that goes by, counting may take this part.
constexpr Nanoseconds kShare = 50;

}  // namespace

uint64_t memory_held(Kernel& kernel, Container& container) {
    uint64_t sum = 0;
    std::set<const AddressSpace*> spaces;
    std::set<const Mappable*> objects;
    for (const Ref<Process>& process : kernel.tasks().processes_of(container)) {
        Ref<AddressSpace> memory = memory_of(kernel, *process);
        if (!memory || !spaces.insert(memory.get()).second) continue;
        for (const AddressSpace::VmaInfo& vma : memory->snapshot()) {
            if (vma.file || (vma.object != nullptr && !vma.shared)) continue;
            // The first mapping of an object stands for all: they mostly show the same of it.
            if (vma.object != nullptr && !objects.insert(vma.object).second) continue;
            sum += vma.resident;
        }
    }
    return sum;
}

ContainerMemory::~ContainerMemory() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void ContainerMemory::set_limit(Container& container, uint64_t bytes) {
    container.memory_limit.store(bytes);
    std::lock_guard lock(mutex_);
    auto same = [&](const Watched& one) { return one.container.get() == &container; };
    if (bytes == 0) {
        std::erase_if(limited_, same);
        return;
    }
    if (std::ranges::none_of(limited_, same)) limited_.push_back({.container = Ref<Container>(&container)});
    if (is_watched(container) && !thread_.joinable()) thread_ = std::thread([this] { run(); });
    changed_.notify_all();
}

void ContainerMemory::pod_limit_changed() {
    std::lock_guard lock(mutex_);
    bool any = std::ranges::any_of(limited_, [&](const Watched& one) { return is_watched(*one.container); });
    if (any && !thread_.joinable()) thread_ = std::thread([this] { run(); });
    changed_.notify_all();
}

// A limit that is not below the pod's is held by the memory file.
bool ContainerMemory::is_watched(const Container& container) const {
    uint64_t of_pod = kernel_.memory().limit();
    return of_pod == 0 || container.memory_limit.load() < of_pod;
}

void ContainerMemory::run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
        std::vector<Watched> all;
        for (const Watched& one : limited_)
            if (is_watched(*one.container)) all.push_back(one);
        if (all.empty()) {
            changed_.wait(lock);
            continue;
        }
        lock.unlock();
        Nanoseconds pause = look(all);
        lock.lock();
        for (Watched& one : all)
            for (Watched& kept : limited_)
                if (kept.container.get() == one.container.get()) kept = one;
        all.clear();
        if (!stop_) changed_.wait_for(lock, std::chrono::nanoseconds(pause));
    }
}

Nanoseconds ContainerMemory::look(std::vector<Watched>& all) {
    Nanoseconds began = monotonic_now();
    // What all containers hold together no single one holds more than.
    uint64_t used = kernel_.memory().bytes_used(), least_room = UINT64_MAX;
    for (Watched& one : all) {
        uint64_t limit = one.container->memory_limit.load();
        if (limit == 0) continue;
        least_room = std::min(least_room, used < limit ? limit - used : room_left(one));
    }
    auto pause = static_cast<Nanoseconds>(std::min<uint64_t>(least_room / kBytesPerMillisecond, 1000)) * kMillisecond;
    pause = std::max({pause, kShortest, (monotonic_now() - began) * kShare});
    // Where nothing was touched lately, nobody is likely to start right now.
    if (used == last_used_) pause = std::max(pause, std::min(2 * last_pause_, kWhenQuiet));
    last_used_ = used;
    return last_pause_ = std::min(pause, kLongest);
}

uint64_t ContainerMemory::room_left(Watched& one) {
    uint64_t limit = one.container->memory_limit.load(), held = memory_held(kernel_, *one.container);
    if (limit == 0) return UINT64_MAX;
    if (held <= limit) return limit - held;
    bool going =
        one.victim && monotonic_now() - one.killed_at < kPatience && !kernel_.oom_killer().is_gone(*one.victim);
    if (going) return 0;
    one.victim = kernel_.oom_killer().kill_in(*one.container, held, limit);
    one.killed_at = monotonic_now();
    return 0;
}

}  // namespace casemate::sentry
