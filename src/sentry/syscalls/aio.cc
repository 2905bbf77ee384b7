// io_setup, io_submit, io_getevents and relatives: I/O whose results are asked for later.
//
// io_submit does the work before it returns, as Linux does for files in its page cache; only the results come later.
// So there is never anything to cancel, and what waits for events waits for another thread's io_submit.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/checked.h"
#include "sentry/fs/anonymous/aio_context.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/event.h"
#include "sentry/syscalls/io_tables.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/user_iovec.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kKey = 0;                                                // what aio_key is set to
constexpr int kHighPriority = 1, kDataSync = 2, kSync = 4, kAppend = 0x10;  // RWF_*

// The kernel's struct __aio_sigset.
struct WantedMask {
    uint64_t address, size;
};

SysResult<Ref<AioContext>> find_context(Task& task, uint64_t address) {
    auto key = task.memory().share_key(address);
    if (!key.ok() || key->offset != 0) return Errno(EINVAL);
    Ref<AioContext> context = aio_contexts().find(key->object);
    if (!context || !context->belongs_to(task.memory())) return Errno(EINVAL);
    return context;
}

SysResult<int64_t> sys_io_setup(Task& task, const SyscallArgs& args) {
    uint32_t events = args.u32(0);
    UserPtr<uint64_t> where(args.u64(1));
    if (TRY(task.read(where)) != 0 || events == 0) return Errno(EINVAL);
    if (events > 0x10000000 / sizeof(io_event)) return Errno(EINVAL);
    Ref<AioContext> context = TRY(aio_contexts().create(task.kernel().memory(), task.memory(), events));
    MapRequest request;
    request.size = kPageSize;
    request.protection = PROT_READ | PROT_WRITE;
    request.shared = true;
    request.object = Ref<Mappable>(context);
    request.name = "/[aio] (deleted)";
    auto mapped = task.memory().map(request);
    if (!mapped.ok()) {
        aio_contexts().remove(*context);
        return mapped.error();
    }
    auto told = task.write(where, *mapped);
    if (!told.ok()) {
        TRY(task.memory().unmap(*mapped, kPageSize));
        return told.error();
    }
    return 0;
}

SysResult<int64_t> sys_io_destroy(Task& task, const SyscallArgs& args) {
    Ref<AioContext> context = TRY(find_context(task, args.u64(0)));
    aio_contexts().remove(*context);
    context->end();
    TRY(task.memory().unmap(args.u64(0), kPageSize));
    return 0;
}

// Checked, and ready to be carried out.
struct Operation {
    Ref<File> file, eventfd;
    iocb block{};
    std::optional<UserIovec> pieces;
};

SysResult<Operation> check_operation(Task& task, const iocb& block) {
    Operation operation;
    operation.block = block;
    if (block.aio_reserved2 != 0) return Errno(EINVAL);
    if (static_cast<int64_t>(block.aio_nbytes) < 0) return Errno(EINVAL);
    operation.file = TRY(task.files().get(static_cast<int>(block.aio_fildes)));
    if (operation.file->flags() & O_PATH) return Errno(EBADF);
    if (block.aio_flags & IOCB_FLAG_RESFD) {
        auto eventfd = task.files().get(static_cast<int>(block.aio_resfd));
        if (!eventfd.ok()) return Errno(EINVAL);
        operation.eventfd = eventfd.take_value();
        if (operation.eventfd->link_name(task) != "anon_inode:[eventfd]") return Errno(EINVAL);
    }
    bool writes = false;
    switch (block.aio_lio_opcode) {
        case IOCB_CMD_PWRITE:
        case IOCB_CMD_PWRITEV:
            writes = true;
            [[fallthrough]];
        case IOCB_CMD_PREAD:
        case IOCB_CMD_PREADV: {
            if (block.aio_rw_flags & ~(kHighPriority | kDataSync | kSync | (writes ? kAppend : 0)))
                return Errno(EOPNOTSUPP);
            if (writes ? !operation.file->writable() : !operation.file->readable()) return Errno(EBADF);
            Inode* inode = operation.file->inode();
            if (inode != nullptr && S_ISDIR(inode->mode())) return Errno(EINVAL);
            if (operation.file->seekable() && block.aio_offset < 0) return Errno(EINVAL);
            bool many = block.aio_lio_opcode == IOCB_CMD_PREADV || block.aio_lio_opcode == IOCB_CMD_PWRITEV;
            if (many)
                operation.pieces = TRY(UserIovec::copy_in(task, block.aio_buf, block.aio_nbytes));
            else
                TRY(user_buffer(task, block.aio_buf, block.aio_nbytes));
            return operation;
        }
        case IOCB_CMD_FSYNC:
        case IOCB_CMD_FDSYNC: {
            if (block.aio_buf != 0 || block.aio_offset != 0 || block.aio_nbytes != 0 || block.aio_rw_flags != 0)
                return Errno(EINVAL);
            Inode* inode = operation.file->inode();
            if (inode == nullptr || (!S_ISREG(inode->mode()) && !S_ISDIR(inode->mode()))) return Errno(EINVAL);
            return operation;
        }
        default:
            return Errno(EINVAL);
    }
}

