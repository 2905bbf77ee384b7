#include "virtio/mmio.h"

#include <gtest/gtest.h>

#include <thread>

#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

// Answers each request with its own bytes.
class EchoDevice final : public Device {
  public:
    using Device::Device;
    DeviceType type() const override { return DeviceType::kConsole; }
    const char* name() const override { return "echo"; }
    uint64_t features() const override { return feature_bit(5); }
    std::span<const uint16_t> queue_sizes() const override { return kSizes; }
    void read_config(uint32_t offset, std::span<uint8_t> into) override {
        copy_config("configuration", 13, offset, into);
    }
    void write_config(uint32_t, std::span<const uint8_t> from) override { config_written += from.size(); }
    void save(StateWriter& writer) const override { writer.number(answered); }
    SysResult<void> restore(StateReader& reader) override {
        answered = TRY(reader.number<uint32_t>());
        return {};
    }
    using Device::config_changed;

    uint32_t answered = 0;
    size_t config_written = 0;
    int resets = 0;

  protected:
    void on_reset() override { ++resets; }
    void on_notify(uint16_t index) override {
        Chain chain;
        while (pop(index, chain)) {
            std::string bytes(chain.readable.remaining(), 0);
            chain.readable.read(bytes.data(), bytes.size());
            queue(index).push(chain, static_cast<uint32_t>(chain.writable.write(bytes.data(), bytes.size())));
            ++answered;
        }
        publish(index);
    }

  private:
    static constexpr uint16_t kSizes[] = {256, 64};
};

class MmioTest : public testing::Test {
  protected:
    FakeMachine machine;
    EchoDevice device{machine.loop()};
    FakeDriver driver{machine, device};
};

TEST_F(MmioTest, TellsWhatItIs) {
    EXPECT_EQ(driver.read(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976u);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_VERSION), 2u);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_DEVICE_ID), 3u);
    EXPECT_EQ(driver.device_features(), feature_bit(5) | kTransportFeatures);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_SHM_LEN_LOW), ~0u);
    driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_DEVICE_FEATURES), 0u);
}

TEST_F(MmioTest, WorksOnRequests) {
    ASSERT_TRUE(driver.start());
    for (uint16_t q = 0; q < 2; ++q) {
        uint64_t in = machine.put("hello", 5), out = machine.allocate(8);
        driver.queue(q).add({{in, 5}, {out, 8, true}});
        driver.kick(q);
        auto used = driver.queue(q).take_used();
        ASSERT_TRUE(used);
        EXPECT_EQ(used->written, 5u);
        EXPECT_EQ(machine.text(out, 5), "hello");
    }
    EXPECT_EQ(driver.interrupts, 2);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
}

TEST_F(MmioTest, RequestsFromBeforeDriverOkAreSeen) {
    uint64_t in = machine.put("early", 5), out = machine.allocate(8);
    driver.queue(0).add({{in, 5}, {out, 8, true}});
    ASSERT_TRUE(driver.start());
    machine.turn();
    EXPECT_TRUE(driver.queue(0).take_used());
}

TEST_F(MmioTest, StatusGoesForwardOnly) {
    driver.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_STATUS), 0u);
    driver.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_STATUS), 0u);
    ASSERT_TRUE(driver.start());
    uint32_t running = driver.read(VIRTIO_MMIO_STATUS);
    driver.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);  // takes bits back
    EXPECT_EQ(driver.read(VIRTIO_MMIO_STATUS), running);
    driver.write(VIRTIO_MMIO_STATUS, running | VIRTIO_CONFIG_S_NEEDS_RESET | 0x30 | ~0xffu);  // not the driver's bits
    EXPECT_EQ(driver.read(VIRTIO_MMIO_STATUS), running);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_STATUS), 0u);
    EXPECT_EQ(device.resets, 1);
    EXPECT_FALSE(device.active());
}

TEST_F(MmioTest, FeaturesAreASubsetAndOfThisVersion) {
    EXPECT_FALSE(driver.negotiate(kFeatureVersion1 | feature_bit(40)));
    EXPECT_FALSE(driver.negotiate(feature_bit(5)));
    EXPECT_TRUE(driver.negotiate(kFeatureVersion1));
    driver.write_features(kFeatureVersion1 | feature_bit(5));  // too late
    driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    EXPECT_TRUE(device.active());
    EXPECT_FALSE(driver.broken());
}

