// What is not TCP, and what strangers send.
#include <cstring>

#include "sentry/net/stack/fake_network_test.h"
#include "sentry/net/stack/reassembly.h"
#include "sentry/net/stack/time_wait.h"

namespace casemate::sentry::stack {
namespace {

Frame ethernet(const MacAddress& to, const MacAddress& from, uint16_t type) {
    Frame frame(to.begin(), to.end());
    frame.insert(frame.end(), from.begin(), from.end());
    frame.push_back(static_cast<uint8_t>(type >> 8));
    frame.push_back(static_cast<uint8_t>(type));
    return frame;
}

// From B to A.
Frame ipv4(uint8_t protocol, const std::vector<uint8_t>& payload, uint16_t fragment = 0, uint16_t id = 7) {
    Frame frame = ethernet({2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, kEtherIpv4);
    uint8_t header[20] = {0x45, 0};
    store16(header + 2, static_cast<uint32_t>(20 + payload.size()));
    store16(header + 4, id);
    store16(header + 6, fragment);
    header[8] = 64;
    header[9] = protocol;
    store32(header + 12, FakeNetwork::kB);
    store32(header + 16, FakeNetwork::kA);
    store16(header + 10, checksum(header, 20));
    frame.insert(frame.end(), header, header + 20);
    frame.insert(frame.end(), payload.begin(), payload.end());
    return frame;
}

std::vector<uint8_t> udp(uint16_t from, uint16_t to, const std::string& text) {
    std::vector<uint8_t> bytes(8);
    store16(bytes.data(), from);
    store16(bytes.data() + 2, to);
    store16(bytes.data() + 4, static_cast<uint32_t>(8 + text.size()));
    bytes.insert(bytes.end(), text.begin(), text.end());
    uint64_t sum =
        pseudo_header(InetAddress::v4(FakeNetwork::kB), InetAddress::v4(FakeNetwork::kA), kUdp, bytes.size());
    store16(bytes.data() + 6, static_cast<uint16_t>(~checksum_fold(checksum_add(sum, bytes.data(), bytes.size()))));
    return bytes;
}

// `stamp`: its timestamp; 0: none.
std::vector<uint8_t> tcp(uint16_t from, uint16_t to, uint32_t sequence, uint32_t ack, uint8_t flags,
                         const std::string& text = "", uint32_t stamp = 0) {
    std::vector<uint8_t> bytes(stamp != 0 ? 32 : 20);
    store16(bytes.data(), from);
    store16(bytes.data() + 2, to);
    store32(bytes.data() + 4, sequence);
    store32(bytes.data() + 8, ack);
    bytes[12] = static_cast<uint8_t>(bytes.size() / 4 << 4);
    if (stamp != 0) {
        const uint8_t option[] = {1, 1, 8, 10};
        memcpy(bytes.data() + 20, option, 4);
        store32(bytes.data() + 24, stamp);
    }
    bytes[13] = flags;
    store16(bytes.data() + 14, 1000);
    bytes.insert(bytes.end(), text.begin(), text.end());
    uint64_t sum =
        pseudo_header(InetAddress::v4(FakeNetwork::kB), InetAddress::v4(FakeNetwork::kA), kTcp, bytes.size());
    store16(bytes.data() + 16, static_cast<uint16_t>(~checksum_fold(checksum_add(sum, bytes.data(), bytes.size()))));
    return bytes;
}

// One stack whose peer is the test: what it sends is in sent().
struct Alone {
    Alone() {
        network.cut_off = true;
        network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    }
    std::vector<Frame>& sent() { return network.hosts[0].sent; }
    FakeSockets& sockets() { return network.hosts[0].sockets; }
    Stack& stack() { return *network.hosts[0].stack; }
    void inject(const Frame& frame) { network.inject(0, frame); }
    FakeNetwork network;
};

TEST(StackIp, Checksum) {
    // RFC 1071 3.
    const uint8_t bytes[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    EXPECT_EQ(checksum_fold(checksum_add(0, bytes, 8)), 0xddf2);
    EXPECT_EQ(checksum_fold(checksum_add(checksum_add(0, bytes, 2), bytes + 2, 6)), 0xddf2);
    const uint8_t odd[] = {0x12, 0x34, 0x56};
    EXPECT_EQ(checksum_fold(checksum_add(0, odd, 3)), 0x1234 + 0x5600);
}

TEST(StackIp, UdpBothWays) {
    FakeNetwork network;
    network.hosts[1].sockets.udp_port = 53;
    std::string text(5000, 'q');
    for (bool v6 : {false, true}) {
        OutPacket packet;
        packet.from = {InetAddress(), 4000};
        packet.to = {v6 ? FakeNetwork::address6(1) : InetAddress::v4(FakeNetwork::kB), 53};
        packet.payload = {reinterpret_cast<const uint8_t*>(text.data()), 100};
        EXPECT_TRUE(network.hosts[0].stack->send(packet).ok());
        packet.payload = {reinterpret_cast<const uint8_t*>(text.data()), text.size()};  // in fragments
        EXPECT_TRUE(network.hosts[0].stack->send(packet).ok());
        packet.dont_fragment = true;
        EXPECT_EQ(network.hosts[0].stack->send(packet).error().value, EMSGSIZE);
    }
    network.run_for(kSecond);
    ASSERT_EQ(network.hosts[1].sockets.datagrams.size(), 4u);
    EXPECT_EQ(network.hosts[1].sockets.datagrams[1], Frame(5000, 'q'));
    EXPECT_EQ(network.hosts[1].sockets.datagrams[3], Frame(5000, 'q'));
}

TEST(StackIp, UdpToNobodyIsRefused) {
    FakeNetwork network;
    for (bool v6 : {false, true}) {
        OutPacket packet;
        packet.from = {InetAddress(), 4000};
        packet.to = {v6 ? FakeNetwork::address6(1) : InetAddress::v4(FakeNetwork::kB), 53};
        EXPECT_TRUE(network.hosts[0].stack->send(packet).ok());
    }
    network.run_for(kSecond);
    EXPECT_EQ(network.hosts[0].sockets.udp_errors, (std::vector<int>{ECONNREFUSED, ECONNREFUSED}));
}

TEST(StackIp, NoRoute) {
    FakeNetwork network;
    OutPacket packet;
    packet.to = {InetAddress::v4(0x08080808), 53};
    EXPECT_EQ(network.hosts[0].stack->send(packet).error().value, ENETUNREACH);
}

TEST(StackIp, EchoIsAnswered) {
    Alone alone;
    std::vector<uint8_t> ping = {8, 0, 0, 0, 1, 2, 3, 4, 'h', 'i'};
    store16(ping.data() + 2, checksum(ping.data(), ping.size()));
    alone.inject(ipv4(kIcmp, ping));
    ASSERT_EQ(alone.sent().size(), 1u);
    const Frame& reply = alone.sent()[0];
    ASSERT_EQ(reply.size(), 14u + 20 + 10);
    EXPECT_EQ(reply[34], 0);
    EXPECT_EQ(memcmp(reply.data() + 38, ping.data() + 4, 6), 0);
    EXPECT_EQ(checksum(reply.data() + 34, 10), 0);
    ping[9] ^= 1;  // a wrong checksum
    alone.inject(ipv4(kIcmp, ping));
    EXPECT_EQ(alone.sent().size(), 1u);
}

TEST(StackIp, ArpAnswersForOwnAddressesOnly) {
    Alone alone;
    Frame frame = ethernet(kBroadcastMac, {2, 0, 0, 0, 0, 9}, kEtherArp);
    uint8_t request[28] = {0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9};
    store32(request + 14, 0x0a000009);
    store32(request + 24, FakeNetwork::kA);
    frame.insert(frame.end(), request, request + 28);
    alone.inject(frame);
    ASSERT_EQ(alone.sent().size(), 1u);
    EXPECT_EQ(alone.sent()[0][21], 2);
    store32(frame.data() + 14 + 24, 0x0a000077);
    alone.inject(frame);
    EXPECT_EQ(alone.sent().size(), 1u);
    // Nobody can plant neighbours by telling what was not asked.
    for (uint32_t i = 0; i < 5000; i++) {
        frame[21] = 2;
        store32(frame.data() + 14 + 14, 0x0a010000 + i);
        alone.inject(frame);
    }
    EXPECT_LE(alone.network.hosts[0].link->neighbours.entries().size(), 3u);
}

TEST(StackIp, NeighboursAreBounded) {
    FakeNetwork network;
    network.cut_off = true;
    for (uint32_t i = 0; i < 3000; i++) {
        OutPacket packet;
        packet.to = {InetAddress::v4(0x0a000000 + 3 + i % 200), 9};
        static_cast<void>(network.hosts[0].stack->send(packet));
    }
    Frame frame = ethernet(kBroadcastMac, {2, 0, 0, 0, 0, 9}, kEtherArp);
    uint8_t request[28] = {0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9};
    store32(request + 24, FakeNetwork::kA);
    frame.insert(frame.end(), request, request + 28);
    for (uint32_t i = 0; i < 5000; i++) {
        store32(frame.data() + 14 + 14, 0x0a010000 + i);
        network.inject(0, frame);
    }
    EXPECT_LE(network.hosts[0].link->neighbours.entries().size(), NeighbourTable::kMostEntries);
}

TEST(StackIp, Fragments) {
    Alone alone;
    alone.sockets().udp_port = 53;
    auto whole = udp(9, 53, std::string(3000, 'f'));
    auto piece = [&](size_t from, size_t to) {
        return std::vector<uint8_t>(whole.begin() + static_cast<ptrdiff_t>(from),
                                    whole.begin() + static_cast<ptrdiff_t>(to));
    };
    alone.inject(ipv4(kUdp, piece(2000, 3008), 2000 / 8));
    alone.inject(ipv4(kUdp, piece(0, 1000), 0x2000));
    EXPECT_TRUE(alone.sockets().datagrams.empty());
    alone.inject(ipv4(kUdp, piece(1000, 2000), 0x2000 | 1000 / 8));
    ASSERT_EQ(alone.sockets().datagrams.size(), 1u);
    EXPECT_EQ(alone.sockets().datagrams[0], Frame(3000, 'f'));
    // Pieces that overlap, and a piece beyond the largest packet.
    alone.inject(ipv4(kUdp, piece(0, 1000), 0x2000, 8));
    alone.inject(ipv4(kUdp, piece(800, 2000), 0x2000 | 800 / 8, 8));
    alone.inject(ipv4(kUdp, piece(2000, 3008), 2000 / 8, 8));
    alone.inject(ipv4(kUdp, piece(0, 1000), 0x1fff, 9));
    EXPECT_EQ(alone.sockets().datagrams.size(), 1u);
}

TEST(StackIp, FragmentsAreBounded) {
    Reassembly reassembly;
    std::vector<uint8_t> piece(1480, 1);
    for (uint32_t i = 0; i < 10000; i++) {
        auto whole =
            reassembly.add({InetAddress::v4(i), InetAddress::v4(1), i, kUdp}, 8 * (i % 100 + 1), true, piece, i);
        EXPECT_TRUE(whole.bytes.empty());
    }
    // Room for honest ones is still there.
    static_cast<void>(reassembly.add({InetAddress(), InetAddress(), 1, kUdp}, 0, true, {piece.data(), 800}, 20000));
    EXPECT_EQ(
        reassembly.add({InetAddress(), InetAddress(), 1, kUdp}, 800, false, {piece.data(), 8}, 20000).bytes.size(),
        808u);
}

TEST(StackTcpHostile, SynFlood) {
    Alone alone;
    auto listener = alone.network.listen(0, 80);
    for (uint32_t i = 0; i < 20000; i++) {
        Frame frame = ipv4(kTcp, tcp(static_cast<uint16_t>(1000 + i), 80, i * 777, 0, kSyn));
        alone.inject(frame);
    }
    EXPECT_LE(alone.stack().half_open().size(), HalfOpenTable::kMostEntries);
    EXPECT_GT(alone.stack().counters().syn_cookies.load(), 10000u);
    // An honest client comes through by its cookie.
    alone.sent().clear();
    alone.inject(ipv4(kTcp, tcp(999, 80, 5000, 0, kSyn)));
    ASSERT_EQ(alone.sent().size(), 1u);
    uint32_t cookie = load32(alone.sent()[0].data() + 34 + 4);
    alone.inject(ipv4(kTcp, tcp(999, 80, 5001, cookie + 1, kAck)));
    ASSERT_EQ(listener->accepted.size(), 1u);
    // A guessed one does not.
    alone.inject(ipv4(kTcp, tcp(998, 80, 5001, cookie + 1, kAck)));
    EXPECT_EQ(listener->accepted.size(), 1u);
}

struct Victim : Alone {
    explicit Victim(uint32_t stamp = 0) {
        listener = network.listen(0, 80);
        inject(ipv4(kTcp, tcp(999, 80, 5000, 0, kSyn, "", stamp)));
        ours = load32(sent().at(0).data() + 34 + 4);
        inject(ipv4(kTcp, tcp(999, 80, 5001, ours + 1, kAck, "", stamp)));
        connection = listener->accepted.at(0);
        sent().clear();
    }
    uint8_t last_flags() { return sent().empty() ? 0 : sent().back()[34 + 13]; }
    Ref<FakeListener> listener;
    Ref<Connection> connection;
    uint32_t ours = 0;
};

TEST(StackTcpHostile, BlindResetsAndSyns) {
    Victim victim;
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001 + 1000, 0, kRst)));
    EXPECT_EQ(victim.connection->state(), TcpState::kEstablished);
    EXPECT_EQ(victim.last_flags(), kAck);  // a challenge
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001 + 10'000'000, 0, kRst)));
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001, 0, kSyn)));
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001, victim.ours + 70000, kAck, "evil")));
    EXPECT_EQ(victim.connection->state(), TcpState::kEstablished);
    EXPECT_EQ(victim.connection->unread(), 0u);
    EXPECT_LE(victim.sent().size(), 2u);  // challenges are rationed
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001, 0, kRst)));
    EXPECT_EQ(victim.connection->state(), TcpState::kClosed);
}

