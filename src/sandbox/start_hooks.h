// startContainer hooks: programs of the container, run in its namespaces by the guest kernel between create and the
// user's process (runtime-spec, config.md, "StartContainer Hooks").
#pragma once

#include <string>

#include "base/result.h"
#include "guest_api/guest_client.h"
#include "oci/spec.h"

namespace casemate::sandbox {

// In order, each with `state` on standard input. The first failure ends it; the error says how the hook ended and the
// end of what it wrote. `container` must be created and not started.
Result<void> run_start_hooks(guest_api::GuestClient& guest, const std::string& container, const oci::Spec& spec,
                             const std::string& config_json, const std::string& state);

}  // namespace casemate::sandbox
