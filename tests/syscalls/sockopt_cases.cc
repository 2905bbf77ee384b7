// Socket options: what each is at first, what it takes, what it refuses, on which sockets there is none.
#include <asm/socket.h>
#include <linux/net_tstamp.h>
#include <netinet/udp.h>

#include "net.h"

namespace {

enum Kind { kTcp4, kTcp6, kUdp4, kUdp6, kUnix };
int make(Kind kind) {
    switch (kind) {
        case kTcp4:
            return OK(socket(AF_INET, SOCK_STREAM, 0));
        case kTcp6:
            return OK(socket(AF_INET6, SOCK_STREAM, 0));
        case kUdp4:
            return OK(socket(AF_INET, SOCK_DGRAM, 0));
        case kUdp6:
            return OK(socket(AF_INET6, SOCK_DGRAM, 0));
        default:
            return OK(socket(AF_UNIX, SOCK_STREAM, 0));
    }
}

struct Step {
    int value;
    int error;  // 0: taken
    int seen;   // what it is then
};
// A number: at first `initial`, then each step. -1: the errno is expected, and nothing changes.
void try_number(Kind kind, int level, int name, int initial, std::initializer_list<Step> steps) {
    own_network();
    int fd = make(kind);
    int now = initial;
    EXPECT_EQ(get(fd, level, name), initial);
    for (const Step& step : steps) {
        errno = 0;
        int result = set(fd, level, name, step.value);
        std::string what = "set to " + std::to_string(step.value);
        if (step.error) {
            if (result != -1 || errno != step.error)
                fail("option", step.value,
                     what + ": " + (result ? errno_name(errno) : "done") + ", should be " + errno_name(step.error));
        } else {
            if (result) fail("option", step.value, what + ": " + errno_name(errno));
            now = step.seen;
        }
        int seen = get(fd, level, name);
        if (seen != now)
            fail("option", step.value, what + ": it is " + std::to_string(seen) + ", should be " + std::to_string(now));
    }
    // Too short for a number, and nowhere.
    FAILS(setsockopt(fd, level, name, bad(), sizeof(int)), EFAULT);
}
constexpr Step taken(int value) { return {value, 0, value}; }
constexpr Step taken_as(int value, int seen) { return {value, 0, seen}; }
constexpr Step refused(int value, int error) { return {value, error, 0}; }

void absent(Kind kind, int level, int name, int get_error = ENOPROTOOPT) {
    int fd = make(kind);
    int value = 1;
    socklen_t size = sizeof value;
    FAILS(setsockopt(fd, level, name, &value, sizeof value), ENOPROTOOPT);
    FAILS(getsockopt(fd, level, name, &value, &size), get_error);
}
void read_only(Kind kind, int level, int name, int wanted) {
    int fd = make(kind);
    EXPECT_EQ(get(fd, level, name), wanted);
    int value = 1;
    FAILS(setsockopt(fd, level, name, &value, sizeof value), ENOPROTOOPT);
}

}  // namespace

#define NUMBER(case_name, kind, level, option, initial, ...) \
    CASE(case_name) { try_number(kind, level, option, initial, {__VA_ARGS__}); }
#define SWITCH(case_name, kind, level, option, initial) \
    NUMBER(case_name, kind, level, option, initial, taken(1), taken(0), taken_as(5, 1), taken_as(-1, 1))
#define ABSENT(case_name, kind, level, option, ...) \
    CASE(case_name) { absent(kind, level, option __VA_OPT__(, ) __VA_ARGS__); }
#define READ_ONLY(case_name, kind, option, value) \
    CASE(case_name) { read_only(kind, SOL_SOCKET, option, value); }

// ---- SOL_SOCKET

