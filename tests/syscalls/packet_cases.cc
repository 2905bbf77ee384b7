// Packet sockets on the loopback, and filters of classic BPF on sockets.
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/udp.h>

#include "net.h"

static int lo() { return if_nametoindex("lo"); }
static sockaddr_ll at(int protocol, int index = lo()) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(protocol);
    address.sll_ifindex = index;
    return address;
}
static int packet(int type = SOCK_RAW, int protocol = ETH_P_ALL) {
    int fd = OK(socket(AF_PACKET, type, 0));
    sockaddr_ll address = at(protocol);
    OK(bind(fd, (sockaddr*)&address, sizeof address));
    return fd;
}
struct Seen {
    std::string bytes;
    sockaddr_ll from;
};
static Seen see(int fd, int flags = 0) {
    await_input(fd);
    Seen seen{std::string(65536, 0), {}};
    socklen_t size = sizeof seen.from;
    ssize_t got = OK(recvfrom(fd, seen.bytes.data(), seen.bytes.size(), flags, (sockaddr*)&seen.from, &size));
    EXPECT_EQ(size, sizeof seen.from);
    seen.bytes.resize(std::min<size_t>(got, seen.bytes.size()));
    return seen;
}
static void udp(const char* text, int port = 4000, const char* address = "127.0.0.1") {
    static int sender4 = -1, sender6 = -1;
    int& sender = strchr(address, ':') ? sender6 : sender4;
    if (sender < 0) sender = bound_to(SOCK_DGRAM, strchr(address, ':') ? "::1" : "127.0.0.1", 3999);
    send_to(sender, text, address, port);
    get(sender, SOL_SOCKET, SO_ERROR);
}
static std::string udp_payload(const std::string& frame, size_t ip = 14) { return frame.substr(ip + 28); }

