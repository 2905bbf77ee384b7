// FUSE messages to a file server in a process of its own, over a stream socket.
//
// Neither end can reach what the other may, with one exception: where the guest's memory is a file, the server gets to
// see it, read-only, and large writes say where in it their data lies instead of carrying it (share_memory()). Data
// that is read from files goes over the socket: nobody but the monitor writes to the guest's memory, so that a device
// that was reset is done with it. The device's end never blocks but in drain(), save() and restore(), which have a
// limit in time. A server that breaks the protocol, hangs up, or promises more than fits is done with: every request,
// then and later, is answered with EIO.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "virtio/fd_watch.h"
#include "virtio/fuse_handler.h"

namespace casemate::virtio {

// What goes to the server in front of each message's arguments. header.len counts fuse_in_header and the arguments, as
// in the guest's message; header.unique is the device's own number.
struct FuseLinkRequest {
    fuse_in_header header;
    uint32_t room;      // for the reply's body
    uint32_t segments;  // FUSE_WRITE: behind fuse_write_in, so many FuseLinkSegment in place of the data
};
// Of the file that came with kFuseLinkMemory. Not empty.
struct FuseLinkSegment {
    uint64_t offset;
    uint64_t length;
};

constexpr uint32_t kFuseLinkForgetAll = kOwnFuseOpcodes + 1;  // no reply
constexpr uint32_t kFuseLinkSave = kOwnFuseOpcodes + 2;       // the reply's body is the state
constexpr uint32_t kFuseLinkRestore = kOwnFuseOpcodes + 3;    // the arguments are the state
constexpr uint32_t kFuseLinkMemory = kOwnFuseOpcodes + 4;     // the first; no reply; perhaps with the guest's memory
constexpr size_t kFuseLinkMaxState = 16 << 20;
constexpr size_t kFuseLinkMaxArguments = (1 << 20) + (64 << 10);  // of the guest's messages
constexpr size_t kFuseLinkMaxSegments = kMaxQueueSize;

class FuseLink final : public FuseHandler {
  public:
    // A connected stream socket.
    explicit FuseLink(UniqueFd socket) : socket_(std::move(socket)) {}
    ~FuseLink() override = default;

    // A part of the guest's memory, and where it begins in the file behind it.
    struct SharedMemory {
        const char* host = nullptr;
        uint64_t size = 0;
        uint64_t file_offset = 0;
    };
    // The first message: lets the server see the guest's memory, or not (-1 and no parts). Once, before the first
    // request. What the guest writes must come to the file: not so if the memory is a private copy or has images mapped
    // into it.
    SysResult<void> share_memory(int file, std::vector<SharedMemory> parts);

    void attach(DeviceLoop& loop, std::mutex& owner, Done done, std::function<void()> room) override;
    void start(uint16_t slot, const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) override;
    void tell(const fuse_in_header& header, ChainBuffer& in) override;
    bool full() const override { return !unsent_.empty(); }
    void drain() override;
    void forget_all() override;
    void save(StateWriter& writer) override;
    SysResult<void> restore(StateReader& reader) override;

  private:
    static constexpr int kPatience = 10'000;  // ms
    static constexpr int kReadsPerTurn = 256;
    // Less data than this is copied along: that costs less than finding the guest's pages.
    static constexpr size_t kSmallWrite = 2048;
    // Replies up to this size are taken by one call.
    static constexpr size_t kBufferSize = 8 << 10;

    struct Pending {
        uint16_t slot;
        ChainBuffer* out;  // null: for state_
        uint32_t room;
    };

    // Puts the message's first part in front; its arguments are to be appended to unsent_, then flush().
    void begin(const fuse_in_header& header, uint64_t unique, uint32_t room, uint32_t segments = 0);
    void append_write(ChainBuffer& in);
    void append_copy(std::string_view bytes);
    bool find_segments(const std::vector<iovec>& data);
    void flush();
    void receive();
    bool receive_into_buffer();
    bool receive_body();
    void take_buffered();
    bool begin_reply();
    void finish_reply();
    void ready(uint32_t events);
    // Waits for the socket, at most kPatience in all since `start`; false: too long.
    bool wait_for(short events, std::chrono::steady_clock::time_point start);
    void give_up(const char* why);
    void watch();
    SysResult<std::string> ask(uint32_t opcode, std::string_view arguments);

    UniqueFd socket_;
    std::unique_ptr<FdWatch> watch_;
    Done done_;
    std::function<void()> room_;
    uint64_t next_unique_ = 1;
    std::unordered_map<uint64_t, Pending> pending_;

    // The message that is on its way out: its first part and what was copied are ours, the rest is the chain's.
    FuseLinkRequest forget_{}, request_{};
    bool forget_wanted_ = false;
    std::string copied_;
    std::vector<SharedMemory> shared_;
    fuse_write_in write_{};
    std::vector<iovec> data_;
    std::vector<FuseLinkSegment> segments_;
    std::vector<iovec> unsent_;

    // What came in and was not looked at yet.
    std::vector<char> buffer_;
    size_t buffer_begin_ = 0, buffer_end_ = 0;
    // The reply that is coming in.
    fuse_out_header reply_{};
    bool body_wanted_ = false;
    size_t body_left_ = 0;
    std::vector<iovec> body_;  // where what did not come into the buffer goes
    std::string state_;
    int state_error_ = 0;
    bool state_done_ = false;
    bool broken_ = false;
    std::vector<char> scratch_;
};

}  // namespace casemate::virtio
