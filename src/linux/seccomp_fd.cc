#include "linux/seccomp_fd.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace casemate::linux {

SysResult<UniqueFd> install_seccomp_filter(std::span<const sock_filter> program, unsigned flags) {
    sock_fprog fprog = {static_cast<unsigned short>(program.size()), const_cast<sock_filter*>(program.data())};
    if (program.size() > BPF_MAXINSNS) return Errno(E2BIG);
    long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog);
    if (result < 0) return last_errno();
    // With TSYNC it needs TSYNC_ESRCH.
    if ((flags & SECCOMP_FILTER_FLAG_NEW_LISTENER) != 0) return UniqueFd(static_cast<int>(result));
    // TSYNC without TSYNC_ESRCH answers with the id of a thread that could not follow.
    if ((flags & SECCOMP_FILTER_FLAG_TSYNC) != 0 && result > 0) return Errno(ESRCH);
    return UniqueFd();
}

SysResult<void> receive_notification(int listener, seccomp_notif& notification) {
    std::memset(&notification, 0, sizeof notification);  // the kernel insists on zeros
    if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notification) < 0) return last_errno();
    return {};
}

SysResult<void> answer_notification(int listener, seccomp_notif_resp& response) {
    if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) < 0) return last_errno();
    return {};
}

SysResult<void> set_synchronous_wake_up(int listener) {
    // The flags are the argument itself, not behind a pointer.
    if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) < 0) return last_errno();
    return {};
}

}  // namespace casemate::linux
