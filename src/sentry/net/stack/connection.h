// Connection: one TCP connection over a link (RFC 9293), from SYN to TIME_WAIT, which is spent by what is left of it
// (time_wait.h).
//
// Positions are 64-bit: 0 is the SYN, data begins at 1, the FIN takes the one behind the last byte. Sequence numbers
// are their lower halves plus the initial one. tcp_input.cc takes segments, tcp_output.cc sends, tcp_recovery.cc
// repairs, tcp_timers.cc waits, tcp_data.cc serves the application.
//
// Who holds the lock works for all: a receive thread that finds it taken leaves the segment in the backlog, which the
// holder empties before it goes. So no connection stops the packets of another.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "sentry/mm/io_buffer.h"
#include "sentry/net/stack/congestion.h"
#include "sentry/net/stack/fifo.h"
#include "sentry/net/stack/link.h"
#include "sentry/net/stack/segment.h"
#include "sentry/net/waiters.h"

struct tcp_info;  // linux/tcp.h

namespace casemate::sentry::stack {

enum class TcpState : uint8_t {  // as Linux numbers them
    kEstablished = 1,
    kSynSent,
    kSynReceived,
    kFinWait1,
    kFinWait2,
    kTimeWait,  // TimeWait's; a Connection is closed by then
    kClosed,
    kCloseWait,
    kLastAck,
    kListen,
    kClosing,
};

// What socket options set. Read without the lock.
struct Tuning {
    std::atomic<bool> no_delay{false}, cork{false}, keep_alive{false}, urgent_inline{false};
    std::atomic<uint32_t> keep_idle{7200}, keep_interval{75}, keep_count{9}, syn_retries{6};  // seconds, seconds
    std::atomic<uint32_t> user_timeout_ms{0}, most_segment{0};                                // 0: none
    std::atomic<uint32_t> send_buffer{0}, receive_buffer{0};                                  // 0: tuned
    std::atomic<uint8_t> hop_limit{64}, traffic_class{0};
    void copy_from(const Tuning& other);
};

// What a handshake has agreed on.
struct Agreement {
    uint32_t initial_send = 0, initial_receive = 0;
    uint16_t mss = 536;
    int send_scale = -1, receive_scale = 0;  // send_scale -1: windows are not scaled
    bool sack = false, timestamps = false;
    bool ecn = false;  // both take and send marks of congestion
    uint32_t recent_timestamp = 0;
    uint32_t window = 0;  // the peer's, as of the handshake's last segment
    uint32_t timestamp_offset = 0;
    Nanoseconds round_trip = 0;  // 0: not measured
    size_t receive_buffer = 0;   // chosen by an option; 0: tuned
};

class Connection final : public TimerTarget {
  public:
    static constexpr size_t kFirstReceiveBuffer = 256 << 10, kMostReceiveBuffer = 6 << 20;
    static constexpr size_t kFirstSendBuffer = 256 << 10, kMostSendBuffer = 4 << 20;
    static constexpr int kScale = 7;  // of windows that we announce

    // To be given to Stack::connect().
    Connection(Ref<Stack> stack, const Tuple& tuple, uint32_t link, Ref<SocketWaiters> waiters);
    // From a finished handshake.
    Connection(Ref<Stack> stack, const Tuple& tuple, uint32_t link, const Agreement& agreement);
    ~Connection() override;

    const Tuple& tuple() const { return tuple_; }
    Tuning tuning;

    // --- The application's side ---
    struct Progress {
        size_t bytes = 0;
        bool would_block = false;
        bool ended = false;
        bool at_mark = false;  // the next byte is the urgent one: a read ends before it
        int error = 0;
    };
    // `urgent`: the last byte is (MSG_OOB).
    Progress send(IoBuffer& from, bool more, bool urgent = false);
    struct Reading {
        bool peek = false, discard = false;
        size_t peeked = 0;
        size_t want = SIZE_MAX;  // of discarding
    };
    Progress receive(IoBuffer& into, Reading& reading);
    // The urgent byte (MSG_OOB). EINVAL: there is none; EAGAIN: it was announced, but has not come.
    SysResult<std::byte> receive_urgent(bool peek);
    bool at_mark();  // SIOCATMARK
    void shutdown_send();
    void shutdown_receive();
    // The application has gone. abort: with a reset.
    void close(bool abort);
    void set_waiters(Ref<SocketWaiters> waiters);
    uint32_t poll_events() const { return ready_.load(std::memory_order_acquire); }
    TcpState state() const { return state_.load(std::memory_order_acquire); }
    bool connecting() const { return state() == TcpState::kSynSent || state() == TcpState::kSynReceived; }
    // What ended it; taken once.
    int take_error();
    int pending_error() const { return error_.load(std::memory_order_acquire); }
    size_t unread();    // in order, not yet read
    size_t unsent();    // not yet acknowledged
    size_t not_sent();  // not yet sent at all
    void info(tcp_info& into);
    uint32_t segment_size();
    void options_changed();  // of `tuning`: what waited may go now

