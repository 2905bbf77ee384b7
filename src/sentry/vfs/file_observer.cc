#include "sentry/vfs/file_observer.h"

#include "sentry/vfs/file.h"

namespace casemate::sentry {

std::mutex& file_observers_mutex() {
    static std::mutex mutex;
    return mutex;
}

void File::add_observer(FileObserver& observer) {
    observer.next_observer_ = observers_.load(std::memory_order_relaxed);
    observers_.store(&observer, std::memory_order_release);
}

void File::remove_observer(FileObserver& observer) {
    FileObserver* before = nullptr;
    for (FileObserver* one = observers_.load(std::memory_order_relaxed); one != nullptr; one = one->next_observer_) {
        if (one != &observer) {
            before = one;
            continue;
        }
        if (before != nullptr)
            before->next_observer_ = one->next_observer_;
        else
            observers_.store(one->next_observer_, std::memory_order_release);
        return;
    }
}

void File::last_ref_dropped() {
    if (observers_.load(std::memory_order_acquire) != nullptr) {
        std::lock_guard lock(file_observers_mutex());
        while (FileObserver* one = observers_.load(std::memory_order_relaxed)) {
            observers_.store(one->next_observer_, std::memory_order_relaxed);
            one->file_gone();
        }
    }
    delete this;
}

}  // namespace casemate::sentry
