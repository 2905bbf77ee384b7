#include "vmm/share.h"

#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate::vmm {

Result<host::JailedProcess> spawn_share(const std::string& program, int socket, const std::string& directory,
                                        bool read_only) {
    struct stat st;
    if (::stat(directory.c_str(), &st) < 0) return sys_error("share the directory " + directory);
    if (!S_ISDIR(st.st_mode)) return Error("share the directory " + directory + ": it is none", ENOTDIR);
    host::JailSpec spec;
    spec.program = program;
    spec.args = {"casemate-share"};
    if (read_only) spec.args.push_back("read-only");
    spec.fds = {socket};
    host::JailBind bind;
    bind.source = directory;
    bind.target = "/share";  // fileserver::kSharePath
    bind.read_only = read_only;
    spec.binds.push_back(std::move(bind));
    spec.stderr_fd = STDERR_FILENO;
    spec.oom_score_adj = 0;
    // What serves files of any owner; CAP_SYS_ADMIN makes it a procfs of its own and is dropped before the first
    // request. No CAP_MKNOD: a guest makes no device nodes.
    spec.capabilities = {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_CHOWN,    CAP_FOWNER,
                         CAP_FSETID,       CAP_SETFCAP,         CAP_SYS_ADMIN};
    spec.uid = spec.gid = 0;
    if (::geteuid() == 0) {
        // It acts on files of every owner, so it stays in the user namespace that has them all.
        spec.namespaces &= ~static_cast<uint64_t>(CLONE_NEWUSER);
    } else {
        // The user is the guest's root, and the only owner there is. And a user may make no procfs where none is in
        // sight: it gets ours, of which it keeps the folder of its own descriptors (fileserver::enter_share_jail).
        host::JailBind proc;
        proc.source = proc.target = "/proc";
        spec.binds.push_back(std::move(proc));
    }
    return host::spawn_jailed(spec);
}

}  // namespace casemate::vmm
