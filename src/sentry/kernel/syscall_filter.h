// SyscallFilter: one seccomp filter of a task, on top of those it had before. seccomp(2), Documentation/userspace-api/
// seccomp_filter.rst.
//
// Filters form a tree: fork and clone share the top, each SECCOMP_SET_MODE_FILTER adds one above it. All of a chain are
// asked and the strictest answer counts. Immutable once made; the programs are the application's (or config.json's) and
// were checked by check_bpf.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/classic_bpf.h"

namespace casemate::sentry {

class FilterNotices;  // kernel/filter_notices.h
class Task;

class SyscallFilter final : public RefCounted {
  public:
    struct Options {
        Options();
        Options(const Options&);
        ~Options();                  // where FilterNotices is complete
        bool log = false;            // SECCOMP_FILTER_FLAG_LOG
        bool wait_killable = false;  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        Ref<FilterNotices> notices;  // SECCOMP_FILTER_FLAG_NEW_LISTENER
    };
    // EINVAL for a program that check_bpf refuses, ENOMEM for a chain past Linux's MAX_INSNS_PER_PATH, EBUSY for a
    // second listener in one chain.
    static SysResult<Ref<SyscallFilter>> create(std::vector<sock_filter> program, Options options,
                                                Ref<SyscallFilter> previous);
    // SECCOMP_SET_MODE_STRICT: read, write, exit and rt_sigreturn; anything else kills.
    static Ref<SyscallFilter> strict();

    // Whether the call is allowed whatever its arguments are, by all filters of the chain; found out once, when the
    // filter is made.
    bool always_allows(uint64_t number) const {
        return number < kNumbers && (allowed_[number / 64] >> number % 64 & 1) != 0;
    }
    // What the chain says: a SECCOMP_RET_* value with its data, and which filter said it.
    struct Verdict {
        uint32_t value;
        const SyscallFilter* by;
    };
    Verdict judge(const seccomp_data& data) const;

    bool is_strict() const { return strict_; }
    bool logs() const { return options_.log; }
    bool waits_killable() const { return options_.wait_killable; }
    FilterNotices* notices() const { return options_.notices.get(); }
    size_t depth() const { return depth_; }  // filters in the chain
    // Whether `other` is this filter or below it.
    bool is_or_above(const SyscallFilter* other) const;

  private:
    static constexpr size_t kNumbers = 512;
    SyscallFilter(std::vector<sock_filter> program, Options options, Ref<SyscallFilter> previous);
    ~SyscallFilter() override;
    void find_always_allowed();

    const std::vector<sock_filter> program_;
    const Options options_;
    Ref<SyscallFilter> previous_;
    bool strict_ = false;
    size_t depth_ = 1;
    size_t path_length_ = 0;  // as Linux counts it, with 4 for each filter
    std::array<uint64_t, kNumbers / 64> allowed_{};
};

}  // namespace casemate::sentry