SWITCH(so_reuseaddr, kTcp4, SOL_SOCKET, SO_REUSEADDR, 0)
SWITCH(so_reuseport, kUdp6, SOL_SOCKET, SO_REUSEPORT, 0)
SWITCH(so_keepalive, kTcp4, SOL_SOCKET, SO_KEEPALIVE, 0)
SWITCH(so_broadcast, kUdp4, SOL_SOCKET, SO_BROADCAST, 0)
SWITCH(so_oobinline, kTcp4, SOL_SOCKET, SO_OOBINLINE, 0)
SWITCH(so_dontroute, kUdp4, SOL_SOCKET, SO_DONTROUTE, 0)
SWITCH(so_no_check, kUdp4, SOL_SOCKET, SO_NO_CHECK, 0)
SWITCH(so_debug, kUdp4, SOL_SOCKET, SO_DEBUG, 0)
SWITCH(so_timestamp, kUdp4, SOL_SOCKET, SO_TIMESTAMP, 0)
SWITCH(so_timestampns, kUdp4, SOL_SOCKET, SO_TIMESTAMPNS, 0)
SWITCH(so_rxq_ovfl, kUdp4, SOL_SOCKET, SO_RXQ_OVFL, 0)
SWITCH(so_select_err_queue, kUdp4, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 0)
SWITCH(so_nofcs, kUdp4, SOL_SOCKET, SO_NOFCS, 0)
SWITCH(so_prefer_busy_poll, kTcp4, SOL_SOCKET, SO_PREFER_BUSY_POLL, 0)
NUMBER(so_priority, kUdp4, SOL_SOCKET, SO_PRIORITY, 0, taken(6), taken(0), taken(7), taken(100))
NUMBER(so_mark, kUdp4, SOL_SOCKET, SO_MARK, 0, taken(7), taken(-1), taken(0))
NUMBER(so_rcvlowat, kTcp4, SOL_SOCKET, SO_RCVLOWAT, 1, taken(100), taken_as(0, 1))
NUMBER(so_sndlowat, kTcp4, SOL_SOCKET, SO_SNDLOWAT, 1, refused(2, ENOPROTOOPT))
NUMBER(so_busy_poll, kUdp4, SOL_SOCKET, SO_BUSY_POLL, 0, taken(50), refused(-1, EINVAL))
NUMBER(so_zerocopy_tcp, kTcp4, SOL_SOCKET, SO_ZEROCOPY, 0, taken(1), refused(2, EINVAL), refused(-1, EINVAL), taken(0))
NUMBER(so_zerocopy_udp, kUdp4, SOL_SOCKET, SO_ZEROCOPY, 0, taken(1), taken(0))
NUMBER(so_peek_off_udp, kUdp4, SOL_SOCKET, SO_PEEK_OFF, -1, taken(0), taken(10), taken(-1))
NUMBER(so_buf_lock, kUdp4, SOL_SOCKET, SO_BUF_LOCK, 0, taken(1), taken(3), refused(4, EINVAL))
NUMBER(so_txrehash, kTcp4, SOL_SOCKET, SO_TXREHASH, 1, taken(0), taken(1), refused(2, EINVAL))
NUMBER(so_bindtoifindex, kUdp4, SOL_SOCKET, SO_BINDTOIFINDEX, 0, taken(1), taken(0), refused(-1, EINVAL))
READ_ONLY(so_type_tcp, kTcp4, SO_TYPE, SOCK_STREAM)
READ_ONLY(so_type_udp, kUdp6, SO_TYPE, SOCK_DGRAM)
READ_ONLY(so_domain, kUdp6, SO_DOMAIN, AF_INET6)
READ_ONLY(so_protocol_tcp, kTcp6, SO_PROTOCOL, IPPROTO_TCP)
READ_ONLY(so_protocol_udp, kUdp4, SO_PROTOCOL, IPPROTO_UDP)
READ_ONLY(so_error, kUdp4, SO_ERROR, 0)
READ_ONLY(so_acceptconn, kTcp4, SO_ACCEPTCONN, 0)
READ_ONLY(so_bpf_extensions, kUdp4, SO_BPF_EXTENSIONS, 64)
READ_ONLY(so_incoming_napi_id, kUdp4, SO_INCOMING_NAPI_ID, 0)
ABSENT(so_peersec, kTcp4, SOL_SOCKET, SO_PEERSEC)
ABSENT(so_unknown, kTcp4, SOL_SOCKET, 999)