TEST(StackTcpHostile, ATimestampIsBelievedWithAGoodAcknowledgementOnly) {
    Alone alone;
    auto listener = alone.network.listen(0, 80);
    alone.inject(ipv4(kTcp, tcp(999, 80, 5000, 0, kSyn, "", 100)));
    uint32_t ours = load32(alone.sent().at(0).data() + 34 + 4);
    alone.inject(ipv4(kTcp, tcp(999, 80, 5001, ours + 1, kAck, "", 101)));
    auto connection = listener->accepted.at(0);
    alone.inject(ipv4(kTcp, tcp(999, 80, 5001, ours + 1'000'000, kAck, "forged", 1 << 30)));
    EXPECT_EQ(connection->unread(), 0u);
    alone.inject(ipv4(kTcp, tcp(999, 80, 5001, ours + 1, kAck, "true", 102)));
    EXPECT_EQ(connection->unread(), 4u);
    // And what is older than that one has been seen already.
    alone.inject(ipv4(kTcp, tcp(999, 80, 5005, ours + 1, kAck, "old", 99)));
    EXPECT_EQ(connection->unread(), 4u);
}

TEST(StackTcpHostile, DataBeyondTheWindowAndInPieces) {
    Victim victim;
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001 + 2'000'000, victim.ours + 1, kAck, "far")));
    EXPECT_EQ(victim.connection->unread(), 0u);
    // Thousands of single bytes out of order: only so many are kept.
    for (uint32_t i = 0; i < 30000; i++)
        victim.inject(ipv4(kTcp, tcp(999, 80, 5001 + 2 + i * 2, victim.ours + 1, kAck, "x")));
    EXPECT_EQ(victim.connection->unread(), 0u);
    // Overlaps in all ways, and then what was missing.
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001 + 1, victim.ours + 1, kAck, std::string(50, 'x'))));
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001, victim.ours + 1, kAck, std::string(60, 'x'))));
    EXPECT_GE(victim.connection->unread(), 60u);
    char bytes[100];
    IoBuffer buffer = IoBuffer::kernel(bytes, sizeof(bytes));
    Connection::Reading reading;
    auto progress = victim.connection->receive(buffer, reading);
    EXPECT_EQ(std::string(bytes, progress.bytes), std::string(progress.bytes, 'x'));
}

