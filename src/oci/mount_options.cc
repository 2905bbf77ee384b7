#include "oci/mount_options.h"

#include <fmt/core.h>
#include <linux/mount.h>

#include <algorithm>

namespace casemate::oci {
namespace {

// <sys/mount.h> and <linux/mount.h> cannot be included together everywhere; the latter has all that is needed here.
constexpr uint64_t kNoSymFollow = 256;  // MS_NOSYMFOLLOW
static_assert(MS_RDONLY == 1 && MS_NOSUID == 2 && MS_BIND == 4096 && MS_REC == 16384);

enum class Kind { kFlag, kNoFlag, kRecursiveSet, kRecursiveClear, kPropagation, kIdmap, kRecursiveIdmap, kCopyUp };

struct Option {
    std::string_view name;
    Kind kind;
    uint64_t value;
};

// Alphabetical, for find() and for `casemate features`.
constexpr Option kOptions[] = {
    {"acl", Kind::kFlag, MS_POSIXACL},
    {"async", Kind::kNoFlag, MS_SYNCHRONOUS},
    {"atime", Kind::kNoFlag, MS_NOATIME},
    {"bind", Kind::kFlag, MS_BIND},
    {"defaults", Kind::kFlag, 0},
    {"dev", Kind::kNoFlag, MS_NODEV},
    {"diratime", Kind::kNoFlag, MS_NODIRATIME},
    {"dirsync", Kind::kFlag, MS_DIRSYNC},
    {"exec", Kind::kNoFlag, MS_NOEXEC},
    {"idmap", Kind::kIdmap, 0},
    {"iversion", Kind::kFlag, MS_I_VERSION},
    {"lazytime", Kind::kFlag, MS_LAZYTIME},
    {"loud", Kind::kNoFlag, MS_SILENT},
    {"mand", Kind::kFlag, MS_MANDLOCK},
    {"noacl", Kind::kNoFlag, MS_POSIXACL},
    {"noatime", Kind::kFlag, MS_NOATIME},
    {"nodev", Kind::kFlag, MS_NODEV},
    {"nodiratime", Kind::kFlag, MS_NODIRATIME},
    {"noexec", Kind::kFlag, MS_NOEXEC},
    {"noiversion", Kind::kNoFlag, MS_I_VERSION},
    {"nolazytime", Kind::kNoFlag, MS_LAZYTIME},
    {"nomand", Kind::kNoFlag, MS_MANDLOCK},
    {"norelatime", Kind::kNoFlag, MS_RELATIME},
    {"nostrictatime", Kind::kNoFlag, MS_STRICTATIME},
    {"nosuid", Kind::kFlag, MS_NOSUID},
    {"nosymfollow", Kind::kFlag, kNoSymFollow},
    {"private", Kind::kPropagation, MS_PRIVATE},
    {"ratime", Kind::kRecursiveClear, MOUNT_ATTR_NOATIME},
    {"rbind", Kind::kFlag, MS_BIND | MS_REC},
    {"rdev", Kind::kRecursiveClear, MOUNT_ATTR_NODEV},
    {"rdiratime", Kind::kRecursiveClear, MOUNT_ATTR_NODIRATIME},
    {"relatime", Kind::kFlag, MS_RELATIME},
    {"remount", Kind::kFlag, MS_REMOUNT},
    {"rexec", Kind::kRecursiveClear, MOUNT_ATTR_NOEXEC},
    {"ridmap", Kind::kRecursiveIdmap, 0},
    {"rnoatime", Kind::kRecursiveSet, MOUNT_ATTR_NOATIME},
    {"rnodev", Kind::kRecursiveSet, MOUNT_ATTR_NODEV},
    {"rnodiratime", Kind::kRecursiveSet, MOUNT_ATTR_NODIRATIME},
    {"rnoexec", Kind::kRecursiveSet, MOUNT_ATTR_NOEXEC},
    {"rnorelatime", Kind::kRecursiveClear, MOUNT_ATTR_RELATIME},
    {"rnostrictatime", Kind::kRecursiveClear, MOUNT_ATTR_STRICTATIME},
    {"rnosuid", Kind::kRecursiveSet, MOUNT_ATTR_NOSUID},
    {"rnosymfollow", Kind::kRecursiveSet, MOUNT_ATTR_NOSYMFOLLOW},
    {"ro", Kind::kFlag, MS_RDONLY},
    {"rprivate", Kind::kPropagation, MS_PRIVATE | MS_REC},
    {"rrelatime", Kind::kRecursiveSet, MOUNT_ATTR_RELATIME},
    {"rro", Kind::kRecursiveSet, MOUNT_ATTR_RDONLY},
    {"rrw", Kind::kRecursiveClear, MOUNT_ATTR_RDONLY},
    {"rshared", Kind::kPropagation, MS_SHARED | MS_REC},
    {"rslave", Kind::kPropagation, MS_SLAVE | MS_REC},
    {"rstrictatime", Kind::kRecursiveSet, MOUNT_ATTR_STRICTATIME},
    {"rsuid", Kind::kRecursiveClear, MOUNT_ATTR_NOSUID},
    {"rsymfollow", Kind::kRecursiveClear, MOUNT_ATTR_NOSYMFOLLOW},
    {"runbindable", Kind::kPropagation, MS_UNBINDABLE | MS_REC},
    {"rw", Kind::kNoFlag, MS_RDONLY},
    {"shared", Kind::kPropagation, MS_SHARED},
    {"silent", Kind::kFlag, MS_SILENT},
    {"slave", Kind::kPropagation, MS_SLAVE},
    {"strictatime", Kind::kFlag, MS_STRICTATIME},
    {"suid", Kind::kNoFlag, MS_NOSUID},
    {"symfollow", Kind::kNoFlag, kNoSymFollow},
    {"sync", Kind::kFlag, MS_SYNCHRONOUS},
    {"tmpcopyup", Kind::kCopyUp, 0},
    {"unbindable", Kind::kPropagation, MS_UNBINDABLE},
};
static_assert(std::ranges::is_sorted(kOptions, {}, &Option::name));

// mount(2) copies one page of data; the last byte is its end.
constexpr size_t kMaxData = 4095;

const Option* find(std::string_view name) {
    const auto* found = std::ranges::lower_bound(kOptions, name, {}, &Option::name);
    return found != std::end(kOptions) && found->name == name ? found : nullptr;
}

bool is_access_time_mode(uint64_t attribute) { return (attribute & MOUNT_ATTR__ATIME) == attribute; }

void apply(const Option& option, MountOptions& to) {
    switch (option.kind) {
        case Kind::kFlag:
            to.flags |= option.value;
            to.cleared_flags &= ~option.value;
            break;
        case Kind::kNoFlag:
            to.flags &= ~option.value;
            to.cleared_flags |= option.value;
            break;
        case Kind::kRecursiveSet:
        case Kind::kRecursiveClear: {
            // The access time mode is a field of several bits: it is set as a whole (mount_setattr(2)).
            uint64_t field = is_access_time_mode(option.value) ? uint64_t{MOUNT_ATTR__ATIME} : option.value;
            to.recursive_set &= ~field;
            to.recursive_clear &= ~field;
            if (option.kind == Kind::kRecursiveSet) to.recursive_set |= option.value;
            if (option.kind == Kind::kRecursiveClear || is_access_time_mode(option.value)) to.recursive_clear |= field;
            break;
        }
        case Kind::kPropagation:
            to.propagation.push_back(option.value);
            break;
        case Kind::kIdmap:
            to.idmap = IdmapScope::kMount;
            break;
        case Kind::kRecursiveIdmap:
            to.idmap = IdmapScope::kRecursive;
            break;
        case Kind::kCopyUp:
            to.copy_up = true;
            break;
    }
}

}  // namespace

bool MountOptions::is_bind() const { return (flags & MS_BIND) != 0; }

bool MountOptions::is_read_only() const { return (flags & MS_RDONLY) != 0 || (recursive_set & MOUNT_ATTR_RDONLY) != 0; }

Result<MountOptions> parse_mount_options(std::span<const std::string> options) {
    MountOptions parsed;
    for (size_t i = 0; i < options.size(); i++) {
        const std::string& text = options[i];
        if (text.empty()) return Error(fmt::format("options[{}]: is empty, must be a mount option", i), EINVAL);
        if (const Option* option = find(text)) {
            apply(*option, parsed);
            continue;
        }
        if (parsed.data.size() + text.size() + 1 > kMaxData)
            return Error(
                fmt::format("options[{}]: the file system's own options are longer than {} bytes", i, kMaxData),
                EINVAL);
        if (!parsed.data.empty()) parsed.data += ',';
        parsed.data += text;
    }
    return parsed;
}

uint64_t propagation_flags(std::string_view word) {
    const Option* option = find(word);
    return option != nullptr && option->kind == Kind::kPropagation ? option->value : 0;
}

uint64_t mount_attributes(uint64_t mount_flags) {
    uint64_t attributes = 0;
    if (mount_flags & MS_RDONLY) attributes |= MOUNT_ATTR_RDONLY;
    if (mount_flags & MS_NOSUID) attributes |= MOUNT_ATTR_NOSUID;
    if (mount_flags & MS_NODEV) attributes |= MOUNT_ATTR_NODEV;
    if (mount_flags & MS_NOEXEC) attributes |= MOUNT_ATTR_NOEXEC;
    if (mount_flags & MS_NODIRATIME) attributes |= MOUNT_ATTR_NODIRATIME;
    if (mount_flags & kNoSymFollow) attributes |= MOUNT_ATTR_NOSYMFOLLOW;
    // As do_mount() of the kernel: strictatime wins over noatime, and relative is the default.
    if (mount_flags & MS_STRICTATIME)
        attributes |= MOUNT_ATTR_STRICTATIME;
    else if (mount_flags & MS_NOATIME)
        attributes |= MOUNT_ATTR_NOATIME;
    return attributes;
}

std::vector<std::string_view> known_mount_options() {
    std::vector<std::string_view> names;
    for (const Option& option : kOptions) names.push_back(option.name);
    return names;
}

}  // namespace casemate::oci
