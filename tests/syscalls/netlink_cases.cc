// Netlink: sockets of the family; links, addresses, routes, neighbours, rules and notices of their changes.
#include <ifaddrs.h>

#include "netlink.h"

static ifaddrmsg address_header(int family, int prefix, int link = 1) {
    return {(unsigned char)family, (unsigned char)prefix, 0, 0, (unsigned)link};
}
static Message new_address(const char* address, int prefix, int flags = NLM_F_CREATE | NLM_F_EXCL) {
    return Message(RTM_NEWADDR, flags, address_header(family_of(address), prefix)).address(IFA_LOCAL, address);
}
static Message delete_address(const char* address, int prefix) {
    return Message(RTM_DELADDR, 0, address_header(family_of(address), prefix)).address(IFA_LOCAL, address);
}
static rtmsg route_header(int family, int prefix, int type = RTN_UNICAST) {
    rtmsg header{};
    header.rtm_family = family;
    header.rtm_dst_len = prefix;
    header.rtm_table = RT_TABLE_MAIN;
    header.rtm_protocol = RTPROT_STATIC;
    header.rtm_scope = RT_SCOPE_LINK;
    header.rtm_type = type;
    return header;
}
static Message new_route(const char* to, int prefix, int flags = NLM_F_CREATE | NLM_F_EXCL) {
    return Message(RTM_NEWROUTE, flags, route_header(family_of(to), prefix)).address(RTA_DST, to).number(RTA_OIF, 1);
}
static std::vector<std::string> address_list(int family = AF_UNSPEC) {
    std::vector<std::string> list;
    for (auto& one : Netlink().dump(Message(RTM_GETADDR, NLM_F_DUMP, address_header(family, 0, 0)))) {
        auto header = one.as<ifaddrmsg>();
        list.push_back(address_in(one.attributes(sizeof header)[IFA_ADDRESS]) + "/" +
                       std::to_string(header.ifa_prefixlen));
    }
    return list;
}
static std::string joined(const std::vector<std::string>& list) {
    std::string text;
    for (auto& one : list) text += one + " ";
    return text;
}
static std::string routes(int family, int table) {
    std::string text;
    for (auto& one : Netlink().dump(Message(RTM_GETROUTE, NLM_F_DUMP, route_header(family, 0)))) {
        auto header = one.as<rtmsg>();
        auto attributes = one.attributes(sizeof header);
        if ((int)number_in(attributes[RTA_TABLE]) != table) continue;
        text += std::to_string(header.rtm_type) + ":" +
                (header.rtm_dst_len ? address_in(attributes[RTA_DST]) : std::string("default")) + "/" +
                std::to_string(header.rtm_dst_len) + " ";
    }
    return text;
}

// ---- sockets

