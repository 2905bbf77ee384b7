#include "sentry/platform/seccomp/host_thread.h"

#include <linux/audit.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace casemate::sentry::seccomp {
namespace {

constexpr int kSysSeccomp = 1;  // si_code of a SIGSYS that a filter raised
constexpr uint64_t kSyscallSize = 2;
constexpr int64_t kTimerSlack = 1'000'000;

// The host would take these for orders to itself: restart the call. No Linux syscall returns them to user code.
int64_t clean_result(int64_t result) { return result <= -512 && result >= -516 ? -EINTR : result; }

}  // namespace

HostThread::HostThread(Listener listener, int pidfd, pid_t process, const FrameLayout& layout, std::byte* area,
                       uint64_t stub_area, CallPoller& poller, CallSites& sites)
    : listener_(std::move(listener)),
      layout_(layout),
      area_(area),
      stub_area_(stub_area),
      pidfd_(pidfd),
      process_(process),
      slot_(*reinterpret_cast<CallSlot*>(area + STUB_AREA_HEADER + STUB_SLOT)),
      park_line_(*reinterpret_cast<ParkLine*>(area + STUB_AREA_HEADER + STUB_PARK)),
      offers_(reinterpret_cast<OfferLine*>(area + STUB_AREA_HEADER + STUB_OFFERS)),
      poller_(poller),
      sites_(sites) {}

HostThread::~HostThread() {
    poller_.forget(*this);
    count_running(false);
}

bool HostThread::start() {
    seccomp_notif notification;
    if (!listener_.receive(notification)) return false;
    const seccomp_data& data = notification.data;
    if (data.arch != AUDIT_ARCH_X86_64 || data.nr != STUB_CALL_FRAME ||
        data.instruction_pointer != stub_address(casemate_stub_frame_return) ||
        data.args[0] != stub_area_ + layout_.frame) {
        return false;
    }
    notification_ = notification.id;
    thread_id_ = static_cast<pid_t>(notification.pid);
    state_ = State::kAtFrame;
    clear();
    return true;
}

bool HostThread::renew() {
    // A thread that waits in a syscall of its former life: have the signal handler produce a frame.
    for (int attempt = 0; state_ == State::kAtSyscall && attempt < 3; ++attempt) complete_and_stop(-EINTR);
    if (state_ != State::kAtFrame) return false;
    clear();
    return true;
}

void HostThread::clear() {
    parked_.store(kNotParked, std::memory_order_relaxed);
    late_ = false;
    slot_.state.store(0, std::memory_order_relaxed);
    set_facts({});
    counts_ = {};
    rhythm_ = {};
    patience_ = {};
    awake_ = false;
    registers_ = Registers{};
    layout_.reset_fp(fp_image());
    fp_is_here_ = true;
}

std::span<std::byte> HostThread::fp_image() {
    if (!fp_image_) fp_image_ = std::make_unique<std::byte[]>(layout_.fp_size);
    return {fp_image_.get(), layout_.fp_size};
}

std::span<std::byte> HostThread::fp_state() {
    if (!fp_is_here_) {
        layout_.read_fp(area_, fp_image());
        fp_is_here_ = true;
    }
    return fp_image();
}

void HostThread::interrupt() const {
    // The stub is reaped only after its threads' objects are gone, so its id cannot have come to mean another process;
    // threads of a stub end only with it.
    syscall(SYS_tgkill, process_, thread_id_, interrupt_signal());
}

void HostThread::send(int64_t answer) {
    release();
    if (state_ == State::kDead || !listener_.answer(notification_, answer)) [[unlikely]] {
        unanswerable_.store(true, std::memory_order_relaxed);
    }
}

