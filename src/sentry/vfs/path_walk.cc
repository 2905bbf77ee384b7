// The walk: from a string of the application to a place in the tree. Components that the dentry cache knows cost no
// allocation. Rules: path_resolution(7), openat2(2) for RESOLVE_*.
#include <linux/limits.h>
#include <linux/openat2.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/walker.h"

namespace casemate::sentry {

namespace {

constexpr int kMaxLinks = 40;
constexpr size_t kMaxPath = PATH_MAX;

}  // namespace

SysResult<Path> walk_start(Task& task, int dirfd, std::string_view path) {
    if (!path.empty() && path.front() == '/') return task.fs().root();
    if (dirfd == AT_FDCWD) return task.fs().working_directory();
    Ref<File> file = TRY(task.files().get(dirfd, true));
    if (!file->path()) return Errno(ENOTDIR);
    if (!path.empty() && !S_ISDIR(file->inode()->mode())) return Errno(ENOTDIR);
    return file->path();
}

SysResult<void> Walker::start(int dirfd, std::string_view path) {
    if (path.size() >= kMaxPath) return Errno(ENAMETOOLONG);
    if (path.empty() && !options_.empty_path) return Errno(ENOENT);
    rest_ = path;
    bool absolute = !path.empty() && path.front() == '/';
    if (options_.resolve & RESOLVE_BENEATH) {
        if (absolute) return Errno(EXDEV);
        at_ = TRY(walk_start(task_, dirfd, path));
        root_ = at_;
    } else if (options_.resolve & RESOLVE_IN_ROOT) {
        // Absolute paths begin at the start too.
        while (!rest_.empty() && rest_.front() == '/') rest_.remove_prefix(1);
        at_ = TRY(walk_start(task_, dirfd, rest_));
        if (!S_ISDIR(at_.inode().mode())) return Errno(ENOTDIR);
        root_ = at_;
    } else {
        at_ = TRY(walk_start(task_, dirfd, path));
        if (absolute)
            root_ = at_;
        else
            root_ = task_.fs().root();
    }
    return {};
}

SysResult<void> Walker::step_up() {
    if (at_ == root_) {
        if (options_.resolve & RESOLVE_BENEATH) return Errno(EXDEV);
        return {};
    }
    while (at_.dentry == at_.mount->root()) {
        Path below = at_.mount->mountpoint();
        if (!below) return {};  // the top of the namespace, or a detached mount
        if (options_.resolve & RESOLVE_NO_XDEV) return Errno(EXDEV);
        at_ = std::move(below);
        if (at_ == root_) return {};
    }
    at_ = Mount::follow_down(Path(at_.mount, at_.dentry->parent()));
    return {};
}

SysResult<Path> Walker::enter(Ref<Dentry> child) {
    Path path(at_.mount, std::move(child));
    if (path.dentry->mounts_here.load(std::memory_order_acquire) != 0) [[unlikely]] {
        path = Mount::follow_down(std::move(path));
        if ((options_.resolve & RESOLVE_NO_XDEV) && path.mount != at_.mount) return Errno(EXDEV);
    }
    return path;
}

// Links in directories where anybody may write lead astray: only their owner, or the directory's, is believed
// (fs.protected_symlinks, which distributions turn on).
static bool link_is_trusted(Task& task, Inode& link, Inode& directory) {
    if (task.credentials().fsuid == link.uid()) return true;
    if ((directory.mode() & (S_ISVTX | S_IWOTH)) != (S_ISVTX | S_IWOTH)) return true;
    return directory.uid() == link.uid();
}

SysResult<void> Walker::follow_link(const Path& link, std::string_view after) {
    if (++links_ > kMaxLinks) return Errno(ELOOP);
    if (options_.resolve & RESOLVE_NO_SYMLINKS) return Errno(ELOOP);
    if (link.mount->flags() & MS_NOSYMFOLLOW) return Errno(ELOOP);
    Inode& inode = link.inode();
    if (!link_is_trusted(task_, inode, at_.inode())) return Errno(EACCES);
    if (auto target = TRY(inode.magic_link(task_))) {
        if (options_.resolve & RESOLVE_NO_MAGICLINKS) return Errno(ELOOP);
        if (options_.resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)) return Errno(EXDEV);
        if ((options_.resolve & RESOLVE_NO_XDEV) && target->mount != at_.mount) return Errno(EXDEV);
        if (!*target) return Errno(ENOENT);
        at_ = std::move(*target);
        jumped_ = true;
        std::string rest(after);
        text_.swap(rest);
        rest_ = text_;
        return {};
    }
    std::string text = TRY(inode.read_link(task_));
    if (text.empty()) return Errno(ENOENT);
    if (text.front() == '/') {
        if (options_.resolve & RESOLVE_BENEATH) return Errno(EXDEV);
        if ((options_.resolve & RESOLVE_NO_XDEV) && root_.mount != at_.mount) return Errno(EXDEV);
        at_ = root_;
    }
    if (text.size() + after.size() >= 2 * kMaxPath) return Errno(ENAMETOOLONG);
    text.append(after);
    text_.swap(text);
    rest_ = text_;
    return {};
}

