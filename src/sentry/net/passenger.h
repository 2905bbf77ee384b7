// What rides on the bytes of a Unix socket: who sent them, and open files (SCM_RIGHTS).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ref.h"
#include "sentry/kernel/pid.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

struct SenderCredentials {
    Ref<Pid> pid;  // null: unknown
    uint32_t uid = 65534, gid = 65534;
    friend bool operator==(const SenderCredentials&, const SenderCredentials&) = default;
};

// Files on their way. Counted while they are in flight, so that sockets which only hold each other are found
// (net/unix/rights.cc). Created and destroyed without socket locks held.
class PassedFiles final : public RefCounted {
  public:
    // ETOOMANYREFS at the limit of what may be in flight.
    static SysResult<Ref<PassedFiles>> create(Task& task, std::vector<Ref<File>> files);
    // They have arrived, or are to be shown by a peek: references for the receiver.
    std::vector<Ref<File>> files() const { return files_; }
    size_t count() const { return files_.size(); }

  private:
    friend class FlightControl;
    PassedFiles(std::vector<Ref<File>> files, uint32_t uid) : files_(std::move(files)), uid_(uid) {}
    ~PassedFiles() override;
    std::vector<Ref<File>> files_;
    const uint32_t uid_;  // who is charged
    bool departed_ = false;
};

// Immutable once it is on its way.
struct Passenger final : RefCounted {
    std::optional<SenderCredentials> credentials;
    Ref<PassedFiles> files;  // null: none
};

}  // namespace casemate::sentry