CASE(kinds_of_sockets) {
    close(OK(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE)));
    FAILS(socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE), ESOCKTNOSUPPORT);
    FAILS(socket(AF_NETLINK, SOCK_RAW, 77), EPROTONOSUPPORT);
    FAILS(socket(AF_NETLINK, SOCK_RAW, -1), EPROTONOSUPPORT);
    int fd = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_DOMAIN), AF_NETLINK);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_TYPE), SOCK_RAW);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_PROTOCOL), NETLINK_ROUTE);
    FAILS(listen(fd, 1), EOPNOTSUPP);
    FAILS(accept(fd, nullptr, nullptr), EOPNOTSUPP);
    FAILS(shutdown(fd, SHUT_RD), EOPNOTSUPP);
}
CASE(ports) {
    own_network();
    int fd = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    sockaddr_nl address{};
    socklen_t size = sizeof address;
    OK(getsockname(fd, (sockaddr*)&address, &size));
    EXPECT_EQ(size, sizeof address);
    EXPECT_EQ(address.nl_pid, 0);
    address = {};
    address.nl_family = AF_NETLINK;
    OK(bind(fd, (sockaddr*)&address, sizeof address));
    size = sizeof address;
    OK(getsockname(fd, (sockaddr*)&address, &size));
    EXPECT_EQ(address.nl_pid, getpid());
    // The second of a process gets another.
    Netlink other;
    OK(getsockname(other.fd, (sockaddr*)&address, &size));
    EXPECT(address.nl_pid != (unsigned)getpid() && address.nl_pid != 0);
    int third = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    address.nl_pid = getpid();
    FAILS(bind(third, (sockaddr*)&address, sizeof address), EADDRINUSE);
    address.nl_pid = 4711;
    OK(bind(third, (sockaddr*)&address, sizeof address));
    address.nl_pid = 4712;
    FAILS(bind(third, (sockaddr*)&address, sizeof address), EINVAL);
    close(third);
    // A port is free again.
    third = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    address.nl_pid = 4711;
    OK(bind(third, (sockaddr*)&address, sizeof address));
}
CASE(bind_errors) {
    int fd = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    sockaddr_nl address{};
    FAILS(bind(fd, (sockaddr*)&address, sizeof address), EINVAL);
    address.nl_family = AF_NETLINK;
    FAILS(bind(fd, (sockaddr*)&address, 8), EINVAL);
}
CASE(peer_name) {
    own_network();
    Netlink one;
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_pid = 54321;
    OK(connect(one.fd, (sockaddr*)&address, sizeof address));
    socklen_t size = sizeof address;
    address = {};
    OK(getpeername(one.fd, (sockaddr*)&address, &size));
    EXPECT_EQ(address.nl_pid, 54321);
    FAILS(send(one.fd, "0123456789abcdef", 16, 0), ECONNREFUSED);
}
CASE(between_sockets) {
    own_network();
    Netlink one, two;
    sockaddr_nl address{};
    socklen_t size = sizeof address;
    OK(getsockname(two.fd, (sockaddr*)&address, &size));
    EXPECT_EQ(sendto(one.fd, "to you", 6, 0, (sockaddr*)&address, sizeof address), 6);
    sockaddr_nl from{};
    size = sizeof from;
    char text[16];
    EXPECT_EQ(recvfrom(two.fd, text, sizeof text, 0, (sockaddr*)&from, &size), 6);
    sockaddr_nl mine{};
    OK(getsockname(one.fd, (sockaddr*)&mine, &size));
    EXPECT_EQ(from.nl_pid, mine.nl_pid);
    EXPECT_EQ(from.nl_groups, 0);
}
CASE(truncation) {
    Netlink route;
    ifinfomsg link{};
    link.ifi_index = 1;
    route.post(Message(RTM_GETLINK, 0, link));
    EXPECT(recv(route.fd, scratch(), 10, MSG_PEEK | MSG_TRUNC) > 100);
    EXPECT_EQ(recv(route.fd, scratch(), 10, MSG_PEEK), 10);
    Received got = receive_message(route.fd, 0, 16);
    EXPECT_EQ(got.text.size(), 16);
    EXPECT(got.flags & MSG_TRUNC);
    FAILS(recv(route.fd, scratch(), 10, MSG_DONTWAIT), EAGAIN);
}
CASE(send_errors) {
    Netlink route;
    FAILS(send(route.fd, scratch(), 16, MSG_OOB), EOPNOTSUPP);
    FAILS(send(route.fd, scratch(), 1 << 20, 0), EMSGSIZE);
    FAILS(send(route.fd, bad(), 32, 0), EFAULT);
    // Too short for a header, or a wrong length: ignored.
    EXPECT_EQ(send(route.fd, "1234", 4, 0), 4);
    Message wrong(RTM_GETLINK, NLM_F_ACK, ifinfomsg{});
    ((nlmsghdr*)wrong.bytes.data())->nlmsg_len = 5000;
    route.post(wrong);
    FAILS(recv(route.fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(options) {
    own_network();
    Netlink route;
    for (int option : {NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_CAP_ACK, NETLINK_EXT_ACK,
                       NETLINK_GET_STRICT_CHK}) {
        EXPECT_EQ(get(route.fd, SOL_NETLINK, option), 0);
        OK(route.set(option, 1));
        EXPECT_EQ(get(route.fd, SOL_NETLINK, option), 1);
        OK(route.set(option, 0));
        EXPECT_EQ(get(route.fd, SOL_NETLINK, option), 0);
    }
    FAILS(route.set(77, 1), ENOPROTOOPT);
    FAILS(route.set(NETLINK_ADD_MEMBERSHIP, 0), EINVAL);
    FAILS(route.set(NETLINK_ADD_MEMBERSHIP, 4000), EINVAL);
    OK(route.set(NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK));
    OK(route.set(NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV6_ROUTE));
    sockaddr_nl address{};
    socklen_t size = sizeof address;
    OK(getsockname(route.fd, (sockaddr*)&address, &size));
    EXPECT_EQ(address.nl_groups, 1u << (RTNLGRP_LINK - 1) | 1u << (RTNLGRP_IPV6_ROUTE - 1));
    OK(route.set(NETLINK_DROP_MEMBERSHIP, RTNLGRP_LINK));
    OK(getsockname(route.fd, (sockaddr*)&address, &size));
    EXPECT_EQ(address.nl_groups, 1u << (RTNLGRP_IPV6_ROUTE - 1));
}
CASE(acknowledgement) {
    Netlink route;
    Message message(RTM_GETLINK, NLM_F_ACK, ifinfomsg{}, 99);
    Answer answer = route.ask(message);  // no index, no name
    EXPECT_EQ(answer.header.nlmsg_type, NLMSG_ERROR);
    EXPECT_EQ(answer.error(), EINVAL);
    EXPECT_EQ(answer.header.nlmsg_seq, 99);
    EXPECT_EQ(answer.header.nlmsg_len, NLMSG_HDRLEN + 4 + message.bytes.size());
    auto inner = answer.as<nlmsgerr>();
    EXPECT_EQ(inner.msg.nlmsg_type, RTM_GETLINK);
    EXPECT_EQ(inner.msg.nlmsg_len, message.bytes.size());
    OK(route.set(NETLINK_CAP_ACK, 1));
    EXPECT_EQ(route.ask(message).header.nlmsg_len, NLMSG_HDRLEN + sizeof(nlmsgerr));
    // A no-operation is acknowledged too.
    Message nothing(NLMSG_NOOP, NLM_F_ACK, ifinfomsg{});
    answer = route.ask(nothing);
    EXPECT_EQ(answer.error(), 0);
}
CASE(extended_acknowledgement) {
    own_network();
    Netlink route;
    OK(route.set(NETLINK_EXT_ACK, 1));
    OK(route.set(NETLINK_CAP_ACK, 1));
    Answer answer = route.ask(new_address("127.0.0.1", 8));
    EXPECT_EQ(answer.error(), EEXIST);
    EXPECT(answer.header.nlmsg_flags & NLM_F_ACK_TLVS);
    EXPECT_EQ(std::string(answer.attributes(sizeof(nlmsgerr))[NLMSGERR_ATTR_MSG].c_str()),
              "ipv4: Address already assigned");
}
CASE(several_in_one_message) {
    Netlink route;
    ifinfomsg link{};
    link.ifi_index = 1;
    Message first(RTM_GETLINK, 0, link, 1), second(RTM_GETLINK, 0, link, 2);
    first.bytes.insert(first.bytes.end(), second.bytes.begin(), second.bytes.end());
    EXPECT_EQ(send(route.fd, first.bytes.data(), first.bytes.size(), 0), first.bytes.size());
    EXPECT_EQ(route.receive()[0].header.nlmsg_seq, 1);
    EXPECT_EQ(route.receive()[0].header.nlmsg_seq, 2);
}
CASE(unknown_requests) {
    Netlink route;
    EXPECT_EQ(route.change(Message(RTM_MAX + 50, 0, ifinfomsg{})), EOPNOTSUPP);
    EXPECT_EQ(route.change(Message(RTM_GETNEIGH, 0, ndmsg{})), EINVAL);
    EXPECT_EQ(Netlink(NETLINK_SOCK_DIAG).change(Message(5555, 0, ifinfomsg{})), EINVAL);
}
CASE(changes_need_the_capability) {
    own_network();
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        Netlink route;
        EXPECT_EQ(route.change(new_address("10.9.9.9", 24)), EPERM);
        EXPECT_EQ(route.change(new_route("10.1.0.0", 16)), EPERM);
        ifinfomsg link{};
        link.ifi_index = 1;
        EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, link)), EPERM);
        EXPECT_EQ(joined(address_list(AF_INET)), "127.0.0.1/8 ");
        sockaddr_nl to{};
        to.nl_family = AF_NETLINK;
        to.nl_groups = 1;
        FAILS(sendto(route.fd, scratch(), 16, 0, (sockaddr*)&to, sizeof to), EPERM);
        int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
        ifreq request{};
        strcpy(request.ifr_name, "lo");
        FAILS(ioctl(fd, SIOCSIFFLAGS, &request), EPERM);
        FAILS(ioctl(fd, SIOCSIFMTU, &request), EPERM);
    });
}
CASE(overrun) {
    own_network();
    Netlink listener(NETLINK_ROUTE, 1u << (RTNLGRP_IPV4_ROUTE - 1)), route;
    OK(set(listener.fd, SOL_SOCKET, SO_RCVBUF, 1));
    for (int i = 0; i < 50; i++)
        EXPECT_EQ(route.change(new_route(("10.8." + std::to_string(i) + ".0").c_str(), 24)), 0);
    FAILS(recv(listener.fd, scratch(), 4096, MSG_DONTWAIT), ENOBUFS);
    EXPECT(recv(listener.fd, scratch(), 4096, MSG_DONTWAIT) > 0);
}