SysResult<size_t> move(Task& task, Operation& operation) {
    const iocb& block = operation.block;
    File& file = *operation.file;
    bool writes = block.aio_lio_opcode == IOCB_CMD_PWRITE || block.aio_lio_opcode == IOCB_CMD_PWRITEV;
    IoBuffer buffer =
        operation.pieces ? operation.pieces->buffer(task) : TRY(user_buffer(task, block.aio_buf, block.aio_nbytes));
    if (!writes) return file.seekable() ? file.pread(task, buffer, block.aio_offset) : file.read(task, buffer);
    bool append = (block.aio_rw_flags & kAppend) != 0;
    if (!file.seekable()) return file.write(task, buffer);
    TRY(before_write(task, file, buffer, block.aio_offset));
    size_t written = TRY(file.pwrite(task, buffer, block.aio_offset, append));
    if (written != 0 && (block.aio_rw_flags & (kDataSync | kSync)))
        TRY(file.sync(task, (block.aio_rw_flags & kSync) == 0));
    return written;
}

int64_t carry_out(Task& task, Operation& operation) {
    auto sync = [&](bool data_only) -> int64_t {
        auto done = operation.file->sync(task, data_only);
        return done.ok() ? 0 : -errno_of(done.error());
    };
    if (operation.block.aio_lio_opcode == IOCB_CMD_FSYNC) return sync(false);
    if (operation.block.aio_lio_opcode == IOCB_CMD_FDSYNC) return sync(true);
    auto moved = move(task, operation);
    if (moved.ok()) return static_cast<int64_t>(*moved);
    int error = errno_of(moved.error());
    // It is not made again by itself.
    return error >= kRestartSys ? -EINTR : -error;
}

SysResult<void> submit_one(Task& task, AioContext& context, GuestAddr address) {
    iocb block = TRY(task.read(UserPtr<iocb>(address)));
    if (!context.reserve()) return Errno(EAGAIN);
    auto operation = check_operation(task, block);
    SysResult<void> told;
    if (operation.ok()) told = task.write(UserPtr<uint32_t>(address + offsetof(iocb, aio_key)), kKey);
    if (!operation.ok() || !told.ok()) {
        context.cancel();
        return operation.ok() ? told.error() : operation.error();
    }
    io_event event{};
    event.data = block.aio_data;
    event.obj = address;
    event.res = carry_out(task, *operation);
    context.add(event);
    if (operation->eventfd && (operation->eventfd->poll_events(&task) & EPOLLOUT)) {
        uint64_t one = 1;
        IoBuffer buffer = IoBuffer::kernel(&one, sizeof(one));
        static_cast<void>(operation->eventfd->write(task, buffer));
    }
    return {};
}

