// One stream between a port of the guest's and a Unix socket of the host's: buffers, credit, and what is still to be
// said to the guest. It knows nothing of queues.
//
// Both sides may lie, flood or hang. What the guest sends beyond the credit it was given ends the stream; what the host
// does not read is buffered up to kBufferBytes; what the guest does not read stays in the host's socket. Counters are
// modulo 2^32, and a counter that cannot be is no credit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/fd_watch.h"
#include "virtio/queue.h"
#include "virtio/vsock_packet.h"

namespace casemate::virtio {

class VsockStream {
  public:
    static constexpr uint32_t kBufferBytes = 256 << 10;

    struct Ports {
        uint32_t guest = 0;
        uint32_t host = 0;
        uint64_t key() const { return uint64_t{guest} << 32 | host; }
    };

    VsockStream(Ports ports, UniqueFd socket, DeviceLoop& loop, std::mutex& owner, std::function<void(uint32_t)> ready);
    ~VsockStream();

    const Ports& ports() const { return ports_; }
    int socket() const { return socket_.get(); }

    // From a header of the guest's: what it has room for.
    void take_credit(const VsockHeader& header);
    // Bytes that the guest has room for.
    uint32_t credit() const;

    // The guest's data: to the host, or into the buffer. EPROTO beyond the credit, or the socket's error.
    SysResult<void> receive(ChainBuffer& data);
    // The host's socket takes more: what is buffered goes out.
    SysResult<void> flush();
    bool flushed() const { return to_host_.size() == sent_of_buffer_; }
    // The guest will not send, or not receive, any more.
    void guest_shutdown(uint32_t flags);
    uint32_t guest_closed() const { return guest_closed_; }
    // The host closed: its sending side, or altogether.
    void host_shutdown(uint32_t flags) { host_closed_ |= flags; }
    uint32_t host_closed() const { return host_closed_; }

    // `bytes` were sent to the guest.
    void count_sent(uint32_t bytes) { sent_ += bytes; }
    // Fills the sender's part of a header, which tells the guest our credit.
    void fill(VsockHeader& header);
    // The guest knows of so little room that it should be told, and there is a good deal more. As Linux' own host side
    // has it: a guest that wants to wait for more room than a quarter of the buffer has to ask.
    bool credit_is_news() const {
        return kBufferBytes - (received_ - told_) <= kBufferBytes / 4 && forwarded_ - told_ >= kBufferBytes / 4;
    }

    // What the socket is watched for: room, and bytes if there is somewhere to put them.
    void watch(bool for_input);

    bool established = false;
    bool requested = false;    // by the host; the guest has not answered yet
    uint32_t to_say = 0;       // bits 1 << VsockOp
    bool listed = false;       // in the device's list of streams with something to say
    bool input_ready = false;  // the socket may have bytes, and we are in the device's list for that
    DeviceLoop::Id timer = 0;  // ends the stream if the guest does not answer

  private:
    void shut_socket();

    const Ports ports_;
    UniqueFd socket_;
    FdWatch watch_;
    std::string to_host_;        // guest's bytes that the socket did not take yet
    size_t sent_of_buffer_ = 0;  // of to_host_
    std::vector<iovec> parts_;
    uint32_t guest_closed_ = 0, host_closed_ = 0;  // kVsockNo*
    // Guest to host.
    uint32_t received_ = 0, forwarded_ = 0, told_ = 0;
    // Host to guest; the first two are the guest's word.
    uint32_t peer_buffer_ = 0, peer_forwarded_ = 0, sent_ = 0;
};

}  // namespace casemate::virtio