Stop HostThread::wait(std::optional<int64_t> deadline) {
    Stop stop;
    seccomp_notif notification;
    driver_.store(pthread_self(), std::memory_order_relaxed);
    if (std::exchange(late_, false)) send(0);
    if (deadline && state_ != State::kDead && !listener_.wait_until(*deadline)) {
        stop.reason = StopReason::kTimeout;
        return stop;
    }
    while (true) {
        if (state_ == State::kDead || unanswerable_.load(std::memory_order_relaxed) || !listener_.receive(notification))
            [[unlikely]] {
            claim();
            state_ = State::kDead;
            return stop;
        }
        claim();
        if (notification.data.nr == STUB_CALL_WAIT &&
            notification.data.instruction_pointer == stub_address(casemate_stub_call_wait_return)) [[unlikely]] {
            notification_ = notification.id;
            if (parked_.load(std::memory_order_acquire) == kParked && parked_until_ &&
                monotonic_time() >= *parked_until_ - kTimerSlack) {
                late_ = true;
                state_ = State::kAtSyscall;
                stop.reason = StopReason::kTimeout;
                return stop;
            }
            // The poller is done by now. If there is no answer, nobody asked: the application came here in another way.
            const uint32_t state = slot_.state.load(std::memory_order_acquire);
            if ((state & STUB_SLOT_STOPPING) != 0)
                slot_.state.store(STUB_SLOT_ANSWERED, std::memory_order_release);
            else if ((state & STUB_SLOT_ANSWERED) == 0)
                slot_.state.store(STUB_SLOT_ANSWERED | STUB_SLOT_REFUSED, std::memory_order_release);
            send(0);
            continue;
        }
        take_stop(notification, stop);
        return stop;
    }
}

void HostThread::claim() {
    while (true) {
        uint32_t owner = kApplication;
        if (owner_.compare_exchange_strong(owner, kDriver, std::memory_order_acquire)) return count_running(false);
        if (owner == kDriver) return;
        owner_.wait(kPoller, std::memory_order_acquire);
    }
}

void HostThread::release() {
    if (owner_.exchange(kApplication, std::memory_order_acq_rel) != kApplication) count_running(true);
}

void HostThread::count_running(bool runs) {
    if (runs_.exchange(runs, std::memory_order_acq_rel) == runs) return;
    if (runs)
        poller_.application_goes();
    else
        poller_.application_stopped();
}

void HostThread::set_facts(std::span<const CallFact> facts) {
    const uint64_t address = table_entry(STUB_FACTS);
    if (address == 0) return;
    auto& known = at<ThreadFacts>(address);
    std::array<uint64_t, STUB_FACT_MASK + 1> words;
    for (size_t i = 0; i < words.size(); ++i) words[i] = ThreadFacts::none(i);
    for (const CallFact& fact : facts) words[fact.nr & STUB_FACT_MASK] = fact.nr | uint64_t{fact.result} << 32;
    for (size_t i = 0; i < words.size(); ++i)
        if (known.words[i].load(std::memory_order_relaxed) != words[i])
            known.words[i].store(words[i], std::memory_order_release);
    for (std::atomic<uint64_t>& word : at<StandingWords>(table_entry(STUB_STANDING)).words)
        word.store(0, std::memory_order_seq_cst);
    for (size_t i = 0; i <= STUB_STANDING_MASK; ++i) {
        uint64_t offer = offers_[i].word.load(std::memory_order_relaxed);
        if (offer >> STUB_OFFER_SIZE_SHIFT != 0) offers_[i].word.compare_exchange_strong(offer, 0);
    }
    facts_address_.store(address, std::memory_order_relaxed);
}

uint64_t HostThread::table_entry(uint64_t table) const {
    static_assert(sizeof(StandingWords) == sizeof(ThreadFacts));
    const uint64_t index = (STUB_AREAS_TOP - stub_area_) / STUB_AREA_SIZE - 1;
    return index < kThreadsWithFacts ? table + index * sizeof(ThreadFacts) : 0;
}

StandingPlace HostThread::place_for(const StandingAnswer& answer) const {
    const uint64_t address = table_entry(STUB_STANDING);
    const bool known = answer.nr == SYS_read || answer.nr == SYS_recvfrom || answer.nr == SYS_lseek;
    if (address == 0 || !known || !StandingWords::fits(answer.fd, answer.result)) return {};
    return {&at<StandingWords>(address).words[answer.fd & STUB_STANDING_MASK],
            StandingWords::encode(answer.nr, answer.fd, answer.result)};
}

