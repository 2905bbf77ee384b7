// /proc/net: counters that count, tables that tell, in a network namespace of the case's own.
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include <map>
#include <sstream>

#include "net.h"

static std::string file(const std::string& name) { return read_all(("/proc/self/net/" + name).c_str()); }

// The values of a line pair of /proc/net/snmp or netstat.
static std::map<std::string, long long> pair_of(const std::string& name, const std::string& title) {
    std::istringstream text(file(name));
    std::string line;
    std::map<std::string, long long> values;
    while (std::getline(text, line)) {
        if (line.rfind(title + ": ", 0) != 0) continue;
        std::string second;
        std::getline(text, second);
        std::istringstream names(line), numbers(second);
        std::string word;
        long long number;
        names >> word;
        numbers >> word;
        while (names >> word && numbers >> number) values[word] = number;
        return values;
    }
    fail(__FILE__, __LINE__, "no line " + title + " in " + name);
}
static long long snmp6(const std::string& wanted) {
    std::istringstream text(file("snmp6"));
    std::string name;
    long long value;
    while (text >> name >> value)
        if (name == wanted) return value;
    fail(__FILE__, __LINE__, "no " + wanted);
}
// bytes, packets in; bytes, packets out
static std::vector<long long> loopback() {
    std::istringstream text(file("dev"));
    std::string line;
    while (std::getline(text, line)) {
        size_t colon = line.find(':');
        if (colon == line.npos || line.find("lo") > colon) continue;
        std::istringstream numbers(line.substr(colon + 1));
        std::vector<long long> all(16);
        for (auto& number : all) numbers >> number;
        return {all[0], all[1], all[8], all[9]};
    }
    fail(__FILE__, __LINE__, "no lo");
}
static void udp(const char* address, int port, const std::string& text = "x") {
    int fd = bound_to(SOCK_DGRAM, address);
    OK(send_to(fd, text, address, port));
    close(fd);
}
static void fill(int fd, size_t size) {
    std::string text(size, 'x');
    for (size_t done = 0; done < size;) done += OK(write(fd, text.data() + done, size - done));
}
static void drain(int fd, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t got = OK(read(fd, scratch(), 1 << 20));
        EXPECT(got > 0);
        done += got;
    }
}