    // --- The stack's side ---
    void list();  // it is in the table
    void connect();
    // True if it is to be told batch_done().
    bool deliver(TcpSegment& segment);
    void batch_done();
    void timer_fired(Nanoseconds now) override;
    bool in_flight(uint32_t sequence);
    void soft_error(int error);
    void path_changed();
    void abandon(int error);  // the stack ends

  private:
    class Locked {
      public:
        explicit Locked(Connection& connection) : connection_(connection) { connection.lock(); }
        ~Locked() { connection_.unlock(); }
        Locked(const Locked&) = delete;
        Locked& operator=(const Locked&) = delete;

      private:
        Connection& connection_;
    };
    struct Chunk {  // received bytes
        Ref<FrameBuffer> buffer;
        uint32_t offset = 0, size = 0;
    };
    struct Block {  // bytes to be sent; the memory never moves
        Ref<FrameBuffer> buffer;
        uint32_t size = 0, capacity = 0;
        uint64_t position = 0;
    };
    struct Range {
        uint64_t begin, end;
    };
    enum class Urgent : uint8_t { kNone, kUnread, kRead };
    enum class Phase : uint8_t { kOpen, kRecovery, kLoss };
    enum class Waits : uint8_t { kNothing, kRetransmission, kTailProbe, kWindow };

    void lock();
    void unlock();
    void settle_locked();  // events and timers, before the lock is let go

    // tcp_input.cc
    void input_locked(TcpSegment& segment);
    void syn_sent_input_locked(TcpSegment& segment);
    void drain_locked();
    void process_ack_locked(const TcpSegment& segment, uint64_t ack);
    void process_payload_locked(TcpSegment& segment, uint64_t position);
    void append_locked(const TcpSegment& segment, Bytes payload);
    Chunk chunk_of(const TcpSegment& segment, Bytes payload);
    void urgent_received_locked(const TcpSegment& segment, uint64_t position);
    void hear_marks_locked(const TcpSegment& segment);
    void hear_echo_locked(uint64_t ack);
    bool at_mark_locked() const { return urgent_ != Urgent::kNone && urgent_at_ == read_position_; }
    bool urgent_is_here_locked() const { return urgent_ == Urgent::kUnread && urgent_at_ - read_position_ < unread_; }
    void take_front_locked(size_t size);
    void fin_received_locked();
    void fin_acknowledged_locked();
    void agree_locked(const Agreement& agreement);
    void challenge_locked();
    void reset_received_locked();

    // tcp_output.cc
    void output_locked();
    bool send_new_data_locked();
    bool transmit_locked(uint64_t position, uint64_t& size, uint8_t flags);
    const Block* block_at_locked(uint64_t position) const;
    size_t gatherable_locked(uint64_t position, size_t data) const;
    bool send_segment_locked(uint64_t position, size_t data, uint8_t flags);
    void send_syn_locked();
    void send_ack_locked();
    void send_reset_locked();
    size_t write_options_locked(uint8_t* at, uint8_t flags);
    uint16_t window_locked(bool syn);
    SysResult<const Egress*> egress_locked();
    void update_segment_size_locked();

    // tcp_recovery.cc
    uint64_t add_sacked_locked(uint64_t begin, uint64_t end);
    void trim_sacked_locked();
    uint64_t lost_edge_locked() const;
    uint64_t pipe_locked() const;
    bool next_lost_locked(uint64_t& begin, uint64_t& end) const;
    void detect_loss_locked();
    void enter_recovery_locked();
    void retransmission_timeout_locked(Nanoseconds now);
    void tail_probe_locked();
    void window_probe_locked(Nanoseconds now);
    void round_trip_sample_locked(Nanoseconds sample);

    // tcp_timers.cc
    void arm_retransmission_locked(bool restart);
    void end_locked(int error);     // nothing more: leaves the table
    void enter_time_wait_locked();  // as end_locked(), with a TimeWait in the table
    void keep_alive_locked(Nanoseconds now);
    Nanoseconds next_deadline_locked() const;

    uint32_t send_sequence(uint64_t position) const { return initial_send_ + static_cast<uint32_t>(position); }
    uint64_t receive_position(uint32_t sequence) const {
        return receive_next_ + static_cast<uint64_t>(int64_t{static_cast<int32_t>(
                                   sequence - (initial_receive_ + static_cast<uint32_t>(receive_next_)))});
    }
    uint64_t sendable_end() const { return write_end_ + (fin_queued_ ? 1 : 0); }
    uint64_t flight() const { return send_next_ - send_una_; }
    size_t send_limit_locked() const;
    size_t receive_free_locked() const;
    void maybe_update_window_locked();
    uint32_t timestamp_now() const { return static_cast<uint32_t>(stack_->now() / 1'000'000) + timestamp_offset_; }
    void set_state(TcpState state) { state_.store(state, std::memory_order_release); }

