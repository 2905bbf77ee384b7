#include "sentry/fs/host/host_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <memory>

#include "base/checked.h"
#include "base/scope_exit.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/mm/address_space.h"

namespace casemate::sentry {

using fileserver::Op;
using fileserver::Request;

namespace {

constexpr size_t kPieces = 64;
constexpr size_t kBounceSize = 64 * 1024;

// O_SYNC holds O_DSYNC's bit and one of its own.
int sync_flags(int flags) {
    if (!(flags & O_DSYNC)) return 0;
    return (flags & O_SYNC) == O_SYNC ? RWF_SYNC : RWF_DSYNC;
}

// Straight between the descriptor and application memory where the sentry maps that, else through a buffer.
SysResult<size_t> read_through(int fd, IoBuffer& into, int64_t offset) {
    size_t total = 0;
    while (into.remaining() > 0) {
        iovec pieces[kPieces];
        auto found = into.host_pieces(pieces, true);
        if (!found.ok()) {
            if (total > 0) break;
            return found.error();
        }
        if (found->count > 0) {
            ssize_t n = ::preadv2(fd, pieces, static_cast<int>(found->count), offset, 0);
            if (n < 0) {
                into.release();
                if (total > 0) break;
                return last_errno();
            }
            into.advance(static_cast<size_t>(n));
            total += static_cast<size_t>(n);
            offset += n;
            if (static_cast<size_t>(n) < found->bytes) break;
            continue;
        }
        into.release();
        if (!found->bounce) break;
        auto bounce = std::make_unique<std::byte[]>(std::min(kBounceSize, into.remaining()));
        ssize_t n = ::pread(fd, bounce.get(), std::min(kBounceSize, into.remaining()), offset);
        if (n < 0) {
            if (total > 0) break;
            return last_errno();
        }
        if (n == 0) break;
        auto copied = into.copy_to(bounce.get(), static_cast<size_t>(n));
        if (!copied.ok()) {
            if (total > 0) break;
            return copied.error();
        }
        total += *copied;
        offset += static_cast<int64_t>(*copied);
        if (*copied < static_cast<size_t>(n)) break;
    }
    return total;
}

SysResult<size_t> write_through(int fd, IoBuffer& from, int64_t offset, int how) {
    size_t total = 0;
    std::optional<Errno> failed;
    while (from.remaining() > 0) {
        iovec pieces[kPieces];
        auto found = from.host_pieces(pieces, false);
        if (!found.ok()) {
            failed = found.error();
            break;
        }
        if (found->count > 0) {
            ssize_t n = ::pwritev2(fd, pieces, static_cast<int>(found->count), offset, how);
            if (n < 0) {
                failed = last_errno();
                from.release();
                break;
            }
            from.advance(static_cast<size_t>(n));
            total += static_cast<size_t>(n);
            offset += n;
            if (static_cast<size_t>(n) < found->bytes) break;
            continue;
        }
        from.release();
        if (!found->bounce) break;
        auto bounce = std::make_unique<std::byte[]>(std::min(kBounceSize, from.remaining()));
        auto copied = from.copy_from(bounce.get(), std::min(kBounceSize, from.remaining()));
        if (!copied.ok()) {
            failed = copied.error();
            break;
        }
        iovec piece{bounce.get(), *copied};
        ssize_t n = ::pwritev2(fd, &piece, 1, offset, how);
        if (n < 0) {
            failed = last_errno();
            break;
        }
        total += static_cast<size_t>(n);
        offset += n;
        if (static_cast<size_t>(n) < *copied) break;
    }
    if (total == 0 && failed) return *failed;
    return total;
}

// The pages of a host file, mapped by the platform from the donated descriptor. The host keeps mappings and truncation
// in step (SIGBUS past the end comes as a fault), so nobody registers here.
class HostMappable final : public Mappable {
  public:
    explicit HostMappable(Ref<HostFd> fd) : fd_(std::move(fd)) {}

