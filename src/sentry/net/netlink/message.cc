#include "sentry/net/netlink/message.h"

namespace casemate::sentry {

void NetlinkMessage::append(const void* data, size_t size) {
    size_t at = bytes_.size();
    bytes_.resize(at + NLMSG_ALIGN(size));
    if (size > 0) memcpy(bytes_.data() + at, data, size);
    auto length = static_cast<uint32_t>(bytes_.size());
    memcpy(bytes_.data(), &length, sizeof(length));
}

nlmsghdr NetlinkMessage::header() const {
    nlmsghdr header;
    memcpy(&header, bytes_.data(), sizeof(header));
    return header;
}

void NetlinkMessage::add_flags(uint16_t flags) {
    nlmsghdr changed = header();
    changed.nlmsg_flags |= flags;
    memcpy(bytes_.data(), &changed, sizeof(changed));
}

SysResult<NetlinkAttributes> NetlinkAttributes::parse(std::span<const std::byte> bytes, bool strict) {
    NetlinkAttributes result;
    while (bytes.size() >= sizeof(nlattr)) {
        nlattr header;
        memcpy(&header, bytes.data(), sizeof(header));
        if (header.nla_len < sizeof(header) || header.nla_len > bytes.size()) break;
        result.found_[header.nla_type & NLA_TYPE_MASK] = bytes.subspan(sizeof(header), header.nla_len - sizeof(header));
        bytes = bytes.subspan(std::min<size_t>(NLA_ALIGN(header.nla_len), bytes.size()));
    }
    if (strict && !bytes.empty()) return Errno(EINVAL);
    return result;
}

std::optional<std::span<const std::byte>> NetlinkAttributes::find(uint16_t type) const {
    auto it = found_.find(type);
    return it == found_.end() ? std::nullopt : std::optional(it->second);
}

SysResult<std::optional<InetAddress>> NetlinkAttributes::address(uint16_t type, bool v6) const {
    auto bytes = find(type);
    if (!bytes) return std::optional<InetAddress>();
    if (bytes->size() < (v6 ? 16u : 4u)) return Errno(ERANGE);
    InetAddress result = InetAddress::v4(0);
    memcpy(result.bytes.data() + (v6 ? 0 : 12), bytes->data(), v6 ? 16 : 4);
    return std::optional(result);
}

SysResult<std::optional<std::string>> NetlinkAttributes::text(uint16_t type, size_t most) const {
    auto bytes = find(type);
    if (!bytes) return std::optional<std::string>();
    // SAFETY: bytes as characters.
    auto* characters = reinterpret_cast<const char*>(bytes->data());
    std::string result(characters, strnlen(characters, bytes->size()));
    if (result.size() > most) return Errno(ERANGE);
    return std::optional(std::move(result));
}

}  // namespace casemate::sentry
