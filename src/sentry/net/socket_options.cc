// getsockopt and setsockopt at SOL_SOCKET: what all families share.
#include <asm/socket.h>
#include <linux/capability.h>

#include <algorithm>

#include <array>
#include <cstring>

#include "sentry/net/interfaces.h"
#include "sentry/net/socket.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kLeastSendBuffer = 4608, kLeastReceiveBuffer = 2304;

// Newer than Debian's headers.
constexpr int kSoReceiveMark = 75;
constexpr uint32_t kTimestampingFlags = (1u << 19) - 1;  // SOF_TIMESTAMPING_MASK

struct Switch {
    int name;
    SocketFlag flag;
};
constexpr Switch kSwitches[] = {
    {SO_REUSEADDR, kReuseAddress},
    {SO_REUSEPORT, kReusePort},
    {SO_KEEPALIVE, kKeepAlive},
    {SO_BROADCAST, kBroadcast},
    {SO_PASSCRED, kPassCredentials},
    {SO_OOBINLINE, kOobInline},
    {SO_DONTROUTE, kDontRoute},
    {SO_NO_CHECK, kNoCheck},
    {SO_DEBUG, kDebug},
    {SO_RXQ_OVFL, kTellDrops},
    {SO_SELECT_ERR_QUEUE, kSelectErrors},
    {SO_NOFCS, kNoFcs},
    {SO_PREFER_BUSY_POLL, kPreferBusyPoll},
    {kSoReceiveMark, kReceiveMark},
};

SysResult<Nanoseconds> timeout_of(std::span<const std::byte> value) {
    auto time = TRY(option_value<timeval>(value));
    if (time.tv_usec < 0 || time.tv_usec >= 1'000'000) return Errno(EDOM);
    if (time.tv_sec < 0) return Nanoseconds{1};  // as Linux: already over
    if (time.tv_sec > INT32_MAX) return Nanoseconds{0};
    return time.tv_sec * kSecond + time.tv_usec * 1000;
}

timeval timeval_of(Nanoseconds time) { return {time / kSecond, time % kSecond / 1000}; }

// What was asked for counts twice, as on Linux (its bookkeeping takes the other half).
uint32_t buffer_size(int wanted, uint32_t most, uint32_t least) {
    auto asked = static_cast<uint32_t>(std::max(wanted, 0));
    return std::max(std::min(asked, most) * 2, least);
}

}  // namespace

