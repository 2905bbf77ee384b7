#include "sentry/kernel/task_look.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {
namespace {

// Whether the bytes before a return address are a call: e8 and 32 bits, or ff /2 in its lengths from two to seven
// bytes, with or without a prefix.
bool ends_with_call(const std::byte (&code)[8]) {
    auto at = [&](size_t back) { return static_cast<uint8_t>(code[sizeof(code) - back]); };
    if (at(5) == 0xe8) return true;
    for (size_t length = 2; length <= 7; ++length)
        if (at(length) == 0xff && (at(length - 1) >> 3 & 7) == 2) return true;
    return false;
}

}  // namespace

bool TaskPicture::wait_until(Nanoseconds deadline) {
    std::unique_lock lock(mutex_);
    auto rest = std::chrono::nanoseconds(std::max<Nanoseconds>(0, deadline - monotonic_now()));
    return taken_.wait_for(lock, rest, [&] { return done_; });
}

void TaskPicture::take(Task& task) {
    std::lock_guard lock(mutex_);
    registers = task.registers();
    stack.resize(kStackBytes);
    stack.resize(task.memory().copy_in_partial(registers.sp, stack.data(), stack.size()));
    done_ = true;
    taken_.notify_all();
}

Ref<TaskPicture> ask_for_picture(Task& task) {
    auto picture = make_ref<TaskPicture>();
    WantedPicture& wanted = task.parts().wanted_picture;
    {
        std::lock_guard lock(wanted.mutex);
        wanted.picture = picture;
    }
    wanted.wanted.store(true, std::memory_order_seq_cst);
    // A call that is parked is taken from its queue for a moment; one that runs is stopped; one that sleeps in its own
    // thread sleeps on.
    ParkedCall& parked = task.parts().parked_call;
    if (parked.claim())
        parked.kick();
    else
        TaskRunner::stop_application(task);
    return picture;
}

void take_wanted_picture(Task& task) {
    WantedPicture& wanted = task.parts().wanted_picture;
    if (!wanted.wanted.exchange(false, std::memory_order_seq_cst)) return;
    Ref<TaskPicture> picture;
    {
        std::lock_guard lock(wanted.mutex);
        picture = std::move(wanted.picture);
    }
    if (picture) picture->take(task);
}

std::vector<GuestAddr> backtrace_of(const TaskPicture& picture, const ReadCode& reads, size_t most) {
    std::vector<GuestAddr> found{picture.registers.ip};
    auto returns_to = [&](GuestAddr address) {
        std::byte code[8];
        return reads(address, code, sizeof(code)) && ends_with_call(code);
    };
    GuestAddr bottom = picture.registers.sp, top = bottom + picture.stack.size();
    auto word_at = [&](GuestAddr address) {
        uint64_t word;
        std::memcpy(&word, picture.stack.data() + (address - bottom), sizeof(word));
        return word;
    };
    // A chain of frame pointers that begins right here is believed; one register that points anywhere is not.
    std::vector<GuestAddr> chain;
    GuestAddr frame = picture.registers.bp, at = bottom & ~GuestAddr{7};
    while (chain.size() < most && frame % 8 == 0 && frame >= bottom && top - frame >= 16 && frame < top) {
        uint64_t back = word_at(frame + 8);
        if (!returns_to(back)) break;
        chain.push_back(back);
        at = frame + 16;
        if (word_at(frame) <= frame) break;
        frame = word_at(frame);
    }
    if (chain.size() >= 2)
        found.insert(found.end(), chain.begin(), chain.end());
    else
        at = (bottom + 7) & ~GuestAddr{7};
    for (; found.size() < most && at + 8 <= top; at += 8)
        if (uint64_t word = word_at(at); returns_to(word)) found.push_back(word);
    return found;
}

}  // namespace casemate::sentry
