#include "virtio/vsock.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "linux/event_fds.h"
#include "linux/unix_socket.h"
#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

constexpr uint32_t kBuffer = 4096;  // of a receive buffer, as Linux makes them

class VsockTest : public testing::Test {
  protected:
    ~VsockTest() override {
        driver.reset();
        device.reset();
        ::unlink(path.c_str());
    }
    void make(std::function<void(VsockDevice::Options&)> change = {}, bool start = true) {
        VsockDevice::Options options;
        options.connect = [this](uint32_t port) -> SysResult<UniqueFd> {
            if (port == 9) return Errno(ECONNREFUSED);
            auto pair = TRY(linux::create_socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
            old_hosts.push_back(std::move(host));
            host = std::move(pair.second);
            return std::move(pair.first);
        };
        path = "/tmp/casemate-vsock-test-" + std::to_string(::getpid());
        ::unlink(path.c_str());
        options.listener = MUST(linux::listen_unix(path));
        MUST(linux::set_nonblocking(options.listener.get(), true));
        if (change) change(options);
        device = std::make_unique<VsockDevice>(machine.loop(), std::move(options));
        driver = std::make_unique<FakeDriver>(machine, *device);
        if (!start) return;
        ASSERT_TRUE(driver->start());
        for (int i = 0; i < 60; ++i) offer_buffer();
        driver->kick(0);
    }
    void offer_buffer() {
        uint64_t gpa = machine.allocate(44 + kBuffer);
        buffers[driver->queue(0).add({{gpa, 44, true}, {gpa + 44, kBuffer, true}})] = gpa;
    }
    struct Packet {
        VsockHeader header{};
        std::string data;
    };
    // What the device sent; gives the buffer back.
    std::optional<Packet> take() {
        if (!machine.turn_until([&] { return driver->queue(0).has_used(); })) return std::nullopt;
        auto used = driver->queue(0).take_used();
        Packet packet;
        uint64_t gpa = buffers[used->head];
        std::memcpy(&packet.header, machine.at(gpa), 44);
        packet.data = machine.text(gpa + 44, used->written - 44);
        buffers[driver->queue(0).add({{gpa, 44, true}, {gpa + 44, kBuffer, true}})] = gpa;
        driver->kick(0);
        return packet;
    }
    bool silent() {
        machine.turn();
        return !driver->queue(0).has_used();
    }
    VsockHeader header(VsockOp op, uint32_t host_port = 1024, uint32_t guest_port = 5000) {
        VsockHeader h{};
        h.source_cid = 3;
        h.destination_cid = kHostCid;
        h.source_port = guest_port;
        h.destination_port = host_port;
        h.type = kVsockStream;
        h.op = static_cast<uint16_t>(op);
        h.buffer_bytes = 64 << 10;
        h.forwarded = taken;
        return h;
    }
    void send(VsockHeader h, const std::string& data = "", std::optional<uint32_t> length = {}) {
        h.length = length.value_or(static_cast<uint32_t>(data.size()));
        std::vector<FakeQueue::Part> parts = {{machine.put(h), 44}};
        if (!data.empty()) parts.push_back({machine.put(data.data(), data.size()), static_cast<uint32_t>(data.size())});
        driver->queue(1).add(parts);
        driver->kick(1);
        while (driver->queue(1).take_used()) {
        }
    }
    void connect_to_host() {
        send(header(VsockOp::kRequest));
        expect(VsockOp::kResponse);
    }
    Packet expect(VsockOp op) {
        auto packet = take();
        EXPECT_TRUE(packet);
        if (!packet) return {};
        EXPECT_EQ(packet->header.op, static_cast<uint16_t>(op));
        EXPECT_EQ(packet->header.source_cid, kHostCid);
        EXPECT_EQ(packet->header.destination_cid, 3u);
        return *packet;
    }
    std::string read_host(int fd) {
        std::string text(1 << 20, 0);
        ssize_t got = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
        text.resize(got > 0 ? static_cast<size_t>(got) : 0);
        return text;
    }
    UniqueFd connect_from_host(const std::string& line) {
        UniqueFd fd = MUST(linux::connect_unix(path));
        EXPECT_EQ(::send(fd.get(), line.data(), line.size(), 0), static_cast<ssize_t>(line.size()));
        machine.turn();
        return fd;
    }
    bool host_sees_end(int fd) {
        return machine.turn_until([&] {
            char byte;
            return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
        });
    }

    std::string path;
    FakeMachine machine;
    UniqueFd host;  // the far end of the last stream that the guest opened
    std::vector<UniqueFd> old_hosts;
    std::unique_ptr<VsockDevice> device;
    std::unique_ptr<FakeDriver> driver;
    std::map<uint16_t, uint64_t> buffers;
    uint32_t taken = 0;
};

TEST_F(VsockTest, TellsTheGuestItsAddress) {
    make();
    EXPECT_EQ(driver->config<uint64_t>(0), 3u);
}

TEST_F(VsockTest, GuestConnectsAndBothSidesTalk) {
    make();
    connect_to_host();
    send(header(VsockOp::kData), "from the guest");
    EXPECT_EQ(read_host(host.get()), "from the guest");
    ASSERT_EQ(::send(host.get(), "from the host", 13, 0), 13);
    Packet packet = expect(VsockOp::kData);
    EXPECT_EQ(packet.data, "from the host");
    EXPECT_EQ(packet.header.source_port, 1024u);
    EXPECT_EQ(packet.header.destination_port, 5000u);
    EXPECT_EQ(packet.header.forwarded, 14u);
    EXPECT_EQ(packet.header.buffer_bytes, VsockStream::kBufferBytes);
}

TEST_F(VsockTest, HostConnectsAndBothSidesTalk) {
    make();
    UniqueFd fd = connect_from_host("CONNECT 52\nearly bytes");
    Packet request = expect(VsockOp::kRequest);
    EXPECT_EQ(request.header.destination_port, 52u);
    uint32_t port = request.header.source_port;
    send(header(VsockOp::kResponse, port, 52));
    EXPECT_EQ(read_host(fd.get()), "OK " + std::to_string(port) + "\n");
    EXPECT_EQ(expect(VsockOp::kData).data, "early bytes");
    send(header(VsockOp::kData, port, 52), "answer");
    EXPECT_EQ(read_host(fd.get()), "answer");
}

TEST_F(VsockTest, GuestRefusesAndHostRefuses) {
    make();
    UniqueFd fd = connect_from_host("CONNECT 52\n");
    uint32_t port = expect(VsockOp::kRequest).header.source_port;
    send(header(VsockOp::kReset, port, 52));
    EXPECT_TRUE(host_sees_end(fd.get()));
    send(header(VsockOp::kRequest, 9));
    expect(VsockOp::kReset);
    EXPECT_EQ(device->stream_count(), 0u);
}

TEST_F(VsockTest, GreetingsThatAreNone) {
    make();
    for (const char* line :
         {"HELLO\n", "CONNECT\n", "CONNECT \n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 5x\n", "CONNECT 1 \n",
          "\n", "CONNECT 00000000000000000000000000000000000052\n"}) {
        UniqueFd fd = connect_from_host(line);
        char byte;
        EXPECT_TRUE(machine.turn_until([&] {
            ssize_t got = ::recv(fd.get(), &byte, 1, MSG_DONTWAIT);
            return got == 0 || (got < 0 && errno == ECONNRESET);
        })) << line;
    }
    EXPECT_TRUE(silent());
    // In pieces it is one.
    UniqueFd fd = connect_from_host("CONN");
    ASSERT_EQ(::send(fd.get(), "ECT 7\n", 6, 0), 6);
    EXPECT_EQ(expect(VsockOp::kRequest).header.destination_port, 7u);
}

TEST_F(VsockTest, HostsThatSayNothingAreLimitedInNumberAndTime) {
    make([](VsockDevice::Options& options) {
        options.max_greetings = 2;
        options.answer_time = std::chrono::milliseconds(50);
    });
    UniqueFd first = connect_from_host(""), second = connect_from_host(""), third = connect_from_host("");
    EXPECT_TRUE(host_sees_end(third.get()));
    EXPECT_TRUE(host_sees_end(first.get()));
    EXPECT_TRUE(host_sees_end(second.get()));
}

TEST_F(VsockTest, AGuestThatDoesNotAnswer) {
    make([](VsockDevice::Options& options) { options.answer_time = std::chrono::milliseconds(50); });
    UniqueFd fd = connect_from_host("CONNECT 52\n");
    expect(VsockOp::kRequest);
    EXPECT_TRUE(host_sees_end(fd.get()));
    expect(VsockOp::kReset);
}

TEST_F(VsockTest, ClosingFromTheHost) {
    make();
    connect_to_host();
    ASSERT_EQ(::send(host.get(), "last", 4, 0), 4);
    ASSERT_EQ(::shutdown(host.get(), SHUT_WR), 0);
    EXPECT_EQ(expect(VsockOp::kData).data, "last");
    EXPECT_EQ(expect(VsockOp::kShutdown).header.flags, kVsockNoSend);
    send(header(VsockOp::kData), "still heard");
    EXPECT_EQ(read_host(host.get()), "still heard");
    host.reset();
    EXPECT_EQ(expect(VsockOp::kShutdown).header.flags, kVsockNoSend | kVsockNoReceive);
    send(header(VsockOp::kReset));
    EXPECT_EQ(device->stream_count(), 0u);
}

TEST_F(VsockTest, ClosingFromTheGuest) {
    make();
    connect_to_host();
    VsockHeader half = header(VsockOp::kShutdown);
    half.flags = kVsockNoSend;
    send(half);
    EXPECT_TRUE(host_sees_end(host.get()));
    ASSERT_EQ(::send(host.get(), "still heard", 11, 0), 11);
    EXPECT_EQ(expect(VsockOp::kData).data, "still heard");
    half.flags = kVsockNoSend | kVsockNoReceive;
    send(half);
    expect(VsockOp::kReset);
    EXPECT_EQ(device->stream_count(), 0u);
}

TEST_F(VsockTest, WhatIsBufferedReachesTheHostThoughTheGuestClosed) {
    make();
    connect_to_host();
    int small = 4096;
    ::setsockopt(host.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    std::string data(60'000, 'x');
    std::string seen;
    for (int i = 0; i < 4; ++i) send(header(VsockOp::kData), data);
    VsockHeader close = header(VsockOp::kShutdown);
    close.flags = kVsockNoSend | kVsockNoReceive;
    send(close);
    ASSERT_TRUE(machine.turn_until([&] {
        seen += read_host(host.get());
        return seen.size() >= 240'000;
    }));
    EXPECT_EQ(seen.size(), 240'000u);
    EXPECT_TRUE(host_sees_end(host.get()));
}

TEST_F(VsockTest, TheGuestsCreditIsKept) {
    make();
    connect_to_host();
    std::string data(200'000, 'x');
    ASSERT_EQ(::send(host.get(), data.data(), data.size(), MSG_DONTWAIT), 200'000);
    size_t seen = 0;
    std::optional<Packet> packet;
    while (seen < (64u << 10)) seen += expect(VsockOp::kData).data.size();
    EXPECT_EQ(seen, 64u << 10);  // no byte more
    expect(VsockOp::kCreditRequest);
    EXPECT_TRUE(silent());
    taken = static_cast<uint32_t>(seen);
    send(header(VsockOp::kCreditUpdate));
    EXPECT_FALSE(expect(VsockOp::kData).data.empty());
}

TEST_F(VsockTest, TellsItsOwnCredit) {
    make();
    connect_to_host();
    std::string data(60'000, 'x');
    // Not before it knows of little room only: a quarter of the buffer.
    for (uint32_t i = 1; i <= 8; ++i) {
        send(header(VsockOp::kData), data);
        read_host(host.get());
        if (i % 4 == 0) {
            EXPECT_EQ(expect(VsockOp::kCreditUpdate).header.forwarded, i * 60'000u);
        } else {
            EXPECT_TRUE(silent());
        }
    }
    send(header(VsockOp::kCreditRequest));
    expect(VsockOp::kCreditUpdate);
}

// The host reads nothing and the guest sends beyond the credit that it has: the buffer keeps its bound.
TEST_F(VsockTest, AFloodEndsTheStream) {
    make();
    connect_to_host();
    std::string data(60'000, 'x');
    int sent = 0;
    while (device->stream_count() == 1 && sent < 100) {
        machine.forget_allocations();
        machine.allocate(1 << 20);
        send(header(VsockOp::kData), data);
        ++sent;
    }
    EXPECT_LT(sent, 50);
    EXPECT_EQ(device->stream_count(), 0u);
}

TEST_F(VsockTest, LyingCounters) {
    make();
    connect_to_host();
    VsockHeader lie = header(VsockOp::kCreditUpdate);
    lie.forwarded = 12345;  // more than was ever sent
    send(lie);
    ASSERT_EQ(::send(host.get(), "data", 4, 0), 4);
    EXPECT_TRUE(silent());
    lie.forwarded = 0;
    lie.buffer_bytes = 0xffffffff;
    send(lie);
    EXPECT_EQ(expect(VsockOp::kData).data, "data");
}

// The length in the header and the bytes that are there must agree.
TEST_F(VsockTest, Cve2023_3180_LengthThatIsNotThatOfTheBuffer) {
    make();
    for (uint32_t length : {0u, 3u, 5u, 0xffffffffu}) {
        connect_to_host();
        send(header(VsockOp::kData), "four", length);
        expect(VsockOp::kReset);
        EXPECT_EQ(device->stream_count(), 0u);
        EXPECT_EQ(read_host(host.get()), "");
    }
    connect_to_host();
    send(header(VsockOp::kCreditUpdate), "data where none belongs");
    expect(VsockOp::kReset);
}

TEST_F(VsockTest, PacketsOutOfPlace) {
    make();
    for (VsockOp op : {VsockOp::kResponse, VsockOp::kShutdown, VsockOp::kData, VsockOp::kCreditUpdate,
                       VsockOp::kCreditRequest, static_cast<VsockOp>(0), static_cast<VsockOp>(99)}) {
        send(header(op));
        expect(VsockOp::kReset);
    }
    send(header(VsockOp::kReset));
    EXPECT_TRUE(silent());
    VsockHeader foreign = header(VsockOp::kRequest);
    foreign.source_cid = 4;
    send(foreign);
    foreign = header(VsockOp::kRequest);
    foreign.destination_cid = 1;
    send(foreign);
    EXPECT_TRUE(silent());
    connect_to_host();
    send(header(VsockOp::kRequest));  // a second time
    expect(VsockOp::kReset);
    connect_to_host();
    VsockHeader datagram = header(VsockOp::kData);
    datagram.type = 3;
    send(datagram, "x");
    expect(VsockOp::kReset);
    // A packet that is shorter than a header.
    driver->queue(1).add({{machine.allocate(8), 8}});
    driver->kick(1);
    EXPECT_FALSE(driver->broken());
}

TEST_F(VsockTest, StreamsAndResetsAreBounded) {
    make([](VsockDevice::Options& options) { options.max_streams = 4; });
    for (uint32_t i = 0; i < 4; ++i) {
        send(header(VsockOp::kRequest, 1024, 100 + i));
        expect(VsockOp::kResponse);
    }
    send(header(VsockOp::kRequest, 1024, 200));
    expect(VsockOp::kReset);
    UniqueFd fd = connect_from_host("CONNECT 52\n");
    EXPECT_TRUE(host_sees_end(fd.get()));
    // A thousand packets for nobody, while the guest gives no buffers back: nothing piles up, nothing stalls.
    for (int i = 0; i < 1000; ++i) {
        machine.forget_allocations();
        machine.allocate(1 << 20);
        send(header(VsockOp::kData, 1, 1));
    }
    EXPECT_FALSE(driver->broken());
}

TEST_F(VsockTest, BuffersThatAreTooShortNeedAReset) {
    make({}, false);
    ASSERT_TRUE(driver->start());
    driver->queue(0).add({{machine.allocate(16), 16, true}});
    send(header(VsockOp::kRequest));
    EXPECT_TRUE(driver->broken());
}

TEST_F(VsockTest, WithoutBuffersNothingIsLost) {
    make({}, false);
    ASSERT_TRUE(driver->start());
    send(header(VsockOp::kRequest));
    ASSERT_EQ(::send(host.get(), "patience", 8, 0), 8);
    machine.turn();
    for (int i = 0; i < 4; ++i) offer_buffer();
    driver->kick(0);
    expect(VsockOp::kResponse);
    EXPECT_EQ(expect(VsockOp::kData).data, "patience");
}

TEST_F(VsockTest, ABigStreamArrivesWholeBothWays) {
    make();
    connect_to_host();
    std::string up, down, up_seen, down_seen;
    for (int i = 0; i < 3'000'000; ++i) {
        up.push_back(static_cast<char>(i * 7 + i / 251));
        down.push_back(static_cast<char>(i * 13 + i / 241));
    }
    size_t up_sent = 0, down_sent = 0;
    uint32_t room = VsockStream::kBufferBytes, told = 0;
    uint64_t scratch = machine.allocate(0);
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (up_seen.size() < up.size() || down_seen.size() < down.size()) {
        ASSERT_LT(std::chrono::steady_clock::now(), end)
            << up_sent << " " << told << " " << up_seen.size() << " " << down_sent << " " << down_seen.size();
        uint32_t credit = room - (static_cast<uint32_t>(up_sent) - told);
        size_t part = std::min<size_t>({up.size() - up_sent, credit, 9000});
        if (part > 0) {
            machine.forget_allocations();
            machine.allocate(scratch);
            send(header(VsockOp::kData), up.substr(up_sent, part));
            up_sent += part;
        } else {
            machine.forget_allocations();
            machine.allocate(scratch);
            send(header(VsockOp::kCreditUpdate));
        }
        up_seen += read_host(host.get());
        ssize_t put = ::send(host.get(), down.data() + down_sent, std::min<size_t>(down.size() - down_sent, 50'000),
                             MSG_DONTWAIT);
        if (put > 0) down_sent += static_cast<size_t>(put);
        machine.turn(1);
        while (driver->queue(0).has_used()) {
            auto packet = take();
            ASSERT_TRUE(packet);
            told = packet->header.forwarded;
            down_seen += packet->data;
            taken += static_cast<uint32_t>(packet->data.size());
        }
    }
    EXPECT_TRUE(up == up_seen);
    EXPECT_TRUE(down == down_seen);
}

TEST_F(VsockTest, AfterARestoreTheGuestIsToldThatStreamsAreGone) {
    make();
    connect_to_host();
    uint64_t event = machine.allocate(4);
    *machine.at(event) = 77;
    driver->queue(2).add({{event, 4, true}});
    driver->kick(2);
    EXPECT_FALSE(driver->queue(2).has_used());
    StateWriter writer;
    driver->transport().save(writer);
    std::string state = writer.take();

    VsockDevice::Options options;
    options.guest_cid = 9;
    VsockDevice clone(machine.loop(), std::move(options));
    FakeDriver shell(machine, clone);
    StateReader reader(state);
    ASSERT_TRUE(shell.transport().restore(reader).ok());
    shell.transport().resume();
    auto used = driver->queue(2).take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, 4u);
    EXPECT_EQ(*machine.at(event), 0);
    EXPECT_EQ(clone.stream_count(), 0u);
    EXPECT_EQ(shell.config<uint64_t>(0), 9u);
}

TEST_F(VsockTest, AResetEndsEverything) {
    make();
    connect_to_host();
    UniqueFd fd = connect_from_host("CONNECT 52\n");
    driver->write(VIRTIO_MMIO_STATUS, 0);
    EXPECT_EQ(device->stream_count(), 0u);
    EXPECT_TRUE(host_sees_end(fd.get()));
    EXPECT_TRUE(host_sees_end(host.get()));
}

}  // namespace
}  // namespace casemate::virtio
