// The file server's end of virtio/fuse_link.h: one directory, one monitor.
#pragma once

#include <span>

#include "base/unique_map.h"
#include "fileserver/fuse_directory.h"
#include "virtio/fuse_link.h"

namespace casemate::fileserver {

// The guest's memory, read-only and for host calls only: nothing here looks at it, so neither what the guest changes
// meanwhile nor a file that is cut matters (the call says EFAULT).
class GuestData {
  public:
    GuestData() = default;
    explicit GuestData(UniqueMap map) : map_(std::move(map)) {}
    // Appends what the segments name, `size` bytes in all; EPROTO if that cannot be.
    SysResult<void> append_to(virtio::ChainBuffer& buffer, std::span<const virtio::FuseLinkSegment> segments,
                              uint64_t size) const;

  private:
    UniqueMap map_;
};

// The monitor's first message, perhaps with the guest's memory. To be called before the seccomp list, which has no way
// for descriptors to come in. ECONNRESET if the monitor ends before.
SysResult<GuestData> receive_guest_data(int socket);

// Serves until the monitor hangs up. EPROTO if it breaks the protocol: whoever took the monitor over may.
SysResult<void> serve_fuse_link(FuseDirectory& directory, int socket, const GuestData& memory = {});

}  // namespace casemate::fileserver