CASE(so_sndbuf) {
    int fd = make(kUdp4);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_SNDBUF), 212992);
    OK(set(fd, SOL_SOCKET, SO_SNDBUF, 10000));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_SNDBUF), 20000);
    OK(set(fd, SOL_SOCKET, SO_SNDBUF, 1));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_SNDBUF), 4608);
}
CASE(so_rcvbuf) {
    int fd = make(kUdp4);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_RCVBUF), 212992);
    OK(set(fd, SOL_SOCKET, SO_RCVBUF, 10000));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_RCVBUF), 20000);
    OK(set(fd, SOL_SOCKET, SO_RCVBUF, 1));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_RCVBUF), 2304);
}
CASE(so_buffers_of_tcp) {
    int fd = make(kTcp4);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_SNDBUF), 16384);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_RCVBUF), 131072);
}
CASE(so_buffers_by_force) {
    int fd = make(kUdp4);
    OK(set(fd, SOL_SOCKET, SO_RCVBUFFORCE, 10000));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_RCVBUF), 20000);
    in_child([&] {
        OK(setresuid(65534, 65534, 65534));
        FAILS(set(fd, SOL_SOCKET, SO_RCVBUFFORCE, 10000), EPERM);
        FAILS(set(fd, SOL_SOCKET, SO_SNDBUFFORCE, 10000), EPERM);
    });
}
CASE(privileged_options) {
    int fd = make(kUdp4);
    in_child([&] {
        OK(setresuid(65534, 65534, 65534));
        FAILS(set(fd, SOL_SOCKET, SO_MARK, 1), EPERM);
        FAILS(set(fd, SOL_SOCKET, SO_PRIORITY, 7), EPERM);
        OK(set(fd, SOL_SOCKET, SO_PRIORITY, 6));
        FAILS(set(fd, SOL_SOCKET, SO_DEBUG, 1), EACCES);
        FAILS(set(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, 1), EPERM);
        FAILS(set(fd, IPPROTO_IP, IP_TRANSPARENT, 1), EPERM);
    });
}
CASE(so_linger) {
    int fd = make(kTcp4);
    linger value{};
    socklen_t size = sizeof value;
    OK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &value, &size));
    EXPECT_EQ(value.l_onoff, 0);
    value = {1, 5};
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, sizeof value));
    value = {};
    OK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &value, &size));
    EXPECT_EQ(value.l_onoff, 1);
    EXPECT_EQ(value.l_linger, 5);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, 4), EINVAL);
}
CASE(so_timeouts) {
    int fd = make(kUdp4);
    for (int name : {SO_RCVTIMEO, SO_SNDTIMEO}) {
        timeval value{1, 500000}, seen{};
        socklen_t size = sizeof seen;
        OK(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value));
        OK(getsockopt(fd, SOL_SOCKET, name, &seen, &size));
        EXPECT_EQ(seen.tv_sec, 1);
        EXPECT_EQ(seen.tv_usec, 500000);
        value = {0, 1000000};
        FAILS(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value), EDOM);
        FAILS(setsockopt(fd, SOL_SOCKET, name, &value, 4), EINVAL);
    }
}
CASE(so_bindtodevice) {
    own_network();
    int fd = make(kUdp4);
    char name[16] = "x";
    socklen_t size = sizeof name;
    OK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &size));
    EXPECT_EQ(size, 0);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nosuch", 7), ENODEV);
    OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    size = sizeof name;
    OK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &size));
    EXPECT_EQ(std::string(name), "lo");
    EXPECT_EQ(size, 3);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_BINDTOIFINDEX), 1);
    size = 4;
    FAILS(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &size), EINVAL);
    OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
    size = sizeof name;
    OK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &size));
    EXPECT_EQ(size, 0);
}
CASE(so_cookie) {
    int one = make(kUdp4), two = make(kUdp4);
    uint64_t a = 0, b = 0;
    socklen_t size = sizeof a;
    OK(getsockopt(one, SOL_SOCKET, SO_COOKIE, &a, &size));
    EXPECT_EQ(size, 8);
    OK(getsockopt(two, SOL_SOCKET, SO_COOKIE, &b, &size));
    EXPECT(a != b && a != 0);
    size = 4;
    FAILS(getsockopt(one, SOL_SOCKET, SO_COOKIE, &a, &size), EINVAL);
    FAILS(set(one, SOL_SOCKET, SO_COOKIE, 1), ENOPROTOOPT);
}
CASE(so_netns_cookie) {
    uint64_t before = 0, after = 0;
    socklen_t size = sizeof before;
    OK(getsockopt(make(kUdp4), SOL_SOCKET, SO_NETNS_COOKIE, &before, &size));
    own_network();
    OK(getsockopt(make(kUdp4), SOL_SOCKET, SO_NETNS_COOKIE, &after, &size));
    EXPECT(before != after && before != 0);
}
CASE(so_meminfo) {
    int fd = make(kUdp4);
    uint32_t values[9] = {};
    socklen_t size = sizeof values;
    OK(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &size));
    EXPECT_EQ(size, sizeof values);
    EXPECT_EQ(values[1], 212992);
    EXPECT_EQ(values[3], 212992);
}
CASE(so_timestamping) {
    int fd = make(kUdp4);
    OK(set(fd, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_TIMESTAMPING), SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);
    FAILS(set(fd, SOL_SOCKET, SO_TIMESTAMPING, 1 << 25), EINVAL);
}
CASE(so_timestamp_kinds_exclude_each_other) {
    int fd = make(kUdp4);
    OK(set(fd, SOL_SOCKET, SO_TIMESTAMP, 1));
    OK(set(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_TIMESTAMP), 0);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_TIMESTAMPNS), 1);
}
CASE(so_passcred_is_not_for_inet) {
    int fd = make(kTcp4);
    FAILS(set(fd, SOL_SOCKET, SO_PASSCRED, 1), EOPNOTSUPP);
}
CASE(short_and_long_values) {
    int fd = make(kTcp4);
    char one = 1;
    FAILS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, 1), EINVAL);
    FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, 1), EINVAL);
    OK(setsockopt(fd, IPPROTO_IP, IP_TOS, &one, 1));
    long wide = 1;
    OK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &wide, sizeof wide));
    // Less room than the value has.
    unsigned char small[4] = {9, 9, 9, 9};
    socklen_t size = 2;
    OK(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, small, &size));
    EXPECT_EQ(size, 2);
    EXPECT_EQ(small[0], 1);
    EXPECT_EQ(small[2], 9);
    size = -1;
    FAILS(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, small, &size), EINVAL);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, -1), EINVAL);
    FAILS(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, bad(), &(size = 4)), EFAULT);
    FAILS(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, small, (socklen_t*)bad()), EFAULT);
    int pipes[2];
    OK(pipe(pipes));
    FAILS(set(pipes[0], SOL_SOCKET, SO_REUSEADDR, 1), ENOTSOCK);
    FAILS(set(-1, SOL_SOCKET, SO_REUSEADDR, 1), EBADF);
    FAILS(set(fd, 12345, 1, 1), ENOPROTOOPT);
}

