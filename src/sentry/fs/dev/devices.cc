// Character devices by number: memory devices, /dev/tty, /dev/console, /dev/ptmx and pty slaves. Nothing here reaches a
// device of the host.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>

#include "sentry/fs/tty/pts_files.h"
#include "sentry/fs/tty/tty_file.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/address_space.h"
#include "sentry/mm/shared_memory.h"
#include "sentry/vfs/special_files.h"

namespace casemate::sentry {
namespace {

enum class Memory { kNull, kZero, kFull, kRandom };

class MemoryDevice final : public File {
  public:
    MemoryDevice(Path path, int flags, Memory kind) : File(std::move(path), flags), kind_(kind) {}

    SysResult<int64_t> seek(Task&, int64_t, int) override { return 0; }
    uint32_t poll_events(Task*) override { return EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM; }
    SysResult<void> prepare_map(Task& task, MapRequest& request) override {
        if (kind_ != Memory::kZero && kind_ != Memory::kFull) return Errno(ENODEV);
        request.offset = 0;
        request.name = "/dev/zero";
        request.file.reset();
        if (request.shared) request.object = TRY(SharedMemory::create(task.kernel().memory(), request.size));
        return {};
    }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override {
        if (kind_ == Memory::kRandom && command == 0x80045200 /* RNDGETENTCNT */) {
            TRY(task.write(UserPtr<int32_t>(argument), int32_t{256}));
            return 0;
        }
        return File::ioctl(task, command, argument);
    }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t) override {
        switch (kind_) {
            case Memory::kNull:
                return size_t{0};
            case Memory::kZero:
            case Memory::kFull:
                return into.remaining() == 0 ? SysResult<size_t>(0u) : into.fill_zero(into.remaining());
            case Memory::kRandom:
                break;
        }
        size_t total = 0;
        while (into.remaining() > 0 && !task.interrupted()) {
            std::byte chunk[256];
            size_t want = std::min(into.remaining(), sizeof(chunk));
            if (getrandom(chunk, want, 0) != static_cast<ssize_t>(want)) return Errno(EIO);
            auto copied = into.copy_to(chunk, want);
            if (!copied.ok()) return total > 0 ? SysResult<size_t>(total) : copied.take_error();
            total += *copied;
            if (*copied < want) break;
        }
        return total;
    }
    SysResult<size_t> write_at(Task&, IoBuffer& from, int64_t&, bool) override {
        if (kind_ == Memory::kFull) return Errno(ENOSPC);
        size_t size = from.remaining();
        // The bytes are not looked at: a bad address is no error for /dev/null, as on Linux.
        return size;
    }

  private:
    const Memory kind_;
};

SysResult<Ref<File>> memory(const Path& path, int flags, Memory kind) {
    return Ref<File>(make_ref<MemoryDevice>(path, flags, kind));
}

}  // namespace

SysResult<Ref<File>> open_character_device(Task& task, const Path& path, int flags, uint64_t device) {
    unsigned type = major(device), number = minor(device);
    if (type == 1) {
        switch (number) {
            case 3:
                return memory(path, flags, Memory::kNull);
            case 5:
                return memory(path, flags, Memory::kZero);
            case 7:
                return memory(path, flags, Memory::kFull);
            case 8:
            case 9:
                return memory(path, flags, Memory::kRandom);
            default:
                return Errno(ENXIO);
        }
    }
    if (type == 5 && number == 0) {
        Ref<Terminal> terminal = controlling_terminal(task);
        if (!terminal) return Errno(ENXIO);
        return Ref<File>(make_ref<TtySlaveFile>(path, flags, std::move(terminal)));
    }
    if (type == 5 && number == 2) {
        Ref<PtsFileSystem> files;
        if (strcmp(path.inode().file_system().type(), "devpts") == 0)
            files = Ref<PtsFileSystem>(static_cast<PtsFileSystem*>(&path.inode().file_system()));
        else
            files = pts_of(task);
        if (!files) return Errno(ENXIO);
        return TRY(files->open_master(&task, path, flags)).master;
    }
    if (type == 136) {
        Ref<PtsFileSystem> files;
        if (strcmp(path.inode().file_system().type(), "devpts") == 0)
            files = Ref<PtsFileSystem>(static_cast<PtsFileSystem*>(&path.inode().file_system()));
        else
            files = pts_of(task);
        if (!files) return Errno(ENXIO);
        return files->open_slave(task, path, number, flags);
    }
    return Errno(ENXIO);
}

}  // namespace casemate::sentry