// ---- links

CASE(links) {
    own_network();
    auto links = Netlink().dump(Message(RTM_GETLINK, NLM_F_DUMP, ifinfomsg{}));
    bool found = false;
    for (auto& one : links) {
        auto header = one.as<ifinfomsg>();
        if (header.ifi_index != 1) continue;
        found = true;
        EXPECT_EQ(one.header.nlmsg_type, RTM_NEWLINK);
        EXPECT_EQ(header.ifi_type, 772);
        EXPECT_EQ(header.ifi_flags, IFF_UP | IFF_LOOPBACK | IFF_RUNNING | 1 << 16);
        auto attributes = one.attributes(sizeof header);
        EXPECT_EQ(std::string(attributes[IFLA_IFNAME].c_str()), "lo");
        EXPECT_EQ(number_in(attributes[IFLA_MTU]), 65536);
        EXPECT_EQ(number_in(attributes[IFLA_TXQLEN]), 1000);
        EXPECT_EQ(std::string(attributes[IFLA_QDISC].c_str()), "noqueue");
        EXPECT_EQ(attributes[IFLA_ADDRESS].size(), 6);
        EXPECT_EQ(attributes[IFLA_STATS].size(), sizeof(rtnl_link_stats));
        EXPECT(attributes[IFLA_STATS64].size() >= 192);
        EXPECT_EQ(attributes[IFLA_OPERSTATE][0], 0);
    }
    EXPECT(found);
}
CASE(link_by_name) {
    Netlink route;
    Answer answer = route.ask(Message(RTM_GETLINK, 0, ifinfomsg{}).text(IFLA_IFNAME, "lo"));
    EXPECT_EQ(answer.as<ifinfomsg>().ifi_index, 1);
    EXPECT_EQ(route.change(Message(RTM_GETLINK, 0, ifinfomsg{}).text(IFLA_IFNAME, "nosuch")), ENODEV);
    ifinfomsg header{};
    header.ifi_index = 4000;
    EXPECT_EQ(route.change(Message(RTM_GETLINK, 0, header)), ENODEV);
    header.ifi_index = -1;
    EXPECT_EQ(route.change(Message(RTM_GETLINK, 0, header)), EINVAL);
}
CASE(link_changes) {
    own_network();
    Netlink route;
    ifinfomsg link{};
    link.ifi_index = 1;
    EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, link).number(IFLA_MTU, 1400)), 0);
    EXPECT_EQ(route.change(Message(RTM_NEWLINK, 0, link).text(IFLA_IFALIAS, "alias")), 0);
    EXPECT_EQ(route.change(Message(RTM_NEWLINK, 0, link).number(IFLA_TXQLEN, 5)), 0);
    auto attributes = route.ask(Message(RTM_GETLINK, 0, link)).attributes(sizeof link);
    EXPECT_EQ(number_in(attributes[IFLA_MTU]), 1400);
    EXPECT_EQ(number_in(attributes[IFLA_TXQLEN]), 5);
    EXPECT_EQ(std::string(attributes[IFLA_IFALIAS].c_str()).substr(0, 5), "alias");
    EXPECT_EQ(route.change(Message(RTM_DELLINK, 0, link)), EOPNOTSUPP);
    EXPECT_EQ(route.change(Message(RTM_NEWLINK, NLM_F_EXCL | NLM_F_CREATE, link)), EEXIST);
    EXPECT_EQ(route.change(Message(RTM_NEWLINK, 0, ifinfomsg{})), ENODEV);
    EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, ifinfomsg{})), EINVAL);
    EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, ifinfomsg{}).text(IFLA_IFNAME, "nosuch")), ENODEV);
}
CASE(link_down_and_up) {
    own_network();
    Netlink route;
    ifinfomsg link{};
    link.ifi_index = 1;
    link.ifi_change = IFF_UP;
    EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, link)), 0);
    auto header = route.ask(Message(RTM_GETLINK, 0, link)).as<ifinfomsg>();
    EXPECT_EQ(header.ifi_flags, IFF_LOOPBACK);
    EXPECT_EQ(joined(address_list()), "127.0.0.1/8 ");
    link.ifi_flags = IFF_UP;
    EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, link)), 0);
    EXPECT_EQ(joined(address_list()), "127.0.0.1/8 ::1/128 ");
}
CASE(new_namespace_is_bare) {
    own_network(false);
    EXPECT_EQ(joined(address_list()), "");
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    FAILS(connect_to(fd, "127.0.0.1", 9), ENETUNREACH);
    FAILS(send_to(fd, "x", "127.0.0.1", 9), ENETUNREACH);
    int tcp = OK(socket(AF_INET, SOCK_STREAM, 0));
    FAILS(connect_to(tcp, "127.0.0.1", 9), ENETUNREACH);
}