// ---- IPPROTO_IP

NUMBER(ip_tos_udp, kUdp4, IPPROTO_IP, IP_TOS, 0, taken(0x10), taken(255), taken(0))
NUMBER(ip_tos_tcp, kTcp4, IPPROTO_IP, IP_TOS, 0, taken(0x10), taken_as(0x13, 0x10))
NUMBER(ip_ttl, kUdp4, IPPROTO_IP, IP_TTL, 64, taken(1), taken(255), refused(0, EINVAL), refused(256, EINVAL),
       taken_as(-1, 64))
NUMBER(ip_mtu_discover, kUdp4, IPPROTO_IP, IP_MTU_DISCOVER, 1, taken(0), taken(5), refused(6, EINVAL),
       refused(-1, EINVAL))
SWITCH(ip_recverr, kUdp4, IPPROTO_IP, IP_RECVERR, 0)
SWITCH(ip_recvttl, kUdp4, IPPROTO_IP, IP_RECVTTL, 0)
SWITCH(ip_recvtos, kUdp4, IPPROTO_IP, IP_RECVTOS, 0)
SWITCH(ip_recvopts, kUdp4, IPPROTO_IP, IP_RECVOPTS, 0)
SWITCH(ip_retopts, kUdp4, IPPROTO_IP, IP_RETOPTS, 0)
SWITCH(ip_pktinfo, kUdp4, IPPROTO_IP, IP_PKTINFO, 0)
SWITCH(ip_recvorigdstaddr, kUdp4, IPPROTO_IP, IP_RECVORIGDSTADDR, 0)
SWITCH(ip_freebind, kTcp4, IPPROTO_IP, IP_FREEBIND, 0)
SWITCH(ip_transparent, kTcp4, IPPROTO_IP, IP_TRANSPARENT, 0)
SWITCH(ip_bind_address_no_port, kTcp4, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0)
SWITCH(ip_passsec, kUdp4, IPPROTO_IP, IP_PASSSEC, 0)
SWITCH(ip_checksum, kUdp4, IPPROTO_IP, IP_CHECKSUM, 0)
SWITCH(ip_multicast_loop, kUdp4, IPPROTO_IP, IP_MULTICAST_LOOP, 1)
NUMBER(ip_multicast_ttl, kUdp4, IPPROTO_IP, IP_MULTICAST_TTL, 1, taken(0), taken(255), refused(256, EINVAL),
       taken_as(-1, 1))
