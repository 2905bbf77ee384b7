// File: an open file description (what dup shares), the base of everything a descriptor can name.
//
// Thread-safe: implementations lock themselves. Methods that can block get the Task and respect O_NONBLOCK of flags();
// they block through Task::wait and return kRestartSys when a signal interrupts. Defaults are what Linux does for a
// file without the operation (EINVAL, ENOTTY, ESPIPE...).
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/mm/io_buffer.h"
#include "sentry/mm/mappable.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/small_mutex.h"
#include "sentry/vfs/write_hold.h"

namespace casemate::sentry {

class Pid;
class Task;
struct MapRequest;
class Inode;
class PipeAccess;  // vfs/splice.h
struct Listing;    // vfs/inode.h
class FileObserver;
class EpollFile;
class SignalFile;
class TimerFile;
class Socket;
class InotifyFile;
class MessageQueueFile;

// The result of getdents: entries are handed to `emit` until it returns false (buffer full). `cookie` is the d_off that
// continues behind the entry.
struct DirectoryEntry {
    std::string_view name;
    uint64_t inode = 0;
    uint8_t type = 0;  // DT_*
    int64_t cookie = 0;
};
using EmitEntry = std::function<bool(const DirectoryEntry&)>;

class File : public RefCounted {
  public:
    // `flags`: O_* as open(2) got them (access mode and status flags; creation flags are dropped here).
    File(Path path, int flags);
    ~File() override;

    const Path& path() const { return path_; }  // empty for pipes, sockets and anonymous inodes without a mount
    int flags() const { return flags_.load(std::memory_order_relaxed); }
    void set_status_flags(int flags);  // F_SETFL: O_APPEND, O_NONBLOCK, O_NOATIME, O_DIRECT, O_ASYNC
    bool readable() const { return (flags() & O_ACCMODE) != O_WRONLY && !(flags() & O_PATH); }
    bool writable() const { return (flags() & O_ACCMODE) != O_RDONLY && !(flags() & O_PATH); }
    bool nonblocking() const { return flags() & O_NONBLOCK; }

    // read(2) and friends use the file position, which these entry points keep; the access mode is checked here.
    SysResult<size_t> read(Task& task, IoBuffer& into);
    SysResult<size_t> write(Task& task, IoBuffer& from, bool append = false);
    SysResult<size_t> pread(Task& task, IoBuffer& into, int64_t offset);
    SysResult<size_t> pwrite(Task& task, IoBuffer& from, int64_t offset, bool append = false);

    virtual SysResult<int64_t> seek(Task& task, int64_t offset, int whence);
    virtual SysResult<void> read_directory(Task& task, const EmitEntry& emit);
    virtual SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument);
    // fcntl commands of one kind of file: F_GETPIPE_SZ, F_SETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS. EINVAL by default.
    virtual SysResult<int64_t> control(Task& task, int command, uint64_t argument);
    virtual SysResult<void> stat(Task& task, struct stat& out);  // default: the inode's
    virtual SysResult<void> truncate(Task& task, int64_t size);
    virtual SysResult<void> allocate(Task& task, int mode, int64_t offset, int64_t size);
    virtual SysResult<void> sync(Task& task, bool data_only);
    // Whether sync() is likely to end within microseconds: what knows no disk, or one that was quick lately.
    virtual bool syncs_at_once() { return true; }
    // Fills request.object, offset limits, max_protection and name. ENODEV by default.
    virtual SysResult<void> prepare_map(Task& task, MapRequest& request);
    // The ends of pipes and FIFOs, for splice and tee; null for all others.
    virtual PipeAccess* pipe_access() { return nullptr; }
    // The host descriptor behind a regular file of the host, borrowed, for copies that the host can do by itself; -1.
    virtual int host_descriptor() { return -1; }
    // Called by close(2) of any descriptor to it (POSIX locks, fcntl), not only the last.
    virtual void descriptor_closed(Task& task);

    // Poll: the events that hold now; `waiters()` is where to wait for more (null: always ready).
    virtual uint32_t poll_events(Task* task);
    virtual WaitQueue* waiters() { return nullptr; }

    // Whether the position is meaningful (pread allowed, f_pos kept): regular files, block devices, directories.
    virtual bool seekable() const { return true; }
    // "pipe:[12]", "anon_inode:[eventfd]"... for /proc/PID/fd; default: the path.
    virtual std::string link_name(Task& task);
    // The lines under pos/flags/mnt_id of /proc/PID/fdinfo/N.
    virtual std::string fdinfo(Task& task);

    Inode* inode() const;
    // Of its inode, for as long as the file is open; before anybody else has the file, or by who loads it.
    void set_write_hold(WriteHold hold) { write_hold_ = std::move(hold); }
    // The identity that a pidfd stands for; null for everything else.
    virtual Pid* pidfd_target() { return nullptr; }

    // What it is, for syscalls that work on one kind of file only; null for all others.
    virtual EpollFile* as_epoll() { return nullptr; }
    virtual SignalFile* as_signal_file() { return nullptr; }
    virtual TimerFile* as_timer_file() { return nullptr; }
    virtual Socket* as_socket() { return nullptr; }
    virtual InotifyFile* as_inotify() { return nullptr; }
    virtual MessageQueueFile* as_message_queue() { return nullptr; }

    // Told before the file is destroyed. Both with file_observers_mutex() held.
    void add_observer(FileObserver& observer);
    void remove_observer(FileObserver& observer);

    // F_SETOWN, F_SETOWN_EX and F_SETSIG: who is told by O_ASYNC.
    struct Owner {
        int type = 1;  // F_OWNER_PID
        int id = 0;
        int signal = 0;
    };
    Owner owner();
    void set_owner(const Owner& owner);

  protected:
    // `offset` -1: not seekable. Bytes moved; 0 at the end of the file.
    virtual SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset);
    // `append`: at the end whatever `offset` says; the implementation then stores the new position through it.
    virtual SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append);

    // lseek's arithmetic for files with a position, `size` being the end. Locks position_mutex_.
    SysResult<int64_t> seek_within(int64_t offset, int whence, int64_t size);

    std::mutex position_mutex_;
    int64_t position_ = 0;  // guarded by position_mutex_

    void last_ref_dropped() override;

  private:
    Path path_;
    WriteHold write_hold_;  // goes before the path
    std::atomic<int> flags_;
    std::atomic<FileObserver*> observers_{nullptr};  // changed with file_observers_mutex()
    SmallMutex owner_mutex_;
    Owner owner_;  // guarded by owner_mutex_
};

// What O_PATH opens: a place, nothing else.
class PathFile final : public File {
  public:
    PathFile(Path path, int flags) : File(std::move(path), flags) {}
};

}  // namespace casemate::sentry
