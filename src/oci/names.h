// The words of config.json with the values that they stand for: one table each, which the parser, the validation and
// `casemate features` share. A word that is not here is not known to Casemate.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "oci/spec.h"

namespace casemate::oci {

template <typename T>
struct Name {
    std::string_view text;
    T value;
};

std::span<const Name<NamespaceType>> namespace_names();
std::span<const Name<int>> rlimit_names();           // RLIMIT_*
std::span<const Name<uint32_t>> capability_names();  // bit numbers, in order
std::span<const Name<uint32_t>> scheduler_policy_names();
std::span<const Name<uint64_t>> scheduler_flag_names();
std::span<const Name<IoPriorityClass>> io_priority_class_names();
std::span<const Name<PersonalityDomain>> personality_names();
std::span<const Name<SeccompAction>> seccomp_action_names();  // SCMP_ACT_KILL comes after SCMP_ACT_KILL_THREAD
std::span<const Name<SeccompOperator>> seccomp_operator_names();
std::span<const Name<uint32_t>> seccomp_flag_names();  // SECCOMP_FILTER_FLAG_*
std::span<const Name<uint32_t>> seccomp_arch_names();  // AUDIT_ARCH_*; x32 is that of x86-64

// The value's first name; empty if it has none.
template <typename T>
std::string_view name_of(std::span<const Name<T>> names, T value) {
    for (const Name<T>& name : names)
        if (name.value == value) return name.text;
    return {};
}

// Null if the word is not in the table.
template <typename T>
const T* find_value(std::span<const Name<T>> names, std::string_view text) {
    for (const Name<T>& name : names)
        if (name.text == text) return &name.value;
    return nullptr;
}

}  // namespace casemate::oci
