// Between the virtio-fs device and who serves the requests: FUSE messages with a slot number, answered in any order.
//
// A request's header was copied and checked to agree with the buffer: `in` holds what follows it, `out` the room behind
// the reply's header. All of it is the guest's: names, lengths inside, node and handle numbers.
#pragma once

#include <linux/fuse.h>

#include <cstdint>
#include <functional>
#include <mutex>

#include "base/result.h"
#include "virtio/device_loop.h"
#include "virtio/queue.h"
#include "virtio/state.h"

namespace casemate::virtio {

// Opcodes from here on are our own, between device and server; a guest's are refused.
constexpr uint32_t kOwnFuseOpcodes = 0xc000'0000;

class FuseHandler {
  public:
    // The reply's body has `bytes`, already in `out`; or `error` is an errno and there is none.
    using Done = std::function<void(uint16_t slot, int error, uint32_t bytes)>;

    virtual ~FuseHandler() = default;
    // Before anything else. `owner` is the device's lock, held around every call here and wanted around every callback.
    // `room` is called when full() was true and is so no more.
    virtual void attach(DeviceLoop& loop, std::mutex& owner, Done done, std::function<void()> room) = 0;
    // The buffers stay valid until `done` was called for the slot, perhaps from within, or forget_all().
    virtual void start(uint16_t slot, const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) = 0;
    // FORGET and INTERRUPT: no reply.
    virtual void tell(const fuse_in_header& header, ChainBuffer& in) = 0;
    // Takes no request at the moment.
    virtual bool full() const { return false; }
    // Waits until nothing is in flight; what takes too long is answered with EIO.
    virtual void drain() {}
    // A new guest: no node and no handle is known any more, no slot is answered.
    virtual void forget_all() = 0;

    virtual void save(StateWriter& writer) = 0;
    virtual SysResult<void> restore(StateReader& reader) = 0;
};

// Who answers at once.
class FuseServer {
  public:
    virtual ~FuseServer() = default;
    // Bytes of the body, written into `out`.
    virtual SysResult<uint32_t> serve(const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) = 0;
    virtual void forget_all() = 0;
    virtual void save(StateWriter& writer) = 0;
    virtual SysResult<void> restore(StateReader& reader) = 0;
};

// A server in this process, on the thread of the devices.
class LocalFuseHandler final : public FuseHandler {
  public:
    explicit LocalFuseHandler(FuseServer& server) : server_(server) {}
    void attach(DeviceLoop&, std::mutex&, Done done, std::function<void()>) override { done_ = std::move(done); }
    void start(uint16_t slot, const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) override {
        auto served = server_.serve(header, in, out);
        done_(slot, served.ok() ? 0 : served.error().value, served.ok() ? *served : 0);
    }
    void tell(const fuse_in_header& header, ChainBuffer& in) override {
        ChainBuffer none;
        (void)server_.serve(header, in, none).ok();
    }
    void forget_all() override { server_.forget_all(); }
    void save(StateWriter& writer) override { server_.save(writer); }
    SysResult<void> restore(StateReader& reader) override { return server_.restore(reader); }

  private:
    FuseServer& server_;
    Done done_;
};

}  // namespace casemate::virtio
