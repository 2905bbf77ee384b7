// What the files of the socket syscalls share.
#pragma once

#include <span>

#include "sentry/net/socket.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {

// The open file of a descriptor and the socket in it. EBADF, ENOTSOCK.
struct SocketDescriptor {
    Ref<File> file;
    Socket* socket;
    // MSG_DONTWAIT added for a non-blocking file.
    int message_flags(int flags) const { return file->nonblocking() ? flags | MSG_DONTWAIT : flags; }
};
SysResult<SocketDescriptor> socket_descriptor(Task& task, int fd);

// The parts of socket_syscalls().
std::span<const SyscallRow> socket_message_syscalls();  // send*, recv*

}  // namespace casemate::sentry
