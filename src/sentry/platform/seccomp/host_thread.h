// One host thread of a stub process that runs application code, and the state it stopped in.
//
// The hot path is send() and wait(): one SEND and one RECV, no locks, no allocations. Faster still, a call may come in
// the thread's slot (call_poller.h): then the poller, not the thread's driver, asks for the answer. Who has the thread
// in hand says owner_: the application (anything may come), its driver (from a stop until the answer), or the poller.
//
// A call in the slot that would wait is parked: the application sleeps in the stub on the slot's word, and is answered
// there by whoever has the result, without a notification.
#pragma once

#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/call_poller.h"
#include "sentry/platform/seccomp/call_sites.h"
#include "sentry/platform/seccomp/control_area.h"
#include "sentry/platform/seccomp/listener.h"
#include "sentry/platform/seccomp/signal_frame.h"

namespace casemate::sentry::seccomp {

class HostThread {
  public:
    // `area` is our view of the thread's area, `stub_area` its address in the stub. The thread is about to make, or has
    // made, its first notification.
    HostThread(Listener listener, int pidfd, pid_t process, const FrameLayout& layout, std::byte* area,
               uint64_t stub_area, CallPoller& poller, CallSites& sites);
    ~HostThread();

    // Waits for the first notification. False: that was not the stub's code; kill the stub.
    bool start();
    // Brings a thread of an earlier owner into the state of a new one. False: it cannot be used again.
    bool renew();

    Stop resume();
    Stop complete_syscall(int64_t result);
    Stop complete_and_stop(int64_t result);
    // The halves of the three: see AppThread.
    void go_on();
    void answer(int64_t result, WakeOn where);
    void answer_and_stop(int64_t result);
    bool answer_stopped(int64_t result);
    void take_parked();
    // kTimeout comes up to a millisecond early.
    Stop wait(std::optional<int64_t> deadline = std::nullopt);
    Registers& registers() { return registers_; }
    std::span<std::byte> fp_state();
    void interrupt() const;
    pid_t thread_id() const { return thread_id_; }

    // Own thread, while the application is stopped. Null also ends the poller's interest.
    void set_quick_calls(QuickCalls* calls);

    // Takes the thread into its driver's hand; waits for the poller.
    void claim();
    // For the poller. Answers the call in the slot, if there is one and it can.
    struct Served {
        bool answered = false;
        bool keep = false;  // it is worth looking here again at once
    };
    std::atomic<uint32_t>& slot_word() const { return slot_.state; }
    // Any thread.
    void set_facts(std::span<const CallFact> facts);
    StandingPlace place_for(const StandingAnswer& answer) const;
    OfferPlace offer_place(const ReadOffer& offer);
    // Whether the application gives its CPU away to who answers, and which one that is; -1: it looks for the answer.
    void set_yield_cpu(int cpu);
    bool claim_for_poller();
    Served serve_slot();
    void release_from_poller();
    // The poller's own CPU is not for the application, from now until roam(). Under the poller's lock.
    void keep_off(int cpu);
    void roam();

  private:
    enum Owner : uint32_t { kApplication, kDriver, kPoller };
    enum class State { kDead, kAtFrame, kAtSyscall };
    // The call in the slot: not parked; the application waits for its answer; the same, but it is being answered; its
    // driver has got something else of the thread before the answer, and takes that.
    enum Parked : uint32_t { kNotParked, kParked, kAnswering, kStopped };

    // Where the thread has its place in one of the tables that a stub can only read; 0: it has none.
    uint64_t table_entry(uint64_t table) const;
    // SAFETY: our view of a stub's block is in the same arrangement as the stub's, with the tables behind the areas.
    template <typename T>
    T& at(uint64_t stub_address) const {
        return *reinterpret_cast<T*>(area_ + (stub_address - stub_area_));
    }
    void send(int64_t answer);
    void park(std::optional<int64_t> deadline);
    void answer_parked(int64_t result);
    // The driver has got something of the thread: a parked call is not answered in the slot any more. False: it was not
    // parked, or is answered.
    bool stop_parked();
    void count_running(bool runs);
    bool driven_by_caller() const { return driver_.load(std::memory_order_relaxed) == pthread_self(); }
    void take_stop(const seccomp_notif& notification, Stop& stop);
    void take_frame(int signo, const seccomp_notif& notification, Stop& stop);
    void clear();
    void release();
    // A call that came the slow way: are there many?
    void count_call(SyscallStop& call);
    // Of a thread that was stopped where it takes an offer: puts what rax should be there. True: it is taken.
    bool leave_offer();
    // The thread was stopped on its way through thunk and trampoline: puts it before or behind its call. True: what
    // stopped it was this way's fault, not the application's.
    bool leave_trampoline(StopReason reason, const FaultStop& fault);
    // The application did what its stub's code never does: ends the whole stub.
    void condemn(Stop& stop);
    std::span<std::byte> fp_image();

    State state_ = State::kDead;
    std::atomic<bool> unanswerable_{false};  // the thread was found gone when it was to be answered
    bool fp_is_here_ = false;                // fp_image_ is newer than the frame
    uint64_t notification_ = 0;
    Listener listener_;
    const FrameLayout& layout_;
    std::byte* area_;
    uint64_t stub_area_;
    Registers registers_;
    std::unique_ptr<std::byte[]> fp_image_;  // allocated when first asked for
    int pidfd_;                              // borrowed from the stub
    pid_t process_;
    pid_t thread_id_ = 0;

    CallSlot& slot_;
    ParkLine& park_line_;
    OfferLine* const offers_;
    std::atomic<uint32_t> parked_{kNotParked};
    std::optional<int64_t> parked_until_;  // written before parked_
    bool late_ = false;                    // driver's: the application of a parked call is told at the next wait()
    std::atomic<bool> runs_{false};
    std::atomic<pthread_t> driver_{};  // who waits for the thread's stops
    CallPoller& poller_;
    CallSites& sites_;
    std::atomic<uint64_t> facts_address_{0};
    std::atomic<uint32_t> owner_{kDriver};
    // Owner's.
    QuickCalls* quick_calls_ = nullptr;
    CallRhythm rhythm_;
    ParkPatience patience_;
    bool awake_ = false;             // the parked call's application may yield first
    std::optional<cpu_set_t> home_;  // the thread's CPUs, while it is kept off one; guarded by the poller's lock
    // How many calls came from where lately.
    struct Count {
        uint64_t ip = 0;
        uint32_t calls = 0;
    };
    static constexpr uint32_t kOften = 100;
    std::array<Count, 64> counts_{};
};

}  // namespace casemate::sentry::seccomp
