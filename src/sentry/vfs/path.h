// Path: a place in the tree, a dentry seen through a mount.
#pragma once

#include "base/ref.h"

namespace casemate::sentry {

class Inode;
class Dentry;
class Mount;

struct Path {
    Ref<Mount> mount;
    Ref<Dentry> dentry;

    Path();
    Path(Ref<Mount> m, Ref<Dentry> d);
    Path(const Path&);
    Path(Path&&) noexcept;
    Path& operator=(const Path&);
    Path& operator=(Path&&) noexcept;
    ~Path();
    explicit operator bool() const;
    Inode& inode() const;  // of a positive dentry
    friend bool operator==(const Path& a, const Path& b);
};

}  // namespace casemate::sentry
