#include "sentry/kernel/syscall_filter.h"

#include <linux/audit.h>
#include <sys/syscall.h>

#include "sentry/kernel/filter_notices.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostOnPath = (1 << 18) / sizeof(sock_filter);
constexpr size_t kPenalty = 4;  // per filter

uint32_t action_of(uint32_t value) { return value & SECCOMP_RET_ACTION_FULL; }

// Linux counts what a program becomes: a return is two instructions of its own, so is a branch with two far ways.
size_t translated_length(std::span<const sock_filter> program) {
    size_t length = program.size();
    for (const sock_filter& one : program) {
        bool returns = one.code == (BPF_RET | BPF_K);
        bool branches = BPF_CLASS(one.code) == BPF_JMP && one.code != (BPF_JMP | BPF_JA) && one.jt != 0 && one.jf != 0;
        if (returns || branches) ++length;
    }
    return length;
}

// Lower is stricter; KILL_PROCESS has the sign bit.
int32_t rank(uint32_t value) { return static_cast<int32_t>(action_of(value)); }

}  // namespace

SyscallFilter::Options::Options() = default;
SyscallFilter::Options::Options(const Options&) = default;
SyscallFilter::Options::~Options() = default;

SyscallFilter::SyscallFilter(std::vector<sock_filter> program, Options options, Ref<SyscallFilter> previous)
    : program_(std::move(program)), options_(std::move(options)), previous_(std::move(previous)) {
    path_length_ = translated_length(program_) + kPenalty;
    if (previous_) {
        depth_ = previous_->depth_ + 1;
        path_length_ += previous_->path_length_;
    }
}

// A chain may be thousands long: no recursion down it.
SyscallFilter::~SyscallFilter() {
    if (options_.notices) options_.notices->filter_gone();
    Ref<SyscallFilter> next = std::move(previous_);
    while (next && next->ref_count() == 1) {
        Ref<SyscallFilter> below = std::move(next->previous_);
        next = std::move(below);
    }
}

SysResult<Ref<SyscallFilter>> SyscallFilter::create(std::vector<sock_filter> program, Options options,
                                                    Ref<SyscallFilter> previous) {
    TRY(check_bpf(program));
    if (options.notices)
        for (const SyscallFilter* one = previous.get(); one != nullptr; one = one->previous_.get())
            if (one->options_.notices) return Errno(EBUSY);
    auto made =
        Ref<SyscallFilter>::adopt(new SyscallFilter(std::move(program), std::move(options), std::move(previous)));
    if (made->path_length_ > kMostOnPath) return Errno(ENOMEM);
    made->find_always_allowed();
    return made;
}

Ref<SyscallFilter> SyscallFilter::strict() {
    auto made = Ref<SyscallFilter>::adopt(new SyscallFilter({}, {}, nullptr));
    made->strict_ = true;
    for (uint64_t number : {SYS_read, SYS_write, SYS_exit, SYS_rt_sigreturn})
        made->allowed_[number / 64] |= uint64_t{1} << number % 64;
    return made;
}

void SyscallFilter::find_always_allowed() {
    for (uint32_t number = 0; number < kNumbers; ++number) {
        if (previous_ && !previous_->always_allows(number)) continue;
        auto value = run_bpf_by_number(program_, number, AUDIT_ARCH_X86_64);
        if (value && action_of(*value) == SECCOMP_RET_ALLOW) allowed_[number / 64] |= uint64_t{1} << number % 64;
    }
}

SyscallFilter::Verdict SyscallFilter::judge(const seccomp_data& data) const {
    if (strict_)
        return {always_allows(static_cast<uint32_t>(data.nr)) ? SECCOMP_RET_ALLOW : SECCOMP_RET_KILL_THREAD, this};
    Verdict strictest{SECCOMP_RET_ALLOW, this};
    for (const SyscallFilter* one = this; one != nullptr; one = one->previous_.get()) {
        uint32_t value = run_bpf(one->program_, data);
        if (rank(value) < rank(strictest.value)) strictest = {value, one};
    }
    return strictest;
}

bool SyscallFilter::is_or_above(const SyscallFilter* other) const {
    for (const SyscallFilter* one = this; one != nullptr; one = one->previous_.get())
        if (one == other) return true;
    return false;
}

}  // namespace casemate::sentry
