#include "sentry/kernel/signal_frame.h"

#include <cstddef>
#include <cstring>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {
namespace {

struct SigContext {
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2, fpstate;
    uint64_t reserved[8];
};
static_assert(sizeof(SigContext) == 256);

struct StackT {
    uint64_t sp;
    uint32_t flags;
    uint32_t padding;
    uint64_t size;
};

struct SignalFrame {
    uint64_t pretcode;
    uint64_t uc_flags;
    uint64_t uc_link;
    StackT uc_stack;
    SigContext context;
    uint64_t uc_mask;
    siginfo_t info;
};
static_assert(sizeof(SignalFrame) == 440);

// _fpx_sw_bytes at offset 464 of the FXSAVE area.
struct SoftwareBytes {
    uint32_t magic1;
    uint32_t extended_size;
    uint64_t features;
    uint32_t state_size;
    uint32_t padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);

constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;
constexpr size_t kSoftwareBytesAt = 464, kLegacySize = 512, kHeaderSize = 64;
constexpr uint64_t kUcXstate = 1, kUcContextSs = 2, kUcStrictSs = 4;
constexpr uint64_t kRedZone = 128;
constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;
constexpr uint64_t kFlagDf = 0x400, kFlagRf = 0x10000, kFlagTf = 0x100;
// What a program may set: AC OF DF TF SF ZF AF PF CF and RF.
constexpr uint64_t kUserFlags = 0x40000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | kFlagRf;

}  // namespace

uint64_t minimum_signal_stack(const Platform& platform) {
    // Red zone, alignment of frame and XSAVE area, and the two themselves, as Linux counts them.
    return sizeof(SignalFrame) + kRedZone + 16 + 64 + platform.fp_state_size() + sizeof(kMagic2) + 8;
}

bool push_signal_frame(Task& task, const siginfo_t& info, const SignalAction& action, SignalSet saved_mask) {
    Task::Parts& parts = task.parts();
    Registers& registers = task.registers();
    std::span<std::byte> fp = task.app().fp_state();

    uint64_t sp = registers.sp - kRedZone;
    bool on_alternate = parts.alternate_stack.enabled() && (parts.alternate_stack.flags & kStackAutodisarm) == 0 &&
                        parts.alternate_stack.holds(registers.sp);
    bool entering = false;
    if ((action.flags & SA_ONSTACK) != 0 && parts.alternate_stack.enabled() && !on_alternate) {
        sp = parts.alternate_stack.address + parts.alternate_stack.size;
        entering = true;
    }
    uint64_t needed = fp.size() + sizeof(kMagic2) + 64 + sizeof(SignalFrame) + 32;
    if (sp < needed) return false;
    uint64_t fp_at = (sp - fp.size() - sizeof(kMagic2)) & ~uint64_t{63};
    uint64_t frame_at = ((fp_at - sizeof(SignalFrame)) & ~uint64_t{15}) - 8;
    // A nested frame must not run off the low end of the alternate stack.
    if ((on_alternate || entering) && !parts.alternate_stack.holds(frame_at)) return false;
    if ((action.flags & kSaRestorer) == 0) return false;

    SignalFrame frame{};
    frame.pretcode = action.restorer;
    frame.uc_flags = kUcXstate | kUcContextSs | kUcStrictSs;
    frame.uc_stack.sp = parts.alternate_stack.address;
    frame.uc_stack.size = parts.alternate_stack.size;
    frame.uc_stack.flags = parts.alternate_stack.enabled()
                               ? (parts.alternate_stack.flags & kStackAutodisarm) | (on_alternate ? SS_ONSTACK : 0)
                               : static_cast<uint32_t>(SS_DISABLE);
    SigContext& context = frame.context;
    context.r8 = registers.r8, context.r9 = registers.r9, context.r10 = registers.r10, context.r11 = registers.r11;
    context.r12 = registers.r12, context.r13 = registers.r13, context.r14 = registers.r14, context.r15 = registers.r15;
    context.di = registers.di, context.si = registers.si, context.bp = registers.bp, context.bx = registers.bx;
    context.dx = registers.dx, context.ax = registers.ax, context.cx = registers.cx, context.sp = registers.sp;
    context.ip = registers.ip, context.flags = registers.flags;
    context.cs = kUserCs;
    context.ss = kUserSs;
    context.err = parts.fault_error;
    context.trapno = parts.fault_trap;
    context.cr2 = parts.fault_address;
    context.oldmask = saved_mask;
    context.fpstate = fp_at;
    frame.uc_mask = saved_mask;
    frame.info = info;

    // The software bytes tell a reader how large the image is; written anew, whatever the platform left there.
    SoftwareBytes software{};
    std::memcpy(&software, fp.data() + kSoftwareBytesAt, sizeof(software));
    software.magic1 = kMagic1;
    software.extended_size = static_cast<uint32_t>(fp.size() + sizeof(kMagic2));
    software.state_size = static_cast<uint32_t>(fp.size());
    std::memcpy(fp.data() + kSoftwareBytesAt, &software, sizeof(software));
    AddressSpace& memory = task.memory();
    if (!memory.copy_out(fp_at, fp.data(), fp.size()).ok()) return false;
    if (!memory.copy_out(fp_at + fp.size(), &kMagic2, sizeof(kMagic2)).ok()) return false;
    if (!memory.copy_out(frame_at, &frame, sizeof(frame)).ok()) return false;

    if ((parts.alternate_stack.flags & kStackAutodisarm) != 0) parts.alternate_stack = AlternateStack{};
    registers.sp = frame_at;
    registers.ip = action.handler;
    registers.di = static_cast<uint64_t>(info.si_signo);
    registers.si = frame_at + offsetof(SignalFrame, info);
    registers.dx = frame_at + offsetof(SignalFrame, uc_flags);
    registers.ax = 0;
    registers.flags &= ~(kFlagDf | kFlagRf | kFlagTf);
    return true;
}