OfferPlace HostThread::offer_place(const ReadOffer& offer) {
    if (table_entry(STUB_STANDING) == 0 || offer.fd >> STUB_STANDING_FD_BITS != 0 || offer.size == 0 ||
        offer.size > sizeof(OfferLine::data) || (offer.nr != SYS_read && offer.nr != SYS_recvfrom))
        return {};
    OfferLine& line = offers_[offer.fd & STUB_STANDING_MASK];
    return {&line.word, line.data, sizeof(line.data), OfferLine::encode(offer.nr, offer.fd, offer.size)};
}

void HostThread::set_yield_cpu(int cpu) {
    auto& header = *reinterpret_cast<AreaHeader*>(area_ + STUB_AREA_HEADER);
    header.yield_cpu.store(static_cast<uint32_t>(cpu + 1), std::memory_order_relaxed);
}

bool HostThread::claim_for_poller() {
    uint32_t owner = kApplication;
    return owner_.compare_exchange_strong(owner, kPoller, std::memory_order_acquire);
}

void HostThread::release_from_poller() {
    owner_.store(kApplication, std::memory_order_release);
    owner_.notify_one();
}

HostThread::Served HostThread::serve_slot() {
    uint32_t asked = STUB_SLOT_WATCHED | STUB_SLOT_ASKED;
    const uint32_t parked = parked_.load(std::memory_order_acquire);
    if (parked == kAnswering) return {false, true};  // it sees the answer already
    // A parked call's application waits: what asks now is forged.
    if (quick_calls_ == nullptr || parked != kNotParked ||
        !slot_.state.compare_exchange_strong(asked, STUB_SLOT_WATCHED | STUB_SLOT_TAKEN, std::memory_order_acquire))
        return {};
    SyscallStop call;
    call.arch = AUDIT_ARCH_X86_64;
    call.nr = slot_.nr;
    std::memcpy(call.args, slot_.args, sizeof(call.args));
    call.ip = slot_.ip;
    const auto answer = quick_calls_->answer_now(call);
    if (answer && answer->parked) {
        park(answer->deadline);
        quick_calls_->parked();
        quick_calls_->answered();
        return {true, !rhythm_.was_asked(true, 0)};
    }
    uint32_t state = STUB_SLOT_WATCHED;
    if (!answer) {
        poller_.wake_all();
        state |= STUB_SLOT_ANSWERED | STUB_SLOT_REFUSED;
    } else {
        slot_.args[0] = static_cast<uint64_t>(clean_result(answer->result));
        state |= answer->and_stop ? STUB_SLOT_STOPPING : STUB_SLOT_ANSWERED;
    }
    slot_.state.store(state, std::memory_order_release);
    if (answer && answer->and_stop) interrupt();
    quick_calls_->answered();
    return {answer.has_value(), !rhythm_.was_asked(answer.has_value(), answer ? 0 : monotonic_time())};
}

void HostThread::park(std::optional<int64_t> deadline) {
    constexpr int64_t kSecond = 1'000'000'000;
    // In the past is at once; 0 would be never.
    const int64_t until = deadline ? std::max<int64_t>(*deadline, kSecond) : 0;
    park_line_.seconds = until / kSecond;
    park_line_.nanoseconds = until % kSecond;
    const int64_t now = monotonic_time();
    if (awake_ && park_line_.late != 0) patience_.late(now);
    park_line_.late = 0;
    const int yields = patience_.yields(now);
    awake_ = yields > 0;
    park_line_.yields = static_cast<uint32_t>(yields);
    parked_until_ = deadline;
    count_running(false);
    poller_.wake_all();
    parked_.store(kParked, std::memory_order_release);
    slot_.state.store(STUB_SLOT_WATCHED | STUB_SLOT_ANSWERED | STUB_SLOT_PARKED, std::memory_order_release);
}

void HostThread::answer_parked(int64_t result) {
    slot_.args[0] = static_cast<uint64_t>(clean_result(result));
    count_running(true);
    // Who has not said that it sleeps sees the answer by itself.
    const bool asleep =
        (slot_.state.fetch_and(~uint32_t{STUB_SLOT_PARKED}, std::memory_order_seq_cst) & STUB_SLOT_ASLEEP) != 0;
    if (awake_) patience_.answered(asleep, asleep ? monotonic_time() : 0);
    parked_.store(kNotParked, std::memory_order_release);
    if (asleep) poller_.wake(slot_.state);
}

