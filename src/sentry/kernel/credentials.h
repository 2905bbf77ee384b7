// Credentials of a task: immutable once published; a change makes a new object (copy, change, swap).
#pragma once

#include <cstdint>
#include <vector>

#include "base/ref.h"

namespace casemate::sentry {

class UserNamespace;

using CapabilitySet = uint64_t;                                      // bit n = CAP_n
constexpr CapabilitySet kAllCapabilities = (uint64_t{1} << 41) - 1;  // up to CAP_CHECKPOINT_RESTORE

struct Credentials final : RefCounted {
    uint32_t uid = 0, euid = 0, suid = 0, fsuid = 0;
    uint32_t gid = 0, egid = 0, sgid = 0, fsgid = 0;
    std::vector<uint32_t> groups;
    CapabilitySet permitted = 0, effective = 0, inheritable = 0, bounding = kAllCapabilities, ambient = 0;
    uint32_t secure_bits = 0;
    bool no_new_privileges = false;
    Ref<UserNamespace> user_namespace;

    Credentials();
    ~Credentials() override;  // where UserNamespace is complete

    bool has(int capability) const { return effective >> capability & 1; }
    bool in_group(uint32_t g) const {
        if (fsgid == g) return true;
        for (uint32_t one : groups)
            if (one == g) return true;
        return false;
    }
    Ref<Credentials> clone() const;
};

}  // namespace casemate::sentry