NUMBER(ip_multicast_all, kUdp4, IPPROTO_IP, IP_MULTICAST_ALL, 1, taken(0), taken(1), refused(2, EINVAL))
NUMBER(ip_minttl, kTcp4, IPPROTO_IP, IP_MINTTL, 0, taken(255), taken(0), refused(256, EINVAL), refused(-1, EINVAL))
SWITCH(ip_recvfragsize, kUdp4, IPPROTO_IP, IP_RECVFRAGSIZE, 0)
CASE(ip_options_of_raw_sockets) {
    int fd = make(kUdp4);
    for (int name : {IP_HDRINCL, IP_NODEFRAG}) {
        FAILS(set(fd, IPPROTO_IP, name, 1), ENOPROTOOPT);
        EXPECT_EQ(get(fd, IPPROTO_IP, name), 0);
    }
}
ABSENT(ip_unknown, kUdp4, IPPROTO_IP, 999)
NUMBER(ip_level_of_ipv6, kUdp6, IPPROTO_IP, IP_TOS, 0, taken(0x10))
CASE(ip_multicast_ttl_tcp) { FAILS(set(make(kTcp4), IPPROTO_IP, IP_MULTICAST_TTL, 1), EINVAL); }
CASE(ip_mtu) {
    own_network();
    int fd = make(kUdp4), value;
    socklen_t size = sizeof value;
    FAILS(getsockopt(fd, IPPROTO_IP, IP_MTU, &value, &size), ENOTCONN);
    OK(connect_to(fd, "127.0.0.1", 9));
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_MTU), 65535);
    FAILS(set(fd, IPPROTO_IP, IP_MTU, 1500), ENOPROTOOPT);
}
CASE(ip_multicast_if) {
    own_network();
    int fd = make(kUdp4);
    in_addr address{htonl(INADDR_LOOPBACK)};
    OK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &address, sizeof address));
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_MULTICAST_IF), (int)htonl(INADDR_LOOPBACK));
    address.s_addr = htonl(0x08080808);
    FAILS(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &address, sizeof address), EADDRNOTAVAIL);
    ip_mreqn request{};
    request.imr_ifindex = 1;
    OK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request));
    request.imr_ifindex = 99;
    FAILS(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request), EADDRNOTAVAIL);
    FAILS(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &address, 2), EINVAL);
    FAILS(setsockopt(make(kTcp4), IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request), EINVAL);
}
CASE(ip_unicast_if) {
    own_network();
    int fd = make(kUdp4);
    OK(set(fd, IPPROTO_IP, IP_UNICAST_IF, htonl(1)));
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_UNICAST_IF), (int)htonl(1));
    FAILS(set(fd, IPPROTO_IP, IP_UNICAST_IF, htonl(99)), EADDRNOTAVAIL);
}
CASE(ip_options) {
    int fd = make(kUdp4);
    char options[40] = {};
    socklen_t size = sizeof options;
    OK(getsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, &size));
    EXPECT_EQ(size, 0);
    FAILS(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, 41), EINVAL);
}
CASE(ip_one_byte_values) {
    int fd = make(kUdp4);
    unsigned char value = 0;
    socklen_t size = 1;
    OK(getsockopt(fd, IPPROTO_IP, IP_TTL, &value, &size));
    EXPECT_EQ(size, 1);
    EXPECT_EQ(value, 64);
}

// ---- IPPROTO_IPV6

