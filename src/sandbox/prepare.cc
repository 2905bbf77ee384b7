#include "sandbox/prepare.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/log.h"
#include "linux/file.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
#include "oci/bundle.h"
#include "oci/mount_options.h"

namespace casemate::sandbox {

namespace {

bool is_directory(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

// Whether the mount that the file lies on has peers that mounts made on it would propagate to.
bool is_shared_on_host(int fd) {
    auto info = linux::read_file(fmt::format("/proc/self/fdinfo/{}", fd));
    auto mounts = linux::read_file("/proc/self/mountinfo", 16 << 20);
    if (!info.ok() || !mounts.ok()) return true;
    size_t at = info->find("mnt_id:");
    if (at == std::string::npos) return true;
    std::string id = std::to_string(strtoul(info->c_str() + at + 7, nullptr, 10)) + " ";
    size_t line = mounts->starts_with(id) ? 0 : mounts->find("\n" + id);
    if (line == std::string::npos) return true;
    size_t end = mounts->find(" - ", line);
    return std::string_view(*mounts).substr(line, end - line).find(" shared:") != std::string_view::npos;
}

struct TreeAttributes {
    bool recursive = true;
    uint64_t set = 0;  // MOUNT_ATTR_* of the top mount
    uint64_t clear = 0;
    uint64_t recursive_set = 0;
    uint64_t recursive_clear = 0;
    uint64_t propagation = MS_PRIVATE;
};

Result<UniqueFd> clone_tree(int fd, const std::string& what, const TreeAttributes& attributes) {
    auto tree = linux::clone_mount(fd, "", attributes.recursive);
    if (!tree.ok()) return sys_error(what + ": take over the mount", tree.error().value);
    auto change = [&](bool recursive, uint64_t set, uint64_t clear, uint64_t propagation) {
        return linux::set_mount_attributes(tree->get(), "", recursive, set, clear, propagation);
    };
    auto done = change(true, attributes.recursive_set, attributes.recursive_clear, attributes.propagation);
    if (done.ok() && (attributes.set | attributes.clear) != 0)
        done = change(false, attributes.set, attributes.clear, 0);
    if (!done.ok()) return sys_error(what + ": set the attributes of the mount", done.error().value);
    return std::move(*tree);
}

// Whether other mounts lie below what a descriptor shows.
bool has_mounts_below(int fd) {
    auto path = linux::read_link(fmt::format("/proc/self/fd/{}", fd));
    auto mounts = linux::read_file("/proc/self/mountinfo", 16 << 20);
    if (!path.ok() || !mounts.ok()) return true;
    std::string prefix = *path == "/" ? "/" : *path + "/";
    std::string_view rest = *mounts;
    while (!rest.empty()) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        for (int field = 0; field < 4; ++field) line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
        if (line.starts_with(prefix)) return true;
    }
    return false;
}

Result<void> add_bind_mount(const oci::Mount& mount, size_t index, const PrepareOptions& options,
                            PreparedContainer& prepared) {
    std::string field = fmt::format("config.json: mounts[{}]", index);
    if (mount.source.empty()) return Error(field + ".source: is missing for a bind mount", EINVAL);
    if (mount.parsed.idmap != oci::IdmapScope::kNone || !mount.uid_mappings.empty())
        return Error(field + ".options: idmap: id-mapped mounts are not supported by this engine", ENOTSUP);
    auto opened = oci::open_in_bundle(options.bundle_fd, mount.source);
    if (!opened.ok()) return opened.take_error().with_context(field + ".source");

    constexpr uint64_t kAttributeFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME;
    TreeAttributes attributes;
    attributes.recursive = (mount.parsed.flags & MS_REC) != 0;
    attributes.set = oci::mount_attributes(mount.parsed.flags & kAttributeFlags);
    attributes.clear = oci::mount_attributes(mount.parsed.cleared_flags & kAttributeFlags & ~mount.parsed.flags);
    if ((attributes.set & MOUNT_ATTR__ATIME) != 0) attributes.clear |= MOUNT_ATTR__ATIME;
    attributes.recursive_set = mount.parsed.recursive_set;
    attributes.recursive_clear = mount.parsed.recursive_clear;
    for (uint64_t propagation : mount.parsed.propagation) {
        if ((propagation & MS_SHARED) != 0 && is_shared_on_host(opened->get()))
            return Error(field + ".options: shared: " + mount.source +
                             " lies on a mount that is shared on the host, where a mount made in a sandbox cannot "
                             "appear; use private or slave",
                         ENOTSUP);
        attributes.propagation = propagation & (MS_PRIVATE | MS_SLAVE);
        if (attributes.propagation == 0) attributes.propagation = MS_PRIVATE;
    }
    HostTree tree;
    tree.mount = TRY(clone_tree(opened->get(), field, attributes));
    tree.read_only = mount.parsed.is_read_only();
    tree.shared = true;
    // A read-only mount says nothing of those below it. The guest has all of them as one: then it is the host that
    // holds the one at the top to it.
    bool only_top = tree.read_only && attributes.recursive && !(attributes.recursive_set & MOUNT_ATTR_RDONLY) &&
                    has_mounts_below(opened->get());
    if (only_top) tree.read_only = false;

    guest::Mount& out = *prepared.request.add_mounts();
    out.set_target(mount.destination);
    out.set_type("bind");
    for (const std::string& option : mount.options)
        if (!only_top || option != "ro") out.add_options(option);
    out.mutable_tree()->set_tree(std::to_string(prepared.trees.size()));
    out.mutable_tree()->set_is_file(!is_directory(opened->get()));
    out.mutable_tree()->set_shared(true);
    prepared.trees.push_back(std::move(tree));
    return {};
}

guest::NamespaceKind kind_of(oci::NamespaceType type) {
    switch (type) {
        case oci::NamespaceType::kPid:
            return guest::NAMESPACE_PID;
        case oci::NamespaceType::kNetwork:
            return guest::NAMESPACE_NETWORK;
        case oci::NamespaceType::kMount:
            return guest::NAMESPACE_MOUNT;
        case oci::NamespaceType::kIpc:
            return guest::NAMESPACE_IPC;
        case oci::NamespaceType::kUts:
            return guest::NAMESPACE_UTS;
        case oci::NamespaceType::kUser:
            return guest::NAMESPACE_USER;
        case oci::NamespaceType::kCgroup:
            return guest::NAMESPACE_CGROUP;
        case oci::NamespaceType::kTime:
            return guest::NAMESPACE_TIME;
    }
    return guest::NAMESPACE_UNSPECIFIED;
}

bool same_file(const std::string& a, const std::string& b) {
    struct stat first, second;
    return stat(a.c_str(), &first) == 0 && stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

// A path names a namespace of the host. In a pod those of the pod's first container stand for the sandbox's own.
Result<void> add_namespaces(const oci::Spec& spec, const PrepareOptions& options, PreparedContainer& prepared) {
    bool of_pod = options.pod != nullptr;
    for (size_t i = 0; i < spec.linux.namespaces.size(); ++i) {
        const oci::Namespace& entry = spec.linux.namespaces[i];
        guest::Namespace& out = *prepared.request.add_namespaces();
        out.set_kind(kind_of(entry.type));
        bool network = entry.type == oci::NamespaceType::kNetwork;
        if (entry.path.empty()) {
            out.set_create(!(network && !of_pod));  // the first container's network is the sandbox's
            continue;
        }
        if (network && !of_pod) continue;  // the sandbox host itself lives in it
        const oci::Namespace* pods = of_pod ? options.pod->linux.find_namespace(entry.type) : nullptr;
        bool matches = pods != nullptr && !pods->path.empty() && same_file(entry.path, pods->path);
        if (!matches && of_pod && options.pod_pid != 0)
            matches = entry.path.starts_with(fmt::format("/proc/{}/ns/", options.pod_pid));
        if (!matches && of_pod && network) matches = true;  // one network per sandbox: the CRI gives the pod's
        if (!matches && !of_pod && spec.annotations.contains("io.kubernetes.cri-o.ContainerType") &&
            (entry.type == oci::NamespaceType::kIpc || entry.type == oci::NamespaceType::kUts))
            matches = true;  // CRI-O pins namespaces for the pod before its first container
        if (!matches)
            return Error(fmt::format("config.json: linux.namespaces[{}].path: {} belongs to the host's kernel; a "
                                     "container under a guest kernel can join namespaces of its own pod only",
                                     i, entry.path),
                         ENOTSUP);
        // Those that the pod's first container got new are joined by way of it; what it left alone is the sandbox's.
        if (of_pod && !network) out.set_container_id(options.pod_id);
    }
    return {};
}

// A root that is shown read-only cannot get its mount points from inside: those that the image lacks are made here, as
// runc does. What lies below another mount is made there, by the guest.
Result<void> make_mount_points(const oci::Spec& spec, int root_fd, const PreparedContainer& prepared) {
    for (size_t i = 0; i < spec.mounts.size(); ++i) {
        const std::string& target = spec.mounts[i].destination;
        bool below = false;
        for (size_t j = 0; j < i; ++j) below |= target.starts_with(spec.mounts[j].destination + "/");
        if (below || target == "/") continue;
        const guest::Mount& mount = prepared.request.mounts(static_cast<int>(i));
        bool is_file = mount.has_tree() && mount.tree().is_file();
        std::string folder = is_file ? target.substr(0, target.rfind('/')) : target;
        auto made = linux::mkdir_p_in_root(root_fd, folder, 0755);
        if (!made.ok())
            return sys_error(
                fmt::format("config.json: mounts[{}].destination: make {} in the root file system", i, target),
                made.error().value);
        if (!is_file) continue;
        UniqueFd file(openat(made->get(), target.substr(target.rfind('/') + 1).c_str(),
                             O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644));
        if (!file && errno != EEXIST)
            return sys_error(
                fmt::format("config.json: mounts[{}].destination: make {} in the root file system", i, target));
    }
    return {};
}

// A file without a name in the root's file system, so that nothing is left of it whatever happens. `root` -1: the
// host's root, of which users may write to some folders only.
Result<UniqueFd> make_store(int root) {
    for (const char* folder : {root >= 0 ? "." : "/", "/var/tmp"}) {
        UniqueFd file(openat(root, folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
        if (file) return file;
        if (root >= 0) break;
    }
    return sys_error("root_overlay self: make an unnamed file in the root's file system");
}

}  // namespace

RootLayer root_layer_of(const Config& config) {
    if (config.root_overlay == "memory") return RootLayer::kMemory;
    return config.root_overlay == "self" ? RootLayer::kSelf : RootLayer::kNone;
}

Result<PreparedContainer> prepare_container(const oci::Spec& spec, PrepareOptions options) {
    PreparedContainer prepared;
    guest::CreateContainerRequest& request = prepared.request;
    request.set_container_id(options.container_id);
    request.set_config(std::string(options.config));

    // Nothing is written to a read-only root. The host's own (`do`) is always kept from it.
    const bool host_root = bool(options.root_tree);
    const bool layer = options.layer != RootLayer::kNone && (!spec.root.readonly || host_root);
    if (layer && options.layer == RootLayer::kSelf) prepared.store = TRY(make_store(options.root_fd));
    HostTree tree;
    tree.mount = std::move(options.root_tree);
    tree.read_only = spec.root.readonly || layer;
    if (!tree.mount) {
        TreeAttributes attributes;
        if (tree.read_only) attributes.set = MOUNT_ATTR_RDONLY;
        tree.mount = TRY(clone_tree(options.root_fd, "config.json: root.path", attributes));
    }
    prepared.trees.push_back(std::move(tree));
    request.mutable_root()->mutable_base()->set_tree("0");
    request.mutable_root()->set_writable(layer ? guest::WRITABLE_MEMORY : guest::WRITABLE_DIRECT);
    if (layer) request.mutable_root()->set_layer_size(options.layer_size);
    request.mutable_root()->set_read_only(spec.root.readonly);

    for (size_t i = 0; i < spec.mounts.size(); ++i) {
        const oci::Mount& mount = spec.mounts[i];
        if (mount.parsed.is_bind()) {
            TRY(add_bind_mount(mount, i, options, prepared));
            continue;
        }
        guest::Mount& out = *request.add_mounts();
        out.set_target(mount.destination);
        out.set_type(mount.type);
        for (const std::string& option : mount.options) out.add_options(option);
    }
    if (spec.root.readonly && !layer && options.root_fd >= 0) TRY(make_mount_points(spec, options.root_fd, prepared));
    for (const oci::Device& device : spec.linux.devices) {
        guest::Device& out = *request.add_devices();
        out.set_path(device.path);
        out.set_type(std::string(1, device.type));
        out.set_major(device.major);
        out.set_minor(device.minor);
        out.set_mode(device.file_mode.value_or(0666));
        out.set_uid(device.uid.value_or(0));
        out.set_gid(device.gid.value_or(0));
    }
    TRY(add_namespaces(spec, options, prepared));
    return prepared;
}

}  // namespace casemate::sandbox