bool HostThread::answer_stopped(int64_t result) {
    uint32_t parked = kParked;
    if (parked_.compare_exchange_strong(parked, kAnswering, std::memory_order_acq_rel) || parked != kStopped)
        return false;
    registers_.ax = static_cast<uint64_t>(clean_result(result));
    parked_.store(kNotParked, std::memory_order_release);
    return true;
}

void HostThread::take_parked() {
    uint32_t parked = kStopped;
    parked_.compare_exchange_strong(parked, kNotParked, std::memory_order_acq_rel);
}

bool HostThread::stop_parked() {
    while (true) {
        uint32_t parked = kParked;
        if (parked_.compare_exchange_strong(parked, kStopped, std::memory_order_acq_rel)) return true;
        if (parked != kAnswering) return parked == kStopped;
        sched_yield();
    }
}

void HostThread::set_quick_calls(QuickCalls* calls) {
    if (calls == nullptr) {
        poller_.forget(*this);
        count_running(false);
    }
    quick_calls_ = calls;
}

void HostThread::count_call(SyscallStop& call) {
    Count& count = counts_[(call.ip >> 1 ^ call.ip >> 7) % counts_.size()];
    if (count.ip != call.ip) count = {call.ip, 0};
    if (count.calls <= kOften && ++count.calls == kOften) call.often = true;
    // Only who comes through the trampoline could use a slot. The application may lie; it would be watched in vain.
    if (quick_calls_ == nullptr || slot_.ip != call.ip) return;
    const int64_t now = monotonic_time();
    const bool fast = poller_.slow_call(now);
    if (rhythm_.call_came(now, poller_.crowd()) || (fast && rhythm_.may_be_asked(now)))
        poller_.watch(*this, now, rhythm_.steady());
}

void HostThread::keep_off(int cpu) {
    cpu_set_t set;
    if (home_ || sched_getaffinity(thread_id_, sizeof(set), &set) != 0) return;
    cpu_set_t rest = set;
    CPU_CLR(static_cast<size_t>(cpu), &rest);
    if (CPU_COUNT(&rest) > 0 && sched_setaffinity(thread_id_, sizeof(rest), &rest) == 0) home_ = set;
}

void HostThread::roam() {
    if (!home_) return;
    sched_setaffinity(thread_id_, sizeof(*home_), &*home_);
    home_.reset();
}

bool HostThread::leave_offer() {
    constexpr uint64_t kZeroFlag = 0x40;
    const uint64_t ip = registers_.ip, claimed = stub_address(casemate_stub_call_offer_claimed),
                   taken = stub_address(casemate_stub_call_offer_taken);
    if (ip < stub_address(casemate_stub_call_offer) || ip >= stub_address(casemate_stub_call_offer_end)) return false;
    if (ip >= taken && ip < stub_address(casemate_stub_call_offer_taken_end)) return true;
    if (ip >= claimed && ip < taken && (ip != claimed || (registers_.flags & kZeroFlag) != 0)) {
        registers_.ax >>= STUB_OFFER_SIZE_SHIFT;
        return true;
    }
    registers_.ax = slot_.nr;
    return false;
}

