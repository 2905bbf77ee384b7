#include "sentry/kernel/standing_answers.h"

#include <sys/epoll.h>

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

StandingAnswers::Entry::Entry(Ref<SocketWaiters> keep, uint64_t number, int fd, StandingPlace place)
    : Waiter(kIncoming | kDescriptorChanged), keep_(std::move(keep)), number_(number), fd_(fd), place_(place) {
    keep_->queue.add_first(*this);
}

StandingAnswers::Entry::~Entry() {
    keep_->queue.remove(*this);
    take_down();
}

bool StandingAnswers::Entry::notified(uint32_t) {
    take_down();
    return false;
}

void StandingAnswers::drop() {
    for (std::unique_ptr<Entry>& entry : entries_) entry.reset();
    known_ = false;
}

// Looked at when the answer is up: what changes from here on takes it down.
bool StandingAnswers::stands(Task& task, uint64_t number, int fd, File& file, Socket& socket) {
    if ((socket.poll_events() & ~kOutgoing) != 0 || !file.nonblocking()) return false;
    auto named = task.files().get(fd);
    return named.ok() && named->get() == &file && !task.kernel().watched() && !is_traced(task) &&
           always_allowed(task, number);
}

void StandingAnswers::put_up(Task& task, uint64_t number, int fd, File& file, Socket& socket, bool nothing) {
    std::unique_ptr<Entry>& entry = entries_[static_cast<uint32_t>(fd) % kEntries];
    if (!entry || !entry->is(*socket.waiters(), number, fd)) {
        if (!nothing || !file.nonblocking() || !socket.tells_at_once()) return;
        entry.reset();
        const StandingPlace place =
            task.app().place_for({static_cast<uint32_t>(number), static_cast<uint32_t>(fd), -EAGAIN});
        if (place.word == nullptr) return;
        entry = std::make_unique<Entry>(socket.waiters(), number, fd, place);
        known_ = true;
    }
    entry->put_up();
    if (!stands(task, number, fd, file, socket)) entry->take_down();
}

}  // namespace casemate::sentry
