// What a sandbox host and an anchor process (app/anchor_main.cc) say to each other: messages of fixed size on a
// SOCK_SEQPACKET pair.
#pragma once

#include <cstdint>

namespace casemate::sandbox {

struct AnchorMessage {
    enum Kind : uint32_t {
        kSignal = 1,  // anchor -> host: `first` is the signal somebody sent to the anchor
        kResize = 2,  // anchor -> host: the terminal has `first` rows and `second` columns
        kExit = 3,    // host -> anchor: end with exit code `first`
    };
    uint32_t kind = 0;
    uint32_t first = 0;
    uint32_t second = 0;
};

}  // namespace casemate::sandbox
