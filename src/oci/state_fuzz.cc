// parse_state with any bytes; what it accepts survives being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "oci/state.h"

using namespace casemate::oci;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    auto state = parse_state(std::string_view(reinterpret_cast<const char*>(data), size));
    if (!state.ok()) return 0;
    auto again = parse_state(state_to_json(*state));
    if (!again.ok() || again->id != state->id || again->bundle != state->bundle ||
        again->annotations != state->annotations)
        std::abort();
    return 0;
}
