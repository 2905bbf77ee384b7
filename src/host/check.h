// What this host offers to a sandbox: the probes behind `casemate check` and behind engine = "auto". Everything is
// tried, not guessed from version numbers, each probe in a child of its own that cannot hang or crash the caller.
//
// The caller must have one thread only (probes fork).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace casemate::host {

struct KvmProbe {
    bool present = false;  // a guest ran
    std::string failure;   // why not, if not
    uint64_t ring0_instructions_per_second = 0;

    // Some hosts emulate guest ring 0, at about 2 million instructions a second; hardware does 1,000 times that.
    bool runs_at_speed() const { return present && ring0_instructions_per_second > 50'000'000; }
};
KvmProbe probe_kvm();  // 10 to 30 ms

struct NotificationProbe {
    bool works = false;
    std::string failure;
    bool synchronous_wake_up = false;  // Linux 6.6
    double round_trip_us = 0;          // one core, with synchronous wake-up if there is one
};
NotificationProbe probe_user_notification();

enum class CheckStatus { kOk, kWarning, kMissing };

struct HostCheck {
    std::string name;  // "kvm", "user_notification", ...: the key in JSON
    std::string title;
    CheckStatus status = CheckStatus::kMissing;
    std::string found;   // what was seen, one phrase
    std::string remedy;  // what to do about it; empty if all is well
};

HostCheck describe(const KvmProbe& probe);
HostCheck describe(const NotificationProbe& probe);
HostCheck check_kernel();
HostCheck check_user_namespaces();
HostCheck check_cgroups();
HostCheck check_fsgsbase();
HostCheck check_huge_tmpfs();

// All of the above, KVM and notification included.
std::vector<HostCheck> check_host();

}  // namespace casemate::host
