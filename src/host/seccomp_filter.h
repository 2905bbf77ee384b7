// Builds seccomp allow-lists: the host syscalls that the sentry and the file server may make, as data.
//
//   SeccompFilter filter;
//   filter.allow({SYS_read, SYS_write, SYS_close});
//   filter.allow_if(SYS_mmap, {ArgCheck::no_bits(2, PROT_EXEC)});
//   filter.allow_if(SYS_ioctl, {ArgCheck::equal(1, SECCOMP_IOCTL_NOTIF_RECV)});   // several rules of one call: any
//   fits TRY(install_filter(filter.build()));
//
// The program is a binary search by syscall number, so its length costs little; calls without argument checks cost
// nothing at all, since Linux 5.11 caches the verdict per number. Another architecture or the x32 numbers get the
// default action.
#pragma once

#include <linux/filter.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "base/result.h"

namespace casemate::host {

// A condition on one of the six arguments, as an unsigned 64-bit value. The kernel ignores the upper half of arguments
// that are `int`, so those are compared by their lower half: use the ..32 forms for them.
struct ArgCheck {
    enum class Kind { kEqual, kNotEqual, kMaskedEqual, kAtMost, kGreater } kind = Kind::kEqual;
    unsigned index = 0;
    uint64_t mask = ~uint64_t{0};
    uint64_t value = 0;

    static constexpr ArgCheck equal(unsigned index, uint64_t value) {
        return {Kind::kEqual, index, ~uint64_t{0}, value};
    }
    static constexpr ArgCheck not_equal(unsigned index, uint64_t value) {
        return {Kind::kNotEqual, index, ~uint64_t{0}, value};
    }
    static constexpr ArgCheck equal32(unsigned index, uint32_t value) {
        return {Kind::kMaskedEqual, index, 0xffffffff, value};
    }
    // (argument & mask) == value
    static constexpr ArgCheck masked(unsigned index, uint64_t mask, uint64_t value) {
        return {Kind::kMaskedEqual, index, mask, value};
    }
    static constexpr ArgCheck no_bits(unsigned index, uint64_t bits) { return masked(index, bits, 0); }
    static constexpr ArgCheck at_most(unsigned index, uint64_t value) {
        return {Kind::kAtMost, index, ~uint64_t{0}, value};
    }
    static constexpr ArgCheck greater(unsigned index, uint64_t value) {
        return {Kind::kGreater, index, ~uint64_t{0}, value};
    }
};

// What happens on a call: a SECCOMP_RET_* value with its data.
class SeccompFilter {
  public:
    // `default_action` for everything that is not listed. For debugging, SECCOMP_RET_ERRNO | ENOSYS shows what is
    // missing without killing, SECCOMP_RET_LOG lets it pass and tells the audit log.
    explicit SeccompFilter(uint32_t default_action = kKillProcess) : default_action_(default_action) {}

    void allow(std::initializer_list<int> syscalls);
    // All checks of one rule must hold; of several rules for a call the first that holds decides.
    void allow_if(int syscall, std::initializer_list<ArgCheck> checks);
    void add_rule(int syscall, std::vector<ArgCheck> checks, uint32_t action);

    // Whether any rule names it.
    bool lists(int syscall) const;
    // Distinct syscalls that are listed.
    size_t syscall_count() const;
    // Those of them that the host carries out, with some arguments at least: what "60 or fewer" counts.
    size_t allowed_count() const;
    // What is let through, for tests that look for entries nobody needs: a number, and the value that argument 1 must
    // have (an ioctl's request), else 0.
    struct Allowed {
        int syscall = 0;
        uint64_t request = 0;
    };
    std::vector<Allowed> allowed() const;
    // E2BIG if the program has more than the kernel's 4,096 instructions.
    Result<std::vector<sock_filter>> build() const;

    static constexpr uint32_t kKillProcess = 0x80000000;
    static constexpr uint32_t kAllow = 0x7fff0000;

  private:
    struct Rule {
        std::vector<ArgCheck> checks;
        uint32_t action = kAllow;
    };
    struct Entry {
        int syscall = 0;
        std::vector<Rule> rules;
    };
    Entry& entry(int syscall);
    std::vector<sock_filter> body(const Entry& entry) const;
    std::vector<sock_filter> search(size_t begin, size_t end) const;

    uint32_t default_action_;
    std::vector<Entry> entries_;  // sorted by number
};

// Sets no_new_privs and installs the program for all threads of the process.
Result<void> install_filter(const std::vector<sock_filter>& program);

}  // namespace casemate::host
