#include "sentry/ipc/ipc_object.h"

#include <linux/capability.h>

namespace casemate::sentry {

IpcPermissions IpcObject::permissions_locked() const {
    IpcPermissions permissions{};
    permissions.key = key_;
    permissions.uid = uid_;
    permissions.gid = gid_;
    permissions.cuid = cuid_;
    permissions.cgid = cgid_;
    permissions.mode = mode_;
    permissions.sequence = static_cast<uint16_t>(id_ / 32768);
    return permissions;
}

SysResult<void> IpcObject::check_access_locked(const Credentials& credentials, int wanted) const {
    uint32_t granted = mode_;
    if (credentials.euid == cuid_ || credentials.euid == uid_)
        granted >>= 6;
    else if (credentials.in_group(cgid_) || credentials.in_group(gid_))
        granted >>= 3;
    auto asked = static_cast<uint32_t>((wanted >> 6 | wanted >> 3 | wanted) & 7);
    if ((asked & ~granted & 7) != 0 && !credentials.has(CAP_IPC_OWNER)) return Errno(EACCES);
    return {};
}

SysResult<void> IpcObject::check_owner_locked(const Credentials& credentials) const {
    if (credentials.euid == cuid_ || credentials.euid == uid_ || credentials.has(CAP_SYS_ADMIN)) return {};
    return Errno(EPERM);
}

SysResult<void> IpcObject::set_owner_locked(const IpcPermissions& wanted) {
    if (wanted.uid == ~0u || wanted.gid == ~0u) return Errno(EINVAL);
    uid_ = wanted.uid;
    gid_ = wanted.gid;
    mode_ = (mode_ & ~0777u) | (wanted.mode & 0777);
    return {};
}

}  // namespace casemate::sentry