// Closed from both ends, by us first: what is left waits for its time to pass.
struct Passing : Victim {
    explicit Passing(uint32_t stamp = 0) : Victim(stamp) {
        connection->close(false);
        inject(ipv4(kTcp, tcp(999, 80, 5001, ours + 2, kFin | kAck, "", stamp)));
        connection.reset();
        sent().clear();
    }
    size_t left() { return stack().time_waits().size(); }
};

TEST(StackTcpTimeWait, IsSmallAndEnds) {
    Passing passing;
    EXPECT_LE(sizeof(TimeWait), 112u);
    EXPECT_EQ(passing.stack().connections().size(), 0u);
    EXPECT_EQ(passing.left(), 1u);
    EXPECT_EQ(passing.stack().time_waiting.load(), 1u);
    passing.network.run_for(59 * kSecond);
    EXPECT_EQ(passing.left(), 1u);
    passing.network.run_for(2 * kSecond);
    EXPECT_EQ(passing.left(), 0u);
    EXPECT_EQ(passing.stack().time_waiting.load(), 0u);
    // Then it is as if it had never been.
    passing.inject(ipv4(kTcp, tcp(999, 80, 5001, passing.ours + 2, kFin | kAck)));
    EXPECT_EQ(passing.last_flags(), kRst);
}

