// KeptFiles: descriptors of files that were made a moment ago, by how they were asked for: owner, mode and times
// usually follow, and a second name sometimes, and need no walk then.
//
// Only of trees that nobody else changes, and only until a name is removed or renamed: what is kept under a name is
// what the name names.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "fileserver/protocol.h"

namespace casemate::fileserver {

class KeptFiles {
  public:
    // -1: not kept.
    int find(NodeId node, std::string_view path) const {
        for (const File& file : files_)
            if (file.node == node && file.path == path && file.fd) return file.fd.get();
        return -1;
    }
    // Returns the descriptor, which is good until kFiles more were kept or forget().
    int keep(NodeId node, std::string_view path, UniqueFd fd) {
        File& place = files_[next_];
        next_ = (next_ + 1) % kFiles;
        place.node = node;
        place.path = path;
        place.fd = std::move(fd);
        any_ = true;
        return place.fd.get();
    }
    void forget() {
        if (!any_) return;
        for (File& file : files_) file.fd.reset();
        any_ = false;
    }

  private:
    static constexpr size_t kFiles = 4;
    struct File {
        NodeId node = 0;
        std::string path;
        UniqueFd fd;
    };
    File files_[kFiles];
    size_t next_ = 0;
    bool any_ = false;
};

}  // namespace casemate::fileserver