// The queue's number is checked before it is used as an index.
TEST_F(MmioTest, Cve2011_2512_QueueSelectBeyondTheQueues) {
    for (uint32_t select : {2u, 3u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        ASSERT_TRUE(driver.negotiate(kFeatureVersion1));
        driver.write(VIRTIO_MMIO_QUEUE_SEL, select);
        EXPECT_EQ(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0u);
        EXPECT_EQ(driver.read(VIRTIO_MMIO_QUEUE_READY), 0u);
        for (uint32_t offset : {0x38u, 0x44u, 0x80u, 0x84u, 0x90u, 0x94u, 0xa0u, 0xa4u})
            driver.write(offset, 0xffffffff);
        driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, select);
    }
    ASSERT_TRUE(driver.start());
    EXPECT_TRUE(device.active());
}

// The size is written again after activation: the queue keeps the one it was made with.
TEST_F(MmioTest, Cve2026_5747_QueueSizeAfterActivation) {
    ASSERT_TRUE(driver.start());
    driver.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    driver.write(VIRTIO_MMIO_QUEUE_NUM, 0);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_QUEUE_READY), 1u);
    driver.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0xdeadbee0);
    uint64_t in = machine.put("hello", 5), out = machine.allocate(8);
    driver.queue(0).add({{in, 5}, {out, 8, true}});
    driver.kick(0);
    EXPECT_TRUE(driver.queue(0).take_used());
    EXPECT_FALSE(driver.broken());
}

// KVM may tell of an acknowledgement late: what came after the driver looked stays.
TEST_F(MmioTest, ALateAcknowledgementTakesNoNewerInterrupt) {
    ASSERT_TRUE(driver.start());
    Interrupt& interrupt = driver.transport();
    interrupt.signal_queue(0);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
    interrupt.signal_queue(0);
    interrupt.signal_config();
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 0xffffffff);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 3u);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 2);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
}

TEST_F(MmioTest, AQueueIsFrozenWhileReady) {
    ASSERT_TRUE(driver.negotiate(kFeatureVersion1));
    driver.write_queue(0);
    driver.write(VIRTIO_MMIO_QUEUE_NUM, 3);  // ignored
    driver.write_queue(1);
    driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    EXPECT_FALSE(driver.broken());
}

TEST_F(MmioTest, AQueueThatCannotBeNeedsAReset) {
    for (uint32_t size : {0u, 3u, 512u, 65536u + 8, ~0u}) {
        ASSERT_TRUE(driver.negotiate(kFeatureVersion1));
        driver.write(VIRTIO_MMIO_QUEUE_SEL, 0);
        driver.write(VIRTIO_MMIO_QUEUE_NUM, size);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        driver.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        EXPECT_TRUE(driver.broken()) << size;
        EXPECT_FALSE(device.active());
    }
    ASSERT_TRUE(driver.start());
}

TEST_F(MmioTest, ABrokenRingNeedsAResetAndThenWorksAgain) {
    ASSERT_TRUE(driver.start());
    driver.queue(0).offer(999);
    driver.kick(0);
    EXPECT_TRUE(driver.broken());
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 2u);
    driver.kick(0);
    driver.kick(1);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    EXPECT_FALSE(driver.broken());
    FakeDriver again(machine, device);
    ASSERT_TRUE(again.start());
}

