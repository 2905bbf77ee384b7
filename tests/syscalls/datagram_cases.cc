// UDP, ping and raw sockets: messages and what is told beside them, groups, broadcasts, errors that come back.
#include <time.h>
// (needs timespec)
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/epoll.h>

#include "net.h"

static int udp(const char* address = "127.0.0.1") { return bound_to(SOCK_DGRAM, address); }
static int unbound(int family = AF_INET) { return OK(socket(family, SOCK_DGRAM, 0)); }
static int port_of(int fd) { return local_of(fd).port(); }

// ---- messages

CASE(udp_both_ways) {
    for (const char* address : {"127.0.0.1", "::1"}) {
        int one = udp(address), two = udp(address);
        EXPECT_EQ(send_to(one, "hello", address, port_of(two)), 5);
        Received got = receive_message(two);
        EXPECT_EQ(got.text, "hello");
        EXPECT_EQ(got.from.text(), address);
        EXPECT_EQ(got.from.port(), port_of(one));
        EXPECT_EQ(got.flags, 0);
    }
}
CASE(udp_keeps_borders) {
    int one = udp(), two = udp();
    send_to(one, "ab", "127.0.0.1", port_of(two));
    send_to(one, "", "127.0.0.1", port_of(two));
    send_to(one, "cde", "127.0.0.1", port_of(two));
    EXPECT_EQ(receive(two), "ab");
    EXPECT_EQ(receive(two), "");
    EXPECT_EQ(receive(two), "cde");
}
CASE(udp_truncates) {
    int one = udp(), two = udp();
    send_to(one, "abcdef", "127.0.0.1", port_of(two));
    Received got = receive_message(two, MSG_PEEK, 3);
    EXPECT_EQ(got.text, "abc");
    EXPECT_EQ(got.flags & MSG_TRUNC, MSG_TRUNC);
    int size = 0;
    OK(ioctl(two, FIONREAD, &size));
    EXPECT_EQ(size, 6);
    EXPECT_EQ(recv(two, scratch(), 3, MSG_TRUNC), 6);
    FAILS(recv(two, scratch(), 3, MSG_DONTWAIT), EAGAIN);
    OK(ioctl(two, FIONREAD, &size));
    EXPECT_EQ(size, 0);
}
CASE(udp_send_errors) {
    own_network();
    int fd = unbound();
    FAILS(send(fd, "x", 1, 0), EDESTADDRREQ);
    FAILS(write(fd, "x", 1), EDESTADDRREQ);
    FAILS(send_to(fd, "x", "127.0.0.1", 0), EINVAL);
    FAILS(send_to(fd, "x", "::1", 9), EAFNOSUPPORT);
    FAILS(send_to(fd, "x", "8.8.8.8", 9), ENETUNREACH);
    FAILS(send_to(unbound(AF_INET6), "x", "2001:db8::1", 9), ENETUNREACH);
    Endpoint end("127.0.0.1", 9);
    FAILS(sendto(fd, "x", 1, 0, end.get(), 8), EINVAL);
    FAILS(sendto(fd, bad(), 1, 0, end.get(), end.size), EFAULT);
    FAILS(sendto(fd, "x", 1, 0, (sockaddr*)bad(), end.size), EFAULT);
    FAILS(sendto(fd, "x", 1, MSG_OOB, end.get(), end.size), EOPNOTSUPP);
    FAILS(sendto(fd, scratch(), 65508, 0, end.get(), end.size), EMSGSIZE);
    EXPECT_EQ(sendto(fd, scratch(), 65507, 0, end.get(), end.size), 65507);
    FAILS(listen(fd, 1), EOPNOTSUPP);
    FAILS(accept(fd, nullptr, nullptr), EOPNOTSUPP);
}
CASE(udp_largest_ipv6) {
    int one = udp("::1"), two = udp("::1");
    Endpoint end("::1", port_of(two));
    EXPECT_EQ(sendto(one, scratch(), 65527, 0, end.get(), end.size), 65527);
    EXPECT_EQ(recv(two, scratch(), 70000, 0), 65527);
    FAILS(sendto(one, scratch(), 65528, 0, end.get(), end.size), EMSGSIZE);
}
CASE(udp_connected) {
    own_network();
    int one = unbound(), two = udp(), three = udp();
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    EXPECT_EQ(local_of(one).text(), "127.0.0.1");
    EXPECT_EQ(peer_of(one).port(), port_of(two));
    EXPECT_EQ(send(one, "a", 1, 0), 1);
    EXPECT_EQ(receive(two), "a");
    // Only the peer's messages arrive.
    send_to(three, "no", "127.0.0.1", port_of(one));
    send_to(two, "yes", "127.0.0.1", port_of(one));
    EXPECT_EQ(receive(one), "yes");
    FAILS(recv(one, scratch(), 9, MSG_DONTWAIT), EAGAIN);
    // An address given goes before.
    send_to(one, "b", "127.0.0.1", port_of(three));
    EXPECT_EQ(receive(three), "b");
}
CASE(udp_connected_goes_before) {
    own_network();
    int any = unbound(), exact = unbound(), peer = udp();
    for (int fd : {any, exact}) OK(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    Endpoint end("127.0.0.1", 5000);
    OK(bind(any, end.get(), end.size));
    OK(bind(exact, end.get(), end.size));
    OK(connect_to(any, "127.0.0.1", port_of(peer)));
    send_to(peer, "x", "127.0.0.1", 5000);
    EXPECT_EQ(receive(any), "x");
}
CASE(udp_disconnect) {
    own_network();
    int one = unbound(), two = udp();
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    sockaddr none{};
    OK(connect(one, &none, sizeof none));
    Endpoint end;
    FAILS(getpeername(one, end.get(), &end.size), ENOTCONN);
    FAILS(send(one, "x", 1, 0), EDESTADDRREQ);
    EXPECT_EQ(local_of(one).text(), "0.0.0.0");
    OK(connect(one, &none, sizeof none));
}
CASE(udp_shutdown) {
    int one = unbound(), two = udp();
    FAILS(shutdown(one, SHUT_RD), ENOTCONN);
    FAILS(shutdown(one, 7), EINVAL);
    int fd = unbound();
    OK(connect_to(fd, "127.0.0.1", port_of(two)));
    OK(shutdown(fd, SHUT_WR));
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    OK(shutdown(fd, SHUT_RD));
    EXPECT_EQ(recv(fd, scratch(), 1, 0), 0);
    EXPECT(ready(fd) & POLLHUP);
}
CASE(udp_more_is_one_message) {
    int one = unbound(), two = udp();
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    EXPECT_EQ(send(one, "ab", 2, MSG_MORE), 2);
    FAILS(recv(two, scratch(), 9, MSG_DONTWAIT), EAGAIN);
    EXPECT_EQ(send(one, "cd", 2, 0), 2);
    EXPECT_EQ(receive(two), "abcd");
}
CASE(udp_cork) {
    int one = unbound(), two = udp();
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    OK(set(one, IPPROTO_UDP, UDP_CORK, 1));
    send(one, "ab", 2, 0);
    send(one, "cd", 2, 0);
    FAILS(recv(two, scratch(), 9, MSG_DONTWAIT), EAGAIN);
    OK(set(one, IPPROTO_UDP, UDP_CORK, 0));
    EXPECT_EQ(receive(two), "abcd");
}
CASE(udp_segments) {
    int one = unbound(), two = udp();
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    OK(set(one, IPPROTO_UDP, 103, 3));
    EXPECT_EQ(send(one, "abcdefgh", 8, 0), 8);
    EXPECT_EQ(receive(two), "abc");
    EXPECT_EQ(receive(two), "def");
    EXPECT_EQ(receive(two), "gh");
}
CASE(udp_many_at_once) {
    int one = unbound(), two = udp();
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    mmsghdr messages[3]{};
    iovec parts[3] = {{(void*)"a", 1}, {(void*)"bb", 2}, {(void*)"ccc", 3}};
    for (int i = 0; i < 3; i++) messages[i].msg_hdr.msg_iov = &parts[i], messages[i].msg_hdr.msg_iovlen = 1;
    EXPECT_EQ(sendmmsg(one, messages, 3, 0), 3);
    EXPECT_EQ(messages[2].msg_len, 3);
    char buffers[5][8];
    mmsghdr incoming[5]{};
    iovec into[5];
    for (int i = 0; i < 5; i++) {
        into[i] = {buffers[i], 8};
        incoming[i].msg_hdr.msg_iov = &into[i];
        incoming[i].msg_hdr.msg_iovlen = 1;
    }
    EXPECT_EQ(recvmmsg(two, incoming, 5, MSG_WAITFORONE, nullptr), 3);
    EXPECT_EQ(incoming[1].msg_len, 2);
    FAILS(recvmmsg(two, incoming, 5, MSG_DONTWAIT, nullptr), EAGAIN);
    timespec wrong{0, -1};
    FAILS(recvmmsg(two, incoming, 5, 0, &wrong), EINVAL);
}
CASE(udp_full_queue_drops) {
    own_network();
    int one = unbound(), two = udp();
    OK(set(two, SOL_SOCKET, SO_RCVBUF, 1));
    OK(set(two, SOL_SOCKET, SO_RXQ_OVFL, 1));
    std::string data(1000, 'x');
    for (int i = 0; i < 50; i++) EXPECT_EQ(send_to(one, data, "127.0.0.1", port_of(two)), 1000);
    int got = 0;
    while (ready(two) & POLLIN) receive(two), got++;
    EXPECT(got >= 1 && got < 50);
    send_to(one, data, "127.0.0.1", port_of(two));
    EXPECT_EQ(receive_message(two).value<uint32_t>(SOL_SOCKET, SO_RXQ_OVFL), 50 - got);
}
CASE(udp_timeout) {
    int fd = udp();
    timeval soon{0, 20000};
    OK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon));
    FAILS(recv(fd, scratch(), 1, 0), EAGAIN);
}
CASE(udp_peek_offset) {
    int one = udp(), two = udp();
    OK(set(two, SOL_SOCKET, SO_PEEK_OFF, 1));
    send_to(one, "abcd", "127.0.0.1", port_of(two));
    EXPECT_EQ(receive(two, MSG_PEEK, 2), "bc");
    EXPECT_EQ(get(two, SOL_SOCKET, SO_PEEK_OFF), 3);
    EXPECT_EQ(receive(two, MSG_PEEK, 2), "d");
    EXPECT_EQ(receive(two), "abcd");
}
CASE(udp_readiness) {
    int one = udp(), two = udp();
    EXPECT_EQ(ready(two), POLLOUT);
    int poll = OK(epoll_create1(0));
    epoll_event event{EPOLLIN | EPOLLET, {}};
    OK(epoll_ctl(poll, EPOLL_CTL_ADD, two, &event));
    EXPECT_EQ(epoll_wait(poll, &event, 1, 0), 0);
    send_to(one, "x", "127.0.0.1", port_of(two));
    EXPECT_EQ(epoll_wait(poll, &event, 1, 5000), 1);
    EXPECT_EQ(epoll_wait(poll, &event, 1, 0), 0);
    send_to(one, "y", "127.0.0.1", port_of(two));
    EXPECT_EQ(epoll_wait(poll, &event, 1, 5000), 1);
}
CASE(udp_wildcard_sees_the_right_address) {
    own_network();
    int fd = udp("0.0.0.0"), sender = unbound();
    OK(set(fd, IPPROTO_IP, IP_PKTINFO, 1));
    send_to(sender, "x", "127.3.3.3", port_of(fd));
    auto info = receive_message(fd).value<in_pktinfo>(IPPROTO_IP, IP_PKTINFO);
    EXPECT_EQ(info.ipi_ifindex, 1);
    EXPECT_EQ(ntohl(info.ipi_addr.s_addr), 0x7f030303);
    EXPECT_EQ(ntohl(info.ipi_spec_dst.s_addr), 0x7f030303);
}
CASE(udp_bound_to_a_device) {
    own_network();
    int fd = udp("0.0.0.0"), sender = unbound();
    OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    send_to(sender, "x", "127.0.0.1", port_of(fd));
    EXPECT_EQ(receive(fd), "x");
}

