// Where a file ends, and that an open file stands there: known to stay so until somebody says otherwise.
//
// Who changes how long the file is, or where an open file of it stands, says so after the change and before its own
// call returns. Who believes that it stays as it is takes the version first, then looks, then joins the queue, then
// sees whether the version is still the same.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/ref.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class FileEnd final : public RefCounted {
  public:
    uint64_t version() const { return version_.load(std::memory_order_seq_cst); }
    void changed() {
        version_.fetch_add(1, std::memory_order_seq_cst);
        queue.notify(~0u, ~0u);
    }

    WaitQueue queue;

  private:
    std::atomic<uint64_t> version_{0};
};

}  // namespace casemate::sentry
