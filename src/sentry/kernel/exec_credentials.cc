#include "sentry/kernel/exec_credentials.h"

#include <linux/capability.h>
#include <sys/mount.h>

#include <cstring>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace casemate::sentry {
namespace {

struct FileCapabilities {
    CapabilitySet permitted = 0, inheritable = 0;
    bool effective = false;
    bool present = false;
};

// The attribute "security.capability" (struct vfs_cap_data, versions 2 and 3).
FileCapabilities read_file_capabilities(Inode& inode) {
    FileCapabilities result;
    auto text = inode.get_xattr("security.capability");
    if (!text.ok() || text->size() < 20) return result;
    uint32_t words[5];
    std::memcpy(words, text->data(), sizeof(words));
    uint32_t revision = words[0] & VFS_CAP_REVISION_MASK;
    if (revision == VFS_CAP_REVISION_3) {
        if (text->size() < 24) return result;
        uint32_t root;
        std::memcpy(&root, text->data() + 20, sizeof(root));
        if (root != 0) return result;  // for another user namespace
    } else if (revision != VFS_CAP_REVISION_2) {
        return result;
    }
    result.present = true;
    result.effective = (words[0] & VFS_CAP_FLAGS_EFFECTIVE) != 0;
    result.permitted = (words[1] | uint64_t{words[3]} << 32) & kAllCapabilities;
    result.inheritable = (words[2] | uint64_t{words[4]} << 32) & kAllCapabilities;
    return result;
}

}  // namespace

SysResult<ExecCredentials> credentials_for_exec(Task& task, File& file) {
    const Credentials& before = task.credentials();
    Ref<Credentials> after = before.clone();
    after->no_new_privileges = no_new_privileges(task, before);
    Inode* inode = file.inode();
    FileCapabilities caps;
    bool privileged = inode != nullptr && !after->no_new_privileges &&
                      (!file.path().mount || (file.path().mount->flags() & MS_NOSUID) == 0);
    // Nobody gains rights under the eyes of a tracer that could not trace the result.
    if (is_traced(task) && privileged) {
        std::lock_guard lock(task.kernel().tasks().mutex);
        Task* tracer = task.parts().tracing.tracer.load();
        Ref<Credentials> theirs = tracer != nullptr ? tracer->credentials_of() : nullptr;
        privileged = tracer == nullptr || (theirs && theirs->has(CAP_SYS_PTRACE));
    }
    if (privileged) {
        uint32_t mode = inode->mode();
        if ((mode & S_ISUID) != 0) after->euid = inode->uid();
        if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) after->egid = inode->gid();
        caps = read_file_capabilities(*inode);
    }
    bool id_changed = after->euid != before.euid || after->egid != before.egid;
    after->suid = after->fsuid = after->euid;
    after->sgid = after->fsgid = after->egid;

    // Ambient capabilities are lost by set-ID bits and capabilities of the file, not by being root.
    bool privileged_file = id_changed || caps.present;
    bool root_rules = (before.secure_bits & kSecureNoRoot) == 0;
    // A file that carries capabilities and is set-user-ID root runs with its capabilities, not with all.
    if (root_rules && !(caps.present && after->euid == 0 && before.uid != 0)) {
        if (after->euid == 0 || before.uid == 0) {
            caps.permitted = caps.inheritable = kAllCapabilities;
            caps.present = true;
        }
        if (after->euid == 0) caps.effective = true;
    }
    if (privileged_file) after->ambient = 0;
    after->permitted = (before.inheritable & caps.inheritable) | (caps.permitted & before.bounding) | after->ambient;
    after->effective = caps.effective ? after->permitted : after->ambient;
    after->secure_bits &= ~kSecureKeepCaps;
    bool gained =
        id_changed || (before.uid != 0 && (caps.effective || (caps.present && after->permitted != after->ambient)));
    ExecCredentials result;
    result.secure = gained;
    result.credentials = std::move(after);
    return result;
}

}  // namespace casemate::sentry