// ---- control messages

CASE(control_ipv4) {
    int one = unbound(), two = udp();
    OK(set(two, IPPROTO_IP, IP_RECVTTL, 1));
    OK(set(two, IPPROTO_IP, IP_RECVTOS, 1));
    OK(set(two, IPPROTO_IP, IP_RECVORIGDSTADDR, 1));
    OK(set(one, IPPROTO_IP, IP_TTL, 33));
    OK(set(one, IPPROTO_IP, IP_TOS, 0x48));
    send_to(one, "x", "127.0.0.1", port_of(two));
    Received got = receive_message(two);
    EXPECT_EQ(got.value<int>(IPPROTO_IP, IP_TTL), 33);
    EXPECT_EQ(got.value<unsigned char>(IPPROTO_IP, IP_TOS), 0x48);
    EXPECT_EQ(got.find(IPPROTO_IP, IP_TOS)->data.size(), 1);
    EXPECT_EQ(ntohs(got.value<sockaddr_in>(IPPROTO_IP, IP_ORIGDSTADDR).sin_port), port_of(two));
}
CASE(control_ipv6) {
    int one = unbound(AF_INET6), two = udp("::1");
    OK(set(two, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
    OK(set(two, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
    OK(set(two, IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
    OK(set(one, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33));
    OK(set(one, IPPROTO_IPV6, IPV6_TCLASS, 0x48));
    send_to(one, "x", "::1", port_of(two));
    Received got = receive_message(two);
    EXPECT_EQ(got.value<int>(IPPROTO_IPV6, IPV6_HOPLIMIT), 33);
    EXPECT_EQ(got.value<int>(IPPROTO_IPV6, IPV6_TCLASS), 0x48);
    auto info = got.value<in6_pktinfo>(IPPROTO_IPV6, IPV6_PKTINFO);
    EXPECT_EQ(info.ipi6_ifindex, 1);
    EXPECT(IN6_IS_ADDR_LOOPBACK(&info.ipi6_addr));
}
CASE(control_sent_ipv4) {
    int one = unbound(), two = udp();
    OK(set(two, IPPROTO_IP, IP_RECVTTL, 1));
    OK(set(two, IPPROTO_IP, IP_RECVTOS, 1));
    Endpoint to("127.0.0.1", port_of(two));
    int value = 77;
    EXPECT_EQ(send_with(one, "x", &to, IPPROTO_IP, IP_TTL, &value, sizeof value), 1);
    EXPECT_EQ(receive_message(two).value<int>(IPPROTO_IP, IP_TTL), 77);
    value = 0x10;
    EXPECT_EQ(send_with(one, "x", &to, IPPROTO_IP, IP_TOS, &value, sizeof value), 1);
    EXPECT_EQ(receive_message(two).value<unsigned char>(IPPROTO_IP, IP_TOS), 0x10);
    value = 256;
    FAILS(send_with(one, "x", &to, IPPROTO_IP, IP_TTL, &value, sizeof value), EINVAL);
    value = 0;
    FAILS(send_with(one, "x", &to, IPPROTO_IP, IP_TTL, &value, sizeof value), EINVAL);
    FAILS(send_with(one, "x", &to, IPPROTO_IP, 999, &value, sizeof value), EINVAL);
    in_pktinfo info{};
    inet_pton(AF_INET, "127.0.0.9", &info.ipi_spec_dst);
    EXPECT_EQ(send_with(one, "x", &to, IPPROTO_IP, IP_PKTINFO, &info, sizeof info), 1);
    EXPECT_EQ(receive_message(two).from.text(), "127.0.0.9");
    FAILS(send_with(one, "x", &to, IPPROTO_IP, IP_PKTINFO, &info, 4), EINVAL);
}
CASE(control_sent_ipv6) {
    int one = unbound(AF_INET6), two = udp("::1");
    OK(set(two, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
    Endpoint to("::1", port_of(two));
    int value = 77;
    EXPECT_EQ(send_with(one, "x", &to, IPPROTO_IPV6, IPV6_HOPLIMIT, &value, sizeof value), 1);
    EXPECT_EQ(receive_message(two).value<int>(IPPROTO_IPV6, IPV6_HOPLIMIT), 77);
    value = 300;
    FAILS(send_with(one, "x", &to, IPPROTO_IPV6, IPV6_HOPLIMIT, &value, sizeof value), EINVAL);
    in6_pktinfo info{};
    inet_pton(AF_INET6, "2001:db8::1", &info.ipi6_addr);
    FAILS(send_with(one, "x", &to, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info), EINVAL);
}
CASE(control_timestamps) {
    int one = unbound(), two = udp();
    uint64_t before = now_ns(CLOCK_REALTIME);
    OK(set(two, SOL_SOCKET, SO_TIMESTAMP, 1));
    send_to(one, "x", "127.0.0.1", port_of(two));
    auto micro = receive_message(two).value<timeval>(SOL_SOCKET, SCM_TIMESTAMP);
    EXPECT(micro.tv_sec * 1000000000ull + micro.tv_usec * 1000ull + 1000000 >= before);
    OK(set(two, SOL_SOCKET, SO_TIMESTAMPNS, 1));
    send_to(one, "x", "127.0.0.1", port_of(two));
    auto nano = receive_message(two).value<timespec>(SOL_SOCKET, SCM_TIMESTAMPNS);
    EXPECT(nano.tv_sec * 1000000000ull + nano.tv_nsec + 1000000 >= before);
    OK(set(two, SOL_SOCKET, SO_TIMESTAMPNS, 0));
    OK(set(two, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE));
    // Linux takes a moment to switch them on.
    Received last;
    for (int i = 0; i < 500 && !last.find(SOL_SOCKET, SCM_TIMESTAMPING); i++) {
        send_to(one, "x", "127.0.0.1", port_of(two));
        last = receive_message(two);
        if (i > 0) sleep_ms(5);
    }
    auto three = last.value<scm_timestamping>(SOL_SOCKET, SCM_TIMESTAMPING);
    EXPECT(three.ts[0].tv_sec * 1000000000ull + three.ts[0].tv_nsec + 1000000 >= before);
    EXPECT_EQ(three.ts[2].tv_sec, 0);
}
CASE(control_truncated) {
    int one = unbound(), two = udp();
    OK(set(two, IPPROTO_IP, IP_PKTINFO, 1));
    send_to(one, "x", "127.0.0.1", port_of(two));
    EXPECT_EQ(receive_message(two, 0, 10, 4).flags & MSG_CTRUNC, MSG_CTRUNC);
}
CASE(control_mapped) {
    int one = unbound(), two = udp("::");
    OK(set(two, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
    OK(set(two, IPPROTO_IP, IP_RECVTTL, 1));
    send_to(one, "x", "127.0.0.1", port_of(two));
    Received got = receive_message(two);
    auto info = got.value<in6_pktinfo>(IPPROTO_IPV6, IPV6_PKTINFO);
    EXPECT(IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr));
    EXPECT_EQ(got.value<int>(IPPROTO_IP, IP_TTL), 64);
}

// ---- errors that come back

CASE(refused) {
    own_network();
    int fd = unbound();
    OK(connect_to(fd, "127.0.0.1", 9));
    EXPECT_EQ(send(fd, "x", 1, 0), 1);
    FAILS(recv(fd, scratch(), 1, 0), ECONNREFUSED);
    EXPECT_EQ(send(fd, "x", 1, 0), 1);
    FAILS(send(fd, "x", 1, 0), ECONNREFUSED);
    EXPECT_EQ(send(fd, "x", 1, 0), 1);
    EXPECT(ready(fd) & POLLERR);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    EXPECT_EQ(ready(fd), POLLOUT);
}
CASE(refused_ipv6) {
    own_network();
    int fd = unbound(AF_INET6);
    OK(connect_to(fd, "::1", 9));
    EXPECT_EQ(send(fd, "x", 1, 0), 1);
    FAILS(recv(fd, scratch(), 1, 0), ECONNREFUSED);
}
CASE(refused_is_not_told_to_the_unconnected) {
    own_network();
    int fd = unbound();
    EXPECT_EQ(send_to(fd, "x", "127.0.0.1", 9), 1);
    EXPECT_EQ(send_to(fd, "x", "127.0.0.1", 9), 1);
    EXPECT_EQ(ready(fd), POLLOUT);
}
CASE(error_queue_ipv4) {
    own_network();
    int fd = unbound();
    OK(set(fd, IPPROTO_IP, IP_RECVERR, 1));
    FAILS(recv(fd, scratch(), 1, MSG_ERRQUEUE), EAGAIN);
    EXPECT_EQ(send_to(fd, "payload", "127.0.0.5", 9), 7);
    EXPECT(ready(fd) & POLLERR);
    Received got = receive_message(fd, MSG_ERRQUEUE);
    EXPECT_EQ(got.text, "payload");
    EXPECT_EQ(got.flags & MSG_ERRQUEUE, MSG_ERRQUEUE);
    EXPECT_EQ(got.from.text(), "127.0.0.5");
    EXPECT_EQ(got.from.port(), 9);
    struct Told {
        sock_extended_err error;
        sockaddr_in offender;
    };
    auto told = got.value<Told>(IPPROTO_IP, IP_RECVERR);
    EXPECT_EQ(told.error.ee_errno, ECONNREFUSED);
    EXPECT_EQ(told.error.ee_origin, SO_EE_ORIGIN_ICMP);
    EXPECT_EQ(told.error.ee_type, ICMP_DEST_UNREACH);
    EXPECT_EQ(told.error.ee_code, ICMP_PORT_UNREACH);
    EXPECT_EQ(told.offender.sin_family, AF_INET);
    EXPECT_EQ(ntohl(told.offender.sin_addr.s_addr), 0x7f000005);
    EXPECT_EQ(ready(fd), POLLOUT);
}
CASE(error_queue_ipv6) {
    own_network();
    int fd = unbound(AF_INET6);
    OK(set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1));
    EXPECT_EQ(send_to(fd, "payload", "::1", 9), 7);
    Received got = receive_message(fd, MSG_ERRQUEUE);
    EXPECT_EQ(got.text, "payload");
    auto error = got.value<sock_extended_err>(IPPROTO_IPV6, IPV6_RECVERR);
    EXPECT_EQ(error.ee_errno, ECONNREFUSED);
    EXPECT_EQ(error.ee_origin, SO_EE_ORIGIN_ICMP6);
    EXPECT_EQ(error.ee_type, 1);
    EXPECT_EQ(error.ee_code, 4);
}
CASE(error_queue_goes_with_the_option) {
    own_network();
    int fd = unbound();
    OK(set(fd, IPPROTO_IP, IP_RECVERR, 1));
    send_to(fd, "x", "127.0.0.1", 9);
    OK(set(fd, IPPROTO_IP, IP_RECVERR, 0));
    FAILS(recv(fd, scratch(), 1, MSG_ERRQUEUE), EAGAIN);
}
CASE(zero_copy_completions) {
    own_network();
    int one = unbound(), two = udp();
    OK(set(one, SOL_SOCKET, SO_ZEROCOPY, 1));
    OK(connect_to(one, "127.0.0.1", port_of(two)));
    for (int i = 0; i < 3; i++) EXPECT_EQ(send(one, "data", 4, MSG_ZEROCOPY), 4);
    EXPECT_EQ(receive(two), "data");
    receive(two), receive(two);
    EXPECT(ready(one, POLLOUT, 5000) & POLLERR);
    uint32_t seen = 0;
    while (seen < 3) {
        await_input(one, POLLERR);
        Received got = receive_message(one, MSG_ERRQUEUE);
        auto error = got.value<sock_extended_err>(IPPROTO_IP, IP_RECVERR);
        EXPECT_EQ(error.ee_origin, SO_EE_ORIGIN_ZEROCOPY);
        EXPECT_EQ(error.ee_info, seen);
        seen = error.ee_data + 1;
    }
    EXPECT_EQ(seen, 3);
}

// ---- groups

static int join(int fd, const char* group, int link = 1) {
    ip_mreqn request{};
    inet_pton(AF_INET, group, &request.imr_multiaddr);
    request.imr_ifindex = link;
    return setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request);
}
static int leave(int fd, const char* group, int link = 1) {
    ip_mreqn request{};
    inet_pton(AF_INET, group, &request.imr_multiaddr);
    request.imr_ifindex = link;
    return setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &request, sizeof request);
}
static int sender_by_loopback() {
    int fd = unbound();
    in_addr address{htonl(INADDR_LOOPBACK)};
    OK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &address, sizeof address));
    return fd;
}
CASE(group_delivery) {
    own_network();
    int one = unbound(), two = unbound(), out = unbound();
    for (int fd : {one, two, out}) {
        OK(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
        OK(set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0));
        Endpoint end("0.0.0.0", 5000);
        OK(bind(fd, end.get(), end.size));
    }
    OK(join(one, "239.1.2.3"));
    OK(join(two, "239.1.2.3"));
    int sender = sender_by_loopback();
    EXPECT_EQ(send_to(sender, "all", "239.1.2.3", 5000), 3);
    EXPECT_EQ(receive(one), "all");
    Received got = receive_message(two);
    EXPECT_EQ(got.text, "all");
    EXPECT_EQ(got.from.text(), "127.0.0.1");
    FAILS(recv(out, scratch(), 9, MSG_DONTWAIT), EAGAIN);
    OK(leave(two, "239.1.2.3"));
    EXPECT_EQ(send_to(sender, "one", "239.1.2.3", 5000), 3);
    EXPECT_EQ(receive(one), "one");
    FAILS(recv(two, scratch(), 9, MSG_DONTWAIT), EAGAIN);
}
CASE(group_errors) {
    own_network();
    int fd = unbound();
    FAILS(join(fd, "10.1.1.1"), EINVAL);
    FAILS(join(fd, "239.1.2.3", 99), ENODEV);
    FAILS(join(fd, "239.1.2.3", 0), ENODEV);
    OK(join(fd, "239.1.2.3"));
    FAILS(join(fd, "239.1.2.3"), EADDRINUSE);
    FAILS(leave(fd, "239.1.2.4"), EADDRNOTAVAIL);
    OK(leave(fd, "239.1.2.3"));
    FAILS(leave(fd, "239.1.2.3"), EADDRNOTAVAIL);
    ip_mreq request{};
    FAILS(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, 4), EINVAL);
    FAILS(send_to(fd, "x", "239.1.2.3", 5000), ENETUNREACH);
}
CASE(group_limit) {
    own_network();
    int fd = unbound();
    for (int i = 0; i < 20; i++) OK(join(fd, ("239.1.2." + std::to_string(i)).c_str()));
    FAILS(join(fd, "239.1.2.200"), ENOBUFS);
}
CASE(group_by_the_protocol_independent_option) {
    own_network();
    int fd = udp("0.0.0.0");
    group_req request{};
    request.gr_interface = 1;
    Endpoint group("239.1.2.3", 0);
    memcpy(&request.gr_group, group.get(), group.size);
    OK(setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof request));
    FAILS(setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof request), EADDRINUSE);
    send_to(sender_by_loopback(), "x", "239.1.2.3", port_of(fd));
    EXPECT_EQ(receive(fd), "x");
    OK(setsockopt(fd, IPPROTO_IP, MCAST_LEAVE_GROUP, &request, sizeof request));
}
CASE(group_source_filter) {
    own_network();
    int fd = udp("0.0.0.0"), sender = sender_by_loopback();
    ip_mreq_source request{};
    inet_pton(AF_INET, "239.1.2.3", &request.imr_multiaddr);
    request.imr_interface.s_addr = htonl(INADDR_LOOPBACK);
    inet_pton(AF_INET, "9.9.9.9", &request.imr_sourceaddr);
    OK(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &request, sizeof request));
    send_to(sender, "not this", "239.1.2.3", port_of(fd));
    request.imr_sourceaddr.s_addr = htonl(INADDR_LOOPBACK);
    OK(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &request, sizeof request));
    FAILS(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &request, sizeof request), EADDRNOTAVAIL);
    send_to(sender, "this", "239.1.2.3", port_of(fd));
    EXPECT_EQ(receive(fd), "this");
}
CASE(group_block_source) {
    own_network();
    int fd = udp("0.0.0.0"), sender = sender_by_loopback();
    OK(join(fd, "239.1.2.3"));
    ip_mreq_source request{};
    inet_pton(AF_INET, "239.1.2.3", &request.imr_multiaddr);
    request.imr_interface.s_addr = htonl(INADDR_LOOPBACK);
    request.imr_sourceaddr.s_addr = htonl(INADDR_LOOPBACK);
    OK(setsockopt(fd, IPPROTO_IP, IP_BLOCK_SOURCE, &request, sizeof request));
    send_to(sender, "blocked", "239.1.2.3", port_of(fd));
    OK(setsockopt(fd, IPPROTO_IP, IP_UNBLOCK_SOURCE, &request, sizeof request));
    send_to(sender, "open", "239.1.2.3", port_of(fd));
    EXPECT_EQ(receive(fd), "open");
}
CASE(group_info_and_ttl) {
    own_network();
    int fd = udp("0.0.0.0"), sender = sender_by_loopback();
    OK(join(fd, "239.1.2.3"));
    OK(set(fd, IPPROTO_IP, IP_PKTINFO, 1));
    OK(set(fd, IPPROTO_IP, IP_RECVTTL, 1));
    send_to(sender, "x", "239.1.2.3", port_of(fd));
    Received got = receive_message(fd);
    EXPECT_EQ(got.value<int>(IPPROTO_IP, IP_TTL), 1);
    auto info = got.value<in_pktinfo>(IPPROTO_IP, IP_PKTINFO);
    EXPECT_EQ(ntohl(info.ipi_addr.s_addr), 0xef010203);
    EXPECT_EQ(ntohl(info.ipi_spec_dst.s_addr), INADDR_LOOPBACK);
}
CASE(group_bound_address) {
    own_network();
    int group = udp("239.1.2.3");
    int other = udp("239.1.2.4");
    OK(join(group, "239.1.2.3"));
    send_to(sender_by_loopback(), "x", "239.1.2.3", port_of(group));
    EXPECT_EQ(receive(group), "x");
    send_to(sender_by_loopback(), "x", "239.1.2.3", port_of(other));
    FAILS(recv(other, scratch(), 9, MSG_DONTWAIT), EAGAIN);
}
CASE(group_ipv6) {
    own_network();
    int fd = udp("::"), sender = unbound(AF_INET6);
    ipv6_mreq request{};
    inet_pton(AF_INET6, "ff02::1234", &request.ipv6mr_multiaddr);
    request.ipv6mr_interface = 1;
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &request, sizeof request));
    FAILS(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &request, sizeof request), EADDRINUSE);
    OK(set(sender, IPPROTO_IPV6, IPV6_MULTICAST_IF, 1));
    FAILS(send_to(sender, "six", "ff02::1234", port_of(fd)), ENETUNREACH);  // the loopback has no route for groups
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &request, sizeof request));
    FAILS(setsockopt(fd, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &request, sizeof request), EADDRNOTAVAIL);
    request.ipv6mr_interface = 99;
    FAILS(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &request, sizeof request), ENODEV);
    inet_pton(AF_INET6, "::1", &request.ipv6mr_multiaddr);
    request.ipv6mr_interface = 1;
    FAILS(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &request, sizeof request), EINVAL);
}
CASE(broadcast) {
    own_network();
    int one = unbound(), two = unbound(), sender = unbound();
    for (int fd : {one, two}) {
        OK(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
        Endpoint end("0.0.0.0", 5000);
        OK(bind(fd, end.get(), end.size));
    }
    FAILS(send_to(sender, "x", "127.255.255.255", 5000), EACCES);
    OK(set(sender, SOL_SOCKET, SO_BROADCAST, 1));
    EXPECT_EQ(send_to(sender, "all", "127.255.255.255", 5000), 3);
    EXPECT_EQ(receive(one), "all");
    EXPECT_EQ(receive(two), "all");
    FAILS(send_to(sender, "x", "255.255.255.255", 5000), ENETUNREACH);
    int bound = unbound();
    Endpoint end("127.255.255.255", 5001);
    OK(bind(bound, end.get(), end.size));
    send_to(sender, "b", "127.255.255.255", 5001);
    EXPECT_EQ(receive(bound), "b");
}

// ---- ping and raw sockets

static uint16_t checksum(const void* data, size_t size) {
    auto* words = (const uint16_t*)data;
    uint32_t sum = 0;
    for (size_t i = 0; i < size / 2; i++) sum += words[i];
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}
static void allow_ping() { write_file("/proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n"); }
CASE(ping_needs_the_group) {
    own_network();
    write_file("/proc/sys/net/ipv4/ping_group_range", "1\t0\n");
    FAILS(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), EACCES);
    FAILS(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6), EACCES);
    allow_ping();
    close(OK(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)));
    close(OK(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6)));
}
CASE(ping_ipv4) {
    own_network();
    allow_ping();
    int fd = OK(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    struct {
        icmphdr header;
        char data[8];
    } echo{}, reply{};
    echo.header.type = ICMP_ECHO;
    echo.header.un.echo.sequence = htons(7);
    memcpy(echo.data, "payload", 8);
    Endpoint to("127.0.0.1", 0);
    EXPECT_EQ(sendto(fd, &echo, sizeof echo, 0, to.get(), to.size), sizeof echo);
    Endpoint from;
    EXPECT_EQ(recvfrom(fd, &reply, sizeof reply, 0, from.get(), &from.size), sizeof reply);
    EXPECT_EQ(from.text(), "127.0.0.1");
    EXPECT_EQ(reply.header.type, ICMP_ECHOREPLY);
    EXPECT_EQ(ntohs(reply.header.un.echo.sequence), 7);
    EXPECT_EQ(ntohs(reply.header.un.echo.id), port_of(fd));
    EXPECT_EQ(checksum(&reply, sizeof reply), 0);
    EXPECT_EQ(std::string(reply.data), "payload");
    echo.header.type = ICMP_ECHOREPLY;
    FAILS(sendto(fd, &echo, sizeof echo, 0, to.get(), to.size), EINVAL);
    FAILS(sendto(fd, &echo, 4, 0, to.get(), to.size), EINVAL);
}
CASE(ping_ipv6) {
    own_network();
    allow_ping();
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6));
    icmp6_hdr echo{}, reply{};
    echo.icmp6_type = ICMP6_ECHO_REQUEST;
    echo.icmp6_seq = htons(3);
    Endpoint to("::1", 0);
    EXPECT_EQ(sendto(fd, &echo, sizeof echo, 0, to.get(), to.size), sizeof echo);
    EXPECT_EQ(recv(fd, &reply, sizeof reply, 0), sizeof reply);
    EXPECT_EQ(reply.icmp6_type, ICMP6_ECHO_REPLY);
    EXPECT_EQ(ntohs(reply.icmp6_seq), 3);
}
CASE(raw_needs_the_capability) {
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        FAILS(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
        FAILS(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6), EPERM);
    });
    close(OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)));
    close(OK(socket(AF_INET, SOCK_RAW, IPPROTO_RAW)));
}
CASE(raw_echo_ipv4) {
    own_network();
    int fd = OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    icmphdr echo{};
    echo.type = ICMP_ECHO;
    echo.un.echo.id = htons(0x1234);
    echo.checksum = checksum(&echo, sizeof echo);
    Endpoint to("127.0.0.1", 0);
    EXPECT_EQ(sendto(fd, &echo, sizeof echo, 0, to.get(), to.size), sizeof echo);
    for (int wanted : {ICMP_ECHO, ICMP_ECHOREPLY}) {
        Received got = receive_message(fd);
        EXPECT_EQ(got.from.text(), "127.0.0.1");
        EXPECT_EQ(got.text.size(), sizeof(iphdr) + sizeof echo);
        auto* ip = (iphdr*)got.text.data();
        EXPECT_EQ(ip->version, 4);
        EXPECT_EQ(ip->ihl, 5);
        EXPECT_EQ(ip->protocol, IPPROTO_ICMP);
        EXPECT_EQ(ntohs(ip->tot_len), got.text.size());
        EXPECT_EQ(ip->ttl, 64);
        EXPECT_EQ(checksum(ip, sizeof *ip), 0);
        EXPECT_EQ(((icmphdr*)(ip + 1))->type, wanted);
    }
}
CASE(raw_echo_ipv6) {
    own_network();
    int fd = OK(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    icmp6_hdr echo{};
    echo.icmp6_type = ICMP6_ECHO_REQUEST;
    Endpoint to("::1", 0);
    EXPECT_EQ(sendto(fd, &echo, sizeof echo, 0, to.get(), to.size), sizeof echo);
    for (int wanted : {ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY}) {
        Received got = receive_message(fd);
        EXPECT_EQ(got.text.size(), sizeof echo);  // without the header
        EXPECT_EQ((uint8_t)got.text[0], wanted);
    }
}
CASE(raw_sees_port_unreachable) {
    own_network();
    int raw = OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)), fd = unbound();
    send_to(fd, "probe", "127.0.0.1", 33434);
    Received got = receive_message(raw);
    auto* ip = (iphdr*)got.text.data();
    auto* icmp = (icmphdr*)(ip + 1);
    EXPECT_EQ(icmp->type, ICMP_DEST_UNREACH);
    EXPECT_EQ(icmp->code, ICMP_PORT_UNREACH);
    auto* quoted = (iphdr*)(icmp + 1);
    EXPECT_EQ(quoted->protocol, IPPROTO_UDP);
    auto* header = (udphdr*)(quoted + 1);
    EXPECT_EQ(ntohs(header->dest), 33434);
    EXPECT_EQ(ntohs(header->source), port_of(fd));
}
CASE(raw_with_own_header) {
    own_network();
    int fd = OK(socket(AF_INET, SOCK_RAW, IPPROTO_RAW)), target = udp();
    struct {
        iphdr ip;
        udphdr udp;
        char data[4];
    } packet{};
    packet.ip.version = 4;
    packet.ip.ihl = 5;
    packet.ip.ttl = 9;
    packet.ip.protocol = IPPROTO_UDP;
    inet_pton(AF_INET, "127.0.0.7", &packet.ip.saddr);
    inet_pton(AF_INET, "127.0.0.1", &packet.ip.daddr);
    packet.udp.source = htons(1234);
    packet.udp.dest = htons(port_of(target));
    packet.udp.len = htons(12);
    memcpy(packet.data, "data", 4);
    Endpoint to("127.0.0.1", 0);
    EXPECT_EQ(sendto(fd, &packet, sizeof packet, 0, to.get(), to.size), sizeof packet);
    Received got = receive_message(target);
    EXPECT_EQ(got.text, "data");
    EXPECT_EQ(got.from.text(), "127.0.0.7");
    EXPECT_EQ(got.from.port(), 1234);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_HDRINCL), 1);
}
CASE(raw_of_a_protocol_of_ones_own) {
    own_network();
    int one = OK(socket(AF_INET, SOCK_RAW, 253)), two = OK(socket(AF_INET, SOCK_RAW, 253));
    int other = OK(socket(AF_INET, SOCK_RAW, 254));
    Endpoint to("127.0.0.1", 0);
    EXPECT_EQ(sendto(one, "abc", 3, 0, to.get(), to.size), 3);
    EXPECT_EQ(receive(two).substr(20), "abc");
    EXPECT_EQ(receive(one).substr(20), "abc");
    FAILS(recv(other, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(raw_connected_and_bound) {
    own_network();
    int one = OK(socket(AF_INET, SOCK_RAW, 253)), two = OK(socket(AF_INET, SOCK_RAW, 253));
    Endpoint bound("127.0.0.3", 0);
    OK(bind(two, bound.get(), bound.size));
    OK(connect_to(one, "127.0.0.4", 0));
    EXPECT_EQ(send(one, "no", 2, 0), 2);
    FAILS(recv(two, scratch(), 100, MSG_DONTWAIT), EAGAIN);
    OK(connect_to(one, "127.0.0.3", 0));
    EXPECT_EQ(send(one, "yes", 3, 0), 3);
    EXPECT_EQ(receive(two).substr(20), "yes");
    FAILS(send(OK(socket(AF_INET, SOCK_RAW, 253)), "x", 1, 0), EDESTADDRREQ);
}
CASE(raw_filter_of_icmp_types) {
    own_network();
    int fd = OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    unsigned filter = ~(1u << ICMP_ECHOREPLY);  // all but replies are kept away
    OK(setsockopt(fd, SOL_RAW, 1 /* ICMP_FILTER */, &filter, sizeof filter));
    icmphdr echo{};
    echo.type = ICMP_ECHO;
    echo.checksum = checksum(&echo, sizeof echo);
    Endpoint to("127.0.0.1", 0);
    sendto(fd, &echo, sizeof echo, 0, to.get(), to.size);
    Received got = receive_message(fd);
    EXPECT_EQ(((icmphdr*)(got.text.data() + 20))->type, ICMP_ECHOREPLY);
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(packet_sockets_need_the_capability) {
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        FAILS_ANY(socket(AF_PACKET, SOCK_RAW, 0), EPERM, EAFNOSUPPORT);
    });
}
