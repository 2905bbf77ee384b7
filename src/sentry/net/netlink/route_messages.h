// The model's things as messages of NETLINK_ROUTE: answers, dumps and notices are made of these.
#pragma once

#include "sentry/net/interfaces.h"
#include "sentry/net/netlink/message.h"

namespace casemate::sentry {

struct MessageHead {
    bool removed = false;  // RTM_DEL*
    uint16_t flags = 0;
    uint32_t sequence = 0, port = 0;
};

// RTM_NEWLINK. `brief`: without counters (RTEXT_FILTER_SKIP_STATS).
NetlinkMessage link_message(const MessageHead& head, const Link& link, bool brief);
NetlinkMessage address_message(const MessageHead& head, const LinkAddress& address);
NetlinkMessage route_message(const MessageHead& head, const Route& route);
NetlinkMessage neighbour_message(const MessageHead& head, const Neighbour& neighbour);

}  // namespace casemate::sentry