bool HostThread::leave_trampoline(StopReason reason, const FaultStop& fault) {
    const uint64_t ip = registers_.ip, begin = stub_address(casemate_stub_call);
    if (ip >= begin && ip < stub_address(casemate_stub_call_end)) {
        // At first, and at the end of a call that goes the slow way, the number is in rax, and what the slot says may
        // be of an earlier call. In between the slot knows.
        const uint64_t saved = stub_address(casemate_stub_call_saved), stored = stub_address(casemate_stub_call_stored),
                       asked = stub_address(casemate_stub_call_asked), back = stub_address(casemate_stub_call_back);
        if (ip < saved || ip > back) {
            registers_.ip = registers_.cx - kSyscallSize;
        } else if (ip < stored) {
            const bool done =
                (ip >= stub_address(casemate_stub_call_known) && ip < stub_address(casemate_stub_call_known_end)) ||
                (ip >= stub_address(casemate_stub_call_stands) && ip < stub_address(casemate_stub_call_stands_end));
            registers_.cx = slot_.ip;
            registers_.ip = done || leave_offer() ? registers_.cx : registers_.cx - kSyscallSize;
        } else {
            if (ip >= stub_address(casemate_stub_call_park) && ip < stub_address(casemate_stub_call_unparked)) {
                registers_.di = park_line_.rdi;
                registers_.si = slot_.args[1];
                registers_.dx = slot_.args[2];
                registers_.r10 = slot_.args[3];
                registers_.r9 = slot_.args[5];
            }
            const bool was_asked = ip >= asked && ip < back;
            const bool parked = was_asked && stop_parked();
            const uint32_t state = was_asked ? slot_.state.fetch_and(STUB_SLOT_WATCHED, std::memory_order_acq_rel) : 0;
            const uint64_t behind = slot_.ip;
            // Of a parked call the result is still to come.
            const bool done = parked || ((state & (STUB_SLOT_ANSWERED | STUB_SLOT_STOPPING)) != 0 &&
                                         (state & (STUB_SLOT_REFUSED | STUB_SLOT_PARKED)) == 0);
            registers_.ax = done ? slot_.args[0] : slot_.nr;
            registers_.ip = done ? behind : behind - kSyscallSize;
            registers_.cx = behind;
        }
        return reason == StopReason::kFault && fault.signo != SIGTRAP;
    }
    // Who steps through a thunk sees it; everybody else goes on at the site, which is as good.
    if (reason == StopReason::kFault && fault.signo == SIGTRAP) return false;
    const uint64_t site = sites_.place_of(ip);
    if (site == 0) return false;
    registers_.ip = site;
    return reason == StopReason::kFault && fault.address == ip;
}

void HostThread::go_on() {
    if (state_ != State::kAtFrame) {
        CHECK(state_ == State::kDead);
        return;
    }
    layout_.write(area_, stub_area_, registers_);
    // An application that has no use for %gs lends it to the trampoline.
    auto& header = *reinterpret_cast<AreaHeader*>(area_ + STUB_AREA_HEADER);
    header.self = stub_area_ + STUB_AREA_HEADER + STUB_SLOT;
    header.facts = facts_address_.load(std::memory_order_relaxed);
    header.standing = table_entry(STUB_STANDING);
    if (registers_.gs_base == 0) header.gs_base = header.self;
    if (fp_is_here_) {
        layout_.clean_fp(fp_image());
        layout_.write_fp(area_, fp_image());
        fp_is_here_ = false;
    }
    send(0);
}

void HostThread::answer(int64_t result, WakeOn where) {
    switch (parked_.load(std::memory_order_acquire)) {
        case kParked:  // its driver, at the deadline
            answer_parked(result);
            if (std::exchange(late_, false)) send(0);
            return;
        case kAnswering:
            return answer_parked(result);
        default:
            break;
    }
    // Who answers another task's application on the way to its own next wait keeps it on this CPU only while there is
    // nobody else to run: where many take turns, they all would end up here.
    const bool any_cpu = where == WakeOn::kAnyCpu || (!driven_by_caller() && poller_.is_crowded());
    if (any_cpu) listener_.set_same_cpu(false);
    if (state_ == State::kAtFrame) {
        registers_.ax = static_cast<uint64_t>(result);
        go_on();
    } else {
        send(clean_result(result));
    }
    if (any_cpu) listener_.set_same_cpu(true);
}

void HostThread::answer_and_stop(int64_t result) {
    // The signal first: the thread waits killably (or in the handler, with signals blocked), so the answer is kept and
    // the frame holds everything.
    if (state_ != State::kDead) interrupt();
    // A parked call's application comes out of its sleep, and its driver takes it from there.
    if (parked_.load(std::memory_order_acquire) != kNotParked) return;
    answer(result, WakeOn::kThisCpu);
}

