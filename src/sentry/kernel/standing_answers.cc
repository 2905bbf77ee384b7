#include "sentry/kernel/standing_answers.h"

#include <sys/epoll.h>
#include <sys/syscall.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/net/socket.h"

namespace casemate::sentry {
namespace {
constexpr uint32_t kOutgoing = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
constexpr uint32_t kIncoming = EPOLLIN | EPOLLRDNORM | EPOLLRDBAND | EPOLLPRI | EPOLLERR | EPOLLHUP | EPOLLRDHUP;
}  // namespace

StandingAnswers::Entry::Entry(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events, uint64_t number, int fd,
                              StandingPlace place)
    : Waiter(events), keep_(std::move(keep)), queue_(queue), number_(number), fd_(fd), place_(place) {
    queue_.add_first(*this);
}

StandingAnswers::Entry::~Entry() {
    queue_.remove(*this);
    take_down();
}

void StandingAnswers::Entry::take_down() {
    place_.word->store(0, std::memory_order_seq_cst);
    std::lock_guard lock(mutex_);
    if (offered_) offered_->end();
}

void StandingAnswers::Entry::offer(Task& task) {
    constexpr uint32_t kPatience = 4, kPause = 64;
    // Who is told that there is something finds it, also before the event comes here.
    place_.word->store(0, std::memory_order_seq_cst);
    if (pause_ > 0) {
        --pause_;
        return;
    }
    auto file = task.files().get(fd_);
    Socket* socket = file.ok() ? (*file)->as_socket() : nullptr;
    if (socket == nullptr || socket->waiters().get() != keep_.get() || !(*file)->nonblocking()) return;
    // Under the stream's lock, which is not taken while this one is held.
    auto offer = socket->offer_read(kMostOffered, [&](size_t size) -> Ref<OfferedRead> {
        std::lock_guard lock(mutex_);
        if (offered_) {
            in_vain_ = offered_->end() > 0 ? 0 : in_vain_ + 1;
            offered_ = nullptr;
        }
        if (in_vain_ >= kPatience) {
            in_vain_ = 0;
            pause_ = kPause;
            return nullptr;
        }
        const OfferPlace place =
            task.app().offer_place({static_cast<uint32_t>(number_), static_cast<uint32_t>(fd_), size});
        if (place.word == nullptr || place.room < size) return nullptr;
        return offered_ = make_ref<OfferedRead>(place_, place, size);
    });
    if (offer && !((*file)->nonblocking() && may_stand(task, number_, fd_, **file))) take_down();
}

bool StandingAnswers::Entry::notified(uint32_t) {
    take_down();
    return false;
}

void StandingAnswers::drop() {
    for (std::unique_ptr<Entry>& entry : entries_) entry.reset();
    known_ = false;
}

bool StandingAnswers::may_stand(Task& task, uint64_t number, int fd, File& file) {
    auto named = task.files().get(fd);
    return named.ok() && named->get() == &file && !task.kernel().watched() && !is_traced(task) &&
           always_allowed(task, number);
}

// Looked at when the answer is up: what changes from here on takes it down.
bool StandingAnswers::stands(Task& task, uint64_t number, int fd, File& file, Socket& socket) {
    return (socket.poll_events() & ~kOutgoing) == 0 && file.nonblocking() && may_stand(task, number, fd, file);
}

void StandingAnswers::put_up(Task& task, uint64_t number, int fd, File& file, Socket& socket, bool nothing) {
    std::unique_ptr<Entry>& entry = entries_[static_cast<uint32_t>(fd) % kEntries];
    if (!entry || !entry->is(socket.waiters().get(), number, fd)) {
        if (!file.nonblocking() || !socket.tells_at_once()) return;
        SeenRead& seen = seen_reads_[static_cast<uint32_t>(fd) % kEntries];
        const SeenRead now{socket.waiters().get(), number, fd};
        if (!nothing && seen != now) {
            seen = now;
            return;
        }
        entry.reset();
        const StandingPlace place =
            task.app().place_for({static_cast<uint32_t>(number), static_cast<uint32_t>(fd), -EAGAIN});
        if (place.word == nullptr) return;
        entry = std::make_unique<Entry>(socket.waiters(), socket.waiters()->queue, kIncoming | kDescriptorChanged,
                                        number, fd, place);
        known_ = true;
    }
    entry->put_up();
    if (!stands(task, number, fd, file, socket)) entry->take_down();
}

void StandingAnswers::offer_known(Task& task) {
    for (std::unique_ptr<Entry>& entry : entries_)
        if (entry && entry->reads()) entry->offer(task);
}

void StandingAnswers::put_up_end(Task& task, int fd, File& file, int64_t end) {
    const Seek seek = std::exchange(seek_, {});
    Seen& seen = seen_[static_cast<uint32_t>(fd) % kEntries];
    const bool again = seen.end == seek.end.get() && seen.version == seek.version && seen.fd == fd;
    seen = {seek.end.get(), seek.version, fd};
    if (!again) return;
    const StandingPlace place = task.app().place_for({SYS_lseek, static_cast<uint32_t>(fd), end});
    if (place.word == nullptr) return;
    std::unique_ptr<Entry>& entry = entries_[static_cast<uint32_t>(fd) % kEntries];
    if (!entry || !entry->is(seek.end.get(), SYS_lseek, fd) || !entry->says(place.value)) {
        entry.reset();
        entry = std::make_unique<Entry>(seek.end, seek.end->queue, ~0u, SYS_lseek, fd, place);
        known_ = true;
    }
    entry->put_up();
    if (seek.end->version() != seek.version || !may_stand(task, SYS_lseek, fd, file)) entry->take_down();
}

}  // namespace casemate::sentry