TEST(StackTcpTimeWait, AFinThatComesAgainIsAnsweredAndBeginsTheTimeAnew) {
    Passing passing;
    passing.network.run_for(59 * kSecond);
    for (int i = 0; i < 3; i++) passing.inject(ipv4(kTcp, tcp(999, 80, 5001, passing.ours + 2, kFin | kAck)));
    ASSERT_EQ(passing.sent().size(), 3u);
    const uint8_t* answer = passing.sent().back().data() + 34;
    EXPECT_EQ(answer[13], kAck);
    EXPECT_EQ(load32(answer + 4), passing.ours + 2);
    EXPECT_EQ(load32(answer + 8), 5002u);
    passing.network.run_for(59 * kSecond);
    EXPECT_EQ(passing.left(), 1u);
    passing.network.run_for(2 * kSecond);
    EXPECT_EQ(passing.left(), 0u);
}

TEST(StackTcpTimeWait, WhatIsExpectedIsNotAnswered) {
    Passing passing;
    passing.network.run_for(59 * kSecond);
    passing.inject(ipv4(kTcp, tcp(999, 80, 5002, passing.ours + 2, kAck)));
    EXPECT_EQ(passing.sent().size(), 0u);
    passing.network.run_for(59 * kSecond);
    EXPECT_EQ(passing.left(), 1u);  // heard of
    // Two that answer each other's answers would never end.
    for (int i = 0; i < 5000; i++) passing.inject(ipv4(kTcp, tcp(999, 80, 4000, passing.ours + 2, kAck)));
    EXPECT_EQ(passing.sent().size(), 1u);
    passing.network.run_for(kSecond);
    passing.inject(ipv4(kTcp, tcp(999, 80, 4000, passing.ours + 2, kAck)));
    EXPECT_EQ(passing.sent().size(), 2u);
    // Data are no answers.
    for (int i = 0; i < 10; i++) passing.inject(ipv4(kTcp, tcp(999, 80, 4000, passing.ours + 2, kAck, "late")));
    EXPECT_EQ(passing.sent().size(), 12u);
}