SysResult<int64_t> sys_io_submit(Task& task, const SyscallArgs& args) {
    int64_t count = args.i64(1);
    GuestAddr list = args.u64(2);
    if (count < 0) return Errno(EINVAL);
    Ref<AioContext> context = TRY(find_context(task, args.u64(0)));
    count = std::min<int64_t>(count, context->capacity);
    int64_t done = 0;
    for (; done < count; ++done) {
        auto address = task.read(UserPtr<uint64_t>(list + static_cast<uint64_t>(done) * sizeof(uint64_t)));
        SysResult<void> one = address.ok() ? submit_one(task, *context, *address) : SysResult<void>(address.error());
        if (one.ok()) continue;
        if (done == 0) return one.error();
        break;
    }
    return done;
}

SysResult<int64_t> sys_io_cancel(Task& task, const SyscallArgs& args) {
    uint32_t key = TRY(task.read(UserPtr<uint32_t>(args.u64(1) + offsetof(iocb, aio_key))));
    if (key != kKey) return Errno(EINVAL);
    TRY(find_context(task, args.u64(0)));
    return Errno(EINVAL);  // it has ended
}

SysResult<int64_t> get_events(Task& task, const SyscallArgs& args) {
    int64_t least = args.i64(1), most = args.i64(2);
    GuestAddr into = args.u64(3);
    Deadline deadline;
    if (args.u64(4) != 0) {
        timespec timeout = TRY(task.read(UserPtr<timespec>(args.u64(4))));
        // Linux takes any numbers here.
        Nanoseconds seconds = to_nanoseconds(timespec{std::clamp<int64_t>(timeout.tv_sec, 0, INT64_MAX), 0});
        deadline = saturating_add(monotonic_now(), saturating_add(seconds, std::max<int64_t>(timeout.tv_nsec, 0)));
    }
    Ref<AioContext> context = TRY(find_context(task, args.u64(0)));
    if (least < 0 || most < least) return Errno(EINVAL);
    int64_t got = 0;
    using Done = std::optional<SysResult<int64_t>>;
    auto result = task.wait_on(context->waiters, EPOLLIN, deadline, [&]() -> Done {
        while (got < most) {
            auto events = context->take(std::min<size_t>(static_cast<size_t>(most - got), 128));
            if (events.empty()) break;
            GuestAddr at = into + static_cast<uint64_t>(got) * sizeof(io_event);
            auto told = task.memory().copy_out(at, events.data(), events.size() * sizeof(io_event));
            if (!told.ok()) return got != 0 ? SysResult<int64_t>(got) : SysResult<int64_t>(told.error());
            got += static_cast<int64_t>(events.size());
        }
        if (got >= least || context->ended()) return SysResult<int64_t>(got);
        return std::nullopt;
    });
    if (result.ok()) return result;
    int error = errno_of(result.error());
    if (got != 0 || error == ETIMEDOUT) return got;
    return Errno(error >= kRestartSys ? EINTR : error);
}

SysResult<int64_t> sys_io_pgetevents(Task& task, const SyscallArgs& args) {
    if (args.u64(5) != 0) {
        auto wanted = TRY(task.read(UserPtr<WantedMask>(args.u64(5))));
        TRY(set_mask_for_wait(task, wanted.address, wanted.size));
    }
    return get_events(task, args);
}

constexpr SyscallRow kRows[] = {
    {206, "io_setup", sys_io_setup, Support::kFull},
    {207, "io_destroy", sys_io_destroy, Support::kFull},
    {208, "io_getevents", get_events, Support::kFull},
    {209, "io_submit", sys_io_submit, Support::kPartial, "does the work at once; no IOCB_CMD_POLL"},
    {210, "io_cancel", sys_io_cancel, Support::kPartial, "there is never anything to cancel"},
    {333, "io_pgetevents", sys_io_pgetevents, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> aio_syscalls() { return kRows; }

}  // namespace casemate::sentry
