// The virtio devices of a monitor's options.
#pragma once

#include <chrono>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/machine.h"
#include "vmm/monitor.h"

namespace casemate::vmm {

// Adds them to the machine in an order that depends on the options alone, so that a restored machine finds its own.
Result<void> add_devices(const MonitorOptions& options, Machine& machine);

// The vsock device of a jailed monitor may not open Unix sockets itself: it asks over a socket (SOCK_SEQPACKET), one
// port at a time, and its parent answers with a connected socket or an errno. `number` is another for every question.
SysResult<UniqueFd> ask_vsock_broker(int broker, uint32_t number, uint32_t port, std::chrono::milliseconds patience);
// The parent's side.
void answer_vsock_broker(int broker, const std::string& path);

}  // namespace casemate::vmm
