// Walker: one walk of a path, kept as an object so that open(O_CREAT) can go on where a last symlink leads.
// Private to vfs/; everybody else uses vfs.h.
#pragma once

#include <string>
#include <string_view>

#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

class Walker {
  public:
    Walker(Task& task, const WalkOptions& options) : task_(task), options_(options) {}

    // Sets the start; `path` must outlive the walk.
    SysResult<void> start(int dirfd, std::string_view path);
    // Goes on to the end.
    SysResult<void> to_end() { return go(false); }
    // Stops before the last component: name() and last() tell it.
    SysResult<void> to_last() { return go(true); }
    // After to_last(): replaces the last component by the text of the symlink `link` (a child of at()).
    SysResult<void> follow(const Path& link);
    // The same child under what is mounted there; null dentry: jumped by a magic link, at() is the target.
    Path& at() { return at_; }
    std::string_view name() const { return name_; }
    bool trailing_slash() const { return trailing_slash_; }
    ParentWalk::Last last() const { return last_; }
    // follow() met a link that jumps: the walk is over, at() is its end.
    bool jumped() const { return jumped_ && rest_.empty(); }
    // Steps onto what is mounted at `child` of at().
    SysResult<Path> enter(Ref<Dentry> child);

  private:
    SysResult<void> go(bool stop_at_last);
    SysResult<void> step_up();
    SysResult<void> follow_link(const Path& link, std::string_view after);

    Task& task_;
    const WalkOptions& options_;
    Path root_, at_;
    std::string_view rest_;
    std::string text_;  // rest_ points into it after a link
    std::string_view name_;
    bool trailing_slash_ = false;
    bool jumped_ = false;
    ParentWalk::Last last_ = ParentWalk::Last::kRoot;
    int links_ = 0;
};

}  // namespace casemate::sentry