    SysResult<Piece> backing(uint64_t offset, uint64_t size, bool) override {
        Piece piece;
        piece.in_memory_file = false;
        piece.offset = offset;
        piece.host_fd = fd_->fd.get();
        // What lay within the file once is not asked for again: past a new end the host raises SIGBUS by itself.
        if (offset + size <= known_end_.load(std::memory_order_relaxed)) {
            piece.size = size;
            return piece;
        }
        uint64_t end = page_up(mappable_size());
        known_end_.store(end, std::memory_order_relaxed);
        piece.size = offset >= end ? 0 : std::min(size, end - offset);
        return piece;
    }
    uint64_t mappable_size() override {
        struct stat info;
        if (::fstat(fd_->fd.get(), &info) != 0) return 0;
        return static_cast<uint64_t>(info.st_size);
    }
    SysResult<void> punch(uint64_t offset, uint64_t size) override {
        if (::fallocate(fd_->fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                        static_cast<off_t>(size)) != 0)
            return last_errno();
        return {};
    }
    const std::byte* readable(uint64_t offset, uint64_t size) override {
        const std::byte* bytes = view_.load(std::memory_order_acquire);
        if (bytes == nullptr) {
            if (reads_.fetch_add(1, std::memory_order_relaxed) != kReadsBeforeView) return nullptr;
            bytes = make_view();  // whoever comes here is the only one who ever does
            if (bytes == nullptr) return nullptr;
        }
        return size <= map_.size() && offset <= map_.size() - size ? bytes + offset : nullptr;
    }
    void add_mapping(AddressSpace&) override {}
    void remove_mapping(AddressSpace&) override {}

  private:
    // Paths among a program's constants are read again and again; a read by the descriptor costs the host a
    // microsecond.
    static constexpr uint64_t kReadsBeforeView = 8;
    static constexpr uint64_t kMostViewed = 1 << 30;

    // Of the file as long as it is now; what is added to it is read by the descriptor.
    const std::byte* make_view() {
        struct stat info;
        if (::fstat(fd_->fd.get(), &info) != 0 || info.st_size == 0 || !is_whole(info)) return nullptr;
        const auto size = static_cast<uint64_t>(info.st_size);
        if (size > kMostViewed) return nullptr;
        auto map = UniqueMap::create(page_up(size), PROT_READ, MAP_SHARED, fd_->fd.get());
        if (!map.ok()) return nullptr;
        map_ = map.take_value();
        view_.store(map_.as<const std::byte>(), std::memory_order_release);
        return map_.as<const std::byte>();
    }

