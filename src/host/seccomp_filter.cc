#include "host/seccomp_filter.h"

#include "linux/process.h"
#include "linux/seccomp_fd.h"

namespace casemate::host {

static_assert(SeccompFilter::kAllow == SECCOMP_RET_ALLOW && SeccompFilter::kKillProcess == SECCOMP_RET_KILL_PROCESS);

Result<std::vector<sock_filter>> SeccompFilter::build() const {
    for (const Entry& entry : entries_)
        for (const Rule& rule : entry.rules)
            if (rule.checks.size() > 6) return Error("a seccomp rule has more than six checks", EINVAL);
    std::vector<sock_filter> code = program();
    if (code.size() > BPF_MAXINSNS) {
        return Error("the seccomp filter has " + std::to_string(code.size()) +
                         " instructions, more than the kernel's " + std::to_string(BPF_MAXINSNS),
                     E2BIG);
    }
    return code;
}

Result<void> install_filter(const std::vector<sock_filter>& program) {
    auto set = linux::set_no_new_privs();
    if (!set.ok()) return sys_error("no_new_privs", set.error().value);
    auto installed = linux::install_seccomp_filter(program, SECCOMP_FILTER_FLAG_TSYNC);
    if (!installed.ok()) return sys_error("installing the seccomp filter", installed.error().value);
    return {};
}

}  // namespace casemate::host
