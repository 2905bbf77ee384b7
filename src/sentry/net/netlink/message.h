// Netlink messages as bytes: written attribute by attribute, and read with every length checked. What is read comes
// from an application and is hostile.
#pragma once

#include <linux/netlink.h>

#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sentry/net/inet/endpoint.h"

namespace casemate::sentry {

using NetlinkBytes = std::vector<std::byte>;

// One message: header, payload, attributes; its length is right at any time.
class NetlinkMessage {
  public:
    NetlinkMessage(uint16_t type, uint16_t flags, uint32_t sequence, uint32_t port) {
        put(nlmsghdr{0, type, flags, sequence, port});
    }
    // The family's own header, or any plain value; padded.
    template <typename T>
    void put(const T& value) {
        append(&value, sizeof(value));
    }
    void attribute(uint16_t type, const void* data, size_t size) {
        nlattr header{static_cast<uint16_t>(sizeof(nlattr) + size), type};
        append(&header, sizeof(header));
        append(data, size);
    }
    template <typename T>
    void attribute(uint16_t type, const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        attribute(type, &value, sizeof(value));
    }
    void text(uint16_t type, std::string_view value) {
        std::vector<char> terminated(value.begin(), value.end());
        terminated.push_back(0);
        attribute(type, terminated.data(), terminated.size());
    }
    // 4 or 16 bytes.
    void address(uint16_t type, const InetAddress& value) {
        size_t skip = value.is_v4() ? 12 : 0;
        attribute(type, value.bytes.data() + skip, 16 - skip);
    }
    size_t begin_nest(uint16_t type) {
        size_t at = bytes_.size();
        attribute(type, nullptr, 0);
        return at;
    }
    void end_nest(size_t at) {
        auto size = static_cast<uint16_t>(bytes_.size() - at);
        memcpy(bytes_.data() + at, &size, sizeof(size));
    }
    void add_flags(uint16_t flags);
    nlmsghdr header() const;
    const NetlinkBytes& bytes() const { return bytes_; }
    NetlinkBytes take() { return std::move(bytes_); }

  private:
    void append(const void* data, size_t size);
    NetlinkBytes bytes_;
};

// The attributes of one level, by type (without NLA_F_NESTED and NLA_F_NET_BYTEORDER); of equal ones the last counts.
class NetlinkAttributes {
  public:
    // Reads what is well-formed; a malformed rest ends it, as Linux does without strict checking. EINVAL if `strict`.
    static SysResult<NetlinkAttributes> parse(std::span<const std::byte> bytes, bool strict);

    bool has(uint16_t type) const { return found_.contains(type); }
    std::optional<std::span<const std::byte>> find(uint16_t type) const;
    // nullopt: absent. ERANGE: too short.
    template <typename T>
    SysResult<std::optional<T>> value(uint16_t type) const {
        auto bytes = find(type);
        if (!bytes) return std::optional<T>();
        if (bytes->size() < sizeof(T)) return Errno(ERANGE);
        T result;
        memcpy(&result, bytes->data(), sizeof(T));
        return std::optional<T>(result);
    }
    SysResult<std::optional<InetAddress>> address(uint16_t type, bool v6) const;
    SysResult<std::optional<std::string>> text(uint16_t type, size_t most) const;
    const std::map<uint16_t, std::span<const std::byte>>& all() const { return found_; }

  private:
    std::map<uint16_t, std::span<const std::byte>> found_;
};

}  // namespace casemate::sentry
