// parse_config and its relatives with any bytes: no crash, no hang, errors of a length that a person reads.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "oci/config_parser.h"
#include "oci/engine_support.h"

using namespace casemate::oci;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::string_view text(reinterpret_cast<const char*>(data), size);
    auto spec = parse_config(text);
    if (!spec.ok()) {
        if (spec.error().message().size() > 4096) std::abort();
    } else {
        static_cast<void>(refuse_unsupported(*spec, EngineCapabilities()).ok());
        if (spec->process && (spec->process->args.empty() || spec->process->cwd.empty())) std::abort();
    }
    ParseNotes notes;
    static_cast<void>(parse_process(text, notes).ok());
    static_cast<void>(parse_resources(text, notes).ok());
    return 0;
}