TEST(StackTcpTimeWait, OnlyTheExactResetEndsIt) {
    Passing passing;
    passing.inject(ipv4(kTcp, tcp(999, 80, 5001, 0, kRst)));
    passing.inject(ipv4(kTcp, tcp(999, 80, 5003, 0, kRst)));
    EXPECT_EQ(passing.left(), 1u);
    EXPECT_EQ(passing.sent().size(), 0u);
    passing.inject(ipv4(kTcp, tcp(999, 80, 5002, 0, kRst)));
    EXPECT_EQ(passing.left(), 0u);
    EXPECT_EQ(passing.stack().time_waiting.load(), 0u);
}

TEST(StackTcpTimeWait, ANewConnectionMayTakeItsPlace) {
    Passing passing;
    passing.network.run_for(kSecond);
    // An old duplicate of the SYN is answered as what it is.
    passing.inject(ipv4(kTcp, tcp(999, 80, 5000, 0, kSyn)));
    EXPECT_EQ(passing.last_flags(), kAck);
    EXPECT_EQ(passing.left(), 1u);
    passing.inject(ipv4(kTcp, tcp(999, 80, 9000, 0, kSyn)));
    EXPECT_EQ(passing.last_flags(), kSyn | kAck);
    EXPECT_EQ(passing.left(), 0u);
    uint32_t ours = load32(passing.sent().back().data() + 34 + 4);
    EXPECT_TRUE(before(passing.ours + 2 + 65535, ours));  // beyond what the old one can have sent
    passing.inject(ipv4(kTcp, tcp(999, 80, 9001, ours + 1, kAck)));
    EXPECT_EQ(passing.listener->accepted.size(), 2u);
}

