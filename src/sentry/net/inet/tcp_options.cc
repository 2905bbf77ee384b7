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
constexpr uint8_t kListening = 10;  // TCP_LISTEN of <netinet/tcp.h>, which clashes with <linux/tcp.h>
constexpr int kTxDelay = 37;        // TCP_TX_DELAY, newer than Debian's headers
constexpr int kSynMss = 536;        // before a connection (TCP_MSS_DEFAULT)
constexpr int kLoopbackMss = 65483;
constexpr Number kNumbers[] = {
    {TCP_NODELAY, 0, 1, 0},
    {TCP_CORK, 0, 1, 0},
    {TCP_MAXSEG, 88, 32767, 0},
    {TCP_KEEPIDLE, 1, 32767, 7200},
    {TCP_KEEPINTVL, 1, 32767, 75},
    {TCP_KEEPCNT, 1, 127, 9},
    {TCP_SYNCNT, 1, 127, 6},
    {TCP_LINGER2, INT32_MIN, INT32_MAX, 60},
    {TCP_DEFER_ACCEPT, INT32_MIN, INT32_MAX, 0},
    {TCP_WINDOW_CLAMP, 0, INT32_MAX, 0},
    {TCP_QUICKACK, INT32_MIN, INT32_MAX, 1},
    {TCP_USER_TIMEOUT, 0, INT32_MAX, 0},
    {TCP_NOTSENT_LOWAT, INT32_MIN, INT32_MAX, 0},
    {TCP_FASTOPEN, 0, INT32_MAX, 0},
    {TCP_FASTOPEN_CONNECT, 0, 1, 0},
    {TCP_FASTOPEN_NO_COOKIE, 0, 1, 0},
    {TCP_TIMESTAMP, INT32_MIN, INT32_MAX, 0},
    {TCP_THIN_LINEAR_TIMEOUTS, 0, 1, 0},
    {TCP_THIN_DUPACK, 0, 1, 0},
    {TCP_SAVE_SYN, 0, 2, 0},
    {TCP_INQ, 0, 1, 0},
    {kTxDelay, 0, 0, 0},
};
constexpr int kStrict[] = {TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_THIN_LINEAR_TIMEOUTS, TCP_THIN_DUPACK,
                           TCP_INQ};

// What some of them become.
int value_kept(int name, int number) {
    switch (name) {
        case TCP_LINGER2:
            if (number == 0) return 60;
            return number < 0 ? -1 : std::min(number, 120);
        case TCP_DEFER_ACCEPT: {
            // Seconds become retransmissions, and these seconds again.
            int seconds = 0;
            for (int wait = 1; seconds < number && seconds < 255; wait *= 2) seconds += wait;
            return seconds;
        }
        case TCP_WINDOW_CLAMP:
            return number == 0 ? 0 : std::max(number, 1152);  // SOCK_MIN_RCVBUF / 2
        case TCP_QUICKACK:
            return number != 0;
        default:
            return number;
    }
}

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
    if (name == TCP_ULP) return Errno(ENOENT);  // no protocol above TCP is in the kernel
    const Number* known = find(name);
    if (known == nullptr) return Errno(ENOPROTOOPT);
    int number = TRY(option_value<int>(value));
    bool strict = std::find(std::begin(kStrict), std::end(kStrict), name) != std::end(kStrict);
    int kept = known->least == 0 && known->most == 1 && !strict ? number != 0 : number;
    if (name == TCP_MAXSEG && kept == 0) kept = known->least;  // none of one's own
    if (kept < known->least || kept > known->most) return Errno(EINVAL);
    if (name == TCP_FASTOPEN && attached().connection) return Errno(EINVAL);
    keep_option(level, name, value_kept(name, kept));
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
        info.tcpi_snd_cwnd = 10;
        info.tcpi_reordering = 3;
        info.tcpi_pacing_rate = info.tcpi_max_pacing_rate = ~uint64_t{0};
        if (mine.outside) {
            info = {};
            outside_info(*mine.outside, info);
            return OptionBytes(option_bytes(info));
        }
        if (info.tcpi_state == kListening) {
            std::lock_guard lock(mutex_);
            info.tcpi_unacked = static_cast<uint32_t>(pending_.size());
            info.tcpi_sacked = static_cast<uint32_t>(backlog_);
            return OptionBytes(option_bytes(info));
        }
        info.tcpi_rto = 1'000'000;
        info.tcpi_snd_mss = info.tcpi_rcv_mss = kSynMss;
        info.tcpi_snd_ssthresh = 0x7fffffff;
        if (mine.connection) {
            StreamDirection &outgoing = mine.connection->bytes.outgoing(mine.side),
                            &incoming = mine.connection->bytes.incoming(mine.side);
            info.tcpi_options = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE;
            info.tcpi_rto = 201'000;
            info.tcpi_ato = 40'000;
            info.tcpi_snd_mss = info.tcpi_advmss = kLoopbackMss;
            info.tcpi_rcv_mss = 536;
            info.tcpi_pmtu = 65535;
            info.tcpi_rtt = 20;
            info.tcpi_rttvar = 10;
            info.tcpi_rcv_space = kLoopbackMss;
            // What the other end's buffer has taken is acknowledged; the SYN counts as one.
            info.tcpi_bytes_acked = outgoing.position() + outgoing.bytes() + 1;
            info.tcpi_bytes_received = incoming.position() + incoming.bytes();
            info.tcpi_bytes_sent = info.tcpi_bytes_acked - 1;
        }
        return OptionBytes(option_bytes(info));
    }
    if (name == TCP_ULP) return OptionBytes(std::vector<std::byte>());
    if (name == TCP_MAXSEG) {
        Attached mine = attached();
        if (mine.outside) return OptionBytes(option_bytes<int>(static_cast<int>(mine.outside->segment_size())));
        return OptionBytes(option_bytes<int>(mine.connection ? kLoopbackMss : kSynMss));
    }
    const Number* known = find(name);
    if (known == nullptr) return Errno(ENOPROTOOPT);
    return OptionBytes(option_bytes<int>(option(level, name, known->fallback)));
}

}  // namespace casemate::sentry