    const Ref<HostFd> fd_;
    std::atomic<uint64_t> known_end_{0};
    std::atomic<uint64_t> reads_{0};
    UniqueMap map_;  // written once, before view_
    std::atomic<const std::byte*> view_{nullptr};
};

}  // namespace

SysResult<Ref<HostFd>> HostInode::descriptor(bool writable) {
    {
        std::lock_guard lock(mutex_);
        if (write_fd_) return write_fd_;
        if (!writable && read_fd_) return read_fd_;
    }
    if (writable && host().read_only()) return Errno(EROFS);
    Address address = TRY(this->address());
    Request request;
    request.op = static_cast<uint16_t>(Op::kOpen);
    request.node = address.node;
    request.open_flags = writable ? O_RDWR : O_RDONLY;
    auto answer = TRY(host().client().call(request, address.path));
    if (!answer.fd) return Errno(EIO);
    const auto& a = answer.reply.attributes;
    if (a.inode != key_.inode || a.device != key_.device) return Errno(ESTALE);
    Ref<HostFd> fd = make_ref<HostFd>(std::move(answer.fd));
    Ref<HostFd> kept;
    Ref<HostWindow> window;
    {
        std::lock_guard lock(mutex_);
        Ref<HostFd>& place = writable ? write_fd_ : read_fd_;
        if (!place) place = fd;
        if (writable) written_ = true;
        // The host may have made a copy to be written to: a map of the original shows nothing of that.
        if (writable) window = take_window_locked();
        kept = place;
    }
    host().keep_descriptor(*this);
    return kept;
}

SysResult<Ref<HostFd>> HostInode::open_direct(bool writable) {
    Address address = TRY(this->address());
    Request request;
    request.op = static_cast<uint16_t>(Op::kOpen);
    request.node = address.node;
    request.open_flags = (writable ? O_RDWR : O_RDONLY) | O_DIRECT;
    auto answer = TRY(host().client().call(request, address.path));
    if (!answer.fd) return Errno(EIO);
    if (writable) {
        Ref<HostWindow> window;
        std::lock_guard lock(mutex_);
        written_ = no_window_ = true;
        window = take_window_locked();
    }
    return make_ref<HostFd>(std::move(answer.fd));
}

SysResult<Ref<Mappable>> HostInode::mappable(bool writable) {
    {
        std::lock_guard lock(mutex_);
        if (write_map_) {
            if (writable) written_behind_us();
            return write_map_;
        }
        if (!writable && read_map_) return read_map_;
    }
    Ref<HostFd> fd = TRY(descriptor(writable));
    if (writable) written_behind_us();
    Ref<Mappable> made = make_ref<HostMappable>(fd);
    std::lock_guard lock(mutex_);
    bool as_writable = writable || fd == write_fd_;
    Ref<Mappable>& place = as_writable ? write_map_ : read_map_;
    if (!place) place = made;
    return place;
}

SysResult<Ref<File>> HostInode::open(Task&, const Path& path, int flags) {
    if (S_ISDIR(mode())) TRY(check_foreign(S_IROTH));
    if (S_ISDIR(mode())) return Ref<File>(make_ref<HostDirectory>(path, flags, Ref<HostInode>(this)));
    if (!S_ISREG(mode())) return Errno(ENXIO);
    bool writable = (flags & O_ACCMODE) != O_RDONLY;
    if ((flags & O_ACCMODE) != O_WRONLY) TRY(check_foreign(S_IROTH));
    if (writable) TRY(check_foreign(S_IWOTH));
    Ref<HostFd> fd = flags & O_DIRECT ? TRY(open_direct(writable)) : TRY(descriptor(writable));
    return Ref<File>(make_ref<HostFile>(path, flags, Ref<HostInode>(this), std::move(fd)));
}

SysResult<size_t> HostInode::read_content(IoBuffer& into, int64_t offset) {
    Ref<HostFd> fd = TRY(descriptor(false));
    return read_through(fd->fd.get(), into, offset);
}

SysResult<size_t> HostInode::write_content(IoBuffer& from, int64_t offset) {
    Ref<HostFd> fd = TRY(descriptor(true));
    auto written = write_through(fd->fd.get(), from, offset, 0);
    was_written(written.ok() ? *written : 0);
    return written;
}

HostFile::HostFile(Path path, int flags, Ref<HostInode> inode, Ref<HostFd> fd)
    : File(std::move(path), flags), inode_(std::move(inode)), fd_(std::move(fd)) {
    inode_->file_opened();
}

HostFile::~HostFile() { inode_->file_closed(); }

SysResult<size_t> HostFile::read_at(Task&, IoBuffer& into, int64_t offset) {
    const bool mappable = !(flags() & O_DIRECT) && into.remaining() > 0;
    const size_t mapped = mappable ? inode_->read_mapped(into, offset) : 0;
    if (mapped > 0 && into.remaining() == 0) {
        inode_->was_read(mapped);
        return mapped;
    }
    auto read = read_through(fd_->fd.get(), into, offset + static_cast<int64_t>(mapped));
    inode_->was_read(mapped + (read.ok() ? *read : 0));
    if (mapped > 0) return mapped + (read.ok() ? *read : 0);
    return read;
}

SysResult<size_t> HostFile::write_at(Task&, IoBuffer& from, int64_t& offset, bool append) {
    const uint32_t mode = inode_->mode();
    inode_->settle_times();
    auto written = write_through(fd_->fd.get(), from, offset, (append ? RWF_APPEND : 0) | sync_flags(flags()));
    inode_->was_written(written.ok() ? *written : 0);
    inode_->keep_mode(mode);
    size_t n = TRY(std::move(written));
    offset += static_cast<int64_t>(n);
    if (append) {
        struct stat info;
        if (::fstat(fd_->fd.get(), &info) == 0) offset = info.st_size;
    }
    return n;
}

SysResult<int64_t> HostFile::seek(Task& task, int64_t offset, int whence) {
    const bool to_end = whence == SEEK_END && offset == 0;
    uint64_t version = 0;
    Ref<FileEnd> end = to_end ? inode_->steady_end(version) : nullptr;
    const int64_t position = TRY(seek_anywhere(offset, whence));
    if (end) task.parts().standing_answers.stands_at(std::move(end), version);
    if (!to_end) inode_->end_changed();
    return position;
}

SysResult<int64_t> HostFile::seek_anywhere(int64_t offset, int whence) {
    if (whence == SEEK_DATA || whence == SEEK_HOLE) {
        // The descriptor's own position serves nobody else.
        std::lock_guard lock(position_mutex_);
        off_t found = ::lseek(fd_->fd.get(), offset, whence);
        if (found < 0) return last_errno();
        position_ = found;
        return found;
    }
    int64_t size = 0;
    if (whence == SEEK_END) {
        struct stat info;
        if (::fstat(fd_->fd.get(), &info) != 0) return last_errno();
        size = info.st_size;
    }
    return seek_within(offset, whence, size);
}

SysResult<int64_t> HostFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (command != FIONREAD) return Errno(ENOTTY);
    struct stat info;
    if (::fstat(fd_->fd.get(), &info) != 0) return last_errno();
    int64_t left;
    {
        std::lock_guard lock(position_mutex_);
        left = std::max<int64_t>(info.st_size - position_, 0);
    }
    TRY(task.write(UserPtr<int32_t>(argument), static_cast<int32_t>(std::min<int64_t>(left, INT32_MAX))));
    return int64_t{0};
}