SWITCH(ipv6_recvpktinfo, kUdp6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 0)
SWITCH(ipv6_recvhoplimit, kUdp6, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0)
SWITCH(ipv6_recvtclass, kUdp6, IPPROTO_IPV6, IPV6_RECVTCLASS, 0)
SWITCH(ipv6_recvrthdr, kUdp6, IPPROTO_IPV6, IPV6_RECVRTHDR, 0)
SWITCH(ipv6_recvhopopts, kUdp6, IPPROTO_IPV6, IPV6_RECVHOPOPTS, 0)
SWITCH(ipv6_recvdstopts, kUdp6, IPPROTO_IPV6, IPV6_RECVDSTOPTS, 0)
SWITCH(ipv6_recvpathmtu, kUdp6, IPPROTO_IPV6, IPV6_RECVPATHMTU, 0)
SWITCH(ipv6_recverr, kUdp6, IPPROTO_IPV6, IPV6_RECVERR, 0)
SWITCH(ipv6_2292pktinfo, kUdp6, IPPROTO_IPV6, IPV6_2292PKTINFO, 0)
SWITCH(ipv6_2292hoplimit, kUdp6, IPPROTO_IPV6, IPV6_2292HOPLIMIT, 0)
SWITCH(ipv6_dontfrag, kUdp6, IPPROTO_IPV6, IPV6_DONTFRAG, 0)
SWITCH(ipv6_v6only, kUdp6, IPPROTO_IPV6, IPV6_V6ONLY, 0)
SWITCH(ipv6_freebind, kUdp6, IPPROTO_IPV6, IPV6_FREEBIND, 0)
SWITCH(ipv6_transparent, kTcp6, IPPROTO_IPV6, IPV6_TRANSPARENT, 0)
SWITCH(ipv6_autoflowlabel, kUdp6, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1)
SWITCH(ipv6_recvorigdstaddr, kUdp6, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 0)
SWITCH(ipv6_multicast_all, kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 1)
SWITCH(ipv6_recvfragsize, kUdp6, IPPROTO_IPV6, IPV6_RECVFRAGSIZE, 0)
NUMBER(ipv6_multicast_loop, kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1, taken(0), taken(1), refused(2, EINVAL))
NUMBER(ipv6_multicast_hops, kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 1, taken(0), taken(255), refused(256, EINVAL),
       refused(-2, EINVAL), taken_as(-1, 1))
NUMBER(ipv6_unicast_hops, kUdp6, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 64, taken(0), taken(255), refused(256, EINVAL),
       refused(-2, EINVAL), taken_as(-1, 64))
NUMBER(ipv6_tclass, kUdp6, IPPROTO_IPV6, IPV6_TCLASS, 0, taken(255), refused(256, EINVAL), refused(-2, EINVAL),
       taken_as(-1, 0))
NUMBER(ipv6_mtu_discover, kUdp6, IPPROTO_IPV6, IPV6_MTU_DISCOVER, 1, taken(0), taken(5), refused(6, EINVAL),
       refused(-1, EINVAL))
NUMBER(ipv6_minhopcount, kTcp6, IPPROTO_IPV6, IPV6_MINHOPCOUNT, 0, taken(255), refused(256, EINVAL),
       refused(-1, EINVAL))
NUMBER(ipv6_multicast_if, kUdp6, IPPROTO_IPV6, IPV6_MULTICAST_IF, 0, taken(1), taken(0), refused(99, ENODEV))
ABSENT(ipv6_level_of_ipv4, kUdp4, IPPROTO_IPV6, IPV6_TCLASS, EOPNOTSUPP)
ABSENT(ipv6_level_of_tcp4, kTcp4, IPPROTO_IPV6, IPV6_TCLASS, EOPNOTSUPP)
ABSENT(ipv6_unknown, kUdp6, IPPROTO_IPV6, 999)
CASE(ipv6_multicast_hops_tcp) { FAILS(set(make(kTcp6), IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 1), ENOPROTOOPT); }
CASE(ipv6_mtu) {
    own_network();
    int fd = make(kUdp6), value;
    socklen_t size = sizeof value;
    FAILS(getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &value, &size), ENOTCONN);
    OK(connect_to(fd, "::1", 9));
    EXPECT_EQ(get(fd, IPPROTO_IPV6, IPV6_MTU), 65536);
    FAILS(set(fd, IPPROTO_IPV6, IPV6_MTU, 1000), EINVAL);
}
CASE(ipv6_v6only_after_bind) {
    int fd = bound_to(SOCK_DGRAM, "::");
    FAILS(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1), EINVAL);
    EXPECT_EQ(get(bound_to(SOCK_DGRAM, "::1"), IPPROTO_IPV6, IPV6_V6ONLY), 1);
    EXPECT_EQ(get(bound_to(SOCK_DGRAM, "::ffff:127.0.0.1"), IPPROTO_IPV6, IPV6_V6ONLY), 0);
}

