// HalfOpenTable: connections that a SYN has asked for and no ACK has confirmed (RFC 9293 3.5, RFC 4987). An entry is
// small, their number is bounded; beyond it, the answer carries the state in its sequence number (a cookie).
#pragma once

#include <list>
#include <mutex>
#include <unordered_map>

#include "sentry/net/stack/connection.h"

namespace casemate::sentry::stack {

class HalfOpenTable {
  public:
    static constexpr size_t kMostEntries = 4096;

    explicit HalfOpenTable(Stack& stack);
    ~HalfOpenTable();
    // A segment that belongs to no connection. The new one if it confirms an entry; otherwise it has been answered.
    Ref<Connection> input(TcpSegment& segment);
    size_t size();
    void stop();

  private:
    class Ticker;
    struct Entry {
        Tuple tuple;
        uint32_t link = 0;
        Agreement agreement;
        Nanoseconds deadline = 0, born = 0;
        unsigned tries = 0;
    };
    using Entries = std::list<Entry>;

    void tick(Nanoseconds now);
    Ref<Connection> confirm(const TcpSegment& segment, const Agreement& agreement, const FoundListener& found);
    void syn(TcpSegment& segment, const FoundListener& found);
    void answer(const Entry& entry, bool cookie);
    uint32_t cookie_of(const TcpSegment& segment, uint32_t initial_receive, unsigned mss_index, uint32_t minute) const;
    bool check_cookie(const TcpSegment& segment, Agreement& agreement) const;
    uint64_t key_of(const Tuple& tuple) const;
    void erase_locked(Entries::iterator entry);

    Stack& stack_;
    std::mutex mutex_;
    Entries entries_;                                         // oldest first; guarded by mutex_
    std::unordered_map<uint64_t, Entries::iterator> by_key_;  // guarded by mutex_
    Nanoseconds overflowed_ = 0;                              // when cookies were last given; guarded by mutex_
    Ref<Ticker> ticker_;
};

}  // namespace casemate::sentry::stack
