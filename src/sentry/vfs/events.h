// Where the vfs tells what happened to files, for inotify. Costs one load per event while nothing is watched.
//
// InodeWatches is what hangs on a watched inode; inotify implements it. It is called without vfs locks that it could
// need (directory mutexes may be held) and must not call back into the vfs.
#pragma once

#include <cstdint>
#include <string_view>

namespace casemate::sentry {

class Dentry;
class File;
class Inode;

class InodeWatches {
  public:
    virtual ~InodeWatches() = default;
    // `mask`: IN_* with IN_ISDIR; `name`: of the child the event is about, empty: the inode itself. `cookie` joins
    // IN_MOVED_FROM and IN_MOVED_TO.
    virtual void happened(uint32_t mask, uint32_t cookie, std::string_view name) = 0;
};

// An event of an open file: to its inode's watches and, with its name, to its directory's.
void notify_file(File& file, uint32_t mask);
// The same of a dentry's inode (IN_ATTRIB, IN_OPEN, IN_MODIFY by truncate...).
void notify_dentry(Dentry& dentry, uint32_t mask);
// A change of names in `directory`: IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO.
void notify_name(Inode& directory, std::string_view name, uint32_t mask, uint32_t cookie = 0);
// To the inode's own watches only: IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT.
void notify_inode(Inode& inode, uint32_t mask);
uint32_t next_move_cookie();

}  // namespace casemate::sentry