// DMA reaches RAM only: a descriptor that names the device's own registers breaks the queue and touches nothing.
TEST_F(MmioTest, Cve2024_3446_DescriptorOfDeviceRegisters) {
    ASSERT_TRUE(driver.start());
    uint64_t in = machine.put("hello", 5);
    driver.queue(0).add({{in, 5}, {0xd000'0000, 4, true}});
    driver.kick(0);
    EXPECT_TRUE(driver.broken());
    EXPECT_FALSE(driver.queue(0).has_used());
}

// Interrupts before the driver set anything up, or after it let go, have nowhere to go and do no harm.
TEST_F(MmioTest, Cve2024_4693_InterruptsWhileNotActive) {
    device.config_changed();
    EXPECT_EQ(driver.interrupts, 0);
    ASSERT_TRUE(driver.start());
    uint32_t generation = driver.read(VIRTIO_MMIO_CONFIG_GENERATION);
    device.config_changed();
    EXPECT_EQ(driver.read(VIRTIO_MMIO_CONFIG_GENERATION), generation + 1);
    EXPECT_EQ(driver.interrupts, 1);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    device.config_changed();
    driver.kick(0);
    EXPECT_EQ(driver.interrupts, 1);
}

TEST_F(MmioTest, AccessesOfAnyPlaceAndLength) {
    ASSERT_TRUE(driver.negotiate(kFeatureVersion1));
    std::vector<uint8_t> bytes(4096, 0xff);
    MmioTransport& transport = driver.transport();
    for (uint64_t offset :
         {0ull, 1ull, 0x34ull, 0x70ull, 0xfeull, 0x100ull, 0x10cull, 0xffcull, 0xfffull, 0x1000ull, ~0ull}) {
        for (size_t length : {0u, 1u, 2u, 3u, 4u, 7u, 8u, 64u, 4096u}) {
            transport.read(offset, std::span(bytes).first(length));
            std::fill(bytes.begin(), bytes.end(), 0xff);
            transport.write(offset, std::span(bytes).first(length));
        }
    }
    uint16_t half = 0xffff;
    transport.read(VIRTIO_MMIO_MAGIC_VALUE, {reinterpret_cast<uint8_t*>(&half), 2});
    EXPECT_EQ(half, 0);
    EXPECT_EQ(driver.config<uint32_t>(9), 't' | 'i' << 8 | 'o' << 16 | 'n' << 24);
    EXPECT_EQ(driver.config<uint64_t>(12), 'n');
}

TEST_F(MmioTest, SavesAndRestores) {
    ASSERT_TRUE(driver.start());
    uint64_t in = machine.put("hello", 5), out = machine.allocate(8);
    for (int i = 0; i < 3; ++i) {
        driver.queue(0).add({{in, 5}, {out, 8, true}});
        driver.kick(0);
    }
    device.quiesce();
    StateWriter writer;
    driver.transport().save(writer);
    std::string state = writer.take();

    EchoDevice other(machine.loop());
    FakeDriver shell(machine, other);
    StateReader reader(state);
    ASSERT_TRUE(shell.transport().restore(reader).ok());
    EXPECT_TRUE(reader.at_end());
    EXPECT_EQ(other.answered, 3u);
    EXPECT_EQ(shell.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
    driver.queue(0).add({{in, 5}, {out, 8, true}});
    shell.transport().resume();
    EXPECT_EQ(shell.interrupts, 2);  // the replayed one, and the new one
    EXPECT_EQ(other.answered, 4u);
    EXPECT_EQ(driver.queue(0).used_index(), 4);
}

// A state file may be anybody's: cut or with absurd numbers it is an error.
TEST_F(MmioTest, Cve2023_50711_SavedStateIsChecked) {
    ASSERT_TRUE(driver.start());
    StateWriter writer;
    driver.transport().save(writer);
    std::string state = writer.take();
    for (size_t cut = 0; cut < state.size(); ++cut) {
        EchoDevice other(machine.loop());
        FakeDriver shell(machine, other);
        StateReader reader(std::string_view(state).substr(0, cut));
        EXPECT_FALSE(shell.transport().restore(reader).ok()) << cut;
    }
    for (size_t at = 0; at < state.size(); ++at) {
        std::string spoiled = state;
        spoiled[at] = static_cast<char>(~spoiled[at]);
        EchoDevice other(machine.loop());
        FakeDriver shell(machine, other);
        StateReader reader(spoiled);
        (void)shell.transport().restore(reader);
        shell.transport().resume();
        machine.turn(1);
    }
}

TEST_F(MmioTest, WorksWithALoopOnItsOwnThreadAndResetsUnderLoad) {
    ASSERT_TRUE(machine.loop().start().ok());
    uint64_t in = machine.put("hello", 5), out = machine.allocate(8);
    for (int round = 0; round < 50; ++round) {
        FakeDriver again(machine, device);
        ASSERT_TRUE(again.start());
        for (int i = 0; i < 20; ++i) {
            again.queue(0).add({{in, 5}, {out, 8, true}});
            again.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        }
        again.write(VIRTIO_MMIO_STATUS, 0);
        uint16_t seen = again.queue(0).used_index();
        machine.loop().pause();
        EXPECT_EQ(again.queue(0).used_index(), seen);  // nothing after the reset
        machine.loop().resume();
    }
    machine.loop().stop();
}

}  // namespace
}  // namespace casemate::virtio
