// A container's root file system, its mounts, devices, masked and read-only paths, as config.json asks for them.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/log.h"
#include "guest_api/errors.h"
#include "oci/config_parser.h"
#include "oci/mount_options.h"
#include "sentry/boot/pod.h"
#include "sentry/boot/seccomp_profile.h"
#include "sentry/fs/host/host_fs.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/task_clone.h"
#include "sentry/kernel/task_set.h"
#include "sentry/net/network.h"
#include "sentry/vfs/file_system_types.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

using guest_api::invalid;
using guest_api::not_supported;

#define TRY_BOOT(expression, what)                                             \
    ({                                                                         \
        auto&& boot_result_ = (expression);                                    \
        if (!boot_result_.ok()) return boot_error(boot_result_.error(), what); \
        boot_result_.take_value();                                             \
    })

BootResult<Ref<HostFileSystem>> open_tree(HostFiles& files, const v1::FileTree& tree, const IdMaps& ids,
                                          const std::string& origin, const std::string& what) {
    uint64_t token = strtoull(tree.tree().c_str(), nullptr, 10);
    return TRY_BOOT(HostFileSystem::create(files, token, ids, origin), fmt::format("open the file tree of {}", what));
}

IdMap id_map(const std::vector<oci::IdMapping>& mappings) {
    IdMap map;
    for (const oci::IdMapping& one : mappings) map.ranges.push_back({one.container_id, one.host_id, one.size});
    return map;
}

