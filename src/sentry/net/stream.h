// Byte streams between two sockets of the pod: Unix streams and loopback TCP. A ring per direction: the writer's bytes
// are copied once from its memory into the ring, and once out of it.
//
// The ring grows on demand up to the writer's buffer limit, and goes back to a small store of rings when it is empty,
// so that an idle connection costs little and a busy one has its memory mapped already. One reader and one writer copy
// at the same time: mutex_ is held for the counters only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "sentry/kernel/offered_read.h"
#include "sentry/mm/io_buffer.h"
#include "sentry/net/passenger.h"
#include "sentry/net/waiters.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

using OfferMaker = std::function<Ref<OfferedRead>(size_t size)>;

class StreamDirection {
  public:
    StreamDirection(Ref<SocketWaiters> writer, Ref<SocketWaiters> reader)
        : writer_(std::move(writer)), reader_(std::move(reader)) {}

    struct Progress {
        size_t bytes = 0;
        bool would_block = false;
        bool ended = false;  // reading: empty, and nothing more will come; writing: nobody reads any more
        int error = 0;
    };
    // Takes what fits below `limit` bytes. `passenger` (may be null) rides on the bytes written.
    Progress write(IoBuffer& from, size_t limit, const Ref<Passenger>& passenger);
    // The same; when the last of `rest` bytes is in, tells where the stream ends and what that byte is, before the
    // reader can see it.
    Progress write_marked(IoBuffer& from, size_t limit, size_t rest,
                          const std::function<void(uint64_t, std::byte)>& mark);

    // What a read has come across so far, kept over the several steps of one recvmsg.
    struct Reading {
        bool peek = false;
        bool by_sender = false;  // bytes of different senders are not mixed (SO_PASSCRED)
        bool started = false;
        bool stop = false;       // at a border that this call must not cross
        Ref<Passenger> sender;   // of the first bytes; null: nobody in particular
        Ref<PassedFiles> files;  // that rode on the bytes read
        size_t peeked = 0;       // bytes that the steps before have seen
    };
    Progress read(IoBuffer& into, Reading& reading, size_t most = SIZE_MAX);
    // As a read that throws away what it reads (MSG_TRUNC of TCP).
    Progress skip(size_t size, Reading& reading);

    // Socket::offer_read. While it is up no writer waits for room, and nobody else reads: whoever looks at the stream
    // ends it first.
    Ref<OfferedRead> offer(size_t most, const OfferMaker& place);

    // No more bytes will be written; what is there can still be read.
    void end();
    // The reader is gone for good: what is there is dropped. True if that was something.
    bool close_reader();
    // True: bytes or the end can be read.
    bool readable();
    bool ended();
    bool reader_gone();
    size_t bytes();
    // In the stream, of the next byte to be read.
    uint64_t position();
    // Of its life so far.
    struct Total {
        uint64_t bytes, writes;
    };
    Total total();
    // Whether a poller may write. If not, it is told when it may.
    bool writable(size_t limit);
    // The passed files in it, for the search for cycles; and taken out when their sockets are garbage.
    void for_each_passed(const std::function<void(PassedFiles&)>& visit);
    void take_passed(std::vector<Ref<PassedFiles>>& into);

  private:
    struct Mark {
        uint64_t begin, end;  // positions in the stream
        Ref<Passenger> passenger;
        bool files_taken = false;
    };
    template <typename Move>
    Progress read_by(size_t want, Reading& reading, Move move);
    // `done` runs with the bytes in, before a reader sees them.
    template <typename Done>
    Progress write_then(IoBuffer& from, size_t limit, Done done);
    void reserve_locked(size_t size);
    void drop_locked(size_t size);
    bool wakes_writer_locked();
    void end_offer_locked();

    // The one who copies in, and the one who copies out; then mutex_.
    SmallMutex write_mutex_, read_mutex_;
    std::mutex mutex_;
    std::shared_ptr<std::byte[]> ring_;  // guarded by mutex_, as is all below; who copies holds on to it
    bool writing_ = false;               // behind what is there
    size_t allocated_ = 0, head_ = 0, size_ = 0;
    size_t once_allocated_ = 0;  // the most so far
    uint64_t position_ = 0;      // in the stream, of the next byte to be read
    uint64_t writes_ = 0;
    std::deque<Mark> marks_;
    Ref<OfferedRead> offer_;
    size_t wake_below_ = 0;  // a writer waits until so many bytes are left; 0: none waits
    bool wake_wanted_ = false;
    bool ended_ = false, reader_gone_ = false;
    const Ref<SocketWaiters> writer_, reader_;
};

// Both directions; side 0 writes to [0] and reads from [1].
class StreamConnection final : public RefCounted {
  public:
    StreamConnection(const Ref<SocketWaiters>& side0, const Ref<SocketWaiters>& side1)
        : directions_{{side0, side1}, {side1, side0}} {}
    StreamDirection& outgoing(int side) { return directions_[side]; }
    StreamDirection& incoming(int side) { return directions_[1 - side]; }

  private:
    StreamDirection directions_[2];
};

}  // namespace casemate::sentry