CASE(sees_datagrams_out_and_in) {
    own_network();
    int fd = packet(), server = bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    udp("hello");
    for (int type : {PACKET_OUTGOING, PACKET_HOST}) {
        Seen seen = see(fd);
        EXPECT_EQ(seen.from.sll_family, AF_PACKET);
        EXPECT_EQ(ntohs(seen.from.sll_protocol), ETH_P_IP);
        EXPECT_EQ(seen.from.sll_pkttype, type);
        EXPECT_EQ(seen.from.sll_ifindex, lo());
        EXPECT_EQ(seen.from.sll_hatype, ARPHRD_LOOPBACK);
        EXPECT_EQ(seen.from.sll_halen, 6);
        EXPECT_EQ(seen.bytes.size(), 14u + 20 + 8 + 5);
        EXPECT_EQ(seen.bytes.substr(0, 14), std::string("\0\0\0\0\0\0\0\0\0\0\0\0\x08\0", 14));
        auto* ip = (iphdr*)(seen.bytes.data() + 14);
        EXPECT_EQ(ip->version, 4);
        EXPECT_EQ(ip->protocol, IPPROTO_UDP);
        EXPECT_EQ(ntohs(ip->tot_len), 33);
        EXPECT_EQ(ntohs(((udphdr*)(ip + 1))->dest), 4000);
        EXPECT_EQ(ntohs(((udphdr*)(ip + 1))->source), 3999);
        EXPECT_EQ(udp_payload(seen.bytes), "hello");
    }
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
    EXPECT_EQ(receive(server), "hello");
}
CASE(sees_ipv6) {
    own_network();
    int fd = packet(SOCK_DGRAM, ETH_P_IPV6), server = bound_to(SOCK_DGRAM, "::1", 4000);
    udp("six", 4000, "::1");
    Seen seen = see(fd);
    EXPECT_EQ(ntohs(seen.from.sll_protocol), ETH_P_IPV6);
    EXPECT_EQ(seen.from.sll_pkttype, PACKET_HOST);
    EXPECT_EQ(seen.bytes.size(), 40u + 8 + 3);
    EXPECT_EQ((unsigned char)seen.bytes[0] >> 4, 6);
    EXPECT_EQ(seen.bytes[6], IPPROTO_UDP);
    EXPECT_EQ(seen.bytes.substr(48), "six");
    EXPECT_EQ(receive(server), "six");
}
CASE(datagram_sockets_have_no_link_header) {
    own_network();
    int fd = packet(SOCK_DGRAM);
    udp("x");
    Seen seen = see(fd);
    EXPECT_EQ(seen.bytes.size(), 29u);
    EXPECT_EQ((unsigned char)seen.bytes[0], 0x45);
}
CASE(one_protocol_sees_what_comes_in_only) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP), other = packet(SOCK_RAW, ETH_P_ARP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    udp("x");
    EXPECT_EQ(see(fd).from.sll_pkttype, PACKET_HOST);
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
    FAILS(recv(other, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(protocol_of_socket_call) {
    own_network();
    int all = OK(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL))), none = OK(socket(AF_PACKET, SOCK_RAW, 0));
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    udp("x");
    EXPECT_EQ(see(all).from.sll_ifindex, lo());
    FAILS(recv(none, scratch(), 100, MSG_DONTWAIT), EAGAIN);
    EXPECT_EQ(get(all, SOL_SOCKET, SO_PROTOCOL), 0);
    EXPECT_EQ(get(all, SOL_SOCKET, SO_DOMAIN), AF_PACKET);
}
CASE(a_frame_sent_is_seen_by_others) {
    own_network();
    int sender = packet(), other = packet();
    std::string frame = std::string("\1\2\3\4\5\6\6\5\4\3\2\1\x88\xb5", 14) + "experiment";
    EXPECT_EQ(send(sender, frame.data(), frame.size(), 0), (ssize_t)frame.size());
    Seen seen = see(other);
    EXPECT_EQ(seen.bytes, frame);
    EXPECT_EQ(seen.from.sll_pkttype, PACKET_OUTGOING);
    EXPECT_EQ(ntohs(seen.from.sll_protocol), 0x88b5);
    EXPECT_EQ(std::string((char*)seen.from.sll_addr, 6), "\6\5\4\3\2\1");
    seen = see(other);
    EXPECT_EQ(seen.bytes, frame);
    // Its own comes in again.
    EXPECT_EQ(see(sender).bytes, frame);
    FAILS(recv(sender, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(datagrams_get_their_header) {
    own_network();
    int sender = OK(socket(AF_PACKET, SOCK_DGRAM, 0)), other = packet(SOCK_RAW, 0x88b5);
    sockaddr_ll to = at(0x88b5);
    to.sll_halen = 6;
    memcpy(to.sll_addr, "\1\2\3\4\5\6", 6);
    EXPECT_EQ(sendto(sender, "abc", 3, 0, (sockaddr*)&to, sizeof to), 3);
    EXPECT_EQ(see(other).bytes, std::string("\1\2\3\4\5\6\0\0\0\0\0\0\x88\xb5"
                                            "abc",
                                            17));
}
CASE(names) {
    own_network();
    int fd = OK(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ARP)));
    sockaddr_ll own{};
    socklen_t size = sizeof own;
    OK(getsockname(fd, (sockaddr*)&own, &size));
    EXPECT_EQ(own.sll_family, AF_PACKET);
    EXPECT_EQ(ntohs(own.sll_protocol), ETH_P_ARP);
    EXPECT_EQ(own.sll_ifindex, 0);
    sockaddr_ll address = at(ETH_P_IP);
    OK(bind(fd, (sockaddr*)&address, sizeof address));
    size = sizeof own;
    OK(getsockname(fd, (sockaddr*)&own, &size));
    EXPECT_EQ(size, 18u);
    EXPECT_EQ(own.sll_ifindex, lo());
    EXPECT_EQ(own.sll_halen, 6);
    EXPECT_EQ(own.sll_hatype, ARPHRD_LOOPBACK);
    FAILS(getpeername(fd, (sockaddr*)&own, &size), EOPNOTSUPP);
}
CASE(calls_that_do_not_fit) {
    own_network();
    FAILS(socket(AF_PACKET, SOCK_STREAM, 0), ESOCKTNOSUPPORT);
    int fd = OK(socket(AF_PACKET, SOCK_RAW, 0));
    sockaddr_ll address = at(ETH_P_ALL, 4711);
    FAILS(bind(fd, (sockaddr*)&address, sizeof address), ENODEV);
    FAILS(bind(fd, (sockaddr*)&address, 10), EINVAL);
    address = at(ETH_P_ALL);
    address.sll_family = AF_INET;
    FAILS(bind(fd, (sockaddr*)&address, sizeof address), EINVAL);
    FAILS(connect(fd, (sockaddr*)&address, sizeof address), EOPNOTSUPP);
    FAILS(listen(fd, 1), EOPNOTSUPP);
    FAILS(send(fd, scratch(), 60, 0), ENXIO);
    address = at(ETH_P_ALL, 4711);
    FAILS(sendto(fd, scratch(), 60, 0, (sockaddr*)&address, sizeof address), ENXIO);
    address = at(ETH_P_ALL);
    FAILS(sendto(fd, scratch(), 60, 0, (sockaddr*)&address, 10), EINVAL);
    FAILS(sendto(fd, scratch(), 5, 0, (sockaddr*)&address, sizeof address), EINVAL);
    FAILS(sendto(fd, scratch(), 70000, 0, (sockaddr*)&address, sizeof address), EMSGSIZE);
    FAILS(recv(fd, scratch(), 10, MSG_OOB | MSG_DONTWAIT), EINVAL);
}
CASE(a_link_that_is_down) {
    own_network(false);
    int fd = OK(socket(AF_PACKET, SOCK_RAW, 0));
    sockaddr_ll address = at(ETH_P_ALL);
    OK(bind(fd, (sockaddr*)&address, sizeof address));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_ERROR), ENETDOWN);
    FAILS(sendto(fd, scratch(), 60, 0, (sockaddr*)&address, sizeof address), ENETDOWN);
}
CASE(truncation) {
    own_network();
    int fd = packet(SOCK_DGRAM, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    udp("0123456789");
    await_input(fd);
    EXPECT_EQ(recv(fd, scratch(), 10, MSG_PEEK), 10);
    EXPECT_EQ(recv(fd, scratch(), 10, MSG_PEEK | MSG_TRUNC), 38);
    EXPECT_EQ(receive_message(fd, 0, 20).flags & MSG_TRUNC, MSG_TRUNC);
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(waiting_bytes_and_poll) {
    own_network();
    int fd = packet(SOCK_DGRAM, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    EXPECT_EQ(ready(fd), POLLOUT);
    udp("12345");
    await_input(fd);
    EXPECT_EQ(ready(fd), POLLIN | POLLOUT);
    int size = 0;
    OK(ioctl(fd, FIONREAD, &size));
    EXPECT_EQ(size, 33);
}
CASE(statistics) {
    own_network();
    int fd = packet(SOCK_DGRAM, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    for (int i = 0; i < 3; i++) udp("x");
    tpacket_stats stats{};
    socklen_t size = sizeof stats;
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
    EXPECT_EQ(stats.tp_packets, 3u);
    EXPECT_EQ(stats.tp_drops, 0u);
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
    EXPECT_EQ(stats.tp_packets, 0u);
    OK(set(fd, SOL_SOCKET, SO_RCVBUF, 1));
    std::string large(5000, 'x');
    for (int i = 0; i < 20; i++) udp(large.c_str());
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
    EXPECT_EQ(stats.tp_packets, 20u);
    EXPECT(stats.tp_drops > 0);
}
CASE(memberships) {
    own_network();
    int fd = packet();
    packet_mreq wanted{};
    wanted.mr_ifindex = lo();
    wanted.mr_type = PACKET_MR_PROMISC;
    OK(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wanted, sizeof wanted));
    OK(setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &wanted, sizeof wanted));
    wanted.mr_type = PACKET_MR_ALLMULTI;
    OK(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wanted, sizeof wanted));
    wanted.mr_ifindex = 4711;
    FAILS(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wanted, sizeof wanted), ENODEV);
    FAILS(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wanted, 4), EINVAL);
}
CASE(auxiliary_data) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    EXPECT_EQ(get(fd, SOL_PACKET, PACKET_AUXDATA), 0);
    OK(set(fd, SOL_PACKET, PACKET_AUXDATA, 1));
    OK(set(fd, SOL_SOCKET, SO_TIMESTAMP, 1));
    udp("12345");
    await_input(fd);
    Received got = receive_message(fd);
    auto aux = got.value<tpacket_auxdata>(SOL_PACKET, PACKET_AUXDATA);
    EXPECT_EQ(aux.tp_len, 47u);
    EXPECT_EQ(aux.tp_snaplen, 47u);
    EXPECT_EQ(aux.tp_mac, 0);
    EXPECT_EQ(aux.tp_net, 14);
    EXPECT(aux.tp_status & TP_STATUS_USER);
    EXPECT(got.value<timeval>(SOL_SOCKET, SCM_TIMESTAMP).tv_sec > 1000000000);
}
CASE(ignore_outgoing) {
    own_network();
    int fd = packet();
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    OK(set(fd, SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, 1));
    FAILS(set(fd, SOL_PACKET, 23, 2), EINVAL);
    udp("x");
    EXPECT_EQ(see(fd).from.sll_pkttype, PACKET_HOST);
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(ping_is_seen) {
    own_network();
    int fd = packet(SOCK_DGRAM, ETH_P_IP), raw = OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    unsigned char echo[8] = {8, 0, 0xf7, 0xff};
    Endpoint to("127.0.0.1", 0);
    OK(sendto(raw, echo, sizeof echo, 0, to.get(), to.size));
    EXPECT_EQ(see(fd).bytes[20], 8);
    EXPECT_EQ(see(fd).bytes[20], 0);
}

// ---- filters

static int attach(int fd, std::vector<sock_filter> program) {
    sock_fprog all{(unsigned short)program.size(), program.data()};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all);
}
static sock_filter step(int code, unsigned k, int yes = 0, int no = 0) {
    return {(unsigned short)code, (unsigned char)yes, (unsigned char)no, k};
}
CASE(filter_takes_and_cuts) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    // "udp dst port 4001", 44 bytes of it
    OK(attach(fd, {step(BPF_LD | BPF_H | BPF_ABS, 12), step(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 6),
                   step(BPF_LD | BPF_B | BPF_ABS, 23), step(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 4),
                   step(BPF_LDX | BPF_B | BPF_MSH, 14), step(BPF_LD | BPF_H | BPF_IND, 16),
                   step(BPF_JMP | BPF_JEQ | BPF_K, 4001, 0, 1), step(BPF_RET | BPF_K, 44), step(BPF_RET | BPF_K, 0)}));
    udp("no");
    udp("yes", 4001);
    Seen seen = see(fd);
    EXPECT_EQ(udp_payload(seen.bytes), "ye");
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, nullptr, 0), EINVAL);
    OK(set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0));
    udp("no");
    EXPECT_EQ(udp_payload(see(fd).bytes), "no");
}
CASE(filter_ancillary) {
    own_network();
    int fd = packet(SOCK_DGRAM);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    // Outgoing IPv4 on this link, and the source port is 3999 from the network header on.
    OK(attach(fd,
              {step(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE),
               step(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 7),
               step(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_IFINDEX), step(BPF_JMP | BPF_JEQ | BPF_K, lo(), 0, 5),
               step(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL),
               step(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 3), step(BPF_LD | BPF_H | BPF_ABS, SKF_NET_OFF + 20),
               step(BPF_JMP | BPF_JEQ | BPF_K, 3999, 0, 1), step(BPF_RET | BPF_K, 0xffff), step(BPF_RET | BPF_K, 0)}));
    udp("x");
    EXPECT_EQ(see(fd).from.sll_pkttype, PACKET_OUTGOING);
    FAILS(recv(fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(filter_arithmetic) {
    own_network();
    int server = bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    // The length modulo 3 is 2: the header's 8 bytes and a multiple of 3.
    OK(attach(server,
              {step(BPF_LD | BPF_W | BPF_LEN, 0), step(BPF_ALU | BPF_MOD | BPF_K, 3),
               step(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 1), step(BPF_RET | BPF_K, 0xffff), step(BPF_RET | BPF_K, 0)}));
    for (const char* text : {"1", "333", "4444", "666666"}) udp(text);
    EXPECT_EQ(receive(server), "333");
    EXPECT_EQ(receive(server), "666666");
    FAILS(recv(server, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(filter_of_udp_cuts_what_is_behind_the_header) {
    own_network();
    int server = bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    OK(attach(server, {step(BPF_RET | BPF_K, 12)}));
    udp("0123456789");
    EXPECT_EQ(receive(server), "0123");
    OK(attach(server, {step(BPF_RET | BPF_K, 1)}));
    udp("0123456789");
    EXPECT_EQ(receive(server), "");
    // By the source port, which lies at the beginning.
    OK(attach(server, {step(BPF_LD | BPF_H | BPF_ABS, 0), step(BPF_JMP | BPF_JEQ | BPF_K, 3999, 1, 0),
                       step(BPF_RET | BPF_K, 0xffff), step(BPF_RET | BPF_K, 0)}));
    udp("no");
    send_to(OK(socket(AF_INET, SOCK_DGRAM, 0)), "yes", "127.0.0.1", 4000);
    EXPECT_EQ(receive(server), "yes");
}
CASE(filter_of_raw_sockets_starts_at_the_ip_header) {
    own_network();
    int raw = OK(socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    OK(attach(raw,
              {step(BPF_LDX | BPF_B | BPF_MSH, 0), step(BPF_LD | BPF_H | BPF_IND, 2),
               step(BPF_JMP | BPF_JEQ | BPF_K, 4001, 0, 1), step(BPF_RET | BPF_K, 0xffff), step(BPF_RET | BPF_K, 0)}));
    udp("no");
    udp("yes", 4001);
    EXPECT_EQ(receive(raw).substr(28), "yes");
    FAILS(recv(raw, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(filter_past_the_end_drops) {
    own_network();
    int server = bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    OK(attach(server, {step(BPF_LD | BPF_W | BPF_ABS, 10), step(BPF_RET | BPF_K, 0xffff)}));
    udp("12345");
    udp("123456");
    EXPECT_EQ(receive(server), "123456");
}
CASE(filter_programs_that_are_refused) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    FAILS(attach(fd, {}), EINVAL);
    FAILS(attach(fd, {step(BPF_LD | BPF_IMM, 1)}), EINVAL);
    FAILS(attach(fd, {step(BPF_JMP | BPF_JA, 5), step(BPF_RET | BPF_K, 0)}), EINVAL);
    FAILS(attach(fd, {step(BPF_ALU | BPF_MOD | BPF_K, 0), step(BPF_RET | BPF_K, 0)}), EINVAL);
    FAILS(attach(fd, {step(BPF_LD | BPF_MEM, 3), step(BPF_RET | BPF_A, 0)}), EINVAL);
    FAILS(attach(fd, {step(0xffff, 0), step(BPF_RET | BPF_K, 0)}), EINVAL);
    FAILS(attach(fd, {step(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + 400), step(BPF_RET | BPF_K, 0)}), EINVAL);
    sock_fprog wrong{1, (sock_filter*)bad()};
    FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &wrong, sizeof wrong), EFAULT);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &wrong, 8), EINVAL);
    FAILS(set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0), ENOENT);
}
CASE(filter_of_unix_datagrams) {
    int pair[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    // Those that begin with 'a', and of them four bytes.
    OK(attach(pair[1], {step(BPF_LD | BPF_B | BPF_ABS, 0), step(BPF_JMP | BPF_JEQ | BPF_K, 'a', 0, 1),
                        step(BPF_RET | BPF_K, 4), step(BPF_RET | BPF_K, 0)}));
    EXPECT_EQ(send(pair[0], "blocked", 7, 0), 7);
    EXPECT_EQ(send(pair[0], "abcdefg", 7, 0), 7);
    EXPECT_EQ(receive(pair[1], MSG_DONTWAIT), "abcd");
    FAILS(recv(pair[1], scratch(), 10, MSG_DONTWAIT), EAGAIN);
    int zero = 0;
    OK(setsockopt(pair[1], SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof zero));
    EXPECT_EQ(send(pair[0], "let in", 6, 0), 6);
    EXPECT_EQ(receive(pair[1], MSG_DONTWAIT), "let in");
}
CASE(filter_of_unix_streams_is_taken_and_not_asked) {
    int pair[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    OK(attach(pair[1], {step(BPF_RET | BPF_K, 0)}));
    EXPECT_EQ(send(pair[0], "bytes", 5, 0), 5);
    EXPECT_EQ(receive(pair[1], MSG_DONTWAIT), "bytes");
}
CASE(filter_of_netlink) {
    int fd = OK(socket(AF_NETLINK, SOCK_RAW, 0));
    struct {
        nlmsghdr header;
        rtgenmsg body;
    } dump{{sizeof dump, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
    OK(attach(fd, {step(BPF_RET | BPF_K, 0)}));
    OK(send(fd, &dump, sizeof dump, 0));
    FAILS(recv(fd, scratch(), 1 << 15, MSG_DONTWAIT), EAGAIN);
    OK(attach(fd, {step(BPF_RET | BPF_K, 16)}));
    int other = OK(socket(AF_NETLINK, SOCK_RAW, 0));
    OK(attach(other, {step(BPF_RET | BPF_K, 16)}));
    OK(send(other, &dump, sizeof dump, 0));
    EXPECT_EQ(recv(other, scratch(), 1 << 15, 0), 16);
}
CASE(filter_locked) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(attach(fd, {step(BPF_RET | BPF_K, 5)}));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_LOCK_FILTER), 0);
    OK(set(fd, SOL_SOCKET, SO_LOCK_FILTER, 1));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_LOCK_FILTER), 1);
    FAILS(set(fd, SOL_SOCKET, SO_LOCK_FILTER, 0), EPERM);
    FAILS(set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0), EPERM);
    FAILS(attach(fd, {step(BPF_RET | BPF_K, 5)}), EPERM);
}

// ---- the ring

struct Ring {
    tpacket_req request{};
    char* memory;
    explicit Ring(int fd, unsigned block = 4096, unsigned blocks = 2, unsigned frame = 2048) {
        request = {block, blocks, frame, block / frame * blocks};
        OK(set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2));
        OK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
        memory = (char*)OK(mmap(nullptr, block * blocks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    }
    tpacket2_hdr* slot(unsigned i) { return (tpacket2_hdr*)(memory + i * request.tp_frame_size); }
};
CASE(ring_is_filled_and_emptied) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Ring ring(fd);
    EXPECT_EQ(ready(fd, POLLIN), 0);
    for (int round = 0; round < 6; round++) {
        std::string text = "round " + std::to_string(round);
        udp(text.c_str());
        await_input(fd);
        tpacket2_hdr* slot = ring.slot(round % 4);
        EXPECT(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER);
        EXPECT_EQ(slot->tp_len, 42 + text.size());
        EXPECT_EQ(slot->tp_snaplen, 42 + text.size());
        EXPECT_EQ(slot->tp_net, 80);
        EXPECT_EQ(slot->tp_mac, 66);
        EXPECT_EQ(std::string((char*)slot + slot->tp_net + 28, text.size()), text);
        auto* from = (sockaddr_ll*)((char*)slot + TPACKET_ALIGN(sizeof(tpacket2_hdr)));
        EXPECT_EQ(from->sll_ifindex, lo());
        EXPECT_EQ(from->sll_pkttype, PACKET_HOST);
        __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        EXPECT_EQ(ready(fd, POLLIN), 0);
    }
}
CASE(ring_of_datagrams) {
    own_network();
    int fd = packet(SOCK_DGRAM, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Ring ring(fd);
    udp("abc");
    await_input(fd);
    EXPECT_EQ(ring.slot(0)->tp_mac, ring.slot(0)->tp_net);
    EXPECT_EQ(ring.slot(0)->tp_mac, 80);
    EXPECT_EQ(ring.slot(0)->tp_len, 31u);
}
CASE(ring_that_is_full_drops) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Ring ring(fd);
    for (int i = 0; i < 7; i++) udp("x");
    tpacket_stats stats{};
    socklen_t size = sizeof stats;
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
    EXPECT_EQ(stats.tp_packets, 7u);
    EXPECT_EQ(stats.tp_drops, 3u);
}
CASE(ring_cuts_what_is_too_long) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Ring ring(fd, 4096, 2, 512);
    udp(std::string(1000, 'x').c_str());
    await_input(fd);
    EXPECT_EQ(ring.slot(0)->tp_len, 1042u);
    EXPECT_EQ(ring.slot(0)->tp_snaplen, 512u - 66);
}
// TPACKET_V3: blocks of frames.
struct Blocks {
    tpacket_req3 request{};
    char* memory;
    explicit Blocks(int fd, unsigned patience_ms, unsigned own = 0) {
        request = {.tp_block_size = 4096, .tp_block_nr = 2, .tp_frame_size = 2048, .tp_frame_nr = 4};
        request.tp_retire_blk_tov = patience_ms;
        request.tp_sizeof_priv = own;
        OK(set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V3));
        OK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
        memory = (char*)OK(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    }
    tpacket_block_desc* block(unsigned i) { return (tpacket_block_desc*)(memory + i * 4096); }
    uint32_t status(unsigned i) { return __atomic_load_n(&block(i)->hdr.bh1.block_status, __ATOMIC_ACQUIRE); }
    void release(unsigned i) { __atomic_store_n(&block(i)->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE); }
    tpacket3_hdr* first(unsigned i) { return (tpacket3_hdr*)((char*)block(i) + block(i)->hdr.bh1.offset_to_first_pkt); }
};
static const tpacket3_hdr* next(const tpacket3_hdr* frame) {
    return (const tpacket3_hdr*)((const char*)frame + frame->tp_next_offset);
}
CASE(blocks_come_after_a_while) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Blocks ring(fd, 20);
    EXPECT_EQ(ready(fd, POLLIN), 0);
    unsigned seen = 0;
    for (const char* text : {"one", "second", "the third"}) udp(text);
    for (unsigned i = 0; seen < 3; i++) {
        await_input(fd);
        tpacket_block_desc* block = ring.block(i % 2);
        EXPECT_EQ(ring.status(i % 2), TP_STATUS_USER | TP_STATUS_BLK_TMO);
        EXPECT_EQ(block->version, TPACKET_V3);
        EXPECT_EQ(block->offset_to_priv, 48u);
        EXPECT_EQ(block->hdr.bh1.offset_to_first_pkt, 48u);
        EXPECT_EQ(block->hdr.bh1.seq_num, i + 1);
        EXPECT(block->hdr.bh1.num_pkts > 0);
        const tpacket3_hdr* frame = ring.first(i % 2);
        for (unsigned n = 0; n < block->hdr.bh1.num_pkts; n++, frame = next(frame)) {
            std::string text = std::vector<std::string>{"one", "second", "the third"}[seen++];
            EXPECT_EQ(frame->tp_len, 42 + text.size());
            EXPECT_EQ(frame->tp_snaplen, 42 + text.size());
            EXPECT_EQ(frame->tp_net, 96);
            EXPECT_EQ(frame->tp_mac, 82);
            EXPECT_EQ(std::string((char*)frame + frame->tp_net + 28, text.size()), text);
            auto* from = (sockaddr_ll*)((char*)frame + TPACKET_ALIGN(sizeof(tpacket3_hdr)));
            EXPECT_EQ(from->sll_ifindex, lo());
            EXPECT_EQ(frame->tp_next_offset == 0, n + 1 == block->hdr.bh1.num_pkts);
        }
        ring.release(i % 2);
        if (seen == 3) EXPECT_EQ(ready(fd, POLLIN), 0);
    }
}
CASE(blocks_that_are_full_come_at_once) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Blocks ring(fd, 600'000, 13);
    std::string text(1000, 'x');
    for (int i = 0; i < 3; i++) udp(text.c_str());
    EXPECT_EQ(ready(fd, POLLIN), 0);
    udp(text.c_str());
    await_input(fd);
    EXPECT_EQ(ring.status(0), (uint32_t)TP_STATUS_USER);
    EXPECT_EQ(ring.block(0)->hdr.bh1.num_pkts, 3u);
    EXPECT_EQ(ring.block(0)->hdr.bh1.offset_to_first_pkt, 64u);
    EXPECT_EQ(ring.block(0)->hdr.bh1.blk_len, 64 + 3 * 1128u);
    EXPECT_EQ(ring.first(0)->tp_next_offset, 1128u);
    EXPECT_EQ(ring.status(1), (uint32_t)TP_STATUS_KERNEL);
    // The others fill the second block, and then there is none.
    for (int i = 0; i < 5; i++) udp(text.c_str());
    tpacket_stats_v3 stats{};
    socklen_t size = sizeof stats;
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
    EXPECT_EQ(size, sizeof stats);
    EXPECT_EQ(stats.tp_packets, 9u);
    EXPECT_EQ(stats.tp_drops, 3u);
    EXPECT_EQ(stats.tp_freeze_q_cnt, 1u);
    EXPECT_EQ(ring.block(1)->hdr.bh1.num_pkts, 3u);
    ring.release(0);
    for (int i = 0; i < 4; i++) udp(text.c_str());
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
    EXPECT_EQ(stats.tp_drops, 1u);
    EXPECT_EQ(ring.block(0)->hdr.bh1.num_pkts, 3u);
    EXPECT_EQ(ring.block(0)->hdr.bh1.seq_num, 3u);
}
CASE(blocks_cut_what_is_too_long) {
    own_network();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    Blocks ring(fd, 20);
    udp(std::string(9000, 'x').c_str());
    // It takes a whole block, and the one that was begun goes as it is.
    await_input(fd);
    EXPECT_EQ(ring.block(0)->hdr.bh1.num_pkts, 0u);
    ring.release(0);
    await_input(fd);
    EXPECT_EQ(ring.block(1)->hdr.bh1.num_pkts, 1u);
    EXPECT_EQ(ring.first(1)->tp_len, 9042u);
    EXPECT_EQ(ring.first(1)->tp_snaplen, 4096u - 48 - 82);
}
CASE(block_requests_that_are_refused) {
    own_network();
    int fd = packet();
    OK(set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V3));
    tpacket_req3 request{.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
    auto ring = [&](size_t size) { return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, size); };
    FAILS(ring(sizeof(tpacket_req)), EINVAL);
    request.tp_sizeof_priv = 4000;
    FAILS(ring(sizeof request), EINVAL);
    request.tp_sizeof_priv = UINT32_MAX;
    FAILS(ring(sizeof request), EINVAL);
    request.tp_sizeof_priv = 100;
    OK(ring(sizeof request));
    int version = TPACKET_V3;
    socklen_t size = sizeof version;
    OK(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &version, &size));
    EXPECT_EQ(version, sizeof(tpacket3_hdr));
}
CASE(ring_requests_that_are_refused) {
    own_network();
    int fd = packet();
    OK(set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2));
    FAILS(set(fd, SOL_PACKET, PACKET_VERSION, 17), EINVAL);
    auto ring = [&](unsigned block, unsigned blocks, unsigned frame, unsigned frames) {
        tpacket_req request{block, blocks, frame, frames};
        return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request);
    };
    FAILS(ring(4095, 1, 1024, 4), EINVAL);
    FAILS(ring(4096, 1, 1025, 3), EINVAL);
    FAILS(ring(4096, 1, 32, 128), EINVAL);
    FAILS(ring(4096, 1, 1024, 5), EINVAL);
    FAILS(ring(4096, 1, 8192, 1), EINVAL);
    FAILS(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
    OK(ring(4096, 1, 1024, 4));
    FAILS(ring(4096, 1, 1024, 4), EBUSY);
    FAILS(set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V1), EBUSY);
    FAILS(mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
    OK(ring(0, 0, 0, 0));
    int version = TPACKET_V2;
    socklen_t size = sizeof version;
    OK(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &version, &size));
    EXPECT_EQ(version, sizeof(tpacket2_hdr));
    version = 17;
    FAILS(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &version, &size), EINVAL);
}
