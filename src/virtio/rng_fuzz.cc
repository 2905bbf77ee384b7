// A hostile guest at virtio-rng, and with it at the queue and the registers.
#include "virtio/fuzz_device.h"
#include "virtio/rng.h"

using namespace casemate::virtio;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FakeMachine machine;
    static RngDevice device(machine.loop());
    fuzz_device(machine, device, data, size);
    return 0;
}
