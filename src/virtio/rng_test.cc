#include "virtio/rng.h"

#include <gtest/gtest.h>

#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

class RngTest : public testing::Test {
  protected:
    FakeMachine machine;
    RngDevice device{machine.loop()};
    FakeDriver driver{machine, device};
};

TEST_F(RngTest, FillsBuffersWithDifferentBytes) {
    ASSERT_TRUE(driver.start());
    uint64_t a = machine.allocate(64), b = machine.allocate(64);
    driver.queue(0).add({{a, 64, true}});
    driver.queue(0).add({{b, 32, true}, {b + 32, 32, true}});
    driver.kick(0);
    for (int i = 0; i < 2; ++i) {
        auto used = driver.queue(0).take_used();
        ASSERT_TRUE(used);
        EXPECT_EQ(used->written, 64u);
    }
    EXPECT_NE(machine.text(a, 64), machine.text(b, 64));
    EXPECT_NE(machine.text(a, 64), std::string(64, 0));
}

TEST_F(RngTest, ARequestGetsAtMost64KiB) {
    ASSERT_TRUE(driver.start());
    uint64_t big = machine.allocate(1 << 20);
    driver.queue(0).add({{big, 1 << 20, true}});
    driver.kick(0);
    auto used = driver.queue(0).take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, RngDevice::kMaxRequestBytes);
    EXPECT_EQ(machine.text(big + (64 << 10), 1024), std::string(1024, 0));
}

TEST_F(RngTest, RequestsWithoutRoomAreAnswered) {
    ASSERT_TRUE(driver.start());
    uint64_t in = machine.put("x", 1);
    driver.queue(0).add({{in, 1}});
    driver.kick(0);
    auto used = driver.queue(0).take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, 0u);
}

TEST_F(RngTest, AFullQueueIsWorkedOffInTurns) {
    ASSERT_TRUE(driver.start(0));
    uint64_t a = machine.allocate(64);
    for (int i = 0; i < 64; ++i) driver.queue(0).add({{a, 1, true}});
    driver.kick(0);
    EXPECT_TRUE(machine.turn_until([&] { return driver.queue(0).used_index() == 64; }));
}

TEST_F(RngTest, AResetCancelsWhatIsLeft) {
    ASSERT_TRUE(driver.start());
    uint64_t a = machine.allocate(64);
    for (int i = 0; i < 64; ++i) driver.queue(0).add({{a, 1, true}});
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    machine.turn(1);
    uint16_t done = driver.queue(0).used_index();
    EXPECT_LT(done, 64);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    machine.turn(4);
    EXPECT_EQ(driver.queue(0).used_index(), done);
}

}  // namespace
}  // namespace casemate::virtio
