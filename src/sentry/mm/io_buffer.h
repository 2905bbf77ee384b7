// IoBuffer: where file data goes to or comes from, whether application memory (several pieces) or the sentry's own.
//
// A file implementation either copies (copy_to / copy_from) or asks for host iovecs to let a host syscall move the
// data straight into application memory that the sentry maps. The position advances with what was moved.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "sentry/kernel/user.h"

namespace casemate::sentry {

class AddressSpace;

class IoBuffer {
  public:
    // Application memory: `pieces` were copied in by the caller (guest addresses in iov_base) and their sum fits
    // MAX_RW_COUNT. The span and the address space are borrowed.
    static IoBuffer user(AddressSpace& space, std::span<const iovec> pieces);
    static IoBuffer user(AddressSpace& space, GuestAddr address, size_t size);
    // The sentry's own memory.
    static IoBuffer kernel(std::span<std::byte> memory);
    static IoBuffer kernel(void* memory, size_t size) {
        return kernel(std::span<std::byte>(static_cast<std::byte*>(memory), size));
    }

    size_t remaining() const { return remaining_; }
    size_t moved() const { return moved_; }
    // Never moves more than `size` bytes from here on (for files that end earlier).
    void limit(size_t size) {
        if (size < remaining_) remaining_ = size;
    }

    // Copies `size` bytes (at most remaining()) from the sentry to the buffer; bytes copied, short at a bad address;
    // EFAULT if nothing could be copied.
    SysResult<size_t> copy_to(const void* from, size_t size);
    // Copies from the buffer to the sentry, likewise.
    SysResult<size_t> copy_from(void* into, size_t size);
    SysResult<size_t> fill_zero(size_t size);

    // Host iovecs for the next bytes, for readv/writev-like host syscalls: at most `into.size()` entries, present for
    // reading or (`for_write` = the host call writes into them) writing. 0 entries with a bad address: EFAULT. What is
    // not mapped by the sentry (host-private pages) ends the list early or is reported by `bounce`. The address space
    // stays locked for access until advance(), release() or the buffer's end: the host call comes right after.
    struct HostPieces {
        size_t count = 0;     // iovecs filled
        size_t bytes = 0;     // their sum
        bool bounce = false;  // the next piece must be moved by copy_to / copy_from
    };
    SysResult<HostPieces> host_pieces(std::span<iovec> into, bool for_write);
    // Moves the position after a host call that used host_pieces.
    void advance(size_t bytes);
    void release();

    IoBuffer(IoBuffer&& other) noexcept;
    IoBuffer& operator=(IoBuffer&&) = delete;
    ~IoBuffer() { release(); }

  private:
    IoBuffer() = default;
    void step(size_t bytes);
    iovec current() const;

    AddressSpace* space_ = nullptr;  // null: kernel memory
    iovec single_{};                 // the one piece, when pieces_ is empty
    std::span<const iovec> pieces_;
    size_t index_ = 0;   // piece
    size_t offset_ = 0;  // within the piece
    size_t remaining_ = 0;
    size_t moved_ = 0;
    bool locked_ = false;  // between host_pieces() and advance()
};

}  // namespace casemate::sentry
