// A packet on its way up through the stack: what the IP layer found out about it.
#pragma once

#include <vector>

#include "sentry/net/stack/stack.h"

namespace casemate::sentry::stack {

struct Stack::Delivery {
    Link& link;
    InFrame& frame;  // whose buffer the bytes below lie in
    InetAddress from, to;
    uint8_t protocol = 0, hop_limit = 0, traffic_class = 0;
    bool checked = false;    // its transport checksum needs no look
    bool for_group = false;  // broadcast or multicast, also of the link
    Bytes header;            // IP, with options or extensions
    Bytes payload;
};

// What one batch of frames has touched: answered and woken once, at its end.
struct Stack::Batch {
    std::vector<Ref<Connection>> touched;
    bool group_frame = false;  // the present frame came to a group address of the link
};

}  // namespace casemate::sentry::stack
