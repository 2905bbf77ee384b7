#include "sentry/platform/seccomp/signal_frame.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>

#include "base/unique_map.h"

namespace casemate::sentry::seccomp {
namespace {

constexpr uint16_t kUserCs = 0x33;
constexpr uint16_t kUserSs = 0x2b;
constexpr uint64_t kUcFlags = 1 | 2 | 4;  // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
constexpr uint64_t kUserFlags = 0x50dd5;  // CF PF AF ZF SF TF DF OF RF AC: what rt_sigreturn takes over
constexpr uint64_t kFixedFlags = 0x202;   // IF and the bit that is always 1
constexpr uint32_t kMagic1 = 0x46505853;
constexpr uint32_t kMagic2 = 0x46505845;
constexpr size_t kMxcsr = 24;
constexpr size_t kMxcsrMask = 28;
constexpr size_t kSoftwareBytes = 464;
constexpr size_t kHeader = 512;
constexpr uint32_t kDefaultMxcsr = 0x1f80;
constexpr uint32_t kDefaultMxcsrMask = 0xffbf;
constexpr uint16_t kDefaultControlWord = 0x37f;

// struct _fpx_sw_bytes
struct SoftwareBytes {
    uint32_t magic1;
    uint32_t extended_size;
    uint64_t features;
    uint32_t size;
    uint32_t padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);

struct Probe {
    uint64_t frame = 0;
    uint64_t fp_state = 0;
    SoftwareBytes software{};
    uint32_t mxcsr_mask = 0;
};

// SAFETY: a signal handler; touches only the Probe that its own signal points at.
void probe_handler(int, siginfo_t* info, void* context) {
    auto* probe = static_cast<Probe*>(info->si_value.sival_ptr);
    if (info->si_code != SI_QUEUE || probe == nullptr) return;
    const auto* uc = static_cast<const ucontext_t*>(context);
    probe->frame = reinterpret_cast<uint64_t>(context) - offsetof(SignalFrame, uc_flags);
    probe->fp_state = reinterpret_cast<uint64_t>(uc->uc_mcontext.fpregs);
    if (probe->fp_state == 0) return;
    const auto* image = reinterpret_cast<const std::byte*>(probe->fp_state);
    std::memcpy(&probe->software, image + kSoftwareBytes, sizeof(probe->software));
    std::memcpy(&probe->mxcsr_mask, image + kMxcsrMask, sizeof(probe->mxcsr_mask));
}

template <typename T>
void put(std::span<std::byte> image, size_t offset, T value) {
    std::memcpy(image.data() + offset, &value, sizeof(value));
}

template <typename T>
T get(std::span<const std::byte> image, size_t offset) {
    T value;
    std::memcpy(&value, image.data() + offset, sizeof(value));
    return value;
}

}  // namespace

int interrupt_signal() { return SIGURG; }

uint64_t handled_signals() {
    uint64_t mask = 0;
    for (int signo : {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGURG}) mask |= 1ULL << (signo - 1);
    return mask;
}

Result<FrameLayout> FrameLayout::probe() {
    auto map = UniqueMap::create(2 * STUB_AREA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!map.ok()) return sys_error("map a signal stack", map.error().value);
    const uint64_t start = reinterpret_cast<uint64_t>(map->data());
    const uint64_t area = (start + STUB_AREA_SIZE - 1) & ~uint64_t{STUB_AREA_SIZE - 1};

    stack_t stack{}, old_stack{};
    stack.ss_sp = reinterpret_cast<void*>(area);
    stack.ss_size = STUB_AREA_HEADER;
    struct sigaction action {
    }, old_action{};
    action.sa_sigaction = probe_handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    sigset_t unblock, old_mask;
    sigemptyset(&unblock);
    sigaddset(&unblock, interrupt_signal());

    Probe probe;
    if (sigaltstack(&stack, &old_stack) != 0) return sys_error("set the alternate signal stack");
    if (sigaction(interrupt_signal(), &action, &old_action) != 0) return sys_error("set a signal handler");
    pthread_sigmask(SIG_UNBLOCK, &unblock, &old_mask);
    const int error = pthread_sigqueue(pthread_self(), interrupt_signal(), sigval{.sival_ptr = &probe});
    pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
    sigaction(interrupt_signal(), &old_action, nullptr);
    sigaltstack(&old_stack, nullptr);
    if (error != 0) return sys_error("send a signal to itself", error);

    FrameLayout layout;
    layout.frame = probe.frame - area;
    layout.fp_state = probe.fp_state - area;
    layout.fp_size = probe.software.size;
    layout.fp_features = probe.software.features;
    layout.extended_size = probe.software.extended_size;
    layout.mxcsr_mask = probe.mxcsr_mask != 0 ? probe.mxcsr_mask : kDefaultMxcsrMask;
    if (probe.frame < area || layout.frame + sizeof(SignalFrame) > layout.fp_state ||
        layout.fp_state + layout.fp_size + sizeof(kMagic2) > STUB_AREA_HEADER || layout.fp_state % 64 != 0 ||
        layout.fp_size < kHeader + 64 || probe.software.magic1 != kMagic1) {
        return Error("this kernel's signal frame is not of the known x86-64 form with XSAVE", ENOSYS);
    }
    return layout;
}

void FrameLayout::write(std::byte* area, uint64_t stub_area, const Registers& registers) const {
    static_assert(offsetof(Registers, fs_base) == sizeof(SignalFrame::general));
    constexpr uint64_t kTop = STUB_TASK_TOP;
    auto* header = reinterpret_cast<AreaHeader*>(area + STUB_AREA_HEADER);
    header->fs_base = registers.fs_base < kTop ? registers.fs_base : 0;
    header->gs_base = registers.gs_base < kTop ? registers.gs_base : 0;

    auto* to = reinterpret_cast<SignalFrame*>(area + frame);
    to->uc_flags = kUcFlags;
    to->uc_link = 0;
    to->stack_address = stub_area;
    to->stack_flags = 0;
    to->stack_size = STUB_AREA_HEADER;
    std::memcpy(to->general, &registers, sizeof(to->general));
    to->general[17] = (registers.flags & kUserFlags) | kFixedFlags;
    to->cs = kUserCs;
    to->gs = 0;
    to->fs = 0;
    to->ss = kUserSs;
    to->fp_state = stub_area + fp_state;
    to->signal_mask = ~handled_signals();
}

void FrameLayout::reset_fp(std::span<std::byte> image) const {
    std::memset(image.data(), 0, image.size());
    put(image, 0, kDefaultControlWord);
    put(image, kMxcsr, kDefaultMxcsr);
    clean_fp(image);
}

void FrameLayout::clean_fp(std::span<std::byte> image) const {
    put(image, kMxcsr, get<uint32_t>(image, kMxcsr) & mxcsr_mask);
    put(image, kMxcsrMask, mxcsr_mask);
    SoftwareBytes software{};
    software.magic1 = kMagic1;
    software.extended_size = extended_size;
    software.features = fp_features;
    software.size = static_cast<uint32_t>(fp_size);
    put(image, kSoftwareBytes, software);
    // XSTATE_BV; XCOMP_BV and the rest of the header must be 0 in the standard format.
    put(image, kHeader, get<uint64_t>(image, kHeader) & fp_features);
    std::memset(image.data() + kHeader + 8, 0, 56);
}

void FrameLayout::read_fp(const std::byte* area, std::span<std::byte> image) const {
    std::memcpy(image.data(), area + fp_state, fp_size);
    clean_fp(image);
}

void FrameLayout::write_fp(std::byte* area, std::span<const std::byte> image) const {
    std::memcpy(area + fp_state, image.data(), fp_size);
    std::memcpy(area + fp_state + fp_size, &kMagic2, sizeof(kMagic2));
}

}  // namespace casemate::sentry::seccomp
