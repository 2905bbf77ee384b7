// What went wrong with packets of a socket, and what the system tells about them (MSG_ERRQUEUE): ICMP errors for
// IP_RECVERR, completions of MSG_ZEROCOPY. Bounded: what does not fit is not told.
#pragma once

#include <time.h>  // before what needs timespec

#include <linux/errqueue.h>

#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "sentry/net/inet/endpoint.h"

namespace casemate::sentry {

struct QueuedError {
    sock_extended_err what{};
    InetEndpoint to;       // where the packet was sent
    InetAddress offender;  // who complained; any: nobody
    bool has_offender = false;
    std::vector<std::byte> data;  // of the packet
    int link = 1;

    bool icmp() const { return what.ee_origin == SO_EE_ORIGIN_ICMP || what.ee_origin == SO_EE_ORIGIN_ICMP6; }
};

class ErrorQueue {
  public:
    void put(QueuedError error) {
        std::lock_guard lock(mutex_);
        if (queue_.size() < kMost) queue_.push_back(std::move(error));
    }
    // A completion of send number `id`: joined to those before it that nobody has read.
    void complete(uint32_t id) {
        std::lock_guard lock(mutex_);
        if (!queue_.empty() && queue_.back().what.ee_origin == SO_EE_ORIGIN_ZEROCOPY &&
            queue_.back().what.ee_data + 1 == id) {
            queue_.back().what.ee_data = id;
            return;
        }
        if (queue_.size() >= kMost) return;
        QueuedError done;
        done.what.ee_origin = SO_EE_ORIGIN_ZEROCOPY;
        done.what.ee_code = SO_EE_CODE_ZEROCOPY_COPIED;
        done.what.ee_info = done.what.ee_data = id;
        queue_.push_back(std::move(done));
    }
    // `next_error`: the errno of an ICMP error that is still there, else 0.
    std::optional<QueuedError> take(int& next_error) {
        std::lock_guard lock(mutex_);
        next_error = 0;
        if (queue_.empty()) return std::nullopt;
        std::optional<QueuedError> first(std::move(queue_.front()));
        queue_.pop_front();
        if (!queue_.empty() && queue_.front().icmp()) next_error = static_cast<int>(queue_.front().what.ee_errno);
        return first;
    }
    bool empty() {
        std::lock_guard lock(mutex_);
        return queue_.empty();
    }
    void clear() {
        std::lock_guard lock(mutex_);
        queue_.clear();
    }

  private:
    static constexpr size_t kMost = 128;
    std::mutex mutex_;
    std::deque<QueuedError> queue_;  // guarded by mutex_
};

}  // namespace casemate::sentry
