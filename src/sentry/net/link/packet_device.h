// PacketDevice: a link's end on the host: a packet socket that the sandbox host made in the pod's network namespace,
// with a virtio-net header before each frame. One thread receives in batches; any thread sends.
//
// The socket is the only thing of the network that the sentry owns on the host: it can send and receive frames on one
// link, and nothing else.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sentry/net/stack/frame.h"

namespace casemate::sentry {

class PacketDevice final : public stack::Device {
  public:
    using Receiver = std::function<void(std::span<stack::InFrame>)>;

    PacketDevice(UniqueFd socket, bool virtio_header);
    ~PacketDevice() override;

    SysResult<void> start(Receiver receiver);
    // No more frames come in when it returns.
    void stop();
    bool send(const stack::OutFrame& frame) override;
    bool can_segment() const override { return virtio_header_; }

  private:
    void run();
    bool receive_batch();

    static constexpr size_t kBatch = 16;

    const UniqueFd socket_;
    const bool virtio_header_;
    Receiver receiver_;
    std::atomic<bool> stop_{false}, ended_{false};
    std::thread thread_;
    stack::InFrame frames_[kBatch];  // of the receive thread
};

}  // namespace casemate::sentry
