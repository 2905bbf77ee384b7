// The rest of an operation over several parts, after a short read or write.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <vector>

namespace casemate::virtio {

// Takes the first `bytes` off; not more than the parts hold.
inline void advance_parts(std::vector<iovec>& parts, size_t bytes) {
    size_t whole = 0;
    while (whole < parts.size() && bytes >= parts[whole].iov_len) bytes -= parts[whole++].iov_len;
    parts.erase(parts.begin(), parts.begin() + static_cast<ptrdiff_t>(whole));
    if (bytes > 0) {
        parts[0].iov_base = static_cast<char*>(parts[0].iov_base) + bytes;
        parts[0].iov_len -= bytes;
    }
}

}  // namespace casemate::virtio