// ---- addresses

CASE(addresses) {
    own_network();
    EXPECT_EQ(joined(address_list()), "127.0.0.1/8 ::1/128 ");
    EXPECT_EQ(joined(address_list(AF_INET)), "127.0.0.1/8 ");
    EXPECT_EQ(joined(address_list(AF_INET6)), "::1/128 ");
    auto four = Netlink().dump(Message(RTM_GETADDR, NLM_F_DUMP, address_header(AF_INET, 0, 0)))[0];
    auto header = four.as<ifaddrmsg>();
    EXPECT_EQ(header.ifa_scope, RT_SCOPE_HOST);
    EXPECT_EQ(header.ifa_flags, IFA_F_PERMANENT);
    EXPECT_EQ(header.ifa_index, 1);
    auto attributes = four.attributes(sizeof header);
    EXPECT_EQ(address_in(attributes[IFA_LOCAL]), "127.0.0.1");
    EXPECT_EQ(std::string(attributes[IFA_LABEL].c_str()), "lo");
    EXPECT_EQ(attributes[IFA_CACHEINFO].size(), sizeof(ifa_cacheinfo));
    EXPECT_EQ(number_in(attributes[IFA_FLAGS]), IFA_F_PERMANENT);
}
CASE(address_changes) {
    own_network();
    Netlink route;
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24)), 0);
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24)), EEXIST);
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24, NLM_F_CREATE | NLM_F_REPLACE)), 0);
    EXPECT_EQ(route.change(new_address("10.1.1.2", 24)), 0);
    EXPECT_EQ(route.change(new_address("fd00::5", 64)), 0);
    EXPECT_EQ(route.change(new_address("fd00::5", 64)), EEXIST);
    EXPECT_EQ(joined(address_list()), "127.0.0.1/8 10.1.1.1/24 10.1.1.2/24 fd00::5/64 ::1/128 ");
    int fd = bound_to(SOCK_DGRAM, "10.1.1.2");
    EXPECT_EQ(send_to(fd, "x", "10.1.1.1", 9), 1);
    // An IPv6 address takes a moment to be settled.
    Endpoint six("fd00::5", 0);
    int bound = -1;
    for (int i = 0; i < 500 && bound != 0; i++) {
        int attempt = OK(socket(AF_INET6, SOCK_STREAM, 0));
        bound = bind(attempt, six.get(), six.size);
        close(attempt);
        if (bound != 0) sleep_ms(10);
    }
    EXPECT_EQ(bound, 0);
    EXPECT_EQ(route.change(delete_address("10.1.1.1", 24)), 0);  // its secondary goes along
    EXPECT_EQ(route.change(delete_address("10.1.1.1", 24)), EADDRNOTAVAIL);
    EXPECT_EQ(route.change(delete_address("fd00::5", 64)), 0);
    EXPECT_EQ(route.change(delete_address("fd00::5", 64)), EADDRNOTAVAIL);
    EXPECT_EQ(joined(address_list()), "127.0.0.1/8 ::1/128 ");
    Endpoint gone("10.1.1.1", 0);
    int other = OK(socket(AF_INET, SOCK_DGRAM, 0));
    FAILS(bind(other, gone.get(), gone.size), EADDRNOTAVAIL);
}
CASE(address_errors) {
    own_network();
    Netlink route;
    EXPECT_EQ(route.change(new_address("10.1.1.1", 33)), EINVAL);
    EXPECT_EQ(route.change(Message(RTM_NEWADDR, NLM_F_CREATE, address_header(AF_INET, 24))), EINVAL);
    EXPECT_EQ(route.change(
                  Message(RTM_NEWADDR, NLM_F_CREATE, address_header(AF_INET, 24, 99)).address(IFA_LOCAL, "10.1.1.1")),
              ENODEV);
    EXPECT_EQ(route.change(Message(RTM_DELADDR, 0, address_header(AF_INET, 24, 99)).address(IFA_LOCAL, "10.1.1.1")),
              ENODEV);
    EXPECT_EQ(
        route.change(Message(RTM_NEWADDR, NLM_F_CREATE, address_header(AF_INET, 24)).attribute(IFA_LOCAL, "ab", 2)),
        ERANGE);
}
CASE(strict_address_dump) {
    own_network();
    Netlink route;
    OK(route.set(NETLINK_GET_STRICT_CHK, 1));
    auto list = route.dump(Message(RTM_GETADDR, NLM_F_DUMP, address_header(AF_INET, 0, 1)));
    EXPECT_EQ(list.size(), 1);
    EXPECT(list[0].header.nlmsg_flags & NLM_F_DUMP_FILTERED);
    int error = 0;
    route.dump(Message(RTM_GETADDR, NLM_F_DUMP, address_header(AF_INET, 8, 1)), &error);
    EXPECT_EQ(error, EINVAL);
    route.dump(Message(RTM_GETADDR, NLM_F_DUMP, address_header(AF_INET, 0, 99)), &error);
    EXPECT_EQ(error, ENODEV);
}
CASE(getifaddrs_and_names) {
    own_network();
    ifaddrs* list = nullptr;
    OK(getifaddrs(&list));
    std::string text;
    for (ifaddrs* one = list; one; one = one->ifa_next) {
        if (!one->ifa_addr || std::string(one->ifa_name) != "lo") continue;
        text += std::to_string(one->ifa_addr->sa_family) + " ";
    }
    EXPECT_EQ(text, "17 2 10 ");
    EXPECT_EQ(if_nametoindex("lo"), 1);
    char name[IF_NAMESIZE];
    EXPECT_EQ(std::string(if_indextoname(1, name)), "lo");
    struct if_nameindex* names = if_nameindex();
    EXPECT(names != nullptr && names[0].if_index == 1 && std::string(names[0].if_name) == "lo");
}

