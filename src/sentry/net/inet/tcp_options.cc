// Options of the level IPPROTO_TCP. What tunes packets on a wire is kept and told back: it has nothing to tune here.
#include <linux/tcp.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/stack/connection.h"

namespace casemate::sentry {
namespace {

struct Number {
    int name;
    int least, most;
    int fallback;
};
constexpr Number kNumbers[] = {
    {TCP_NODELAY, 0, 1, 0},
    {TCP_MAXSEG, 0, 65535, 65483},
    {TCP_CORK, 0, 1, 0},
    {TCP_KEEPIDLE, 1, 32767, 7200},
    {TCP_KEEPINTVL, 1, 32767, 75},
    {TCP_KEEPCNT, 1, 127, 9},
    {TCP_SYNCNT, 1, 127, 6},
    {TCP_LINGER2, INT32_MIN, INT32_MAX, 60},
    {TCP_DEFER_ACCEPT, 0, INT32_MAX, 0},
    {TCP_WINDOW_CLAMP, 0, INT32_MAX, 0},
    {TCP_QUICKACK, 0, INT32_MAX, 1},
    {TCP_USER_TIMEOUT, 0, INT32_MAX, 0},
    {TCP_NOTSENT_LOWAT, INT32_MIN, INT32_MAX, -1},
    {TCP_FASTOPEN, 0, INT32_MAX, 0},
    {TCP_TIMESTAMP, INT32_MIN, INT32_MAX, 0},
    {TCP_THIN_LINEAR_TIMEOUTS, 0, 1, 0},
    {TCP_SAVE_SYN, 0, 2, 0},
    {TCP_INQ, 0, 1, 0},
};

const Number* find(int name) {
    for (const Number& one : kNumbers)
        if (one.name == name) return &one;
    return nullptr;
}

}  // namespace

SysResult<bool> TcpSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level == SOL_SOCKET && (name == SO_SNDBUF || name == SO_SNDBUFFORCE))
        buffers_chosen_ = send_buffer_chosen_ = true;
    if (level == SOL_SOCKET && (name == SO_RCVBUF || name == SO_RCVBUFFORCE))
        buffers_chosen_ = receive_buffer_chosen_ = true;
    if (level != IPPROTO_TCP) return InetSocket::set_family_option(task, level, name, value);
    if (name == TCP_CONGESTION) {
        std::string algorithm(reinterpret_cast<const char*>(value.data()), std::min<size_t>(value.size(), 15));
        algorithm.resize(strnlen(algorithm.data(), algorithm.size()));
        if (value.empty()) return Errno(EINVAL);
        if (algorithm != "cubic" && algorithm != "reno") return Errno(ENOENT);
        keep_option(level, name, algorithm == "reno");
        return true;
    }
    const Number* known = find(name);
    if (known == nullptr) return Errno(ENOPROTOOPT);
    int number = TRY(option_value<int>(value));
    int kept = known->least == 0 && known->most == 1 ? number != 0 : number;
    if (kept < known->least || kept > known->most) return Errno(EINVAL);
    keep_option(level, name, kept);
    return true;
}

SysResult<OptionBytes> TcpSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if (level == SOL_SOCKET && name == SO_ERROR) {
        Attached mine = attached();
        if (mine.outside) return OptionBytes(option_bytes<int>(mine.outside->take_error()));
        if (!mine.connection) return OptionBytes();
        return OptionBytes(option_bytes<int>(take_connection_error(mine)));
    }
    if (level != IPPROTO_TCP) return InetSocket::get_family_option(task, level, name, room);
    if (name == TCP_CONGESTION) {
        char algorithm[16] = "cubic";
        if (option(level, name, 0) != 0) strcpy(algorithm, "reno");
        return OptionBytes(option_bytes(algorithm));
    }
    if (name == TCP_INFO) {
        tcp_info info{};
        Attached mine = attached();
        info.tcpi_state = static_cast<uint8_t>(tcp_state(mine));
        info.tcpi_rto = 200'000;
        info.tcpi_ato = 40'000;
        info.tcpi_snd_mss = info.tcpi_rcv_mss = 65483;
        info.tcpi_pmtu = 65535;
        info.tcpi_rtt = 20;
        info.tcpi_rttvar = 10;
        info.tcpi_snd_cwnd = 10;
        info.tcpi_snd_ssthresh = 0x7fffffff;
        info.tcpi_advmss = 65483;
        info.tcpi_reordering = 3;
        info.tcpi_rcv_space = 65483;
        if (mine.outside) {
            info = {};
            outside_info(*mine.outside, info);
        } else if (!mine.connection) {
            std::lock_guard lock(mutex_);
            if (state_ == State::kListening) {
                info.tcpi_unacked = static_cast<uint32_t>(pending_.size());
                info.tcpi_sacked = static_cast<uint32_t>(backlog_);
            }
        }
        return OptionBytes(option_bytes(info));
    }
    if (name == TCP_MAXSEG)
        if (Attached mine = attached(); mine.outside)
            return OptionBytes(option_bytes<int>(static_cast<int>(mine.outside->segment_size())));
    const Number* known = find(name);
    if (known == nullptr) return Errno(ENOPROTOOPT);
    return OptionBytes(option_bytes<int>(option(level, name, known->fallback)));
}

}  // namespace casemate::sentry