    const Ref<Stack> stack_;
    const Tuple tuple_;
    const uint32_t link_;  // of the socket's wish; 0: by route
    std::mutex mutex_;
    std::mutex read_mutex_;  // one reader at a time; before mutex_

    std::mutex backlog_mutex_;
    std::vector<TcpSegment> backlog_;     // guarded by backlog_mutex_
    size_t backlog_bytes_ = 0;            // guarded by backlog_mutex_
    std::atomic<bool> attention_{false};  // the holder has to look at the backlog, and to answer

    std::atomic<TcpState> state_{TcpState::kClosed};
    std::atomic<uint32_t> ready_{0};
    std::atomic<int> error_{0};

    // --- Guarded by mutex_ ---
    Ref<SocketWaiters> waiters_;
    uint32_t wake_ = 0;  // events to be told when the lock is let go
    bool listed_ = false, orphan_ = false;
    bool receive_shut_ = false;

    Egress egress_;
    uint32_t egress_generation_ = 0;
    uint32_t segment_size_ = 536;  // payload of a full segment, options taken off
    uint32_t peer_mss_ = 536;
    bool sack_ = false, timestamps_ = false;
    bool ecn_ = false, ecn_asked_ = false;                 // RFC 3168; asked_: by our SYN
    bool congestion_seen_ = false, capable_seen_ = false;  // seen_: the peer is told until it has slowed down
    bool slowed_down_ = false;                             // which the peer has yet to hear
    uint64_t slowed_at_ = 0;                               // what was under way then was sent before
    int send_scale_ = -1;                                  // -1: none
    int receive_scale_ = 0;
    uint32_t recent_timestamp_ = 0, timestamp_offset_ = 0;

    // Sending.
    uint32_t initial_send_ = 0;
    uint64_t send_una_ = 0, send_next_ = 0, send_max_ = 0;
    uint64_t write_end_ = 1;   // behind the last byte that the application has written
    uint64_t urgent_end_ = 0;  // behind the last byte that was urgent; 0: none ever
    bool fin_queued_ = false;
    bool more_coming_ = false;  // MSG_MORE
    Fifo<Block> blocks_;
    uint64_t window_ = 0;  // the peer's, from send_una_
    uint64_t most_window_ = 0;
    uint64_t window_sequence_ = 0, window_ack_ = 0;  // of the segment that told it
    Congestion congestion_;
    bool window_limited_ = false;

    // Repairing.
    Phase phase_ = Phase::kOpen;
    std::vector<Range> sacked_;  // sorted
    uint64_t recover_ = 0, high_retransmitted_ = 0, loss_edge_ = 0;
    uint64_t head_marker_ = 0;  // send_next_ when the first hole was last repaired
    unsigned duplicates_ = 0, reordering_ = 3;
    uint64_t timed_position_ = 0;  // 0: nothing is timed
    Nanoseconds timed_at_ = 0;
    Nanoseconds smoothed_ = 0, variation_ = 0, timeout_ = kSecond;
    unsigned retries_ = 0, probes_out_ = 0;
    bool tail_probed_ = false;
    Nanoseconds first_unanswered_ = 0;  // when the present row of retries began
    uint64_t retransmitted_ = 0, total_retransmissions_ = 0;
    int soft_error_ = 0;

    // Receiving.
    uint32_t initial_receive_ = 0;
    uint64_t receive_next_ = 0, receive_edge_ = 0;  // next wanted; what has been announced
    uint64_t fin_at_ = 0;                           // 0: no FIN has been seen
    bool fin_taken_ = false;
    Fifo<Chunk> received_;
    size_t unread_ = 0;
    uint64_t read_position_ = 1;  // of the first unread byte
    Urgent urgent_ = Urgent::kNone;
    uint64_t urgent_at_ = 0;           // the byte's position; at read_position_ or beyond
    std::map<uint64_t, Chunk> early_;  // out of order, disjoint
    size_t early_bytes_ = 0;
    uint64_t last_early_ = 0;  // the range that came last goes first in SACK
    Range duplicate_{0, 0};
    size_t receive_buffer_ = kFirstReceiveBuffer;
    uint64_t read_since_ = 0;  // bytes the application took in the present interval
    Nanoseconds interval_began_ = 0;
    uint32_t receive_segment_ = 536;
    size_t unacknowledged_ = 0;  // received bytes since our last ACK
    bool ack_now_ = false;
    unsigned quick_acks_ = 16;
    Nanoseconds received_at_ = 0, challenged_at_ = 0;
    uint64_t bytes_in_ = 0, bytes_out_ = 0, segments_in_ = 0, segments_out_ = 0;

    // Deadlines; 0: none.
    Waits waits_ = Waits::kNothing;
    Nanoseconds repeat_at_ = 0;  // for `waits_`
    Nanoseconds ack_at_ = 0, retry_at_ = 0, life_at_ = 0, keep_at_ = 0;
    unsigned keep_probes_ = 0;
};

}  // namespace casemate::sentry::stack