SysResult<void> Socket::set_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (TRY(set_family_option(task, level, name, value))) return {};
    if (level != SOL_SOCKET) return Errno(ENOPROTOOPT);
    switch (name) {
        case SO_RCVTIMEO_OLD:
        case SO_RCVTIMEO_NEW:
            options_.receive_timeout = TRY(timeout_of(value));
            return {};
        case SO_SNDTIMEO_OLD:
        case SO_SNDTIMEO_NEW:
            options_.send_timeout = TRY(timeout_of(value));
            return {};
        case SO_LINGER: {
            auto linger_value = TRY(option_value<linger>(value));
            options_.linger_seconds = linger_value.l_onoff != 0 ? std::max(linger_value.l_linger, 0) : -1;
            return {};
        }
        case SO_TYPE:
        case SO_PROTOCOL:
        case SO_DOMAIN:
        case SO_ERROR:
        case SO_ACCEPTCONN:
        case SO_PEERCRED:
        case SO_PEERSEC:
        case SO_PEERGROUPS:
        case SO_COOKIE:
            return Errno(ENOPROTOOPT);
        case SO_INCOMING_NAPI_ID:
        case SO_MEMINFO:
        case SO_BPF_EXTENSIONS:
        case SO_NETNS_COOKIE:
            return Errno(ENOPROTOOPT);
        case SO_BINDTODEVICE: {
            if (!task.has_capability(CAP_NET_RAW) && options_.bound_device != 0) return Errno(EPERM);
            std::string device(reinterpret_cast<const char*>(value.data()), std::min<size_t>(value.size(), 15));
            device.resize(strnlen(device.data(), device.size()));
            if (device.empty()) {
                options_.bound_device = 0;
                return {};
            }
            auto link = network_->interfaces().find_link(device);
            if (!link) return Errno(ENODEV);
            options_.bound_device = link->index;
            return {};
        }
        case SO_ATTACH_FILTER:
            return attach_filter(task, value);
        case SO_DETACH_FILTER:
            TRY(option_value<int>(value));
            return detach_filter();
        case SO_ATTACH_BPF:
        case SO_ATTACH_REUSEPORT_CBPF:
        case SO_ATTACH_REUSEPORT_EBPF:
            return Errno(ENOPROTOOPT);
        default:
            break;
    }
    int number = TRY(option_value<int>(value));
    for (const Switch& one : kSwitches) {
        if (one.name != name) continue;
        if (name == SO_DEBUG && number != 0 && !task.has_capability(CAP_NET_ADMIN)) return Errno(EACCES);
        if (name == SO_PASSCRED && family_ != AF_UNIX) return Errno(EOPNOTSUPP);
        if (name == SO_PREFER_BUSY_POLL && number != 0 && !task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
        set_flag(one.flag, number != 0);
        return {};
    }
    switch (name) {
        case SO_SNDBUFFORCE:
            if (!task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
            [[fallthrough]];
        case SO_SNDBUF:
            options_.send_buffer = buffer_size(number, kMostBuffer, kLeastSendBuffer);
            waiters_->writable();
            return {};
        case SO_RCVBUFFORCE:
            if (!task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
            [[fallthrough]];
        case SO_RCVBUF:
            options_.receive_buffer = buffer_size(number, kMostBuffer, kLeastReceiveBuffer);
            return {};
        case SO_RCVLOWAT:
            options_.receive_low_water = number < 0 ? INT32_MAX : static_cast<uint32_t>(std::max(number, 1));
            return {};
        case SO_TIMESTAMP_OLD:
        case SO_TIMESTAMP_NEW:
        case SO_TIMESTAMPNS_OLD:
        case SO_TIMESTAMPNS_NEW: {
            bool nanoseconds = name == SO_TIMESTAMPNS_OLD || name == SO_TIMESTAMPNS_NEW;
            set_flag(nanoseconds ? kTimestampNs : kTimestamp, number != 0);
            if (number != 0) set_flag(nanoseconds ? kTimestamp : kTimestampNs, false);
            return {};
        }
        case SO_TIMESTAMPING_OLD:
        case SO_TIMESTAMPING_NEW:
            if (static_cast<uint32_t>(number) & ~kTimestampingFlags) return Errno(EINVAL);
            options_.timestamping = static_cast<uint32_t>(number);
            return {};
        case SO_BUSY_POLL:
            if (number < 0) return Errno(EINVAL);
            options_.busy_poll = number;
            return {};
        case SO_BUSY_POLL_BUDGET:
            if (number > options_.busy_poll_budget && !task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
            if (number < 0 || number > 0xffff) return Errno(EINVAL);
            options_.busy_poll_budget = number;
            return {};
        case SO_INCOMING_CPU:
            options_.incoming_cpu = number;
            return {};
        case SO_ZEROCOPY: {
            bool internet = family_ == AF_INET || family_ == AF_INET6;
            if (!internet || (type_ != SOCK_STREAM && type_ != SOCK_DGRAM)) return Errno(EOPNOTSUPP);
            if (number < 0 || number > 1) return Errno(EINVAL);
            set_flag(kZeroCopy, number != 0);
            return {};
        }
        case SO_BUF_LOCK:
            if (number & ~3) return Errno(EINVAL);
            options_.buffer_lock = number;
            return {};
        case SO_TXREHASH:
            if (number < -1 || number > 1) return Errno(EINVAL);
            options_.transmit_rehash = number == -1 ? 1 : number;
            return {};
        case SO_BINDTOIFINDEX:
            if (!task.has_capability(CAP_NET_RAW) && options_.bound_device != 0) return Errno(EPERM);
            if (number < 0) return Errno(EINVAL);
            options_.bound_device = number;
            return {};
        case SO_PEEK_OFF:  // families that can say so first
            return Errno(EOPNOTSUPP);
        case SO_LOCK_FILTER:
            if (filter_locked_ && number == 0) return Errno(EPERM);
            filter_locked_ = number != 0;
            return {};
        case SO_PRIORITY:
            if ((number < 0 || number > 6) && !task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
            options_.priority = static_cast<uint32_t>(number);
            return {};
        case SO_MARK:
            if (!task.has_capability(CAP_NET_ADMIN) && !task.has_capability(CAP_NET_RAW)) return Errno(EPERM);
            options_.mark = static_cast<uint32_t>(number);
            return {};
        case SO_MAX_PACING_RATE:
            options_.max_pacing_rate = static_cast<uint32_t>(number);
            return {};
        default:
            return Errno(ENOPROTOOPT);
    }
}

SysResult<std::vector<std::byte>> Socket::get_option(Task& task, int level, int name, size_t room) {
    if (OptionBytes own = TRY(get_family_option(task, level, name, room))) return std::move(*own);
    if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);
    for (const Switch& one : kSwitches)
        if (one.name == name) return option_bytes<int>(has(one.flag) ? 1 : 0);
    switch (name) {
        case SO_TYPE:
            return option_bytes<int>(type_);
        case SO_DOMAIN:
            return option_bytes<int>(family_);
        case SO_PROTOCOL:
            return option_bytes<int>(protocol_);
        case SO_ERROR:
            return option_bytes<int>(take_error());
        case SO_ACCEPTCONN:
            return option_bytes<int>(listening() ? 1 : 0);
        case SO_SNDBUF:
            return option_bytes<int>(static_cast<int>(options_.send_buffer.load()));
        case SO_RCVBUF:
            return option_bytes<int>(static_cast<int>(options_.receive_buffer.load()));
        case SO_RCVLOWAT:
            return option_bytes<int>(static_cast<int>(options_.receive_low_water.load()));
        case SO_SNDLOWAT:
            return option_bytes<int>(1);
        case SO_RCVTIMEO_OLD:
        case SO_RCVTIMEO_NEW:
            return option_bytes(timeval_of(options_.receive_timeout));
        case SO_SNDTIMEO_OLD:
        case SO_SNDTIMEO_NEW:
            return option_bytes(timeval_of(options_.send_timeout));
        case SO_LINGER: {
            int seconds = options_.linger_seconds;
            return option_bytes(linger{seconds >= 0, std::max(seconds, 0)});
        }
        case SO_TIMESTAMP_OLD:
        case SO_TIMESTAMP_NEW:
            return option_bytes<int>(has(kTimestamp) ? 1 : 0);
        case SO_TIMESTAMPNS_OLD:
        case SO_TIMESTAMPNS_NEW:
            return option_bytes<int>(has(kTimestampNs) ? 1 : 0);
        case SO_TIMESTAMPING_OLD:
        case SO_TIMESTAMPING_NEW:
            return option_bytes(std::array<uint32_t, 2>{options_.timestamping.load(), 0});
        case SO_BUSY_POLL:
            return option_bytes<int>(options_.busy_poll);
        case SO_INCOMING_CPU:
            return option_bytes<int>(options_.incoming_cpu);
        case SO_INCOMING_NAPI_ID:
            return option_bytes<int>(0);
        case SO_ZEROCOPY:
            return option_bytes<int>(has(kZeroCopy) ? 1 : 0);
        case SO_BUF_LOCK:
            return option_bytes<int>(options_.buffer_lock);
        case SO_TXREHASH:
            return option_bytes<int>(options_.transmit_rehash);
        case SO_BINDTOIFINDEX:
            return option_bytes<int>(options_.bound_device);
        case SO_LOCK_FILTER:
            return option_bytes<int>(filter_locked_ ? 1 : 0);
        case SO_BPF_EXTENSIONS:
            return option_bytes<int>(64);  // SKF_AD_MAX
        case SO_NETNS_COOKIE:
            if (room < sizeof(uint64_t)) return Errno(EINVAL);
            return option_bytes<uint64_t>(network_->cookie());
        case SO_MEMINFO: {
            std::array<uint32_t, 9> values{};  // SK_MEMINFO_VARS
            values[1] = options_.receive_buffer;
            values[3] = options_.send_buffer;
            return option_bytes(values);
        }
        case SO_PEEK_OFF:
            return Errno(EOPNOTSUPP);
        case SO_PRIORITY:
            return option_bytes<uint32_t>(options_.priority);
        case SO_MARK:
            return option_bytes<uint32_t>(options_.mark);
        case SO_MAX_PACING_RATE:
            return option_bytes<uint32_t>(options_.max_pacing_rate);
        case SO_BINDTODEVICE: {
            int index = options_.bound_device;
            if (index == 0) return std::vector<std::byte>();
            if (room < 16) return Errno(EINVAL);
            auto link = network_->interfaces().link(index);
            if (!link) return Errno(ENODEV);
            std::vector<std::byte> name(link->name.size() + 1);
            memcpy(name.data(), link->name.data(), link->name.size());
            return name;
        }
        case SO_COOKIE:
            if (room < sizeof(uint64_t)) return Errno(EINVAL);
            return option_bytes<uint64_t>(inode_number());
        case SO_PEERSEC:  // no security module
        default:
            return Errno(ENOPROTOOPT);
    }
}

}  // namespace casemate::sentry
