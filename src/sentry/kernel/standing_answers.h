// Calls that an application makes again and again with the same result: a non-blocking read from a stream that it has
// emptied, and going to the end of a file where it is already. Where it does that from a place that calls often, it
// reads the result in its stub, in a page that it cannot write (AppThread::place_for), without a stop, until something
// changes it.
//
// That a stream is empty stands from the end of a read that left nothing until the first event of the socket that could
// change it, or that a descriptor of the file was closed or its flags changed (kDescriptorChanged). It is put up only
// where a read failed with EAGAIN before. The end of a file stands from the second time that a descriptor went there
// until the file is written to or cut, an open file of it goes somewhere else, or a descriptor is closed (FileEnd). An
// answer is put up by whoever has the task's application in hand, and withdrawn before whoever caused that goes on:
// this waiter is told first of all in the queue.
//
// What a stream has for a thread that read from it before and has now been told of it by poll or epoll_wait is offered
// in the same way (OfferedRead): the read that follows needs no stop, either.
#pragma once

#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/file_end.h"
#include "sentry/kernel/offered_read.h"
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
        const bool some = result.ok() && *result > 0;
        if (nothing || (some && (known_ || *result <= kMostOffered))) put_up(task, number, fd, file, socket, nothing);
    }
    // The same, when it is told that descriptors are ready.
    void offer_reads(Task& task) {
        if (known_) offer_known(task);
    }
    // The same, around SYS_lseek to the end of a file, `end` being the result. In between the file may say that it
    // stands there as long as `version` is the same.
    void begin_seek() { seek_ = {}; }
    void stands_at(Ref<FileEnd> end, uint64_t version) { seek_ = {std::move(end), version}; }
    void after_seek(Task& task, int fd, File& file, int64_t end) {
        if (seek_.end) put_up_end(task, fd, file, end);
    }
    // The same, before the application's thread is another one.
    void drop();

  private:
    class Entry final : public Waiter {
      public:
        Entry(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events, uint64_t number, int fd, StandingPlace place);
        ~Entry() override;
        bool is(const RefCounted* kept, uint64_t number, int fd) const {
            return keep_.get() == kept && number_ == number && fd_ == fd;
        }
        bool says(uint64_t value) const { return place_.value == value; }
        bool reads() const { return number_ != SYS_lseek; }
        void put_up() { place_.word->store(place_.value, std::memory_order_seq_cst); }
        // From any thread.
        void take_down();
        // Owner.
        void offer(Task& task);
        // Under the queue's lock.
        bool notified(uint32_t) override;

      private:
        const Ref<RefCounted> keep_;
        WaitQueue& queue_;
        const uint64_t number_;
        const int fd_;
        const StandingPlace place_;
        SmallMutex mutex_;
        Ref<OfferedRead> offered_;  // guarded by mutex_: the last one
        // Owner's: offers that nobody took, in a row, and how often none is made because of that.
        uint32_t in_vain_ = 0, pause_ = 0;
    };
    void put_up(Task& task, uint64_t number, int fd, File& file, Socket& socket, bool nothing);
    void put_up_end(Task& task, int fd, File& file, int64_t end);
    void offer_known(Task& task);
    // Nobody wants to see the call, and the descriptor still means the file.
    static bool may_stand(Task& task, uint64_t number, int fd, File& file);
    static bool stands(Task& task, uint64_t number, int fd, File& file, Socket& socket);

    static constexpr size_t kMostOffered = 240;
    static constexpr size_t kEntries = 8;  // by the descriptor's last bits, as the stub looks for them
    bool known_ = false;
    struct Seek {
        Ref<FileEnd> end;
        uint64_t version = 0;
    } seek_;
    // The last one of each place: only what comes again is worth an entry.
    struct Seen {
        const FileEnd* end = nullptr;  // never followed: it may be gone
        uint64_t version = 0;
        int fd = -1;
    };
    std::array<Seen, kEntries> seen_;
    struct SeenRead {
        const SocketWaiters* waiters = nullptr;  // the same
        uint64_t number = 0;
        int fd = -1;
        bool operator==(const SeenRead&) const = default;
    };
    std::array<SeenRead, kEntries> seen_reads_;
    std::array<std::unique_ptr<Entry>, kEntries> entries_;
};

}  // namespace casemate::sentry
