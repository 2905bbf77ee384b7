// The virtio devices of a monitor's options.
#pragma once

#include "base/result.h"
#include "vmm/machine.h"
#include "vmm/monitor.h"

namespace casemate::vmm {

// Adds them to the machine in an order that depends on the options alone, so that a restored machine finds its own.
Result<void> add_devices(const MonitorOptions& options, Machine& machine);

// The vsock device of a jailed monitor may not open Unix sockets itself: it asks over a socket (SOCK_SEQPACKET), one
// number at a time, and its parent answers with a connected socket or an errno. The parent's side:
void answer_vsock_broker(int broker, const std::string& path);

}  // namespace casemate::vmm
