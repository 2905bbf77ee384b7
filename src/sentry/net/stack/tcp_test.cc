#include "sentry/net/stack/fake_network_test.h"

#include <linux/tcp.h>
#include <malloc.h>

#include "sentry/net/stack/time_wait.h"

namespace casemate::sentry::stack {
namespace {

// A stream of `total` bytes in one direction over `network`; it arrives whole.
void transfer(FakeNetwork& network, size_t total, bool v6 = false, Nanoseconds limit = 600 * kSecond) {
    auto listener = network.listen(1, 80);
    auto client = network.connect(0, 80, v6);
    ASSERT_TRUE(network.run([&] { return !listener->accepted.empty(); }, limit));
    auto server = listener->accepted.front();
    listener->accepted.clear();
    Pump out(client, server, total), back(server, client, total / 2);
    EXPECT_TRUE(network.run(
        [&] {
            bool a = out.step();
            bool b = back.step();
            return a && b;
        },
        limit))
        << out.got << " " << back.got;
    EXPECT_EQ(out.wrong, 0u);
    EXPECT_EQ(back.wrong, 0u);
    EXPECT_EQ(out.error, 0);
    EXPECT_EQ(out.got, total);
    EXPECT_EQ(back.got, total / 2);
    client->close(false);
    server->close(false);
    network.run_for(200 * kSecond);
    EXPECT_EQ(network.hosts[0].stack->connections().size(), 0u);
    EXPECT_EQ(network.hosts[1].stack->connections().size(), 0u);
}

TEST(StackTcp, BothWays) {
    FakeNetwork network;
    transfer(network, 3'000'000);
}
TEST(StackTcp, OverIpv6) {
    FakeNetwork network;
    transfer(network, 3'000'000, true);
}
TEST(StackTcp, SmallMtu) {
    FakeNetwork network(576);
    transfer(network, 300'000);
}
TEST(StackTcp, JumboFrames) {
    FakeNetwork network(9000);
    transfer(network, 3'000'000);
}
TEST(StackTcp, Loss) {
    for (unsigned seed = 1; seed <= 20; seed++) {
        FakeNetwork network(1500, seed);
        network.loss = 0.03;
        transfer(network, 500'000);
    }
}
TEST(StackTcp, HeavyLoss) {
    for (unsigned seed = 1; seed <= 10; seed++) {
        FakeNetwork network(1500, seed);
        network.loss = 0.2;
        transfer(network, 60'000, false, 3600 * kSecond);
    }
}
TEST(StackTcp, LossReorderingAndDoubles) {
    for (unsigned seed = 1; seed <= 20; seed++) {
        FakeNetwork network(1500, seed);
        network.loss = 0.01;
        network.reorder = 0.1;
        network.jitter = 700'000;
        network.twice = 0.02;
        transfer(network, 500'000, seed % 2);
    }
}
TEST(StackTcp, SlowLinkWithShortQueue) {
    FakeNetwork network;
    network.bytes_per_second = 1'000'000;
    network.queue_limit = 30;
    network.delay = 20'000'000;
    Nanoseconds began = network.now;
    transfer(network, 3'000'000);
    // 3 MB at 1 MB/s, and what closing takes.
    EXPECT_LT(network.now - began, 206 * kSecond);
}

TEST(StackTcp, RefusedWithoutListener) {
    FakeNetwork network;
    auto client = network.connect(0, 81);
    EXPECT_TRUE(network.run([&] { return !client->connecting(); }));
    EXPECT_EQ(client->take_error(), ECONNREFUSED);
    EXPECT_EQ(client->state(), TcpState::kClosed);
}

TEST(StackTcp, UnreachableWithoutNeighbour) {
    FakeNetwork network;
    network.cut_off = true;
    auto client = network.connect(0, 81);
    EXPECT_TRUE(network.run([&] { return !client->connecting(); }, 20 * kSecond));
    EXPECT_EQ(client->take_error(), EHOSTUNREACH);
}

TEST(StackTcp, ConnectTimesOut) {
    FakeNetwork network;
    network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    network.cut_off = true;
    auto client = network.connect(0, 81);
    EXPECT_TRUE(network.run([&] { return !client->connecting(); }, 300 * kSecond));
    EXPECT_EQ(client->take_error(), ETIMEDOUT);
    EXPECT_EQ(network.hosts[0].sent.size(), 7u);
}

struct Pair {
    explicit Pair(FakeNetwork& network) {
        auto listener = network.listen(1, 80);
        client = network.connect(0, 80);
        EXPECT_TRUE(network.run([&] { return !listener->accepted.empty(); }));
        server = listener->accepted.front();
        network.run_for(kSecond);
    }
    Ref<Connection> client, server;
};

std::string read_all(Connection& connection) {
    char bytes[4096];
    IoBuffer buffer = IoBuffer::kernel(bytes, sizeof(bytes));
    Connection::Reading reading;
    auto progress = connection.receive(buffer, reading);
    return {bytes, progress.bytes};
}
size_t write_all(Connection& connection, std::string text) {
    IoBuffer buffer = IoBuffer::kernel(text.data(), text.size());
    return connection.send(buffer, false).bytes;
}

TEST(StackTcp, AbortResets) {
    FakeNetwork network;
    Pair pair(network);
    pair.client->close(true);
    network.run_for(kSecond);
    EXPECT_EQ(pair.server->state(), TcpState::kClosed);
    EXPECT_EQ(pair.server->take_error(), ECONNRESET);
}

TEST(StackTcp, UnreadDataResets) {
    FakeNetwork network;
    Pair pair(network);
    EXPECT_EQ(write_all(*pair.client, "hello"), 5u);
    network.run_for(kSecond);
    EXPECT_EQ(pair.server->unread(), 5u);
    pair.server->close(false);
    network.run_for(kSecond);
    EXPECT_EQ(pair.client->take_error(), ECONNRESET);
}

// A reset takes nothing away that had come before it.
TEST(StackTcp, ResetLeavesWhatWasReceived) {
    FakeNetwork network;
    Pair pair(network);
    EXPECT_EQ(write_all(*pair.client, "hello"), 5u);
    network.run_for(kSecond);
    pair.client->close(true);
    network.run_for(kSecond);
    EXPECT_EQ(pair.server->state(), TcpState::kClosed);
    EXPECT_EQ(read_all(*pair.server), "hello");
    EXPECT_EQ(pair.server->take_error(), ECONNRESET);
}

TEST(StackTcp, HalfClose) {
    FakeNetwork network;
    Pair pair(network);
    pair.client->shutdown_send();
    network.run_for(kSecond);
    EXPECT_EQ(pair.server->state(), TcpState::kCloseWait);
    EXPECT_EQ(pair.client->state(), TcpState::kFinWait2);
    EXPECT_EQ(write_all(*pair.server, "answer"), 6u);
    network.run_for(kSecond);
    EXPECT_EQ(read_all(*pair.client), "answer");
    pair.server->close(false);
    network.run_for(kSecond);
    EXPECT_EQ(pair.client->state(), TcpState::kClosed);
    EXPECT_EQ(pair.server->state(), TcpState::kClosed);
    EXPECT_EQ(network.hosts[0].stack->time_waits().size(), 1u);
    EXPECT_EQ(network.hosts[1].stack->time_waits().size(), 0u);
    network.run_for(70 * kSecond);
    EXPECT_EQ(network.hosts[0].stack->time_waits().size(), 0u);
}

TEST(StackTcp, ShortConnectionsWithoutEnd) {
    FakeNetwork network;
    network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    auto listener = network.listen(1, 80);
    // More at once than may wait for their time to pass; their ends alone would fill the table.
    for (int i = 0; i < 20000; i++) {
        auto client = network.connect(0, 80, false, static_cast<uint16_t>(i + 1024));
        ASSERT_TRUE(network.run([&] { return !listener->accepted.empty(); }, kSecond)) << i;
        auto server = listener->accepted.front();
        listener->accepted.pop_front();
        client->close(false);
        server->close(false);
        network.run([&] { return server->state() == TcpState::kClosed; }, kSecond / 1000);
    }
    EXPECT_LE(network.hosts[0].stack->time_waiting.load(), Stack::kMostTimeWait);
    EXPECT_LE(network.hosts[1].stack->time_waiting.load(), Stack::kMostTimeWait);
    network.run_for(100 * kSecond);
    EXPECT_EQ(network.hosts[0].stack->time_waiting.load(), 0u);
    EXPECT_EQ(network.hosts[0].stack->connections().size(), 0u);
    EXPECT_EQ(network.hosts[1].stack->connections().size(), 0u);
}

// What thousands of connections of the last minute take of the heap, and that it comes back.
TEST(StackTcp, ThePastTakesLittleMemory) {
    constexpr size_t kCount = 4500;
    FakeNetwork network;
    network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    auto listener = network.listen(1, 80);
    size_t at_first = mallinfo2().uordblks;
    for (size_t i = 0; i < kCount; i++) {
        auto client = network.connect(0, 80, false, static_cast<uint16_t>(i + 1024));
        ASSERT_TRUE(network.run([&] { return !listener->accepted.empty(); }, kSecond)) << i;
        auto server = std::move(listener->accepted.front());
        listener->accepted.pop_front();
        EXPECT_EQ(write_all(*client, "question"), 8u);
        network.run_for(kSecond / 1000);
        EXPECT_EQ(read_all(*server), "question");
        client->close(false);
        network.run_for(kSecond / 1000);
        server->close(false);
        network.run_for(kSecond / 1000);
    }
    Stack& stack = *network.hosts[0].stack;
    ASSERT_EQ(stack.time_waits().size(), kCount);
    EXPECT_EQ(stack.connections().size(), 0u);
    size_t each = (mallinfo2().uordblks - at_first) / kCount;
    RecordProperty("bytes_each", static_cast<int>(each));
    EXPECT_LE(each, 256u);
    network.run_for(100 * kSecond);
    EXPECT_EQ(stack.time_waits().size(), 0u);
    EXPECT_LE((mallinfo2().uordblks - at_first) / kCount, 48u);  // the tables' rooms, never more of them
    EXPECT_LE(stack.timers().room(), 1024u);
}

TEST(StackTcp, BothCloseAtOnce) {
    FakeNetwork network;
    Pair pair(network);
    pair.client->close(false);
    pair.server->close(false);
    network.run_for(kSecond);
    for (FakeHost& host : network.hosts) {
        EXPECT_EQ(host.stack->connections().size(), 0u);
        EXPECT_EQ(host.stack->time_waits().size(), 1u);
    }
}

TEST(StackTcp, BothOpenAtOnce) {
    FakeNetwork network;
    network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    network.hosts[1].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kA), network.hosts[0].mac);
    auto a = network.connect(0, 40001, false, 40000);
    auto b = network.connect(1, 40000, false, 40001);
    EXPECT_TRUE(network.run([&] { return !a->connecting() && !b->connecting(); }, 10 * kSecond));
    EXPECT_EQ(a->state(), TcpState::kEstablished);
    EXPECT_EQ(b->state(), TcpState::kEstablished);
    EXPECT_EQ(write_all(*a, "x"), 1u);
    network.run_for(kSecond);
    EXPECT_EQ(read_all(*b), "x");
}

// A reader that stops closes the window; the sender asks now and then, and goes on when it opens, even if word of
// that is lost.
TEST(StackTcp, ZeroWindow) {
    FakeNetwork network;
    auto listener = network.listen(1, 80);
    listener->buffer = 8192;
    auto client = network.connect(0, 80);
    ASSERT_TRUE(network.run([&] { return !listener->accepted.empty(); }));
    auto server = listener->accepted.front();
    Pump pump(client, server, 200'000);
    pump.paused = true;
    network.run([&] { return pump.step(); }, 60 * kSecond);
    EXPECT_EQ(pump.got, 0u);
    EXPECT_LE(server->unread(), 8192u);
    EXPECT_GE(server->unread(), 4096u);
    network.loss = 1;
    pump.paused = false;
    network.run([&] { return pump.step(); }, kSecond);
    network.loss = 0;
    EXPECT_TRUE(network.run([&] { return pump.step(); }, 300 * kSecond));
    EXPECT_EQ(pump.got, 200'000u);
    EXPECT_EQ(pump.wrong, 0u);
}

TEST(StackTcp, KeepAliveFindsThatThePeerIsGone) {
    FakeNetwork network;
    Pair pair(network);
    pair.client->tuning.keep_alive = true;
    pair.client->tuning.keep_idle = 10;
    pair.client->tuning.keep_interval = 5;
    pair.client->tuning.keep_count = 3;
    pair.client->options_changed();
    network.run_for(100 * kSecond);
    EXPECT_EQ(pair.client->state(), TcpState::kEstablished);
    network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    network.cut_off = true;
    network.run_for(40 * kSecond);
    EXPECT_EQ(pair.client->state(), TcpState::kClosed);
    EXPECT_EQ(pair.client->take_error(), ETIMEDOUT);
}

TEST(StackTcp, DataTimesOut) {
    FakeNetwork network;
    Pair pair(network);
    pair.client->tuning.user_timeout_ms = 5000;
    network.hosts[0].link->neighbours.set_permanent(InetAddress::v4(FakeNetwork::kB), network.hosts[1].mac);
    network.cut_off = true;
    write_all(*pair.client, "x");
    EXPECT_TRUE(network.run([&] { return pair.client->state() == TcpState::kClosed; }, 60 * kSecond));
    EXPECT_EQ(pair.client->take_error(), ETIMEDOUT);
}

// A time-out of 200 ms for each lost tail would be felt: a probe comes first.
TEST(StackTcp, TailLossIsProbed) {
    FakeNetwork network;
    Pair pair(network);
    write_all(*pair.client, "one");
    network.run_for(kSecond);
    int seen = 0;
    network.loss = 1;
    write_all(*pair.client, std::string(3000, 'x'));
    network.loss = 0;
    Nanoseconds began = network.now;
    EXPECT_TRUE(network.run(
        [&] {
            seen = static_cast<int>(pair.server->unread());
            return seen == 3003;
        },
        10 * kSecond));
    EXPECT_LT(network.now - began, 150'000'000);
}

TEST(StackTcp, PeekAndDiscard) {
    FakeNetwork network;
    Pair pair(network);
    write_all(*pair.client, "abcdef");
    network.run_for(kSecond);
    char bytes[8];
    IoBuffer buffer = IoBuffer::kernel(bytes, 4);
    Connection::Reading peek;
    peek.peek = true;
    EXPECT_EQ(pair.server->receive(buffer, peek).bytes, 4u);
    EXPECT_EQ(std::string(bytes, 4), "abcd");
    IoBuffer none = IoBuffer::kernel(bytes, 0);
    Connection::Reading discard;
    discard.discard = true;
    discard.want = 2;
    EXPECT_EQ(pair.server->receive(none, discard).bytes, 2u);
    EXPECT_EQ(read_all(*pair.server), "cdef");
}

// Up to `size` bytes by one read.
std::string read_once(Connection& connection, size_t size = 100) {
    std::string text(size, 0);
    IoBuffer buffer = IoBuffer::kernel(text.data(), text.size());
    Connection::Reading reading;
    text.resize(connection.receive(buffer, reading).bytes);
    return text;
}
void write_urgent(Connection& connection, std::string text) {
    IoBuffer buffer = IoBuffer::kernel(text.data(), text.size());
    EXPECT_EQ(connection.send(buffer, false, true).bytes, text.size());
}

TEST(StackTcp, UrgentByteBesideTheStream) {
    FakeNetwork network;
    Pair pair(network);
    EXPECT_EQ(pair.server->receive_urgent(false).error().value, EINVAL);
    write_all(*pair.client, "abc");
    write_urgent(*pair.client, "de!");
    write_all(*pair.client, "fgh");
    network.run_for(kSecond);
    EXPECT_TRUE(pair.server->poll_events() & EPOLLPRI);
    EXPECT_FALSE(pair.server->at_mark());
    // A read ends at the mark; the byte itself is stepped over.
    EXPECT_EQ(read_once(*pair.server), "abcde");
    EXPECT_TRUE(pair.server->at_mark());
    EXPECT_EQ(static_cast<char>(MUST(pair.server->receive_urgent(true))), '!');
    EXPECT_EQ(static_cast<char>(MUST(pair.server->receive_urgent(false))), '!');
    EXPECT_EQ(pair.server->receive_urgent(false).error().value, EINVAL);
    EXPECT_FALSE(pair.server->poll_events() & EPOLLPRI);
    EXPECT_EQ(read_once(*pair.server), "fgh");
    EXPECT_FALSE(pair.server->at_mark());
}

TEST(StackTcp, UrgentByteInTheStream) {
    FakeNetwork network;
    Pair pair(network);
    pair.server->tuning.urgent_inline = true;
    write_urgent(*pair.client, "abc!");
    write_all(*pair.client, "def");
    network.run_for(kSecond);
    EXPECT_EQ(pair.server->receive_urgent(false).error().value, EINVAL);
    EXPECT_EQ(read_once(*pair.server), "abc");
    EXPECT_TRUE(pair.server->at_mark());
    EXPECT_EQ(read_once(*pair.server), "!def");
}

TEST(StackTcp, UrgentByteAloneIsNothingToRead) {
    FakeNetwork network;
    Pair pair(network);
    write_urgent(*pair.client, "!");
    network.run_for(kSecond);
    EXPECT_TRUE(pair.server->poll_events() & EPOLLPRI);
    EXPECT_FALSE(pair.server->poll_events() & EPOLLIN);
    EXPECT_EQ(static_cast<char>(MUST(pair.server->receive_urgent(false))), '!');
    // A second one takes the first one's place.
    write_urgent(*pair.client, "a?");
    network.run_for(kSecond);
    EXPECT_EQ(static_cast<char>(MUST(pair.server->receive_urgent(false))), '?');
    EXPECT_EQ(read_once(*pair.server), "a");
}

TEST(StackTcp, UrgentBytesUnderLoss) {
    FakeNetwork network;
    network.loss = 0.1;
    Pair pair(network);
    pair.server->tuning.urgent_inline = true;
    std::string sent, got;
    for (int i = 0; i < 200; i++) {
        std::string text(static_cast<size_t>(i * 37 % 3000 + 1), static_cast<char>('a' + i % 26));
        write_urgent(*pair.client, text);
        sent += text;
        network.run(
            [&] {
                got += read_once(*pair.server, 5000);
                return got.size() == sent.size();
            },
            600 * kSecond);
    }
    EXPECT_EQ(got, sent);
}

TEST(StackTcp, NagleHoldsBackAndNoDelayDoesNot) {
    FakeNetwork network;
    Pair pair(network);
    unsigned frames = 0;
    network.watch = [&](int from, const Frame& frame) { frames += from == 0 && frame.size() > 66; };
    for (int i = 0; i < 10; i++) write_all(*pair.client, "x");
    network.run_for(kSecond);
    EXPECT_EQ(frames, 2u);
    frames = 0;
    pair.client->tuning.no_delay = true;
    for (int i = 0; i < 10; i++) write_all(*pair.client, "x");
    network.run_for(kSecond);
    EXPECT_EQ(frames, 10u);
}

TEST(StackTcp, ManySmallWritesArriveInOrder) {
    FakeNetwork network;
    network.loss = 0.02;
    Pair pair(network);
    pair.client->tuning.no_delay = true;
    std::string sent, got;
    for (int i = 0; i < 3000; i++) {
        std::string text(static_cast<size_t>(i % 40 + 1), static_cast<char>('a' + i % 26));
        ASSERT_EQ(write_all(*pair.client, text), text.size());
        sent += text;
        if (i % 7 == 0) network.run_for(300'000);
        got += read_all(*pair.server);
    }
    network.run(
        [&] {
            got += read_all(*pair.server);
            return got.size() == sent.size();
        },
        60 * kSecond);
    EXPECT_EQ(got, sent);
}

// What a router between two stacks sees, and marks.
struct MarkingRouter {
    explicit MarkingRouter(FakeNetwork& network) {
        network.change = [this](int from, Frame& frame) {
            bool v4 = load16(frame.data() + 12) == kEtherIpv4;
            uint8_t* ip = frame.data() + kEthernetHeader;
            if (!v4 || ip[9] != kTcp) return;
            const uint8_t* tcp = ip + kIpv4Header;
            bool syn = tcp[13] & kSyn, data = frame.size() > kEthernetHeader + kIpv4Header + size_t{tcp[12]} / 16 * 4;
            if (syn) (from == 0 ? syn_flags : answer_flags) = tcp[13];
            if (!syn && tcp[13] & kEce) echoes++;
            if (!syn && tcp[13] & kCwr) slowed++;
            if ((ip[1] & kEcnMask) == kNotCapable) return;
            capable++;
            if (!data) capable_without_data++;
            if (every == 0 || capable % every != 0) return;
            marked++;
            ip[1] |= kCongested;
            ip[10] = ip[11] = 0;
            store16(ip + 10, checksum(ip, kIpv4Header));
        };
    }
    unsigned every = 0, capable = 0, capable_without_data = 0, marked = 0, echoes = 0, slowed = 0;
    uint8_t syn_flags = 0, answer_flags = 0;
};

TEST(StackTcp, CongestionIsToldByMarks) {
    FakeNetwork network;
    network.hosts[0].sockets.ecn_setting = 1;
    MarkingRouter router(network);
    router.every = 50;
    Pair pair(network);
    tcp_info info{};
    pair.client->info(info);
    EXPECT_TRUE(info.tcpi_options & 8);
    pair.client->close(true);
    pair.server->close(true);
    network.run_for(kSecond);
    transfer(network, 3'000'000);
    EXPECT_EQ(router.syn_flags, kSyn | kEce | kCwr);
    EXPECT_EQ(router.answer_flags, kSyn | kAck | kEce);
    EXPECT_GT(router.marked, 20u);
    EXPECT_GT(router.echoes, 0u);
    EXPECT_GT(router.slowed, 2u);
    EXPECT_EQ(router.capable_without_data, 0u);
    EXPECT_EQ(network.hosts[0].stack->counters().tcp_retransmitted.load(), 0u);
}

TEST(StackTcp, MarksSlowTheSenderDown) {
    auto time_of = [](unsigned every) {
        FakeNetwork network;
        network.delay = 10'000'000;
        network.hosts[0].sockets.ecn_setting = 1;
        MarkingRouter router(network);
        router.every = every;
        transfer(network, 5'000'000);
        return network.now;
    };
    EXPECT_GT(time_of(20), time_of(0));
}

TEST(StackTcp, NoMarksUnlessBothWantThem) {
    for (auto [client, server] : {std::pair(2, 2), std::pair(2, 1), std::pair(1, 0), std::pair(0, 2)}) {
        FakeNetwork network;
        network.hosts[0].sockets.ecn_setting = client;
        network.hosts[1].sockets.ecn_setting = server;
        MarkingRouter router(network);
        transfer(network, 300'000);
        EXPECT_EQ(router.syn_flags, client == 1 ? kSyn | kEce | kCwr : kSyn);
        EXPECT_EQ(router.answer_flags, kSyn | kAck);
        EXPECT_EQ(router.capable, 0u);
    }
}

}  // namespace
}  // namespace casemate::sentry::stack
