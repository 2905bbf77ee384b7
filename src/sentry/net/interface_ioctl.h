// The ioctls of network interfaces, on a socket of any family: over the model of interfaces.h.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace casemate::sentry {

class Network;
class Task;

// SIOC[GS]IF*, SIOC{ADD,DEL}RT, SIOC[GSD]ARP for a socket of `family` in `network`; ENOTTY for what is none of these.
SysResult<int64_t> interface_ioctl(Task& task, Network& network, int family, uint64_t command, uint64_t argument);

}  // namespace casemate::sentry
