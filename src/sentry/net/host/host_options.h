// Which socket options reach the host in host network mode, with the sizes of their values. The same list makes the
// sentry's seccomp rules (boot/confine.cc) and judges what applications ask for (host_socket.cc): nothing that loads
// programs or rules into the host's kernel, changes how a connection is driven, or needs a privilege.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace casemate::sentry {

struct HostOption {
    int level, name;
    bool settable, readable;
    uint16_t least, most;  // bytes of a value that is set
};

std::span<const HostOption> host_options();
const HostOption* find_host_option(int level, int name);
// Control messages that may be sent with a datagram; the size of their data must be exactly so many bytes, 0: not one.
size_t host_control_size(int level, int type);
// Those that are passed on to applications.
bool is_host_control(int level, int type);

}  // namespace casemate::sentry
