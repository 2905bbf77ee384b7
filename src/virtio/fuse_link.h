// FUSE messages to a file server in a process of its own, over a stream socket.
//
// The server sees no guest memory, so it serves a machine whose memory is a private copy (a restored snapshot) as well;
// and neither end can reach what the other may. The device's end never blocks but in drain(), save() and restore(),
// which have a limit in time. A server that breaks the protocol, hangs up, or promises more than fits is done with:
// every request, then and later, is answered with EIO.
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
    uint32_t room;  // for the reply's body
    uint32_t reserved;
};

constexpr uint32_t kFuseLinkForgetAll = kOwnFuseOpcodes + 1;  // no reply
constexpr uint32_t kFuseLinkSave = kOwnFuseOpcodes + 2;       // the reply's body is the state
constexpr uint32_t kFuseLinkRestore = kOwnFuseOpcodes + 3;    // the arguments are the state
constexpr size_t kFuseLinkMaxState = 16 << 20;
constexpr size_t kFuseLinkMaxArguments = (1 << 20) + (64 << 10);  // of the guest's messages

class FuseLink final : public FuseHandler {
  public:
    // A connected stream socket.
    explicit FuseLink(UniqueFd socket) : socket_(std::move(socket)) {}
    ~FuseLink() override = default;

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

    struct Pending {
        uint16_t slot;
        ChainBuffer* out;  // null: for state_
        uint32_t room;
    };

    void send(const fuse_in_header& header, uint64_t unique, uint32_t room, ChainBuffer* in, std::string_view copied);
    void flush();
    void receive();
    bool receive_header();
    bool receive_body();
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
    std::vector<iovec> unsent_;

    // The reply that is coming in.
    fuse_out_header reply_{};
    size_t reply_bytes_ = 0;   // of the header
    std::vector<iovec> body_;  // where the rest goes; empty with body_left_ > 0: nobody wants it
    size_t body_left_ = 0;
    std::string state_;
    int state_error_ = 0;
    bool state_done_ = false;
    bool broken_ = false;
    std::vector<char> scratch_;
};

}  // namespace casemate::virtio
