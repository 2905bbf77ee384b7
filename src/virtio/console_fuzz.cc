// A hostile guest at virtio-console; the host writes into the pipe and reads from it now and then.
#include <fcntl.h>

#include "linux/event_fds.h"
#include "virtio/console.h"
#include "virtio/fuzz_device.h"

using namespace casemate;
using namespace casemate::virtio;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FakeMachine machine;
    static linux::Pipe in = MUST(linux::create_pipe(O_NONBLOCK)), out = MUST(linux::create_pipe(O_NONBLOCK));
    static ConsoleDevice device(machine.loop(), in.read_end.get(), out.write_end.get());
    fuzz_device(machine, device, data, size, [](FuzzInput& input) {
        std::string_view bytes = input.bytes(input.take<uint8_t>());
        (void)!::write(in.write_end.get(), bytes.data(), bytes.size());
        char drained[8192];
        (void)!::read(out.read_end.get(), drained, sizeof(drained));
        device.resize(input.take<uint16_t>(), 24);
    });
    return 0;
}