Stop HostThread::resume() {
    go_on();
    return wait();
}

Stop HostThread::complete_syscall(int64_t result) {
    answer(result, WakeOn::kThisCpu);
    return wait();
}

Stop HostThread::complete_and_stop(int64_t result) {
    if (state_ == State::kAtFrame) {
        registers_.ax = static_cast<uint64_t>(result);
        Stop stop;
        stop.reason = StopReason::kInterrupted;
        stop.has_registers = true;
        return stop;
    }
    if (parked_.load(std::memory_order_acquire) == kParked) {
        // At its deadline, in a notification, which the signal ends once it is answered.
        interrupt();
        answer(result, WakeOn::kThisCpu);
        return wait();
    }
    answer_and_stop(result);
    return wait();
}

void HostThread::take_stop(const seccomp_notif& notification, Stop& stop) {
    const seccomp_data& data = notification.data;
    notification_ = notification.id;
    if (data.nr == STUB_CALL_FRAME && data.instruction_pointer == stub_address(casemate_stub_frame_return) &&
        data.arch == AUDIT_ARCH_X86_64) {
        // With the alternate stack as we set it, each frame lies at the same place.
        if (data.args[0] != stub_area_ + layout_.frame) return condemn(stop);
        return take_frame(static_cast<int>(data.args[3]), notification, stop);
    }
    stop_parked();
    state_ = State::kAtSyscall;
    stop.reason = StopReason::kSyscall;
    stop.syscall.arch = data.arch;
    stop.syscall.nr = static_cast<uint32_t>(data.nr);
    std::memcpy(stop.syscall.args, data.args, sizeof(data.args));
    stop.syscall.ip = data.instruction_pointer;
    if (data.arch == AUDIT_ARCH_X86_64) count_call(stop.syscall);
}

void HostThread::take_frame(int signo, const seccomp_notif& notification, Stop& stop) {
    SignalFrame frame;
    std::memcpy(&frame, area_ + layout_.frame, sizeof(frame));
    std::memcpy(static_cast<void*>(&registers_), frame.general, sizeof(frame.general));
    // These came in registers.
    registers_.fs_base = notification.data.args[1];
    registers_.gs_base = notification.data.args[2];
    if (registers_.gs_base == stub_area_ + STUB_AREA_HEADER + STUB_SLOT) registers_.gs_base = 0;
    fp_is_here_ = false;
    state_ = State::kAtFrame;
    stop.has_registers = true;
    stop.reason = StopReason::kInterrupted;

    switch (signo) {
        case SIGSYS:
            if (frame.si_code != kSysSeccomp) break;
            stop.reason = StopReason::kSyscall;
            stop.syscall.arch = frame.syscall_arch;
            stop.syscall.nr = static_cast<uint32_t>(frame.syscall_nr);
            stop.syscall.args[0] = registers_.di;
            stop.syscall.args[1] = registers_.si;
            stop.syscall.args[2] = registers_.dx;
            stop.syscall.args[3] = registers_.r10;
            stop.syscall.args[4] = registers_.r8;
            stop.syscall.args[5] = registers_.r9;
            stop.syscall.ip = frame.address;
            return;
        case SIGSEGV:
        case SIGBUS:
        case SIGFPE:
        case SIGILL:
        case SIGTRAP:
            if (frame.si_code <= 0) break;  // sent by somebody, not raised by an instruction
            stop.reason = StopReason::kFault;
            stop.fault.signo = signo;
            stop.fault.code = frame.si_code;
            stop.fault.address = frame.address;
            stop.fault.trap_number = frame.trap_number;
            stop.fault.error_code = frame.error_code;
            break;
        default:
            // interrupt(), or the application called the stub's code itself: nothing happened that needs an answer.
            break;
    }
    stop_parked();
    if (leave_trampoline(stop.reason, stop.fault)) stop.reason = StopReason::kInterrupted;
}

void HostThread::condemn(Stop& stop) {
    syscall(SYS_pidfd_send_signal, pidfd_, SIGKILL, nullptr, 0);
    state_ = State::kDead;
    stop = Stop{};
}

}  // namespace casemate::sentry::seccomp