SysResult<void> HostFile::truncate(Task&, int64_t size) {
    const uint32_t mode = inode_->mode();
    inode_->settle_times();
    if (::ftruncate(fd_->fd.get(), size) != 0) return last_errno();
    inode_->was_cut();
    inode_->keep_mode(mode);
    return {};
}

SysResult<void> HostFile::allocate(Task&, int mode, int64_t offset, int64_t size) {
    const uint32_t permissions = inode_->mode();
    inode_->settle_times();
    if (::fallocate(fd_->fd.get(), mode, offset, size) != 0) return last_errno();
    inode_->was_cut();
    inode_->keep_mode(permissions);
    return {};
}

void HostFile::descriptor_closed(Task& task) {
    inode_->end_changed();
    File::descriptor_closed(task);
}

int HostFile::host_descriptor() {
    if (writable()) {
        inode_->settle_times();
        inode_->written_behind_us();
    }
    return fd_->fd.get();
}

SysResult<void> HostFile::sync(Task&, bool data_only) {
    if (inode_->host().read_only()) return {};
    const Nanoseconds begun = monotonic_now();
    auto measured = ScopeExit([&] { inode_->host().took_to_sync(monotonic_now() - begun); });
    // Mode, times and names are nobody's data.
    if (!data_only) inode_->host().client().flush();
    if ((data_only ? ::fdatasync(fd_->fd.get()) : ::fsync(fd_->fd.get())) != 0) return last_errno();
    return {};
}

SysResult<void> HostFile::prepare_map(Task&, MapRequest& request) {
    request.object = TRY(inode_->mappable(request.shared && writable()));
    return {};
}

SysResult<void> HostDirectory::sync(Task&, bool) {
    const Nanoseconds begun = monotonic_now();
    auto synced = inode_->sync_names();
    inode_->host().took_to_sync(monotonic_now() - begun);
    return synced;
}

SysResult<void> HostDirectory::list(Task&, int64_t after, const EmitEntry& emit) {
    if (!listing_ || after == 0) listing_ = TRY(inode_->listing());
    return list_entries(*listing_, after, emit);
}

}  // namespace casemate::sentry
