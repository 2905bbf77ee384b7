// Which socket families there are: a row each, found by socket(2)'s domain.
#pragma once

#include "sentry/net/socket.h"

namespace casemate::sentry {

// EAFNOSUPPORT, EINVAL, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM.
SysResult<Ref<Socket>> create_socket(Task& task, int domain, int type, int protocol);

}  // namespace casemate::sentry
