#include "virtio/net.h"

#include <gtest/gtest.h>

#include <sys/socket.h>

#include "linux/unix_socket.h"
#include "virtio/fake_driver.h"
#include "virtio/net_header.h"

namespace casemate::virtio {
namespace {

constexpr size_t kHeader = 12;

// A pair of sockets that keep messages whole stands for the tap.
class NetTest : public testing::Test {
  protected:
    void make(std::function<void(NetDevice::Options&)> change = {}, uint64_t without = kFeatureEventIndex) {
        auto pair = MUST(linux::create_socket_pair(SOCK_SEQPACKET | SOCK_NONBLOCK));
        wire = std::move(pair.second);
        NetDevice::Options options;
        options.tap = std::move(pair.first);
        options.mac = {2, 0, 0, 0, 0, 7};
        options.mtu = 1400;
        if (change) change(options);
        driver.reset();
        device = std::make_unique<NetDevice>(machine.loop(), std::move(options));
        driver = std::make_unique<FakeDriver>(machine, *device);
        ASSERT_TRUE(driver->start(without));
    }
    // A header of zeros and a frame of `size` bytes.
    static std::string frame(size_t size, char fill = 'f') { return std::string(kHeader, 0) + std::string(size, fill); }
    void to_guest(const std::string& bytes) {
        ASSERT_EQ(::send(wire.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
        machine.turn();
    }
    std::string from_guest() {
        std::string bytes(70'000, 0);
        ssize_t got = ::recv(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
        return bytes;
    }
    uint64_t offer(uint32_t size) {
        uint64_t gpa = machine.allocate(size);
        driver->queue(0).add({{gpa, size, true}});
        driver->kick(0);
        return gpa;
    }
    void transmit(const std::string& bytes, size_t split = 12) {
        uint64_t gpa = machine.put(bytes.data(), bytes.size());
        uint32_t size = static_cast<uint32_t>(bytes.size()), first = std::min(size, static_cast<uint32_t>(split));
        std::vector<FakeQueue::Part> parts = {{gpa, first}};
        if (size > first) parts.push_back({gpa + first, size - first});
        driver->queue(1).add(parts);
        driver->kick(1);
    }

    UniqueFd wire;
    FakeMachine machine;
    std::unique_ptr<NetDevice> device;
    std::unique_ptr<FakeDriver> driver;
};

TEST_F(NetTest, TellsAddressAndMtu) {
    make();
    EXPECT_EQ(driver->config<uint8_t>(5), 7);
    EXPECT_EQ(driver->config<uint16_t>(10), 1400);
    make([](NetDevice::Options& options) { options.mtu = 0; });
    EXPECT_EQ(driver->device_features() & feature_bit(VIRTIO_NET_F_MTU), 0u);
}

TEST_F(NetTest, FramesBothWays) {
    make();
    transmit(frame(60));
    EXPECT_EQ(from_guest(), frame(60));
    transmit(frame(1514), 300);  // header and frame in one descriptor
    EXPECT_EQ(from_guest(), frame(1514));
    uint64_t gpa = offer(2048);
    to_guest(frame(100, 'g'));
    auto used = driver->queue(0).take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, kHeader + 100);
    EXPECT_EQ(machine.text(gpa + kHeader, 100), std::string(100, 'g'));
    EXPECT_EQ(*machine.at(gpa + 10), 1);  // num_buffers
}

TEST_F(NetTest, ALargeFrameTakesSeveralBuffers) {
    make();
    std::vector<uint64_t> buffers;
    for (int i = 0; i < 10; ++i) buffers.push_back(offer(1000));
    to_guest(frame(3500));
    EXPECT_EQ(driver->queue(0).used_index(), 4);
    EXPECT_EQ(*machine.at(buffers[0] + 10), 4);
    EXPECT_EQ(driver->queue(0).take_used()->written, 1000u);
    driver->queue(0).take_used();
    driver->queue(0).take_used();
    EXPECT_EQ(driver->queue(0).take_used()->written, 512u);
    // The rest is for the next frame.
    to_guest(frame(60));
    EXPECT_EQ(driver->queue(0).used_index(), 5);
}

TEST_F(NetTest, AnAnswerThatIsThereComesWithTheSentFrame) {
    make();
    offer(1000);
    machine.turn();  // the driver is ready: from now on the tap is listened to
    uint64_t gpa = machine.put(frame(60).data(), 72);
    driver->queue(1).add({{gpa, 72}});
    int before = driver->interrupts;
    driver->write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    ASSERT_EQ(::send(wire.get(), frame(60).data(), 72, 0), 72);
    machine.turn(1);
    EXPECT_EQ(driver->queue(1).used_index(), 1);
    EXPECT_EQ(driver->queue(0).used_index(), 1);
    EXPECT_EQ(driver->interrupts - before, 1);
}

TEST_F(NetTest, WithoutRoomAFrameWaits) {
    make();
    offer(1000);
    to_guest(frame(1500));
    EXPECT_EQ(driver->queue(0).used_index(), 0);
    offer(1000);
    EXPECT_EQ(driver->queue(0).used_index(), 2);
}

TEST_F(NetTest, WithoutMergingWhatDoesNotFitIsDropped) {
    make({}, kFeatureEventIndex | feature_bit(VIRTIO_NET_F_MRG_RXBUF));
    uint64_t gpa = offer(1000);
    to_guest(frame(1500));
    EXPECT_EQ(driver->queue(0).used_index(), 0);
    to_guest(frame(60, 'h'));
    EXPECT_EQ(driver->queue(0).used_index(), 1);
    EXPECT_EQ(machine.text(gpa + kHeader, 60), std::string(60, 'h'));
}

TEST_F(NetTest, OffloadHeadersThatWereNegotiatedPass) {
    make();
    std::string tso = frame(30'000);
    tso[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    tso[1] = VIRTIO_NET_HDR_GSO_TCPV4;
    tso[4] = 100;  // gso_size
    transmit(tso);
    EXPECT_EQ(from_guest(), tso);
}

TEST_F(NetTest, OffloadHeadersThatWereNotAreDropped) {
    uint64_t offloads = feature_bit(VIRTIO_NET_F_CSUM) | feature_bit(VIRTIO_NET_F_HOST_TSO4);
    make({}, kFeatureEventIndex | offloads);
    for (auto [flags, type, size] :
         {std::tuple(1, 0, 0), {0, 1, 100}, {0, 3, 100}, {0, 0x81, 100}, {0, 4, 0}, {2, 0, 0}, {0, 99, 1}}) {
        std::string bad = frame(100);
        bad[0] = static_cast<char>(flags);
        bad[1] = static_cast<char>(type);
        bad[4] = static_cast<char>(size);
        transmit(bad);
        EXPECT_EQ(from_guest(), "") << flags << " " << type;
    }
    transmit(frame(13));  // shorter than an Ethernet header
    transmit(std::string(5, 0));
    transmit(frame(66'000));  // longer than any
    EXPECT_EQ(from_guest(), "");
    EXPECT_EQ(driver->queue(1).used_index(), 10);
    EXPECT_FALSE(driver->broken());
}

// A flood from the wire, with a guest that gives no buffers: the device holds one frame and reads no more.
TEST_F(NetTest, Cve2020_16843_FloodFromTheWire) {
    make();
    int sent = 0;
    std::string bytes = frame(1000);
    while (sent < 10'000 && ::send(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
        ++sent;
        machine.turn(1);
    }
    EXPECT_LT(sent, 10'000);  // the wire is full
    transmit(frame(60));      // and the other direction works
    EXPECT_EQ(from_guest(), frame(60));
    for (int i = 0; i < 50; ++i) offer(2048);
    EXPECT_TRUE(machine.turn_until([&] { return driver->queue(0).used_index() == 50; }));
}

// The count of buffers is in the header before the first of them is given back, and a buffer that cannot hold a header
// is the guest's fault.
TEST_F(NetTest, Cve2021_3748_BufferShorterThanAHeader) {
    make();
    offer(8);
    offer(2048);
    to_guest(frame(100));
    EXPECT_TRUE(driver->broken());
    EXPECT_EQ(driver->queue(0).used_index(), 0);
}

TEST_F(NetTest, ATapThatIsFullHoldsTheGuestBack) {
    make();
    uint64_t gpa = machine.allocate(30'012);
    for (int i = 0; i < 100; ++i) {
        driver->queue(1).add({{gpa, 30'012}});
    }
    driver->kick(1);
    uint16_t sent = driver->queue(1).used_index();
    EXPECT_LT(sent, 100);
    EXPECT_TRUE(machine.turn_until([&] {
        from_guest();
        return driver->queue(1).used_index() == 100;
    }));
}

TEST_F(NetTest, RateLimits) {
    make([](NetDevice::Options& options) {
        options.transmit_bytes = {100'000, 1000};
        options.receive_frames = {100, 1};
    });
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 11; ++i) transmit(frame(1000));
    for (int i = 0; i < 11; ++i) offer(2048);
    for (int i = 0; i < 11; ++i) ASSERT_EQ(::send(wire.get(), frame(60).data(), 72, 0), 72);
    ASSERT_TRUE(
        machine.turn_until([&] { return driver->queue(1).used_index() == 11 && driver->queue(0).used_index() == 11; }));
    EXPECT_GT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(80));
}

TEST_F(NetTest, AResetDropsTheFrameThatWaits) {
    make();
    to_guest(frame(100));
    driver->write(VIRTIO_MMIO_STATUS, 0);
    machine.turn();
    EXPECT_FALSE(device->active());
}

TEST(Tap, NamesThatCannotBe) {
    EXPECT_FALSE(open_tap("").ok());
    EXPECT_FALSE(open_tap("sixteen-letters-").ok());
}

}  // namespace
}  // namespace casemate::virtio