// ---- routes

CASE(local_routes) {
    own_network();
    EXPECT_EQ(routes(AF_INET, RT_TABLE_LOCAL), "2:127.0.0.0/8 2:127.0.0.1/32 3:127.255.255.255/32 ");
    EXPECT_EQ(routes(AF_INET, RT_TABLE_MAIN), "");
    EXPECT_EQ(routes(AF_INET6, RT_TABLE_LOCAL), "2:::1/128 ");
}
CASE(route_changes) {
    own_network();
    Netlink route;
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24)), 0);
    EXPECT_EQ(routes(AF_INET, RT_TABLE_LOCAL),
              "2:10.1.1.0/24 2:10.1.1.1/32 3:10.1.1.255/32 2:127.0.0.0/8 2:127.0.0.1/32 3:127.255.255.255/32 ");
    EXPECT_EQ(route.change(new_route("10.5.0.0", 16)), 0);
    EXPECT_EQ(route.change(new_route("10.5.0.0", 16)), EEXIST);
    EXPECT_EQ(route.change(new_route("10.5.0.0", 16, NLM_F_REPLACE)), 0);
    EXPECT_EQ(route.change(new_route("10.6.0.0", 16, NLM_F_REPLACE)), ENOENT);
    EXPECT_EQ(route.change(new_route("10.5.0.1", 16)), EINVAL);
    EXPECT_EQ(routes(AF_INET, RT_TABLE_MAIN), "1:10.5.0.0/16 ");
    EXPECT_EQ(route.change(Message(RTM_DELROUTE, 0, route_header(AF_INET, 16)).address(RTA_DST, "10.5.0.0")), 0);
    EXPECT_EQ(route.change(Message(RTM_DELROUTE, 0, route_header(AF_INET, 16)).address(RTA_DST, "10.5.0.0")), ESRCH);
    EXPECT_EQ(route.change(new_route("fd05::", 64)), 0);
    EXPECT_EQ(routes(AF_INET6, RT_TABLE_MAIN), "1:fd05::/64 ");
}
CASE(route_errors) {
    own_network();
    Netlink route;
    EXPECT_EQ(route.change(Message(RTM_NEWROUTE, NLM_F_CREATE, route_header(AF_INET, 16)).address(RTA_DST, "10.5.0.0")),
              ENODEV);
    EXPECT_EQ(route.change(Message(RTM_NEWROUTE, NLM_F_CREATE, route_header(AF_INET, 16))
                               .address(RTA_DST, "10.5.0.0")
                               .number(RTA_OIF, 99)),
              ENODEV);
    EXPECT_EQ(route.change(Message(RTM_NEWROUTE, NLM_F_CREATE, route_header(AF_INET, 40)).number(RTA_OIF, 1)), EINVAL);
    rtmsg universe = route_header(AF_INET, 16);
    universe.rtm_scope = RT_SCOPE_UNIVERSE;
    EXPECT_EQ(
        route.change(
            Message(RTM_NEWROUTE, NLM_F_CREATE, universe).address(RTA_DST, "10.5.0.0").address(RTA_GATEWAY, "9.9.9.9")),
        ENETUNREACH);
}
CASE(refusing_routes) {
    own_network();
    Netlink route;
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct {
        int type, error;
        const char* to;
    } kinds[] = {{RTN_BLACKHOLE, EINVAL, "5.5.5.1"},
                 {RTN_UNREACHABLE, EHOSTUNREACH, "5.5.5.2"},
                 {RTN_PROHIBIT, EACCES, "5.5.5.3"}};
    for (auto& kind : kinds) {
        EXPECT_EQ(
            route.change(
                Message(RTM_NEWROUTE, NLM_F_CREATE, route_header(AF_INET, 32, kind.type)).address(RTA_DST, kind.to)),
            0);
        EXPECT_EQ(route.change(Message(RTM_GETROUTE, 0, route_header(AF_INET, 32)).address(RTA_DST, kind.to)),
                  kind.error);
        FAILS(send_to(fd, "x", kind.to, 9), kind.error);
        FAILS(connect_to(fd, kind.to, 9), kind.error);
    }
}
CASE(which_way) {
    own_network();
    Netlink route;
    Answer answer = route.ask(Message(RTM_GETROUTE, 0, route_header(AF_INET, 32)).address(RTA_DST, "127.5.6.7"));
    auto header = answer.as<rtmsg>();
    EXPECT_EQ(answer.header.nlmsg_type, RTM_NEWROUTE);
    EXPECT_EQ(header.rtm_type, RTN_LOCAL);
    EXPECT(header.rtm_flags & RTM_F_CLONED);
    auto attributes = answer.attributes(sizeof header);
    EXPECT_EQ(address_in(attributes[RTA_DST]), "127.5.6.7");
    EXPECT_EQ(address_in(attributes[RTA_PREFSRC]), "127.0.0.1");
    EXPECT_EQ(number_in(attributes[RTA_OIF]), 1);
    answer = route.ask(Message(RTM_GETROUTE, 0, route_header(AF_INET6, 128)).address(RTA_DST, "::1"));
    header = answer.as<rtmsg>();
    EXPECT_EQ(header.rtm_type, RTN_LOCAL);
    EXPECT_EQ(header.rtm_table, RT_TABLE_LOCAL);
    EXPECT_EQ(route.change(Message(RTM_GETROUTE, 0, route_header(AF_INET, 32)).address(RTA_DST, "8.8.8.8")),
              ENETUNREACH);
    EXPECT_EQ(route.change(Message(RTM_GETROUTE, 0, route_header(AF_INET6, 128)).address(RTA_DST, "2001:db8::1")),
              ENETUNREACH);
}
CASE(strict_route_dump) {
    own_network();
    Netlink route;
    OK(route.set(NETLINK_GET_STRICT_CHK, 1));
    rtmsg header{};
    header.rtm_family = AF_INET;
    header.rtm_table = RT_TABLE_LOCAL;
    EXPECT_EQ(route.dump(Message(RTM_GETROUTE, NLM_F_DUMP, header)).size(), 3);
    header.rtm_table = 0;
    header.rtm_type = RTN_BROADCAST;
    EXPECT_EQ(route.dump(Message(RTM_GETROUTE, NLM_F_DUMP, header)).size(), 1);
    header.rtm_type = 0;
    header.rtm_dst_len = 8;
    int error = 0;
    route.dump(Message(RTM_GETROUTE, NLM_F_DUMP, header), &error);
    EXPECT_EQ(error, EINVAL);
    header.rtm_dst_len = 0;
    header.rtm_table = 77;
    route.dump(Message(RTM_GETROUTE, NLM_F_DUMP, header), &error);
    EXPECT_EQ(error, ENOENT);
}
CASE(rules) {
    own_network();
    std::string text;
    for (auto& one : Netlink().dump(Message(RTM_GETRULE, NLM_F_DUMP, fib_rule_hdr{AF_INET}))) {
        auto attributes = one.attributes(sizeof(fib_rule_hdr));
        text += std::to_string(number_in(attributes[FRA_PRIORITY])) + ":" +
                std::to_string(number_in(attributes[FRA_TABLE])) + " ";
    }
    EXPECT_EQ(text, "0:255 32766:254 32767:253 ");
}