CASE(snmp_counts_datagrams) {
    own_network();
    int server = bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    auto before = pair_of("snmp", "Udp"), ip = pair_of("snmp", "Ip");
    for (int i = 0; i < 5; i++) udp("127.0.0.1", 4000);
    udp("127.0.0.1", 4001);
    for (int i = 0; i < 5; i++) receive(server);
    auto after = pair_of("snmp", "Udp");
    EXPECT_EQ(after["OutDatagrams"] - before["OutDatagrams"], 6);
    EXPECT_EQ(after["InDatagrams"] - before["InDatagrams"], 5);
    EXPECT_EQ(after["NoPorts"] - before["NoPorts"], 1);
    EXPECT(pair_of("snmp", "Ip")["OutRequests"] - ip["OutRequests"] >= 6);
    EXPECT(pair_of("snmp", "Ip")["InReceives"] - ip["InReceives"] >= 6);
    EXPECT_EQ(pair_of("snmp", "Icmp")["OutDestUnreachs"], 1);
    EXPECT_EQ(pair_of("snmp", "Icmp")["InDestUnreachs"], 1);
}
CASE(snmp_counts_full_queues) {
    own_network();
    int server = bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    OK(set(server, SOL_SOCKET, SO_RCVBUF, 1));
    for (int i = 0; i < 20; i++) udp("127.0.0.1", 4000, std::string(1000, 'x'));
    EXPECT(pair_of("snmp", "Udp")["RcvbufErrors"] > 10);
    EXPECT(pair_of("snmp", "Udp")["InErrors"] > 10);
}
CASE(snmp6_counts_datagrams) {
    own_network();
    int server = bound_to(SOCK_DGRAM, "::1", 4000);
    long long out = snmp6("Udp6OutDatagrams"), in = snmp6("Udp6InDatagrams");
    for (int i = 0; i < 4; i++) udp("::1", 4000);
    for (int i = 0; i < 4; i++) receive(server);
    EXPECT_EQ(snmp6("Udp6OutDatagrams") - out, 4);
    EXPECT_EQ(snmp6("Udp6InDatagrams") - in, 4);
    EXPECT(snmp6("Ip6OutRequests") >= 4);
    udp("::1", 4001);
    EXPECT_EQ(snmp6("Udp6NoPorts"), 1);
}
CASE(snmp_counts_connections) {
    own_network();
    auto before = pair_of("snmp", "Tcp");
    TcpPair one, two;
    auto open = pair_of("snmp", "Tcp");
    EXPECT_EQ(open["ActiveOpens"] - before["ActiveOpens"], 2);
    EXPECT_EQ(open["PassiveOpens"] - before["PassiveOpens"], 2);
    EXPECT_EQ(open["CurrEstab"], 4);
    EXPECT_EQ(open["MaxConn"], -1);
    FAILS(connect_to(OK(socket(AF_INET, SOCK_STREAM, 0)), "127.0.0.1", 1), ECONNREFUSED);
    EXPECT_EQ(pair_of("snmp", "Tcp")["AttemptFails"] - before["AttemptFails"], 1);
    for (int i = 0; i < 10; i++) {
        fill(one.client, 100);
        drain(one.server, 100);
    }
    auto after = pair_of("snmp", "Tcp");
    EXPECT(after["OutSegs"] - open["OutSegs"] >= 10);
    EXPECT(after["InSegs"] - open["InSegs"] >= 10);
    close(one.client);
    close(one.server);
    EXPECT_EQ(pair_of("snmp", "Tcp")["CurrEstab"], 2);
}
CASE(snmp_counts_echos) {
    own_network();
    int fd = OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    unsigned char echo[8] = {8, 0, 0xf7, 0xff};
    Endpoint to("127.0.0.1", 0);
    OK(sendto(fd, echo, sizeof echo, 0, to.get(), to.size));
    receive(fd);
    receive(fd);
    auto icmp = pair_of("snmp", "Icmp");
    EXPECT_EQ(icmp["InEchos"], 1);
    EXPECT_EQ(icmp["OutEchoReps"], 1);
    EXPECT_EQ(icmp["InMsgs"], 2);
    EXPECT_EQ(icmp["OutMsgs"], 2);
}
CASE(netstat_has_its_lines) {
    own_network();
    EXPECT(pair_of("netstat", "TcpExt").count("TCPTimeouts"));
    EXPECT(pair_of("netstat", "IpExt").count("InOctets"));
}
CASE(loopback_counts_datagrams) {
    own_network();
    bound_to(SOCK_DGRAM, "127.0.0.1", 4000);
    auto before = loopback();
    for (int i = 0; i < 3; i++) udp("127.0.0.1", 4000, std::string(100, 'x'));
    auto after = loopback();
    EXPECT_EQ(after[1] - before[1], 3);
    EXPECT_EQ(after[3] - before[3], 3);
    EXPECT_EQ(after[0] - before[0], 3 * (20 + 8 + 100));
    EXPECT_EQ(after[2] - before[2], 3 * (20 + 8 + 100));
}
CASE(loopback_counts_streams) {
    own_network();
    TcpPair pair;
    auto before = loopback();
    fill(pair.client, 100000);
    drain(pair.server, 100000);
    auto open = loopback();
    EXPECT(open[0] - before[0] >= 100000 && open[0] - before[0] < 150000);
    EXPECT(open[1] > before[1]);
    EXPECT_EQ(open[0], open[2]);
    EXPECT_EQ(open[1], open[3]);
    fill(pair.server, 50000);
    drain(pair.client, 50000);
    close(pair.client);
    close(pair.server);
    close(pair.listener);
    // What a connection that is gone has moved stays counted.
    auto closed = loopback();
    EXPECT(closed[0] - open[0] >= 50000 && closed[0] - open[0] < 80000);
}
CASE(protocols) {
    own_network();
    int fds[] = {OK(socket(AF_INET, SOCK_STREAM, 0)), OK(socket(AF_INET6, SOCK_DGRAM, 0)),
                 OK(socket(AF_PACKET, SOCK_RAW, 0))};
    static_cast<void>(fds);
    std::string text = file("protocols");
    for (const char* name : {"TCP ", "TCPv6 ", "UDP ", "UDPv6 ", "RAW ", "UNIX ", "NETLINK ", "PACKET ", "PINGv6 "})
        EXPECT(text.find(std::string("\n") + name) != text.npos);
}
CASE(fib_trie_has_local_addresses) {
    own_network();
    std::string text = file("fib_trie");
    EXPECT(text.find("|-- 127.0.0.1\n") != text.npos);
    EXPECT(text.find("/32 host LOCAL") != text.npos);
    EXPECT(text.find("/8 host LOCAL") != text.npos);
    EXPECT(file("fib_triestat").rfind("Basic info: size of leaf:", 0) == 0);
}
CASE(igmp6_lists_groups) {
    own_network();
    std::string text = file("igmp6");
    EXPECT(text.find("ff020000000000000000000000000001") != text.npos);
    EXPECT(text.find("ff0200000000000000000000000000aa") == text.npos);
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    ipv6_mreq group{};
    inet_pton(AF_INET6, "ff02::aa", &group.ipv6mr_multiaddr);
    group.ipv6mr_interface = if_nametoindex("lo");
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &group, sizeof group));
    EXPECT(file("igmp6").find("ff0200000000000000000000000000aa     1 00000004") != text.npos);
}
CASE(time_wait_is_shown) {
    own_network();
    TcpPair pair;
    int port = local_of(pair.client).port();
    close(pair.client);
    EXPECT_EQ(receive(pair.server), "");
    close(pair.server);
    char line[64];
    snprintf(line, sizeof line, "0100007F:%04X 0100007F:%04X 06 ", port, local_of(pair.listener).port());
    std::string text = file("tcp");
    EXPECT(text.find(line) != text.npos);
    EXPECT(file("sockstat").find(" tw 1 ") != text.npos);
}
CASE(packet_sockets_are_listed) {
    own_network();
    int fd = OK(socket(AF_PACKET, SOCK_DGRAM, htons(0x0806)));
    struct stat info;
    OK(fstat(fd, &info));
    std::string text = file("packet"), inode = std::to_string(info.st_ino);
    EXPECT(text.find(" 0806 ") != text.npos);
    EXPECT(text.find(" " + inode) != text.npos);
}
CASE(settings_that_programs_read) {
    for (const char* name :
         {"core/somaxconn", "core/rmem_max", "ipv4/tcp_rmem", "ipv4/tcp_mem", "ipv4/ip_local_port_range",
          "ipv4/tcp_notsent_lowat", "ipv4/ip_no_pmtu_disc", "ipv6/conf/all/disable_ipv6"})
        EXPECT(!read_all((std::string("/proc/sys/net/") + name).c_str()).empty());
}
