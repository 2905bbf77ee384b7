// SharedServer: the file server's end of a SharedArea: waits for rings, works off posts, answers requests.
#pragma once

#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "fileserver/shared_area.h"

namespace casemate::fileserver {

class Connection;

class SharedServer {
  public:
    // EINVAL: the memory is not what it should be, or the listener none.
    static SysResult<SharedServer> create(UniqueFd memory, UniqueFd listener);

    // Serves `connection` until the guest kernel goes away (fine) or breaks the protocol (EPROTO). `socket` is
    // borrowed.
    SysResult<void> serve(Connection& connection, int socket);

  private:
    SharedServer(UniqueMap area, UniqueFd listener);
    SysResult<void> answer_ring(Connection& connection, int socket);
    SysResult<void> work_off(Connection& connection, int socket, Slot& slot);
    SysResult<void> work_off_posts(Connection& connection);
    void copy_posts(uint64_t at, char* into, size_t size) const;
    SharedArea& area() const;

    UniqueMap map_;
    UniqueFd listener_;
    std::vector<char> buffer_;
    uint64_t posts_read_ = 0;
};

}  // namespace casemate::fileserver
