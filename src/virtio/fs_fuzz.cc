// A hostile guest at virtio-fs, with a handler that answers now, later, or never.
#include <deque>

#include "virtio/fs.h"
#include "virtio/fuzz_device.h"

using namespace casemate;
using namespace casemate::virtio;

namespace {

class LateHandler final : public FuseHandler {
  public:
    void attach(DeviceLoop&, std::mutex&, Done done, std::function<void()> room) override {
        done_ = std::move(done);
        room_ = std::move(room);
    }
    void start(uint16_t slot, const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) override {
        char name[16];
        in.read(name, sizeof(name));
        if ((header.opcode & 1) != 0) return done_(slot, 0, static_cast<uint32_t>(out.write(name, sizeof(name))));
        late_.push_back(slot);
    }
    void tell(const fuse_in_header&, ChainBuffer& in) override { in.skip(100); }
    bool full() const override { return late_.size() >= 4; }
    void drain() override {
        while (!late_.empty()) answer(EIO);
    }
    void forget_all() override { late_.clear(); }
    void save(StateWriter&) override {}
    SysResult<void> restore(StateReader& reader) override {
        (void)TRY(reader.text());
        return {};
    }
    void answer(int error) {
        if (late_.empty()) return;
        uint16_t slot = late_.front();
        late_.pop_front();
        done_(slot, error, 0);
        room_();
    }

  private:
    Done done_;
    std::function<void()> room_;
    std::deque<uint16_t> late_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FakeMachine machine;
    static LateHandler handler;
    static std::unique_ptr<FsDevice> device = MUST(FsDevice::create(machine.loop(), "share", handler));
    fuzz_device(machine, *device, data, size, [](FuzzInput& input) {
        std::lock_guard lock(device->mutex());
        handler.answer(input.take<uint8_t>() & 63);
    });
    return 0;
}
