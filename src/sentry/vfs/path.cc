#include "sentry/vfs/path.h"

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/mount.h"

namespace casemate::sentry {

Path::Path() = default;
Path::Path(Ref<Mount> m, Ref<Dentry> d) : mount(std::move(m)), dentry(std::move(d)) {}
Path::Path(const Path&) = default;
Path::Path(Path&&) noexcept = default;
Path& Path::operator=(const Path&) = default;
Path& Path::operator=(Path&&) noexcept = default;
// A dentry goes before the mount that keeps its file system in use.
Path::~Path() {
    dentry.reset();
    mount.reset();
}

Path::operator bool() const { return static_cast<bool>(dentry); }

Inode& Path::inode() const {
    Inode* inode = dentry->inode_or_null();
    CHECK(inode != nullptr);
    return *inode;
}

bool operator==(const Path& a, const Path& b) { return a.mount == b.mount && a.dentry == b.dentry; }

}  // namespace casemate::sentry