SysResult<void> Walker::follow(const Path& link) {
    std::string after = trailing_slash_ ? "/" : "";
    return follow_link(link, after);
}

SysResult<void> Walker::go(bool stop_at_last) {
    const Credentials& credentials = task_.credentials();
    while (true) {
        size_t begin = 0;
        while (begin < rest_.size() && rest_[begin] == '/') ++begin;
        if (begin != 0 && begin == rest_.size()) {
            // Only slashes are left: what we are on must be a directory.
            if (!S_ISDIR(at_.inode().mode())) return Errno(ENOTDIR);
        }
        rest_.remove_prefix(begin);
        if (rest_.empty()) {
            if (stop_at_last) last_ = ParentWalk::Last::kRoot;
            return {};
        }
        size_t end = rest_.find('/');
        std::string_view component = rest_.substr(0, end);
        std::string_view after = end == std::string_view::npos ? std::string_view() : rest_.substr(end);
        bool last = after.find_first_not_of('/') == std::string_view::npos;
        bool slash = last && !after.empty();

        Inode& directory = at_.inode();
        if (!S_ISDIR(directory.mode())) return Errno(ENOTDIR);
        TRY(check_permission(credentials, directory, kMayExec));
        if (component == "." || component == "..") {
            bool up = component.size() == 2;
            if (last && stop_at_last) {
                last_ = up ? ParentWalk::Last::kDotDot : ParentWalk::Last::kDot;
                trailing_slash_ = slash;
                name_ = component;
                return {};
            }
            if (up) TRY(step_up());
            rest_ = after;
            continue;
        }
        if (component.size() > NAME_MAX) return Errno(ENAMETOOLONG);
        if (last && stop_at_last) {
            last_ = ParentWalk::Last::kName;
            trailing_slash_ = slash;
            name_ = component;
            return {};
        }
        Ref<Dentry> child;
        if (!directory.file_system().names_can_change()) [[likely]]
            child = at_.dentry->cached_child(component);
        if (!child) {
            directory.prefetch(rest_, options_.will_open);
            child = TRY(at_.dentry->child(component));
        }
        Path next = TRY(enter(std::move(child)));
        Inode* inode = next.dentry->inode_or_null();
        if (inode == nullptr) return Errno(ENOENT);
        if (S_ISLNK(inode->mode()) && (!last || slash || options_.follow_last)) {
            TRY(follow_link(next, after));
            continue;
        }
        at_ = std::move(next);
        rest_ = after;
    }
}

SysResult<Path> walk(Task& task, int dirfd, std::string_view path, const WalkOptions& options) {
    Walker walker(task, options);
    TRY(walker.start(dirfd, path));
    TRY(walker.to_end());
    if (options.directory && !S_ISDIR(walker.at().inode().mode())) return Errno(ENOTDIR);
    return std::move(walker.at());
}

SysResult<ParentWalk> walk_parent(Task& task, int dirfd, std::string_view path, const WalkOptions& options) {
    Walker walker(task, options);
    TRY(walker.start(dirfd, path));
    TRY(walker.to_last());
    ParentWalk result;
    result.parent = std::move(walker.at());
    result.name = std::string(walker.name());
    result.trailing_slash = walker.trailing_slash();
    result.last = walker.last();
    return result;
}

std::string path_text(Task& task, const Path& path) {
    if (!path) return {};
    Path root = task.fs().root();
    std::string text;
    Path at = path;
    bool reached = false;
    while (true) {
        if (at == root) {
            reached = true;
            break;
        }
        if (at.mount && at.dentry == at.mount->root()) {
            Path below = at.mount->mountpoint();
            if (!below) {
                // The top of the tree that is not this task's root: all the same a place of its own.
                reached = at.mount == root.mount;
                break;
            }
            at = std::move(below);
            continue;
        }
        Ref<Dentry> parent = at.dentry->parent();
        if (parent == at.dentry) {  // never in a directory: "/memfd:x", "pipe:[1]"
            text.insert(0, at.dentry->name());
            reached = true;
            break;
        }
        text.insert(0, "/" + at.dentry->name());
        at.dentry = std::move(parent);
    }
    if (text.empty()) text = "/";
    if (!reached) text.insert(0, "(unreachable)");
    // Pipes, sockets and the like never had a name to lose.
    if (path.dentry->unlinked() && text.starts_with("/")) text += " (deleted)";
    return text;
}

}  // namespace casemate::sentry
