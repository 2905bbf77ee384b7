// getsockopt and setsockopt at SOL_SOCKET: what all families share.
#include <asm/socket.h>
#include <linux/capability.h>

#include <algorithm>

#include "sentry/net/socket.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kLeastSendBuffer = 4608, kLeastReceiveBuffer = 2304;

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
    {SO_TIMESTAMP, kTimestamp},
    {SO_TIMESTAMPNS, kTimestampNs},
    {SO_OOBINLINE, kOobInline},
    {SO_DONTROUTE, kDontRoute},
    {SO_NO_CHECK, kNoCheck},
    {SO_DEBUG, kDebug},
    {SO_RXQ_OVFL, kReceiveErrors},
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
        case SO_BINDTODEVICE: {
            if (!task.has_capability(CAP_NET_RAW) && options_.bound_device != 0) return Errno(EPERM);
            std::string device(reinterpret_cast<const char*>(value.data()), std::min<size_t>(value.size(), 15));
            device.resize(strnlen(device.data(), device.size()));
            if (device.empty()) {
                options_.bound_device = 0;
                return {};
            }
            if (device != "lo") return Errno(ENODEV);
            options_.bound_device = 1;
            return {};
        }
        case SO_ATTACH_FILTER:
        case SO_ATTACH_BPF:
        case SO_ATTACH_REUSEPORT_CBPF:
        case SO_ATTACH_REUSEPORT_EBPF:
            return Errno(ENOPROTOOPT);
        case SO_DETACH_FILTER:
            return Errno(ENOENT);
        default:
            break;
    }
    int number = TRY(option_value<int>(value));
    for (const Switch& one : kSwitches) {
        if (one.name != name) continue;
        if (name == SO_DEBUG && number != 0 && !task.has_capability(CAP_NET_ADMIN)) return Errno(EACCES);
        if (name == SO_PASSCRED && family_ != AF_UNIX) return Errno(EOPNOTSUPP);
        if (name == SO_TIMESTAMP && number != 0) set_flag(kTimestampNs, false);
        if (name == SO_TIMESTAMPNS && number != 0) set_flag(kTimestamp, false);
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
    if (level != SOL_SOCKET) return Errno(family_ == AF_UNIX ? EOPNOTSUPP : ENOPROTOOPT);
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
        case SO_PRIORITY:
            return option_bytes<uint32_t>(options_.priority);
        case SO_MARK:
            return option_bytes<uint32_t>(options_.mark);
        case SO_MAX_PACING_RATE:
            return option_bytes<uint32_t>(options_.max_pacing_rate);
        case SO_BINDTODEVICE:
            if (options_.bound_device == 0) return std::vector<std::byte>();
            if (room < 16) return Errno(EINVAL);
            return option_bytes<std::array<char, 3>>({'l', 'o', 0});
        case SO_COOKIE:
            if (room < sizeof(uint64_t)) return Errno(EINVAL);
            return option_bytes<uint64_t>(inode_number());
        case SO_PEERSEC:  // no security module
        default:
            return Errno(ENOPROTOOPT);
    }
}

}  // namespace casemate::sentry