// ---- IPPROTO_TCP

SWITCH(tcp_nodelay, kTcp4, IPPROTO_TCP, TCP_NODELAY, 0)
SWITCH(tcp_cork, kTcp4, IPPROTO_TCP, TCP_CORK, 0)
NUMBER(tcp_keepidle, kTcp4, IPPROTO_TCP, TCP_KEEPIDLE, 7200, taken(1), taken(32767), refused(0, EINVAL),
       refused(32768, EINVAL))
NUMBER(tcp_keepintvl, kTcp4, IPPROTO_TCP, TCP_KEEPINTVL, 75, taken(1), taken(32767), refused(0, EINVAL),
       refused(32768, EINVAL))
NUMBER(tcp_keepcnt, kTcp4, IPPROTO_TCP, TCP_KEEPCNT, 9, taken(1), taken(127), refused(0, EINVAL), refused(128, EINVAL))
NUMBER(tcp_syncnt, kTcp4, IPPROTO_TCP, TCP_SYNCNT, 6, taken(1), taken(127), refused(0, EINVAL), refused(128, EINVAL))
NUMBER(tcp_linger2, kTcp4, IPPROTO_TCP, TCP_LINGER2, 60, taken(5), taken_as(-1, -1), taken_as(1000, 120),
       taken_as(0, 60))
NUMBER(tcp_defer_accept, kTcp4, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0, taken(1), taken_as(4, 7), taken(0))
NUMBER(tcp_window_clamp, kTcp4, IPPROTO_TCP, TCP_WINDOW_CLAMP, 0, taken_as(100, 1152), taken(5000), taken(0))
NUMBER(tcp_quickack, kTcp4, IPPROTO_TCP, TCP_QUICKACK, 1, taken(0), taken(1))
NUMBER(tcp_user_timeout, kTcp4, IPPROTO_TCP, TCP_USER_TIMEOUT, 0, taken(1000), taken(0), refused(-1, EINVAL))
NUMBER(tcp_notsent_lowat, kTcp4, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0, taken(1000), taken(-1))
NUMBER(tcp_fastopen_connect, kTcp4, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 0, taken(1), taken(0), refused(2, EINVAL))
NUMBER(tcp_fastopen_no_cookie, kTcp4, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 0, taken(1), taken(0), refused(2, EINVAL))
NUMBER(tcp_thin_linear_timeouts, kTcp4, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 0, taken(1), taken(0),
       refused(2, EINVAL))
