// devpts: the terminals of one mount, /dev/pts/N and /dev/pts/ptmx.
#pragma once

#include <map>
#include <mutex>

#include "sentry/fs/synthetic/synthetic.h"
#include "sentry/fs/tty/tty_file.h"

namespace casemate::sentry {

class PtsFileSystem final : public SyntheticFileSystem {
  public:
    // mount(8)'s options: mode=, gid=, uid=, ptmxmode=, max=, newinstance.
    static SysResult<Ref<PtsFileSystem>> create(Kernel& kernel, std::string_view options);

    struct Pair {
        Ref<File> master;
        Ref<Terminal> terminal;
    };
    // A new pty, unlocked only by TIOCSPTLCK. `master_path`: what was opened (/dev/ptmx). ENOSPC.
    SysResult<Pair> open_master(Task* task, const Path& master_path, int flags);
    // The slave end of terminal `number`. ENXIO, EIO while locked.
    SysResult<Ref<File>> open_slave(Task& task, const Path& path, uint32_t number, int flags);

    bool names_can_change() const override { return true; }

  private:
    friend class PtsRoot;
    friend class PtsMaster;
    PtsFileSystem(Kernel& kernel, uint32_t mode, uint32_t uid, uint32_t gid, bool own_gid, uint32_t ptmx_mode,
                  uint32_t most);
    void forget(uint32_t number);

    Kernel& kernel_;
    const uint32_t mode_, uid_, gid_;
    const bool own_gid_;
    const uint32_t ptmx_mode_, most_;
    struct Entry {
        Terminal* terminal;  // alive as long as its master file, which removes the entry
        Ref<Inode> inode;
    };
    std::mutex mutex_;
    std::map<uint32_t, Entry> terminals_;  // guarded by mutex_
};

// The devpts that /dev/ptmx stands for: of the mount namespace's /dev/pts, else the first one mounted.
Ref<PtsFileSystem> pts_of(Task& task);

}  // namespace casemate::sentry
