// The filter programs of inet_diag (INET_DIAG_REQ_BYTECODE), which `ss` makes of its conditions. They jump forward
// only, so they end; checked before they run.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "sentry/net/inet/endpoint.h"

namespace casemate::sentry {

class DiagFilter {
  public:
    struct Subject {
        bool v6;
        InetEndpoint local, peer;
        int device;
        bool chose_port;  // bound by the application, not by the system
    };
    DiagFilter() = default;  // lets everything pass
    static SysResult<DiagFilter> create(std::span<const std::byte> program);
    bool passes(const Subject& subject) const;

  private:
    std::vector<std::byte> program_;
};

}  // namespace casemate::sentry