// ---- neighbours

CASE(neighbours) {
    own_network();
    Netlink route;
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24)), 0);
    ndmsg header{};
    header.ndm_family = AF_INET6;
    header.ndm_ifindex = 1;
    header.ndm_state = NUD_PERMANENT;
    auto message = [&](int type, int flags) {
        return Message(type, flags, header).address(NDA_DST, "fd00::9").attribute(NDA_LLADDR, "\2\0\0\0\0\7", 6);
    };
    EXPECT_EQ(route.change(message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL)), 0);
    EXPECT_EQ(route.change(message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL)), EEXIST);
    EXPECT_EQ(route.change(message(RTM_NEWNEIGH, NLM_F_REPLACE)), 0);
    ndmsg all{};
    all.ndm_family = AF_INET6;
    bool found = false;
    for (auto& one : route.dump(Message(RTM_GETNEIGH, NLM_F_DUMP, all))) {
        auto attributes = one.attributes(sizeof(ndmsg));
        if (address_in(attributes[NDA_DST]) == "fd00::9") {
            found = true;
            EXPECT_EQ(attributes[NDA_LLADDR][5], 7);
            EXPECT_EQ(one.as<ndmsg>().ndm_state, NUD_PERMANENT);
        }
    }
    EXPECT(found);
    EXPECT_EQ(route.change(message(RTM_DELNEIGH, 0)), 0);
    EXPECT_EQ(route.change(message(RTM_DELNEIGH, 0)), ENOENT);
    header.ndm_ifindex = 99;
    EXPECT_EQ(route.change(message(RTM_NEWNEIGH, NLM_F_CREATE)), ENODEV);
    EXPECT_EQ(route.change(Message(RTM_NEWNEIGH, NLM_F_CREATE, header)), EINVAL);
}

