// NeighbourTable: hardware addresses of a link's neighbours, by ARP (RFC 826) and NDP (RFC 4861).
//
// Anybody on the link can claim to be anybody: an entry is only made by our own need or a request to us, and the table
// and each entry's queue are bounded.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/result.h"
#include "sentry/net/stack/frame.h"
#include "sentry/net/stack/timers.h"

namespace casemate::sentry::stack {

class Link;
class Stack;

class NeighbourTable {
  public:
    static constexpr size_t kMostEntries = 1024, kMostQueued = 64, kMostQueuedBytes = 256 << 10;

    enum class State : uint8_t { kIncomplete, kReachable, kStale, kProbe, kFailed, kPermanent };
    struct Entry {
        InetAddress address;
        MacAddress mac{};
        State state = State::kIncomplete;
    };

    NeighbourTable(Stack& stack, Link& link);
    ~NeighbourTable();

    // The address if it is known. Otherwise the frame (with its type) waits and a question goes out; EHOSTUNREACH:
    // nobody has answered lately.
    SysResult<std::optional<MacAddress>> resolve(const InetAddress& address, uint16_t type, const OutFrame& frame);
    // `address` says that it has `mac`. create: also if nobody has asked (it has asked us). solicited: it answers.
    void learn(const InetAddress& address, const MacAddress& mac, bool create, bool solicited,
               bool override_known = true);
    void set_permanent(const InetAddress& address, const MacAddress& mac);
    void remove(const InetAddress& address);
    std::vector<Entry> entries();
    void stop();

  private:
    class Ticker;
    struct Waiting {
        uint16_t type;
        std::vector<uint8_t> bytes;  // head and payload
        VirtioHeader virtio;
        uint16_t head_size;
    };
    struct Neighbour {
        MacAddress mac{};
        State state = State::kIncomplete;
        unsigned probes = 0;
        Nanoseconds deadline = 0;  // of the state
        Nanoseconds used = 0;
        std::deque<Waiting> queue;
        size_t queued_bytes = 0;
    };
    void tick(Nanoseconds now);
    void ask(const InetAddress& address, const MacAddress* to);
    bool make_room_locked();
    void send_waiting(std::deque<Waiting>& queue, const MacAddress& mac);

    Stack& stack_;
    Link& link_;
    std::mutex mutex_;
    std::map<InetAddress, Neighbour> neighbours_;  // guarded by mutex_
    Ref<Ticker> ticker_;
};

}  // namespace casemate::sentry::stack
