// What a new program finds on its stack: argument count and pointers, environment, the auxiliary vector, strings.
#pragma once

#include "base/result.h"
#include "sentry/loader/loader.h"

namespace casemate::sentry {

struct StackContents {
    GuestAddr top = 0;  // first byte above the stack
    const StringList* arguments = nullptr;
    const StringList* environment = nullptr;
    std::string_view executable_name;
    std::span<const uint64_t> auxv;  // pairs, without the end, AT_RANDOM, AT_EXECFN and AT_PLATFORM
};
struct StackResult {
    GuestAddr pointer = 0;
    GuestAddr arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
    std::vector<uint64_t> auxv;  // whole
};
// Writes it into `memory`, where the stack is mapped already.
SysResult<StackResult> write_initial_stack(AddressSpace& memory, const StackContents& contents);

}  // namespace casemate::sentry