// ---- notices

CASE(notices_of_addresses) {
    own_network();
    Netlink listener(NETLINK_ROUTE, 1u << (RTNLGRP_IPV4_IFADDR - 1)), route;
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24)), 0);
    Received got = receive_message(listener.fd);
    auto* header = (nlmsghdr*)got.text.data();
    EXPECT_EQ(header->nlmsg_type, RTM_NEWADDR);
    EXPECT_EQ(header->nlmsg_seq, 7);
    auto* from = (sockaddr_nl*)&got.from.storage;
    EXPECT_EQ(from->nl_pid, 0);
    EXPECT_EQ(from->nl_groups, 1u << (RTNLGRP_IPV4_IFADDR - 1));
    EXPECT_EQ(route.change(delete_address("10.1.1.1", 24)), 0);
    EXPECT_EQ(listener.receive()[0].header.nlmsg_type, RTM_DELADDR);
    FAILS(recv(listener.fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
}
CASE(notices_of_links) {
    own_network();
    Netlink listener(NETLINK_ROUTE, RTMGRP_LINK), route;
    OK(listener.set(NETLINK_PKTINFO, 1));
    ifinfomsg link{};
    link.ifi_index = 1;
    EXPECT_EQ(route.change(Message(RTM_SETLINK, 0, link).number(IFLA_MTU, 1400)), 0);
    Received got = receive_message(listener.fd);
    EXPECT_EQ(((nlmsghdr*)got.text.data())->nlmsg_type, RTM_NEWLINK);
    EXPECT_EQ(got.value<nl_pktinfo>(SOL_NETLINK, NETLINK_PKTINFO).group, RTNLGRP_LINK);
}
CASE(notices_of_routes) {
    own_network();
    Netlink listener(NETLINK_ROUTE, RTMGRP_IPV4_ROUTE), route;
    EXPECT_EQ(route.change(new_route("10.5.0.0", 16)), 0);
    Answer answer = listener.receive()[0];
    EXPECT_EQ(answer.header.nlmsg_type, RTM_NEWROUTE);
    EXPECT_EQ(answer.as<rtmsg>().rtm_dst_len, 16);
    EXPECT_EQ(route.change(Message(RTM_DELROUTE, 0, route_header(AF_INET, 16)).address(RTA_DST, "10.5.0.0")), 0);
    EXPECT_EQ(listener.receive()[0].header.nlmsg_type, RTM_DELROUTE);
}
CASE(notices_by_ioctl) {
    own_network();
    Netlink listener(NETLINK_ROUTE, RTMGRP_LINK);
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    ifreq request{};
    strcpy(request.ifr_name, "lo");
    request.ifr_mtu = 9000;
    OK(ioctl(fd, SIOCSIFMTU, &request));
    Answer answer = listener.receive()[0];
    EXPECT_EQ(number_in(answer.attributes(sizeof(ifinfomsg))[IFLA_MTU]), 9000);
}
CASE(no_notice_without_membership) {
    own_network();
    Netlink route, silent;
    EXPECT_EQ(route.change(new_address("10.1.1.1", 24)), 0);
    FAILS(recv(silent.fd, scratch(), 100, MSG_DONTWAIT), EAGAIN);
    EXPECT_EQ(ready(silent.fd), POLLOUT);
}
