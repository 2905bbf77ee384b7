// SharedServer: the file server's end of a SharedArea. One thread waits for rings, and answers requests; another sees
// to posts that nobody rings for. Either works off the posts before anything else, one at a time.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "fileserver/shared_area.h"
#include "fileserver/spare_thread.h"

namespace casemate::fileserver {

class Connection;

class SharedServer : public std::enable_shared_from_this<SharedServer> {
  public:
    // EINVAL: the memory is not what it should be, or the listener none.
    static SysResult<std::shared_ptr<SharedServer>> create(UniqueFd memory, UniqueFd listener);

    // Serves `connection` until the guest kernel goes away. `socket` is borrowed. `rings` waits for rings; it
    // may be a moment behind at the end, and if the guest kernel breaks the protocol it ends the process.
    SysResult<void> serve(Connection& connection, int socket, SpareThread& rings);

  private:
    SharedServer(UniqueMap area, UniqueFd listener);
    SysResult<void> answer_rings(Connection& connection, int socket);
    SysResult<void> work_off_locked(Connection& connection, int socket, Slot& slot);
    SysResult<void> work_off_posts_locked(Connection& connection);
    void copy_posts(uint64_t at, char* into, size_t size) const;
    SharedArea& area() const;

    UniqueMap map_;
    UniqueFd listener_;
    std::atomic<bool> rung_{false};  // since it was looked for posts
    std::mutex mutex_;               // who uses the connection
    std::vector<char> buffer_;       // guarded by mutex_
    uint64_t posts_read_ = 0;        // guarded by mutex_
};

}  // namespace casemate::fileserver
