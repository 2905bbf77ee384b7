#include "host/route_socket.h"

#include <sys/socket.h>

#include <cstring>

namespace casemate::host {

std::string_view attribute(const RouteMessage& message, size_t body_size, unsigned type) {
    size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(body_size);
    while (at + sizeof(rtattr) <= message.size()) {
        rtattr header;
        memcpy(&header, message.data() + at, sizeof(header));
        if (header.rta_len < sizeof(rtattr) || at + header.rta_len > message.size()) break;
        if ((header.rta_type & NLA_TYPE_MASK) == type)
            return {message.data() + at + RTA_LENGTH(0), header.rta_len - RTA_LENGTH(0)};
        at += RTA_ALIGN(header.rta_len);
    }
    return {};
}

Result<RouteSocket> RouteSocket::open() {
    UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!fd) return sys_error("open a netlink socket");
    int on = 1;
    setsockopt(fd.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
    return RouteSocket(std::move(fd));
}

Result<std::vector<RouteMessage>> RouteSocket::dump(uint16_t type, uint8_t family) {
    struct {
        nlmsghdr header{};
        // The longest of the bodies; all begin with the family.
        alignas(4) char body[sizeof(ifinfomsg)] = {};
    } request;
    size_t body = type == RTM_GETADDR    ? sizeof(ifaddrmsg)
                  : type == RTM_GETROUTE ? sizeof(rtmsg)
                  : type == RTM_GETNEIGH ? sizeof(ndmsg)
                                         : sizeof(ifinfomsg);
    request.header.nlmsg_len = static_cast<uint32_t>(NLMSG_LENGTH(body));
    request.header.nlmsg_type = type;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.header.nlmsg_seq = ++sequence_;
    request.body[0] = static_cast<char>(family);
    if (send(fd_.get(), &request, request.header.nlmsg_len, 0) < 0) return sys_error("ask for the network's settings");
    std::vector<RouteMessage> messages;
    std::vector<char> buffer(64 << 10);
    while (true) {
        ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sys_error("read the network's settings");
        for (size_t at = 0; at + sizeof(nlmsghdr) <= static_cast<size_t>(got);) {
            nlmsghdr header;
            memcpy(&header, buffer.data() + at, sizeof(header));
            if (header.nlmsg_len < sizeof(header) || at + header.nlmsg_len > static_cast<size_t>(got)) break;
            if (header.nlmsg_seq == sequence_) {
                if (header.nlmsg_type == NLMSG_DONE) return messages;
                if (header.nlmsg_type == NLMSG_ERROR) {
                    int error = 0;
                    memcpy(&error, buffer.data() + at + NLMSG_HDRLEN, sizeof(error));
                    return sys_error("read the network's settings", -error);
                }
                messages.emplace_back(buffer.begin() + static_cast<ptrdiff_t>(at),
                                      buffer.begin() + static_cast<ptrdiff_t>(at + header.nlmsg_len));
            }
            at += NLMSG_ALIGN(header.nlmsg_len);
        }
    }
}

SysResult<void> RouteSocket::request(RouteMessage message, uint16_t type, uint16_t flags) {
    nlmsghdr header;
    if (message.size() < sizeof(header)) return Errno(EINVAL);
    memcpy(&header, message.data(), sizeof(header));
    header.nlmsg_len = static_cast<uint32_t>(message.size());
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
    header.nlmsg_seq = ++sequence_;
    header.nlmsg_pid = 0;
    memcpy(message.data(), &header, sizeof(header));
    if (send(fd_.get(), message.data(), message.size(), 0) < 0) return last_errno();
    char buffer[8192];
    while (true) {
        ssize_t got = recv(fd_.get(), buffer, sizeof(buffer), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return last_errno();
        if (static_cast<size_t>(got) < NLMSG_HDRLEN + sizeof(int)) continue;
        memcpy(&header, buffer, sizeof(header));
        if (header.nlmsg_seq != sequence_ || header.nlmsg_type != NLMSG_ERROR) continue;
        int error;
        memcpy(&error, buffer + NLMSG_HDRLEN, sizeof(error));
        if (error != 0) return Errno(-error);
        return {};
    }
}

}  // namespace casemate::host
