// Who may write a regular file, and whether it may be executed (ETXTBSY): a file that somebody has open for writing is
// not executed, and one that is being executed is not opened for writing or truncated. Counts what this sentry does;
// what others do to a shared tree of the host it does not see.
#pragma once

#include <utility>

namespace casemate::sentry {

class Inode;

// One writer, or one program that runs from it. Empty, or lives no longer than the inode: its owner keeps that.
class WriteHold {
  public:
    WriteHold() = default;
    WriteHold(WriteHold&& other) noexcept : inode_(std::exchange(other.inode_, nullptr)), writes_(other.writes_) {}
    WriteHold& operator=(WriteHold&& other) noexcept {
        release();
        inode_ = std::exchange(other.inode_, nullptr);
        writes_ = other.writes_;
        return *this;
    }
    ~WriteHold() { release(); }

    // Empty: the inode is executed at present.
    static WriteHold to_write(Inode& inode);
    // Empty: somebody writes to the inode.
    static WriteHold to_execute(Inode& inode);
    explicit operator bool() const { return inode_ != nullptr; }

  private:
    void release();
    Inode* inode_ = nullptr;
    bool writes_ = false;
};

}  // namespace casemate::sentry
