// RouteSocket: rtnetlink of the network namespace in which it was opened. Messages are kept raw, so that what was read
// can be put back as it was.
#pragma once

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::host {

using RouteMessage = std::vector<char>;  // with its nlmsghdr

// The message behind its header as a T; zeros if it is too short.
template <typename T>
T message_body(const RouteMessage& message) {
    T body{};
    if (message.size() >= NLMSG_HDRLEN + sizeof(T)) memcpy(&body, message.data() + NLMSG_HDRLEN, sizeof(T));
    return body;
}
// An attribute behind a body of `body_size`; empty: there is none.
std::string_view attribute(const RouteMessage& message, size_t body_size, unsigned type);

class RouteSocket {
  public:
    static Result<RouteSocket> open();
    // RTM_GET*: all of a family (AF_UNSPEC: of all).
    Result<std::vector<RouteMessage>> dump(uint16_t type, uint8_t family);
    // Sends a message that was dumped (or made) as a request of `type` and waits for its answer.
    SysResult<void> request(RouteMessage message, uint16_t type, uint16_t flags);

  private:
    explicit RouteSocket(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
    uint32_t sequence_ = 0;
};

}  // namespace casemate::host