TEST(StackTcpTimeWait, WithoutAListenerNothingTakesItsPlace) {
    Passing passing;
    passing.sockets().listeners.clear();
    passing.inject(ipv4(kTcp, tcp(999, 80, 9000, 0, kSyn)));
    EXPECT_EQ(passing.last_flags(), kAck);
    EXPECT_EQ(passing.left(), 1u);
}

// RFC 6191, and 7323 5.3: the timestamp says which is old, where there is one.
TEST(StackTcpTimeWait, TimestampsTellTheOldFromTheNew) {
    Passing passing(1000);
    passing.inject(ipv4(kTcp, tcp(999, 80, 9000, 0, kSyn, "", 999)));
    EXPECT_EQ(passing.last_flags(), kAck);
    EXPECT_EQ(load32(passing.sent().back().data() + 34 + 28), 1000u);  // its echo
    passing.inject(ipv4(kTcp, tcp(999, 80, 5002, 0, kRst, "", 999)));
    EXPECT_EQ(passing.left(), 1u);
    // What is heard raises it.
    passing.inject(ipv4(kTcp, tcp(999, 80, 5002, passing.ours + 2, kAck, "", 1010)));
    passing.network.run_for(kSecond);
    passing.inject(ipv4(kTcp, tcp(999, 80, 9000, 0, kSyn, "", 1005)));
    EXPECT_EQ(passing.last_flags(), kAck);
    EXPECT_EQ(passing.left(), 1u);
    passing.inject(ipv4(kTcp, tcp(999, 80, 4000, 0, kSyn, "", 1011)));
    EXPECT_EQ(passing.last_flags(), kSyn | kAck);
    EXPECT_EQ(passing.left(), 0u);
}

// The application may keep its socket: it has the data, the peer's segments have the rest.
TEST(StackTcpTimeWait, LeavesWhatIsUnreadToTheSocket) {
    Victim victim;
    victim.connection->shutdown_send();
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001, victim.ours + 2, kFin | kAck, "last words")));
    EXPECT_EQ(victim.stack().time_waits().size(), 1u);
    EXPECT_EQ(victim.connection->state(), TcpState::kClosed);
    EXPECT_EQ(victim.connection->unread(), 10u);
    char bytes[100];
    IoBuffer buffer = IoBuffer::kernel(bytes, sizeof(bytes));
    Connection::Reading reading;
    EXPECT_EQ(victim.connection->receive(buffer, reading).bytes, 10u);
    auto progress = victim.connection->receive(buffer, reading);
    EXPECT_TRUE(progress.ended);
    EXPECT_EQ(progress.error, 0);
    size_t before = victim.sent().size();
    victim.connection->close(false);
    EXPECT_EQ(victim.sent().size(), before);
    EXPECT_EQ(victim.stack().time_waits().size(), 1u);
    // Its time being over changes nothing for a socket that is still there.
    victim.network.run_for(61 * kSecond);
    EXPECT_EQ(victim.stack().time_waits().size(), 0u);
    EXPECT_EQ(victim.connection->take_error(), 0);
}

TEST(StackTcpTimeWait, StopForgetsThem) {
    Passing passing;
    passing.stack().stop();
    EXPECT_EQ(passing.left(), 0u);
    EXPECT_EQ(passing.stack().time_waiting.load(), 0u);
}

TEST(StackTcpTimeWait, ItsEndsAreTaken) {
    Passing passing;
    Tuple tuple{{InetAddress::v4(FakeNetwork::kA), 80}, {InetAddress::v4(FakeNetwork::kB), 999}};
    EXPECT_TRUE(passing.stack().has_connection(tuple));
    auto again = make_ref<Connection>(passing.network.hosts[0].stack, tuple, 0, make_ref<SocketWaiters>());
    auto done = passing.stack().connect(again);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().value, EADDRNOTAVAIL);
    EXPECT_EQ(passing.left(), 1u);
}

// A SYN in answer to ours, nothing more, and the application gives up.
TEST(StackTcpHostile, ASynForASynAndThenNothing) {
    Alone alone;
    auto connection = alone.network.connect(0, 80);
    alone.inject(ipv4(kTcp, tcp(80, 40000, 7000, 0, kSyn)));
    EXPECT_EQ(connection->state(), TcpState::kSynReceived);
    connection->close(false);
    alone.network.run_for(300 * kSecond);
    EXPECT_EQ(connection->state(), TcpState::kClosed);
    EXPECT_EQ(alone.stack().connections().size(), 0u);
}

