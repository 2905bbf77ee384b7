// Any accesses in any order, with input between them: what waits stays bounded.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "vmm/serial.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using casemate::vmm::Serial;
    Serial serial({[] {}, [] {}, [] {}});
    size_t output = 0;
    for (size_t i = 0; i + 1 < size; i += 2) {
        unsigned offset = data[i] & 7;
        if ((data[i] & 0x80) != 0) {
            serial.write(offset, data[i + 1]);
        } else if ((data[i] & 0x40) != 0) {
            std::string text(data[i + 1], 'i');
            if (serial.give_input(text) > Serial::kInputLimit) std::abort();
        } else if ((data[i] & 0x20) != 0) {
            std::string taken = serial.take_output();
            output += taken.size();
            if (taken.size() > Serial::kOutputLimit) std::abort();
        } else if ((data[i] & 0x10) != 0) {
            serial.restore(serial.state());
        } else {
            serial.read(offset);
        }
    }
    if (output > size) std::abort();
    return 0;
}