NUMBER(tcp_save_syn, kTcp4, IPPROTO_TCP, TCP_SAVE_SYN, 0, taken(1), taken(2), refused(3, EINVAL), refused(-1, EINVAL))
NUMBER(tcp_inq, kTcp4, IPPROTO_TCP, TCP_INQ, 0, taken(1), taken(0), refused(2, EINVAL))
NUMBER(tcp_tx_delay, kTcp4, IPPROTO_TCP, TCP_TX_DELAY, 0, taken(0))
ABSENT(tcp_unknown, kTcp4, IPPROTO_TCP, 999)
ABSENT(tcp_options_of_udp, kUdp4, IPPROTO_TCP, TCP_NODELAY, EOPNOTSUPP)
CASE(tcp_maxseg) {
    int fd = make(kTcp4);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_MAXSEG), 536);
    FAILS(set(fd, IPPROTO_TCP, TCP_MAXSEG, 10), EINVAL);
    FAILS(set(fd, IPPROTO_TCP, TCP_MAXSEG, 40000), EINVAL);
    OK(set(fd, IPPROTO_TCP, TCP_MAXSEG, 1000));
    TcpPair pair;
    EXPECT(get(pair.client, IPPROTO_TCP, TCP_MAXSEG) > 20000);
}
CASE(tcp_congestion) {
    int fd = make(kTcp4);
    char name[16] = {};
    socklen_t size = sizeof name;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size));
    EXPECT_EQ(size, 16);
    EXPECT(strlen(name) > 2);
    OK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    OK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size));
    EXPECT_EQ(std::string(name), "reno");
    FAILS(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nosuch", 6), ENOENT);
    FAILS(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "", 0), EINVAL);
}
CASE(tcp_ulp) {
    int fd = make(kTcp4);
    char name[16] = {};
    socklen_t size = sizeof name;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size));
    EXPECT_EQ(size, 0);
    FAILS(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nosuch", 6), ENOENT);
}
CASE(tcp_fastopen) {
    int fd = tcp_listener();
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_FASTOPEN), 0);
    OK(set(fd, IPPROTO_TCP, TCP_FASTOPEN, 5));
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_FASTOPEN), 5);
    TcpPair pair;
    FAILS(set(pair.client, IPPROTO_TCP, TCP_FASTOPEN, 5), EINVAL);
}
CASE(tcp_info_states) {
    own_network();
    tcp_info info{};
    auto state = [&](int fd) {
        socklen_t size = sizeof info;
        OK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
        return (int)info.tcpi_state;
    };
    int fd = make(kTcp4);
    EXPECT_EQ(state(fd), TCP_CLOSE);
    TcpPair pair;
    EXPECT_EQ(state(pair.listener), TCP_LISTEN);
    EXPECT_EQ(info.tcpi_sacked, 8);
    EXPECT_EQ(state(pair.client), TCP_ESTABLISHED);
    EXPECT(info.tcpi_snd_mss > 20000 && info.tcpi_rtt > 0 && info.tcpi_snd_cwnd > 0);
    OK(shutdown(pair.client, SHUT_WR));
    EXPECT_EQ(ready(pair.server, POLLIN, 5000), POLLIN);
    for (int i = 0; i < 500 && state(pair.client) == TCP_FIN_WAIT1; i++) sleep_ms(10);
    EXPECT_EQ(state(pair.client), TCP_FIN_WAIT2);
    EXPECT_EQ(state(pair.server), TCP_CLOSE_WAIT);
    socklen_t size = 1;
    OK(getsockopt(pair.client, IPPROTO_TCP, TCP_INFO, &info, &size));
    EXPECT_EQ(size, 1);
}
CASE(tcp_info_counts_bytes) {
    TcpPair pair;
    EXPECT_EQ(write(pair.client, scratch(), 5000), 5000);
    EXPECT_EQ(recv(pair.server, scratch(), 5000, MSG_WAITALL), 5000);
    // The kernel's struct is longer than glibc's.
    uint64_t words[40] = {};
    socklen_t size = sizeof words;
    OK(getsockopt(pair.client, IPPROTO_TCP, TCP_INFO, words, &size));
    EXPECT(size >= 136);
    for (int i = 0; i < 500 && words[15] != 5001; i++) {
        sleep_ms(10);
        OK(getsockopt(pair.client, IPPROTO_TCP, TCP_INFO, words, &size));
    }
    EXPECT_EQ(words[15], 5001);  // tcpi_bytes_acked at 120, with the SYN
    size = sizeof words;
    OK(getsockopt(pair.server, IPPROTO_TCP, TCP_INFO, words, &size));
    EXPECT_EQ(words[16], 5000);  // tcpi_bytes_received
}
CASE(tcp_options_are_inherited) {
    int listener = bound_to(SOCK_STREAM, "127.0.0.1");
    OK(set(listener, IPPROTO_TCP, TCP_NODELAY, 1));
    OK(set(listener, SOL_SOCKET, SO_KEEPALIVE, 1));
    OK(set(listener, IPPROTO_TCP, TCP_KEEPIDLE, 77));
    OK(set(listener, IPPROTO_IP, IP_TTL, 33));
    OK(listen(listener, 5));
    tcp_to("127.0.0.1", local_of(listener).port());
    int server = OK(accept(listener, nullptr, nullptr));
    EXPECT_EQ(get(server, IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ(get(server, SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(get(server, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    EXPECT_EQ(get(server, IPPROTO_IP, IP_TTL), 33);
}

// ---- UDP

SWITCH(udp_cork, kUdp4, IPPROTO_UDP, UDP_CORK, 0)
NUMBER(udp_segment, kUdp4, IPPROTO_UDP, 103, 0, taken(1000), taken(0), refused(70000, EINVAL), refused(-1, EINVAL))
SWITCH(udp_gro, kUdp4, IPPROTO_UDP, 104, 0)
ABSENT(udp_unknown, kUdp4, IPPROTO_UDP, 999)
