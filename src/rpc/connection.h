// One ttrpc connection's socket: frames in by the one thread that reads, frames out by any thread.
//
// Sending never blocks: what the socket does not take is queued up to a limit and leaves when the reading thread sees
// POLLOUT. So a peer that does not read stalls nobody; it fills its own queue and is then cut off. Syscalls: recvmsg,
// sendmsg, shutdown, close (and futex), which fits the sentry's jail.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "rpc/frame.h"

namespace casemate::rpc {

class Connection {
  public:
    enum class Sent { kDone, kQueued, kFull, kClosed };

    // `fd`: a connected stream socket; its O_NONBLOCK is neither needed nor changed.
    Connection(UniqueFd fd, size_t max_payload, size_t max_queued)
        : fd_(std::move(fd)), parser_(max_payload), max_queued_(max_queued) {}

    // Any thread. kQueued: the reading thread has to be woken, to poll for POLLOUT. The payload fits a u32.
    Sent send(uint32_t stream, FrameType type, std::string_view payload);
    bool output_pending() const;
    // Any thread: nothing is sent any more, and the reading thread sees an end of file.
    void abort();

    // The rest is for the reading thread only.
    int fd() const { return fd_.get(); }
    bool open() const { return static_cast<bool>(fd_); }
    // Sends what is queued, as far as the socket takes it. False: the connection is broken.
    bool flush();
    // Reads once (at most 64 KiB) and hands over each complete frame. False: end of file or error. The callback may
    // close the connection.
    bool receive(const std::function<void(Frame&&)>& on_frame);
    void close();

  private:
    bool write_locked(std::string_view first, std::string_view second);

    UniqueFd fd_;  // written by the reading thread under mutex_, so senders see it open or closed
    FrameParser parser_;
    const size_t max_queued_;
    mutable std::mutex mutex_;
    std::string queue_;      // guarded by mutex_
    size_t queue_done_ = 0;  // guarded by mutex_; bytes of queue_ already sent
    bool broken_ = false;    // guarded by mutex_; a send failed
};

}  // namespace casemate::rpc
