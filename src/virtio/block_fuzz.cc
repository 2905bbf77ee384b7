// A hostile guest at virtio-blk over a file in memory, by plain calls and by io_uring in turns.
#include "linux/event_fds.h"
#include "virtio/block.h"
#include "virtio/fuzz_device.h"

using namespace casemate;
using namespace casemate::virtio;

namespace {
std::unique_ptr<BlockDevice> make(FakeMachine& machine, bool uring) {
    UniqueFd file = MUST(linux::create_memfd("disk"));
    CHECK(::ftruncate(file.get(), 1 << 16) == 0);
    BlockDevice::Options options;
    options.use_uring = uring;
    options.serial = "fuzz";
    return MUST(BlockDevice::create(machine.loop(), std::move(file), "disk", options));
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FakeMachine machine;
    static std::unique_ptr<BlockDevice> devices[2] = {make(machine, false), make(machine, true)};
    if (size == 0) return 0;
    fuzz_device(machine, *devices[data[0] % 8 == 0], data + 1, size - 1);
    return 0;
}