// Makes what a mount goes on, if it is not there: directories on the way, at the end a directory or an empty file.
SysResult<Path> make_mountpoint(Task& builder, const std::string& target, bool is_file) {
    auto found = walk(builder, AT_FDCWD, target);
    if (found.ok() || found.error().value != ENOENT) return found;
    for (size_t slash = target.find('/', 1); slash != std::string::npos; slash = target.find('/', slash + 1)) {
        auto made = make_directory(builder, AT_FDCWD, target.substr(0, slash), 0755);
        if (!made.ok() && made.error().value != EEXIST) return made.take_error();
    }
    if (is_file) {
        TRY(open(builder, AT_FDCWD, target, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    } else {
        auto made = make_directory(builder, AT_FDCWD, target, 0755);
        if (!made.ok() && made.error().value != EEXIST) return made.take_error();
    }
    return walk(builder, AT_FDCWD, target);
}

// Copies what the image has at a tmpfs's mount point into it (option tmpcopyup): one level of plain files, links and
// directories at a time.
SysResult<void> copy_tree(Task& builder, int base, const std::string& from, const std::string& to, int depth) {
    if (depth > 32) return Errno(ELOOP);
    Ref<File> directory = TRY(open(builder, base, from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0));
    std::vector<std::string> names;
    TRY(directory->read_directory(builder, [&](const DirectoryEntry& entry) {
        if (entry.name != "." && entry.name != "..") names.emplace_back(entry.name);
        return true;
    }));
    for (const std::string& name : names) {
        std::string source = from + "/" + name, target = to + "/" + name;
        Path path = TRY(walk(builder, base, source, {.follow_last = false}));
        struct stat status {};
        TRY(path.inode().stat(status));
        if (S_ISDIR(status.st_mode)) {
            TRY(make_directory(builder, AT_FDCWD, target, 0700));
            TRY(copy_tree(builder, base, source, target, depth + 1));
        } else if (S_ISLNK(status.st_mode)) {
            std::string link = TRY(path.inode().read_link(builder));
            TRY(make_symlink(builder, link, AT_FDCWD, target));
            continue;
        } else if (S_ISREG(status.st_mode)) {
            Ref<File> in = TRY(open(builder, base, source, O_RDONLY, 0));
            Ref<File> out = TRY(open(builder, AT_FDCWD, target, O_CREAT | O_EXCL | O_WRONLY, 0600));
            std::vector<std::byte> chunk(65536);
            while (true) {
                IoBuffer into = IoBuffer::kernel(chunk);
                size_t got = TRY(in->read(builder, into));
                if (got == 0) break;
                IoBuffer rest = IoBuffer::kernel(std::span<std::byte>(chunk.data(), got));
                while (rest.remaining() > 0) TRY(out->write(builder, rest));
            }
        } else {
            continue;
        }
        Path made = TRY(walk(builder, AT_FDCWD, target));
        AttributeChange change{.mode = status.st_mode & 07777, .uid = status.st_uid, .gid = status.st_gid};
        TRY(change_attributes(builder, made, change));
    }
    return {};
}

BootResult<void> set_propagation(Task& builder, const std::string& target, uint64_t flags, const std::string& field) {
    Path top = TRY_BOOT(walk(builder, AT_FDCWD, target), fmt::format("find {}", target));
    uint64_t type = flags & (MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE);
    auto set = builder.namespaces().mount->set_propagation(top, type, (flags & MS_REC) != 0);
    if (!set.ok()) return boot_error(set.error(), fmt::format("set the propagation of {}", target), field);
    return {};
}

bool is_directory(const Path& path) { return S_ISDIR(path.inode().mode()); }

}  // namespace

BootResult<Ref<Mount>> Pod::make_root(const v1::RootFs& root, const IdMaps& ids, RequestStreams& streams) {
    auto base = TRY(open_tree(files_, root.base(), ids, "", "the root file system"));
    Ref<FileSystem> shown = base;
    if (root.writable() == v1::WRITABLE_MEMORY) {
        std::unique_ptr<MemoryFile> store;
        if (UniqueFd file = streams.take(root.store())) {
            auto made = MemoryFile::create(std::move(file), 0, MemoryFile::Kind::kStore);
            if (!made.ok())
                return boot_error(Errno(errno_of(made.error())), "make the file that holds the writable layer");
            store = made.take_value();
        }
        TmpfsOptions options{.size = root.layer_size(), .mode = 0755};
        auto upper = TmpfsFileSystem::create(kernel_.memory(), options, "tmpfs", std::move(store));
        auto upper_root = TRY_BOOT(upper->root(), "the writable layer");
        auto lower_root = TRY_BOOT(base->root(), "the root file system");
        auto copied = upper_root->change(
            {.mode = lower_root->mode() & 07777, .uid = lower_root->uid(), .gid = lower_root->gid()});
        if (!copied.ok()) return boot_error(copied.error(), "the writable layer");
        std::vector<Ref<Inode>> lowers;
        lowers.push_back(std::move(lower_root));
        auto overlay =
            TRY_BOOT(OverlayFileSystem::create(std::move(upper_root), std::move(lowers)), "the writable layer");
        shown = overlay;
    } else if (root.writable() != v1::WRITABLE_DIRECT || root.lower_size() != 0) {
        return BootError(not_supported("the sentry takes one root tree, written directly or in memory", "root"));
    }
    // Read-only roots are made so once everything has been mounted on them.
    return TRY_BOOT(Mount::create(shown, MS_RELATIME, "none", ""), "mount the root file system");
}

BootResult<std::unique_ptr<PodContainer>> Pod::build_container(const v1::CreateContainerRequest& request,
                                                               RequestStreams& streams) {
    auto spec = oci::parse_config(request.config());
    if (!spec.ok()) return BootError(invalid(spec.error().message(), "config"));
    auto container = std::make_unique<PodContainer>();
    container->id = request.container_id();
    container->spec = spec.take_value();
    container->kernel_container = make_ref<Container>(request.container_id());
    const oci::Spec& config = container->spec;
    if (config.linux.resources && config.linux.resources->pids_limit && *config.linux.resources->pids_limit > 0)
        container->kernel_container->task_limit = static_cast<uint64_t>(*config.linux.resources->pids_limit);

    if (config.linux.seccomp) {
        auto filter = compile_profile(*config.linux.seccomp);
        if (!filter.ok()) return BootError(not_supported(filter.error().message(), "linux.seccomp"));
        container->filter = filter.take_value();
    }
    // Host files have their owners by the mapping; what the guest kernel makes itself has the ids inside.
    container->user_namespace = Ref<UserNamespace>(&kernel_.user_namespace());
    if (!config.linux.uid_mappings.empty() || !config.linux.gid_mappings.empty())
        container->user_namespace = make_ref<UserNamespace>(
            container->user_namespace, IdMaps{id_map(config.linux.uid_mappings), id_map(config.linux.gid_mappings)});

    Ref<Mount> root = TRY(make_root(request.root(), container->user_namespace->ids, streams));
    Ref<MountNamespace> mounts = MountNamespace::create(root);
    Ref<Namespaces> set = namespaces_->clone();
    set->mount = mounts;
    container->pid_namespace = kernel_.tasks().root_space;
    bool joins_pid = false;
    for (const v1::Namespace& wanted : request.namespaces()) {
        PodContainer* other = nullptr;
        if (!wanted.container_id().empty()) {
            std::lock_guard lock(mutex_);
            other = find_locked(wanted.container_id());
            if (other == nullptr)
                return BootError(
                    guest_api::not_found(fmt::format("no container {} to share with", wanted.container_id())));
        }
        switch (wanted.kind()) {
            case v1::NAMESPACE_PID:
                if (wanted.create())
                    container->pid_namespace = make_ref<PidNamespace>(kernel_.tasks().root_space);
                else if (other != nullptr)
                    container->pid_namespace = other->pid_namespace, joins_pid = true;
                break;
            case v1::NAMESPACE_UTS:
                if (wanted.create())
                    set->uts = make_ref<UtsNamespace>(config.hostname.empty() ? set->uts->host_name() : config.hostname,
                                                      config.domainname);
                else if (other != nullptr)
                    set->uts = other->namespaces->uts;
                break;
            case v1::NAMESPACE_IPC:
                if (wanted.create())
                    set->ipc = make_ref<IpcNamespace>();
                else if (other != nullptr)
                    set->ipc = other->namespaces->ipc;
                break;
            case v1::NAMESPACE_NETWORK:
                if (wanted.create())
                    set->network = make_pod_network();
                else if (other != nullptr)
                    set->network = other->namespaces->network;
                break;
            case v1::NAMESPACE_CGROUP:
                if (wanted.create()) set->cgroup = make_ref<CgroupNamespace>();
                break;
            case v1::NAMESPACE_TIME:
                if (wanted.create()) set->time = make_ref<TimeNamespace>();
                break;
            case v1::NAMESPACE_MOUNT:
                break;  // each container has its own
            case v1::NAMESPACE_USER:
                break;  // above
            default:
                return BootError(invalid("unknown kind of namespace", "namespaces"));
        }
    }
    static_cast<void>(joins_pid);
    set->pid_for_children = container->pid_namespace;
    container->namespaces = std::move(set);
    container->fs = make_ref<FsContext>(mounts->root(), mounts->root(), 022u);

    // A process that never runs does the mounting: it has a root, all capabilities and nothing else.
    SpawnRequest builder_request;
    builder_request.container = container->kernel_container;
    builder_request.pid_namespace = container->pid_namespace;  // whose processes a proc mount will show
    builder_request.never_runs = true;
    builder_request.namespaces = container->namespaces;
    builder_request.fs = container->fs;
    builder_request.files = make_ref<FdTable>();
    auto all = make_ref<Credentials>();
    all->permitted = all->effective = kAllCapabilities;
    all->user_namespace = container->user_namespace;
    builder_request.credentials = std::move(all);
    Ref<Task> builder =
        TRY_BOOT(TaskBuilder::create_process(kernel_, std::move(builder_request)), "build the container");
    auto built = [&]() -> BootResult<void> {
        TRY(add_mounts(*container, request, *builder));
        TRY(add_devices(*container, request, *builder));
        TRY(apply_sysctls(*container, *builder));
        TRY(hide_paths(*container, *builder));
        if (config.linux.rootfs_propagation != 0)
            TRY(set_propagation(*builder, "/", config.linux.rootfs_propagation, "linux.rootfsPropagation"));
        return {};
    }();
    TaskBuilder::discard_process(*builder);
    {
        std::lock_guard lock(kernel_.tasks().mutex);
        if (container->pid_namespace->init == nullptr) container->pid_namespace->last = 0;  // init will be 1
    }
    if (!built.ok()) return built.take_error();
    if (request.root().read_only() || config.root.readonly) root->set_flags(root->flags() | MS_RDONLY);
    return container;
}

BootResult<void> Pod::add_mount(Task& builder, const v1::Mount& mount, const std::string& source, size_t index) {
    std::string field = fmt::format("mounts[{}]", index);
    std::vector<std::string> words(mount.options().begin(), mount.options().end());
    auto options = oci::parse_mount_options(words);
    if (!options.ok()) return BootError(invalid(options.error().message(), field + ".options"));
    if (options->idmap != oci::IdmapScope::kNone)
        return BootError(not_supported("the sentry has no id-mapped mounts", field + ".options"));
    uint64_t flags = (options->flags & Mount::kFlags) | MS_RELATIME;
    Ref<Mount> made;
    bool is_file = false;
    if (mount.has_tree()) {
        auto files = TRY(open_tree(files_, mount.tree(), builder.credentials().user_namespace->ids,
                                   source.starts_with('/') ? source : "", mount.target()));
        is_file = mount.tree().is_file();
        made = TRY_BOOT(Mount::create(files, flags, "none", ""), fmt::format("mount {}", mount.target()));
    } else {
        std::string type = mount.type();
        if (type == "cgroup" || type == "cgroup2") type = "cgroup2";
        const FileSystemType* known = find_file_system_type(type);
        if (known == nullptr)
            return BootError(
                not_supported(fmt::format("the sentry has no file system of type {}", mount.type()), field + ".type"));
        auto files = known->make(builder, mount.type(), options->data);
        if (!files.ok())
            return boot_error(
                files.error(),
                fmt::format("mount {} on {} with options \"{}\"", mount.type(), mount.target(), options->data), field);
        made = TRY_BOOT(Mount::create(files.take_value(), flags, source.empty() ? mount.type() : source, options->data),
                        fmt::format("mount {}", mount.target()));
    }
    Path where = TRY_BOOT(make_mountpoint(builder, mount.target(), is_file),
                          fmt::format("make the mount point {}", mount.target()));
    if (is_directory(where) == is_file)
        return BootError(
            invalid(fmt::format("{} is {} a directory", mount.target(), is_file ? "already" : "not"), field));
    MountNamespace& space = *builder.namespaces().mount;
    if (options->copy_up && !mount.has_tree()) {
        // The directory that the mount hides stays reachable by a descriptor.
        Ref<File> hidden = TRY_BOOT(open(builder, AT_FDCWD, mount.target(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0),
                                    fmt::format("open {}", mount.target()));
        int base = TRY_BOOT(builder.files().insert(hidden, true, 1024), "tmpcopyup");
        TRY_BOOT(space.attach(std::move(made), where), fmt::format("mount on {}", mount.target()));
        auto copied = copy_tree(builder, base, ".", mount.target(), 0);
        static_cast<void>(builder.files().remove(base));
        if (!copied.ok())
            return boot_error(copied.error(), fmt::format("copy {} into its tmpfs", mount.target()), field);
        return {};
    }
    auto attached = space.attach(std::move(made), where);
    if (!attached.ok()) return boot_error(attached.error(), fmt::format("mount on {}", mount.target()), field);
    for (uint64_t propagation : options->propagation)
        TRY(set_propagation(builder, mount.target(), propagation, field + ".options"));
    return {};
}

BootResult<void> Pod::add_mounts(PodContainer& container, const v1::CreateContainerRequest& request, Task& builder) {
    for (int i = 0; i < request.mounts_size(); i++) {
        // What /proc/mounts shows as source is in config.json, whose list this one follows.
        auto index = static_cast<size_t>(i);
        const auto& wanted = container.spec.mounts;
        bool same = index < wanted.size() && wanted[index].destination == request.mounts(i).target();
        TRY(add_mount(builder, request.mounts(i), same ? wanted[index].source : "", index));
    }
    container.terminals = pts_of(builder);
    if (!container.terminals) container.terminals = TRY_BOOT(PtsFileSystem::create(kernel_, "ptmxmode=0666"), "devpts");
    return {};
}

// The devices that every Linux container has (runtime-spec, "Default Devices"), then those of config.json.
BootResult<void> Pod::add_devices(PodContainer&, const v1::CreateContainerRequest& request, Task& builder) {
    auto dev = walk(builder, AT_FDCWD, "/dev");
    if (!dev.ok()) return {};  // a root without /dev stays without
    struct Node {
        const char* path;
        unsigned major, minor;
    };
    static constexpr Node kNodes[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                                      {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
    bool own = std::string_view(dev->mount->file_system().type()) == "tmpfs";
    auto make = [&](const std::string& path, uint32_t mode, uint64_t device) -> SysResult<void> {
        auto made = make_node(builder, AT_FDCWD, path, mode, device);
        if (!made.ok() && made.error().value == EEXIST) return {};
        TRY(std::move(made));
        Path node = TRY(walk(builder, AT_FDCWD, path));
        return change_attributes(builder, node, {.mode = mode & 07777});  // whatever the umask
    };
    // A /dev that is part of the image is left as it is, but for nodes that can be added there.
    if (own) {
        for (const Node& node : kNodes) {
            auto made = make(node.path, S_IFCHR | 0666, makedev(node.major, node.minor));
            if (!made.ok()) return boot_error(made.error(), fmt::format("make {}", node.path));
        }
        static constexpr const char* kLinks[][2] = {{"/proc/self/fd", "/dev/fd"},
                                                    {"/proc/self/fd/0", "/dev/stdin"},
                                                    {"/proc/self/fd/1", "/dev/stdout"},
                                                    {"/proc/self/fd/2", "/dev/stderr"},
                                                    {"pts/ptmx", "/dev/ptmx"}};
        for (auto& [target, path] : kLinks) {
            auto made = make_symlink(builder, target, AT_FDCWD, path);
            if (!made.ok() && made.error().value != EEXIST)
                return boot_error(made.error(), fmt::format("make {}", path));
        }
    }
    for (int i = 0; i < request.devices_size(); i++) {
        const v1::Device& device = request.devices(i);
        uint32_t type = device.type() == "c" ? S_IFCHR : device.type() == "b" ? S_IFBLK : S_IFIFO;
        auto parent = make_mountpoint(builder, device.path().substr(0, device.path().rfind('/')) + "/", false);
        static_cast<void>(parent);
        auto made = make_node(builder, AT_FDCWD, device.path(), type | (device.mode() & 07777),
                              makedev(device.major(), device.minor()));
        if (!made.ok() && made.error().value != EEXIST)
            return boot_error(made.error(), fmt::format("make the device {}", device.path()),
                              fmt::format("linux.devices[{}]", i));
        auto node = walk(builder, AT_FDCWD, device.path());
        if (!node.ok()) return boot_error(node.error(), fmt::format("make the device {}", device.path()));
        auto changed = change_attributes(builder, *node,
                                         {.mode = device.mode() & 07777, .uid = device.uid(), .gid = device.gid()});
        if (!changed.ok()) return boot_error(changed.error(), fmt::format("make the device {}", device.path()));
    }
    return {};
}

BootResult<void> Pod::hide_paths(PodContainer& container, Task& builder) {
    MountNamespace& space = *builder.namespaces().mount;
    auto missing = [](Errno error) { return error.value == ENOENT || error.value == ENOTDIR; };
    for (const std::string& path : container.spec.linux.readonly_paths) {
        auto found = walk(builder, AT_FDCWD, path);
        if (!found.ok() && missing(found.error())) continue;
        Path where = TRY_BOOT(std::move(found), fmt::format("make {} read-only", path));
        TRY_BOOT(space.bind(where, where, true), fmt::format("make {} read-only", path));
        Path top = TRY_BOOT(walk(builder, AT_FDCWD, path), fmt::format("make {} read-only", path));
        top.mount->set_flags(top.mount->flags() | MS_RDONLY);
    }
    for (const std::string& path : container.spec.linux.masked_paths) {
        auto found = walk(builder, AT_FDCWD, path);
        if (!found.ok() && missing(found.error())) continue;
        Path where = TRY_BOOT(std::move(found), fmt::format("mask {}", path));
        if (is_directory(where)) {
            auto empty = TmpfsFileSystem::create(kernel_.memory(), TmpfsOptions{.mode = 0755});
            auto mount =
                TRY_BOOT(Mount::create(Ref<FileSystem>(empty), MS_RDONLY, "tmpfs", ""), fmt::format("mask {}", path));
            TRY_BOOT(space.attach(std::move(mount), where), fmt::format("mask {}", path));
        } else {
            Path null = TRY_BOOT(walk(builder, AT_FDCWD, "/dev/null"), fmt::format("mask {} by /dev/null", path));
            TRY_BOOT(space.bind(null, where, false), fmt::format("mask {}", path));
        }
    }
    return {};
}

BootResult<void> Pod::apply_sysctls(PodContainer& container, Task& builder) {
    for (const auto& [name, value] : container.spec.linux.sysctl) {
        std::string path = "/proc/sys/" + name;
        for (char& c : path)
            if (c == '.') c = '/';
        std::string field = "linux.sysctl." + name;
        auto file = open(builder, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
        if (!file.ok())
            return BootError(not_supported(fmt::format("the sentry has no writable setting {}", name), field));
        std::string text = value;
        IoBuffer from = IoBuffer::kernel(text.data(), text.size());
        auto written = (*file)->write(builder, from);
        if (!written.ok()) return boot_error(written.error(), fmt::format("set {} to \"{}\"", name, value), field);
    }
    return {};
}

}  // namespace casemate::sentry