namespace {

// The FP state from a frame. A frame without the extended part sets the legacy part only, and without any resets all.
bool restore_fp(Task& task, GuestAddr at) {
    std::span<std::byte> fp = task.app().fp_state();
    if (fp.size() < kLegacySize + kHeaderSize) return false;
    SoftwareBytes own{};
    std::memcpy(&own, fp.data() + kSoftwareBytesAt, sizeof(own));
    std::vector<std::byte> image(fp.size());
    uint64_t features = 0;
    if (at != 0) {
        if ((at & 63) != 0) return false;
        if (!task.memory().copy_in(at, image.data(), kLegacySize).ok()) return false;
        SoftwareBytes software{};
        std::memcpy(&software, image.data() + kSoftwareBytesAt, sizeof(software));
        bool extended = software.magic1 == kMagic1 && software.state_size >= kLegacySize + kHeaderSize &&
                        software.state_size <= fp.size() && software.extended_size >= software.state_size + 4;
        uint32_t magic2 = 0;
        if (extended) extended = task.memory().copy_in(at + software.state_size, &magic2, 4).ok() && magic2 == kMagic2;
        if (extended) {
            if (!task.memory()
                     .copy_in(at + kLegacySize, image.data() + kLegacySize, software.state_size - kLegacySize)
                     .ok())
                return false;
            std::memcpy(&features, image.data() + kLegacySize, sizeof(features));
            features &= own.features;
        } else {
            features = 3;  // x87 and SSE, from the legacy part
        }
    }
    // Header: which components follow; compacted format and reserved bits are not for frames.
    std::memset(image.data() + kLegacySize, 0, kHeaderSize);
    std::memcpy(image.data() + kLegacySize, &features, sizeof(features));
    std::memcpy(image.data() + kSoftwareBytesAt, &own, sizeof(own));
    if (at == 0) {
        uint16_t control_word = 0x37f;
        uint32_t mxcsr = 0x1f80;
        std::memcpy(image.data(), &control_word, sizeof(control_word));
        std::memcpy(image.data() + 24, &mxcsr, sizeof(mxcsr));
    }
    std::memcpy(fp.data(), image.data(), image.size());
    return true;
}

}  // namespace

bool pop_signal_frame(Task& task) {
    Registers& registers = task.registers();
    GuestAddr frame_at = registers.sp - 8;  // the handler's return took pretcode
    SignalFrame frame;
    if (!task.memory().copy_in(frame_at, &frame, sizeof(frame)).ok()) return false;
    if (!restore_fp(task, frame.context.fpstate)) return false;
    const SigContext& context = frame.context;
    registers.r8 = context.r8, registers.r9 = context.r9, registers.r10 = context.r10, registers.r11 = context.r11;
    registers.r12 = context.r12, registers.r13 = context.r13, registers.r14 = context.r14, registers.r15 = context.r15;
    registers.di = context.di, registers.si = context.si, registers.bp = context.bp, registers.bx = context.bx;
    registers.dx = context.dx, registers.ax = context.ax, registers.cx = context.cx, registers.sp = context.sp;
    registers.ip = context.ip;
    registers.flags = (registers.flags & ~kUserFlags) | (context.flags & kUserFlags);
    set_blocked(task, frame.uc_mask);

    AlternateStack stack{frame.uc_stack.sp, frame.uc_stack.size, frame.uc_stack.flags & kStackAutodisarm};
    if ((frame.uc_stack.flags & SS_DISABLE) != 0) stack = AlternateStack{};
    task.parts().alternate_stack = stack;
    return true;
}

}  // namespace casemate::sentry
