#include "sentry/net/interfaces.h"

#include <gtest/gtest.h>
#include <linux/netlink.h>

namespace casemate::sentry {
namespace {

InetAddress v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    return InetAddress::v4(uint32_t{a} << 24 | uint32_t{b} << 16 | uint32_t{c} << 8 | d);
}
const InetAddress kAny4 = InetAddress::v4(0);
InetAddress v6(std::initializer_list<uint8_t> head, uint8_t last) {
    InetAddress address;
    std::copy(head.begin(), head.end(), address.bytes.begin());
    address.bytes[15] = last;
    return address;
}
LinkAddress on(int link, const InetAddress& address, uint8_t prefix) {
    LinkAddress one;
    one.link = link;
    one.address = address;
    one.prefix = prefix;
    return one;
}
int add_veth(Interfaces& model, const char* name = "eth0") {
    Link link;
    link.name = name;
    link.kind = "veth";
    link.hardware = {2, 0, 0, 0, 0, 1};
    link.flags |= IFF_UP;
    return MUST(model.add_link(link));
}
Route default_by(const InetAddress& gateway, uint32_t metric = 0) {
    Route route;
    route.v6 = !gateway.is_v4();
    route.destination = route.v6 ? InetAddress() : kAny4;
    route.gateway = gateway;
    route.metric = metric;
    return route;
}

TEST(Interfaces, LoopbackIsReady) {
    Interfaces model(true);
    auto lo = model.find_link("lo");
    ASSERT_TRUE(lo);
    EXPECT_EQ(lo->index, 1);
    EXPECT_EQ(lo->shown_flags(), IFF_UP | IFF_LOOPBACK | IFF_RUNNING | kLowerUp);
    EXPECT_EQ(lo->mtu, 65536u);
    auto addresses = model.addresses();
    ASSERT_EQ(addresses.size(), 2u);
    EXPECT_EQ(addresses[0].address, v4(127, 0, 0, 1));
    EXPECT_EQ(addresses[0].prefix, 8);
    EXPECT_EQ(addresses[0].label, "lo");
    EXPECT_EQ(addresses[1].address, InetAddress::loopback6());
    EXPECT_EQ(addresses[1].prefix, 128);
    // local 127.0.0.0/8, local 127.0.0.1, broadcast 127.255.255.255, local ::1
    EXPECT_EQ(model.routes().size(), 4u);
    EXPECT_EQ(model.local_type(v4(127, 9, 9, 9)), RTN_LOCAL);
    EXPECT_EQ(model.local_type(v4(127, 255, 255, 255)), RTN_BROADCAST);
    EXPECT_EQ(model.local_type(v4(10, 0, 0, 1)), RTN_UNICAST);
    auto way = model.route(v4(127, 5, 5, 5), kAny4);
    ASSERT_TRUE(way.ok());
    EXPECT_EQ(way->type, RTN_LOCAL);
    EXPECT_EQ(way->source, v4(127, 0, 0, 1));
    EXPECT_EQ(way->link, Interfaces::kLoopback);
    EXPECT_EQ(MUST(model.route(InetAddress::loopback6(), {})).source, InetAddress::loopback6());
    EXPECT_EQ(model.route(v4(8, 8, 8, 8), kAny4).error().value, ENETUNREACH);
}

TEST(Interfaces, NewNamespaceIsDown) {
    Interfaces model(false);
    EXPECT_TRUE(model.addresses().empty());
    EXPECT_EQ(model.route(v4(127, 0, 0, 1), kAny4).error().value, ENETUNREACH);
    ASSERT_TRUE(model.change_link(1, {.flags = IFF_UP, .flags_mask = IFF_UP}).ok());
    EXPECT_EQ(model.addresses().size(), 2u);
    EXPECT_TRUE(model.route(v4(127, 0, 0, 1), kAny4).ok());
}

TEST(Interfaces, LinksAreNamedOnce) {
    Interfaces model(true);
    int index = add_veth(model);
    EXPECT_EQ(index, 2);
    Link twice;
    twice.name = "eth0";
    EXPECT_EQ(model.add_link(twice).error().value, EEXIST);
    for (const char* name : {"", "a/b", "a b", "..", "sixteencharacter"}) {
        twice.name = name;
        EXPECT_EQ(model.add_link(twice).error().value, EINVAL) << name;
    }
    EXPECT_EQ(model.change_link(index, {.name = "lo"}).error().value, EEXIST);
    EXPECT_EQ(model.change_link(index, {.mtu = 10}).error().value, EINVAL);
    EXPECT_EQ(model.remove_link(1).error().value, EOPNOTSUPP);
    EXPECT_EQ(model.remove_link(9).error().value, ENODEV);
    EXPECT_TRUE(model.remove_link(index).ok());
    EXPECT_FALSE(model.find_link("eth0"));
    EXPECT_EQ(model.addresses().size(), 2u);
    EXPECT_EQ(model.routes().size(), 4u);
}

TEST(Interfaces, AddressesBringRoutes) {
    Interfaces model(true);
    int link = add_veth(model);
    LinkAddress address = on(link, v4(10, 1, 2, 3), 24);
    address.broadcast = v4(10, 1, 2, 255);
    ASSERT_TRUE(model.add_address(address).ok());
    EXPECT_EQ(model.add_address(address).error().value, EEXIST);
    EXPECT_TRUE(model.add_address(address, true).ok());
    EXPECT_EQ(model.local_type(v4(10, 1, 2, 3)), RTN_LOCAL);
    EXPECT_EQ(model.local_type(v4(10, 1, 2, 255)), RTN_BROADCAST);
    auto way = MUST(model.route(v4(10, 1, 2, 77), kAny4));
    EXPECT_EQ(way.link, link);
    EXPECT_EQ(way.source, v4(10, 1, 2, 3));
    EXPECT_FALSE(way.gateway);
    EXPECT_EQ(way.mtu, 1500u);
    EXPECT_EQ(MUST(model.route(v4(10, 1, 2, 3), kAny4)).link, Interfaces::kLoopback);
    EXPECT_EQ(MUST(model.route(v4(10, 1, 2, 3), kAny4)).source, v4(10, 1, 2, 3));
    ASSERT_TRUE(model.remove_address(link, v4(10, 1, 2, 3), 24).ok());
    EXPECT_EQ(model.remove_address(link, v4(10, 1, 2, 3), 24).error().value, EADDRNOTAVAIL);
    EXPECT_EQ(model.route(v4(10, 1, 2, 77), kAny4).error().value, ENETUNREACH);
    EXPECT_EQ(model.local_type(v4(10, 1, 2, 3)), RTN_UNICAST);
}

TEST(Interfaces, SecondaryAddressesGoWithTheFirst) {
    Interfaces model(true);
    int link = add_veth(model);
    ASSERT_TRUE(model.add_address(on(link, v4(10, 1, 2, 3), 24)).ok());
    ASSERT_TRUE(model.add_address(on(link, v4(10, 1, 2, 4), 24)).ok());
    auto all = model.addresses();
    EXPECT_TRUE(all.back().flags & IFA_F_SECONDARY);
    EXPECT_EQ(model.primary_address(link, false)->address, v4(10, 1, 2, 3));
    ASSERT_TRUE(model.remove_address(link, v4(10, 1, 2, 4), 24).ok());
    EXPECT_EQ(MUST(model.route(v4(10, 1, 2, 9), kAny4)).link, link);
    ASSERT_TRUE(model.add_address(on(link, v4(10, 1, 2, 4), 24)).ok());
    ASSERT_TRUE(model.remove_address(link, v4(10, 1, 2, 3), 24).ok());
    EXPECT_FALSE(model.primary_address(link, false));
}

TEST(Interfaces, LongestPrefixThenMetric) {
    Interfaces model(true);
    int link = add_veth(model);
    ASSERT_TRUE(model.add_address(on(link, v4(10, 1, 2, 3), 24)).ok());
    EXPECT_EQ(model.add_route(default_by(v4(10, 9, 9, 9)), NLM_F_CREATE).error().value, ENETUNREACH);
    ASSERT_TRUE(model.add_route(default_by(v4(10, 1, 2, 1), 20), NLM_F_CREATE | NLM_F_EXCL).ok());
    ASSERT_TRUE(model.add_route(default_by(v4(10, 1, 2, 2), 10), NLM_F_CREATE | NLM_F_EXCL).ok());
    EXPECT_EQ(model.add_route(default_by(v4(10, 1, 2, 2), 10), NLM_F_CREATE | NLM_F_EXCL).error().value, EEXIST);
    Route net = default_by(v4(10, 1, 2, 5));
    net.destination = v4(10, 5, 0, 0);
    net.prefix = 16;
    ASSERT_TRUE(model.add_route(net, NLM_F_CREATE).ok());
    EXPECT_EQ(*MUST(model.route(v4(8, 8, 8, 8), kAny4)).gateway, v4(10, 1, 2, 2));
    EXPECT_EQ(*MUST(model.route(v4(10, 5, 1, 1), kAny4)).gateway, v4(10, 1, 2, 5));
    EXPECT_EQ(MUST(model.route(v4(8, 8, 8, 8), kAny4)).source, v4(10, 1, 2, 3));
    Route black = net;
    black.gateway.reset();
    black.link = 0;
    black.type = RTN_UNREACHABLE;
    black.destination = v4(10, 6, 0, 0);
    ASSERT_TRUE(model.add_route(black, NLM_F_CREATE).ok());
    EXPECT_EQ(model.route(v4(10, 6, 1, 1), kAny4).error().value, EHOSTUNREACH);
    net.destination = v4(10, 5, 0, 1);
    EXPECT_EQ(model.add_route(net, NLM_F_CREATE).error().value, EINVAL);
    Route like = default_by(v4(10, 1, 2, 2));
    like.type = like.protocol = 0;
    like.scope = RT_SCOPE_NOWHERE;
    ASSERT_TRUE(model.remove_route(like).ok());
    EXPECT_EQ(model.remove_route(like).error().value, ESRCH);
    EXPECT_EQ(*MUST(model.route(v4(8, 8, 8, 8), kAny4)).gateway, v4(10, 1, 2, 1));
}

TEST(Interfaces, DownTakesRoutesAndIpv6Addresses) {
    Interfaces model(true);
    int link = add_veth(model);
    ASSERT_TRUE(model.add_address(on(link, v4(10, 1, 2, 3), 24)).ok());
    ASSERT_TRUE(model.add_address(on(link, v6({0xfd, 1}, 5), 64)).ok());
    ASSERT_TRUE(model.add_route(default_by(v4(10, 1, 2, 1)), NLM_F_CREATE).ok());
    EXPECT_EQ(MUST(model.route(v6({0xfd, 1}, 9), {})).source, v6({0xfd, 1}, 5));
    // An interface that is up has a link-local address.
    EXPECT_EQ(MUST(model.route(v6({0xfe, 0x80}, 9), {}, link)).source.bytes[0], 0xfe);
    ASSERT_TRUE(model.change_link(link, {.flags = 0, .flags_mask = IFF_UP}).ok());
    EXPECT_EQ(model.route(v4(8, 8, 8, 8), kAny4).error().value, ENETUNREACH);
    EXPECT_EQ(model.route(v6({0xfd, 1}, 9), {}).error().value, ENETUNREACH);
    EXPECT_FALSE(model.primary_address(link, true));
    ASSERT_TRUE(model.change_link(link, {.flags = IFF_UP, .flags_mask = IFF_UP}).ok());
    EXPECT_TRUE(model.route(v4(10, 1, 2, 9), kAny4).ok());
    EXPECT_TRUE(model.primary_address(link, true));
}

TEST(Interfaces, GroupsNeedALink) {
    Interfaces model(true);
    EXPECT_EQ(model.route(v4(224, 1, 1, 1), kAny4).error().value, ENETUNREACH);
    EXPECT_EQ(model.route(v4(255, 255, 255, 255), kAny4).error().value, ENETUNREACH);
    auto way = MUST(model.route(v4(224, 1, 1, 1), kAny4, 1));
    EXPECT_EQ(way.type, RTN_MULTICAST);
    EXPECT_EQ(way.source, kAny4);  // 127.0.0.1 has the scope of the host, as on Linux
    EXPECT_EQ(model.route(v6({0xff, 2}, 9), {}, 1).error().value, ENETUNREACH);
    EXPECT_EQ(MUST(model.route(v6({0xff, 2}, 9), {}, add_veth(model))).type, RTN_MULTICAST);
    EXPECT_EQ(model.route(v4(224, 1, 1, 1), kAny4, 7).error().value, ENODEV);
}

TEST(Interfaces, ListenersHearInOrder) {
    Interfaces model(true);
    std::string heard;
    int id = model.add_listener([&](const InterfaceChange& change) {
        static constexpr char kKinds[] = "LARN";
        heard += change.removed ? '-' : '+';
        heard += kKinds[change.what.index()];
    });
    uint64_t before = model.generation();
    int link = add_veth(model);
    heard.clear();
    ASSERT_TRUE(model.add_address(on(link, v4(10, 1, 2, 3), 24)).ok());
    EXPECT_EQ(heard, "+A+R+R+R");
    heard.clear();
    ASSERT_TRUE(model.set_neighbour({link, v4(10, 1, 2, 9), {2, 3, 4, 5, 6, 7}}, NLM_F_CREATE).ok());
    EXPECT_EQ(heard, "+N");
    EXPECT_GT(model.generation(), before);
    heard.clear();
    ASSERT_TRUE(model.remove_link(link).ok());
    EXPECT_EQ(heard.substr(heard.size() - 2), "-L");
    model.remove_listener(id);
    heard.clear();
    add_veth(model, "again");
    EXPECT_EQ(heard, "");
}

TEST(Interfaces, Neighbours) {
    Interfaces model(true);
    int link = add_veth(model);
    Neighbour one{link, v4(10, 0, 0, 1), {2, 3, 4, 5, 6, 7}};
    EXPECT_EQ(model.set_neighbour(one, 0).error().value, ENOENT);
    ASSERT_TRUE(model.set_neighbour(one, NLM_F_CREATE | NLM_F_EXCL).ok());
    EXPECT_EQ(model.set_neighbour(one, NLM_F_CREATE | NLM_F_EXCL).error().value, EEXIST);
    one.hardware[5] = 9;
    ASSERT_TRUE(model.set_neighbour(one, NLM_F_CREATE | NLM_F_REPLACE).ok());
    EXPECT_EQ(model.find_neighbour(link, v4(10, 0, 0, 1))->hardware[5], 9);
    EXPECT_EQ(model.set_neighbour({9, v4(10, 0, 0, 1), {}}, NLM_F_CREATE).error().value, ENODEV);
    ASSERT_TRUE(model.remove_neighbour(link, v4(10, 0, 0, 1)).ok());
    EXPECT_EQ(model.remove_neighbour(link, v4(10, 0, 0, 1)).error().value, ENOENT);
}

TEST(Interfaces, NumbersAreBounded) {
    Interfaces model(true);
    int link = add_veth(model);
    SysResult<void> last;
    for (uint32_t i = 0; last.ok() && i <= Interfaces::kMostNeighbours; i++)
        last = model.set_neighbour({link, InetAddress::v4(0x0a000000 + i), {}}, NLM_F_CREATE);
    ASSERT_FALSE(last.ok());
    EXPECT_EQ(last.error().value, ENOBUFS);
}

}  // namespace
}  // namespace casemate::sentry
