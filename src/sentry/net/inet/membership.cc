#include "sentry/net/inet/membership.h"

#include <algorithm>

#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostGroups = 20, kMostSources = 10;  // net.ipv4.igmp_max_memberships, igmp_max_msf

}  // namespace

std::vector<Memberships::Joined>::iterator Memberships::find_locked(const InetAddress& group, int link) {
    return std::find_if(joined_.begin(), joined_.end(),
                        [&](const Joined& one) { return one.group == group && (link == 0 || one.link == link); });
}

SysResult<void> Memberships::join(const InetAddress& group, int link, const std::optional<InetAddress>& source) {
    std::lock_guard lock(mutex_);
    auto it = find_locked(group, link);
    if (it != joined_.end()) {
        if (!source) return Errno(EADDRINUSE);
        if (!it->only) return Errno(EINVAL);
        if (std::find(it->sources.begin(), it->sources.end(), *source) != it->sources.end())
            return Errno(EADDRNOTAVAIL);
        if (it->sources.size() >= kMostSources) return Errno(ENOBUFS);
        it->sources.push_back(*source);
        return {};
    }
    if (joined_.size() >= kMostGroups) return Errno(ENOBUFS);
    joined_.push_back({group, link, source.has_value(), {}});
    if (source) joined_.back().sources.push_back(*source);
    network_.join_group(group, link);
    return {};
}

SysResult<void> Memberships::leave(const InetAddress& group, int link, const std::optional<InetAddress>& source) {
    std::lock_guard lock(mutex_);
    auto it = find_locked(group, link);
    if (it == joined_.end()) return Errno(source ? EINVAL : EADDRNOTAVAIL);
    if (source) {
        if (!it->only) return Errno(EINVAL);
        auto known = std::find(it->sources.begin(), it->sources.end(), *source);
        if (known == it->sources.end()) return Errno(EADDRNOTAVAIL);
        it->sources.erase(known);
        if (!it->sources.empty()) return {};
    }
    network_.leave_group(group, it->link);
    joined_.erase(it);
    return {};
}

SysResult<void> Memberships::block(const InetAddress& group, int link, const InetAddress& source, bool on) {
    std::lock_guard lock(mutex_);
    auto it = find_locked(group, link);
    if (it == joined_.end() || it->only) return Errno(EINVAL);
    auto known = std::find(it->sources.begin(), it->sources.end(), source);
    if ((known != it->sources.end()) == on) return Errno(EADDRNOTAVAIL);
    if (!on) {
        it->sources.erase(known);
        return {};
    }
    if (it->sources.size() >= kMostSources) return Errno(ENOBUFS);
    it->sources.push_back(source);
    return {};
}

void Memberships::leave_all() {
    std::lock_guard lock(mutex_);
    for (const Joined& one : joined_) network_.leave_group(one.group, one.link);
    joined_.clear();
}

bool Memberships::accepts(const InetAddress& group, const InetAddress& source, int link, bool all) const {
    std::lock_guard lock(mutex_);
    for (const Joined& one : joined_) {
        if (one.group != group || one.link != link) continue;
        bool listed = std::find(one.sources.begin(), one.sources.end(), source) != one.sources.end();
        return listed == one.only;
    }
    return all;
}

}  // namespace casemate::sentry