TEST(StackTcpHostile, LyingSack) {
    Victim victim;
    std::string text(5000, 'd');
    IoBuffer buffer = IoBuffer::kernel(text.data(), text.size());
    EXPECT_EQ(victim.connection->send(buffer, false).bytes, 5000u);
    // Options of every sort: the parser and the scoreboard live through them.
    for (uint32_t seed = 0; seed < 2000; seed++) {
        auto bytes = tcp(999, 80, 5001, victim.ours + 1, kAck);
        uint32_t value = seed * 2654435761u;
        std::vector<uint8_t> options = {5, 34};
        for (int i = 0; i < 8; i++) {
            uint8_t word[4];
            store32(word, victim.ours + (value >> i * 3) % 7000);
            options.insert(options.end(), word, word + 4);
        }
        options.resize(36, 1);
        options[1] = static_cast<uint8_t>(2 + 8 * (seed % 5));
        bytes.insert(bytes.end(), options.begin(), options.end());
        bytes[12] = 0xe0;
        store16(bytes.data() + 16, 0);
        uint64_t sum =
            pseudo_header(InetAddress::v4(FakeNetwork::kB), InetAddress::v4(FakeNetwork::kA), kTcp, bytes.size());
        store16(bytes.data() + 16,
                static_cast<uint16_t>(~checksum_fold(checksum_add(sum, bytes.data(), bytes.size()))));
        victim.inject(ipv4(kTcp, bytes));
    }
    EXPECT_EQ(victim.connection->unsent(), 5000u);
    victim.inject(ipv4(kTcp, tcp(999, 80, 5001, victim.ours + 1 + 5000, kAck)));
    victim.network.run_for(kSecond);
    EXPECT_EQ(victim.connection->state(), TcpState::kEstablished);
}

TEST(StackTcpHostile, IcmpErrorsNeedASequenceUnderWay) {
    Victim victim;
    auto error = [&](uint32_t sequence, uint8_t code, uint16_t mtu) {
        std::vector<uint8_t> message = {3, code, 0, 0, 0, 0};
        message.push_back(static_cast<uint8_t>(mtu >> 8));
        message.push_back(static_cast<uint8_t>(mtu));
        Frame quoted = ipv4(kTcp, tcp(80, 999, sequence, 0, kAck));
        uint8_t* ip = quoted.data() + 14;
        store32(ip + 12, FakeNetwork::kA);
        store32(ip + 16, FakeNetwork::kB);
        message.insert(message.end(), quoted.begin() + 14, quoted.begin() + 14 + 28);
        store16(message.data() + 2, checksum(message.data(), message.size()));
        return ipv4(kIcmp, message);
    };
    std::string text(1000, 'd');
    IoBuffer buffer = IoBuffer::kernel(text.data(), text.size());
    victim.connection->send(buffer, false);
    uint32_t before_size = victim.connection->segment_size();
    victim.inject(error(victim.ours + 500'000, 4, 600));
    EXPECT_EQ(victim.connection->segment_size(), before_size);
    victim.inject(error(victim.ours + 1, 4, 40));
    EXPECT_EQ(victim.connection->segment_size(), std::min<uint32_t>(before_size, 552 - 40));
    victim.inject(error(victim.ours + 1, 3, 0));
    EXPECT_EQ(victim.connection->state(), TcpState::kEstablished);
}

TEST(StackIp, TruncatedFramesOfEverySort) {
    Alone alone;
    alone.sockets().udp_port = 53;
    alone.network.listen(0, 80);
    std::vector<Frame> frames = {ipv4(kUdp, udp(9, 53, "hello")), ipv4(kTcp, tcp(9, 80, 1, 0, kSyn)),
                                 ipv4(kIcmp, {3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 20})};
    for (Frame frame : frames) {
        for (size_t size = 0; size <= frame.size(); size++)
            alone.inject(Frame(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(size)));
        for (size_t i = 0; i < frame.size(); i++)
            for (int bit = 0; bit < 8; bit++) {
                Frame changed = frame;
                changed[i] ^= static_cast<uint8_t>(1 << bit);
                alone.inject(changed);
            }
    }
    EXPECT_FALSE(alone.sockets().datagrams.empty());
}

}  // namespace
}  // namespace casemate::sentry::stack
