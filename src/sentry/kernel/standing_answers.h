// Calls that an application makes again and again with the same result: a non-blocking read from a stream that it has
// emptied. Where it does that from a place that calls often, it reads the result in its stub, in a page that it cannot
// write (AppThread::place_for), without a stop, until something happens to the stream.
//
// An answer stands from the end of a read that left nothing until the first event of the socket that could change it,
// or that a descriptor of the file was closed or its flags changed (kDescriptorChanged). It is withdrawn before whoever
// caused that goes on: this waiter is told first of all in the queue. It is put up only where a read failed with EAGAIN
// before, by whoever has the task's application in hand.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/platform/platform.h"

namespace casemate::sentry {

class File;
class Socket;
class SocketWaiters;
class Task;

class StandingAnswers {
  public:
    // Who has the application in hand, at the end of SYS_read, or of SYS_recvfrom without flags.
    void after_read(Task& task, uint64_t number, int fd, File& file, Socket& socket, const SysResult<size_t>& result) {
        const bool nothing = !result.ok() && errno_of(result.error()) == EAGAIN;
        if (nothing || (known_ && result.ok() && *result > 0)) put_up(task, number, fd, file, socket, nothing);
    }
    // The same, before the application's thread is another one.
    void drop();

  private:
    class Entry final : public Waiter {
      public:
        Entry(Ref<SocketWaiters> keep, uint64_t number, int fd, StandingPlace place);
        ~Entry() override;
        bool is(const SocketWaiters& waiters, uint64_t number, int fd) const {
            return keep_.get() == &waiters && number_ == number && fd_ == fd;
        }
        void put_up() { place_.word->store(place_.value, std::memory_order_seq_cst); }
        void take_down() { place_.word->store(0, std::memory_order_seq_cst); }
        // Under the queue's lock.
        bool notified(uint32_t) override;

      private:
        const Ref<SocketWaiters> keep_;
        const uint64_t number_;
        const int fd_;
        const StandingPlace place_;
    };
    void put_up(Task& task, uint64_t number, int fd, File& file, Socket& socket, bool nothing);
    static bool stands(Task& task, uint64_t number, int fd, File& file, Socket& socket);

    static constexpr size_t kEntries = 8;  // by the descriptor's last bits, as the stub looks for them
    bool known_ = false;
    std::array<std::unique_ptr<Entry>, kEntries> entries_;
};

}  // namespace casemate::sentry
