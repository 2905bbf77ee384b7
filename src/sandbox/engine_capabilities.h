// What each engine can honour of config.json, and what `casemate features` tells of it.
#pragma once

#include "oci/engine_support.h"
#include "sandbox/engine.h"

namespace casemate::sandbox {

oci::EngineCapabilities engine_capabilities(EngineKind kind);

}  // namespace casemate::sandbox
