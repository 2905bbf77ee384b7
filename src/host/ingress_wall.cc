#include "host/ingress_wall.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace casemate::host {
namespace {

constexpr const char* kTable = "casemate";
constexpr uint32_t kTableOwner = 2;  // NFT_TABLE_F_OWNER
constexpr uint32_t kPriority = 0;    // of the chains: there are no others before
constexpr uint16_t kBegin = NFNL_MSG_BATCH_BEGIN, kEnd = NFNL_MSG_BATCH_END;
constexpr uint16_t kNewTable = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE;
constexpr uint16_t kNewChain = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN;
constexpr int kTimeoutMs = 5000;

class Batch {
  public:
    // The sequence number of the message.
    uint32_t begin(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
        end();
        start_ = bytes_.size();
        nlmsghdr header{0, type, static_cast<uint16_t>(NLM_F_REQUEST | flags), ++sequence_, 0};
        nfgenmsg body{family, NFNETLINK_V0, htons(resource)};
        put(&header, sizeof(header));
        put(&body, sizeof(body));
        return sequence_;
    }
    void text(uint16_t type, const std::string& value) { attribute(type, value.c_str(), value.size() + 1); }
    void number(uint16_t type, uint32_t value) {
        value = htonl(value);
        attribute(type, &value, sizeof(value));
    }
    size_t nest(uint16_t type) {
        size_t at = bytes_.size();
        nlattr header{0, static_cast<uint16_t>(type | NLA_F_NESTED)};
        put(&header, sizeof(header));
        return at;
    }
    void close_nest(size_t at) {
        auto length = static_cast<uint16_t>(bytes_.size() - at);
        memcpy(bytes_.data() + at, &length, sizeof(length));
    }
    const std::vector<char>& done() {
        end();
        return bytes_;
    }

  private:
    void put(const void* from, size_t size) {
        const auto* bytes = static_cast<const char*>(from);
        bytes_.insert(bytes_.end(), bytes, bytes + size);
        bytes_.resize((bytes_.size() + 3) & ~size_t{3});
    }
    void attribute(uint16_t type, const void* value, size_t size) {
        nlattr header{static_cast<uint16_t>(NLA_HDRLEN + size), type};
        put(&header, sizeof(header));
        put(value, size);
    }
    void end() {
        if (bytes_.empty()) return;
        auto length = static_cast<uint32_t>(bytes_.size() - start_);
        memcpy(bytes_.data() + start_, &length, sizeof(length));
    }

    std::vector<char> bytes_;
    size_t start_ = 0;
    uint32_t sequence_ = 0;
};

}  // namespace

SysResult<IngressWall> IngressWall::raise(const std::vector<std::string>& links) {
    UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
    if (!fd) return last_errno();
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    // SAFETY: the way the C interface takes addresses.
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&own), sizeof(own)) != 0) return last_errno();
    Batch batch;
    constexpr uint16_t kMake = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    batch.begin(kBegin, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    batch.begin(kNewTable, kMake, NFPROTO_NETDEV, 0);
    batch.text(NFTA_TABLE_NAME, kTable);
    batch.number(NFTA_TABLE_FLAGS, kTableOwner);
    uint32_t last = 0;
    for (size_t i = 0; i < links.size(); ++i) {
        last = batch.begin(kNewChain, kMake, NFPROTO_NETDEV, 0);
        batch.text(NFTA_CHAIN_TABLE, kTable);
        batch.text(NFTA_CHAIN_NAME, fmt::format("link{}", i));
        size_t hook = batch.nest(NFTA_CHAIN_HOOK);
        batch.number(NFTA_HOOK_HOOKNUM, NF_NETDEV_INGRESS);
        batch.number(NFTA_HOOK_PRIORITY, kPriority);
        batch.text(NFTA_HOOK_DEV, links[i]);
        batch.close_nest(hook);
        batch.number(NFTA_CHAIN_POLICY, NF_DROP);
        batch.text(NFTA_CHAIN_TYPE, "filter");
    }
    batch.begin(kEnd, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    const std::vector<char>& bytes = batch.done();
    if (send(fd.get(), bytes.data(), bytes.size(), 0) < 0) return last_errno();
    // All of it or nothing: the first error is the answer, the last acknowledgement is success.
    while (true) {
        alignas(nlmsghdr) char answer[8192];
        pollfd wait{fd.get(), POLLIN, 0};
        if (poll(&wait, 1, kTimeoutMs) <= 0) return Errno(ETIMEDOUT);
        ssize_t got = recv(fd.get(), answer, sizeof(answer), 0);
        if (got < 0) return last_errno();
        auto left = static_cast<size_t>(got);
        // SAFETY: the kernel's messages, whose lengths NLMSG_OK checks.
        for (auto* header = reinterpret_cast<nlmsghdr*>(answer); NLMSG_OK(header, left);
             header = NLMSG_NEXT(header, left)) {
            if (header->nlmsg_type != NLMSG_ERROR || header->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr))) continue;
            const auto* told = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
            if (told->error != 0) return Errno(-told->error);
            if (header->nlmsg_seq == last) return IngressWall(std::move(fd));
        }
    }
}

}  // namespace casemate::host
