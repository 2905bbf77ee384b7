#include "virtio/queue.h"

#include <gtest/gtest.h>

#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

class QueueTest : public testing::Test {
  protected:
    void make(uint16_t size = 8, bool event_index = false, bool indirect = true) {
        driver = FakeQueue(machine, size);
        queue = MUST(Queue::create(machine.memory(), driver.config, 256, event_index, indirect));
    }
    bool pops() {
        auto popped = queue.pop(chain);
        return popped.ok() && *popped;
    }
    // The queue broke, for this reason, and stays so.
    testing::AssertionResult breaks(const std::string& why) {
        if (queue.pop(chain).ok()) return testing::AssertionFailure() << "accepted";
        if (queue.broken() == nullptr || std::string(queue.broken()).find(why) == std::string::npos)
            return testing::AssertionFailure() << (queue.broken() == nullptr ? "not broken" : queue.broken());
        if (queue.pop(chain).ok() || queue.has_more()) return testing::AssertionFailure() << "works again";
        return testing::AssertionSuccess();
    }

    FakeMachine machine;
    FakeQueue driver;
    Queue queue;
    Chain chain;
};

TEST_F(QueueTest, GivesAChainAndTakesItBack) {
    make();
    uint64_t in = machine.put("request", 7), out = machine.allocate(16);
    EXPECT_FALSE(pops());
    uint16_t head = driver.add({{in, 7}, {out, 16, true}});
    ASSERT_TRUE(pops());
    EXPECT_EQ(chain.head(), head);
    EXPECT_EQ(queue.in_flight(), 1u);
    char text[8] = {};
    EXPECT_EQ(chain.readable.read(text, 8), 7u);
    EXPECT_STREQ(text, "request");
    EXPECT_EQ(chain.writable.write("answer", 6), 6u);
    queue.push(chain, 6);
    EXPECT_FALSE(driver.has_used());
    EXPECT_TRUE(queue.publish());
    auto used = driver.take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->head, head);
    EXPECT_EQ(used->written, 6u);
    EXPECT_EQ(machine.text(out, 6), "answer");
    EXPECT_FALSE(queue.publish());
}

TEST_F(QueueTest, GoesRoundManyTimes) {
    make(4);
    uint64_t out = machine.allocate(4);
    for (uint32_t i = 0; i < 200'000; ++i) {
        driver.add({{out, 4, true}});
        ASSERT_TRUE(pops());
        ASSERT_TRUE(chain.writable.write_all(i));
        queue.push(chain, 4);
        queue.publish();
        ASSERT_TRUE(driver.take_used());
    }
    EXPECT_FALSE(pops());
}

TEST_F(QueueTest, PutsBackAndTakesAgain) {
    make();
    uint64_t in = machine.put("12345678", 8);
    driver.add({{in, 8}});
    ASSERT_TRUE(pops());
    queue.undo_pop(chain);
    EXPECT_EQ(queue.in_flight(), 0u);
    ASSERT_TRUE(pops());
    EXPECT_EQ(chain.readable.remaining(), 8u);
}

TEST_F(QueueTest, BuffersAreStreamsOverTheirParts) {
    make();
    uint64_t a = machine.put("abc", 3), b = machine.put("defgh", 5), c = machine.put("ij", 2);
    driver.add({{a, 3}, {b, 5}, {c, 0}, {c, 2}});
    ASSERT_TRUE(pops());
    ChainBuffer tail;
    ASSERT_TRUE(chain.readable.split_tail(4, tail));
    char text[16] = {};
    EXPECT_EQ(chain.readable.skip(1), 1u);
    EXPECT_EQ(chain.readable.read(text, 16), 5u);
    EXPECT_EQ(std::string(text), "bcdef");
    std::vector<iovec> parts;
    EXPECT_EQ(tail.take(3, parts), 3u);
    ASSERT_EQ(parts.size(), 2u);
    EXPECT_EQ(std::string(static_cast<char*>(parts[0].iov_base), parts[0].iov_len), "gh");
    EXPECT_EQ(tail.remaining(), 1u);
    uint16_t number;
    EXPECT_FALSE(tail.read_all(number));
}

TEST_F(QueueTest, AdjoiningPartsAreOneForTheHost) {
    make();
    uint64_t a = machine.put("abcdef", 6), b = machine.put("gh", 2);
    driver.add({{a, 2}, {a + 2, 4}, {b, 2}, {a, 1}});
    ASSERT_TRUE(pops());
    std::vector<iovec> parts;
    EXPECT_EQ(chain.readable.take(9, parts), 9u);
    std::vector<std::string> texts;
    for (const iovec& part : parts) texts.emplace_back(static_cast<char*>(part.iov_base), part.iov_len);
    EXPECT_EQ(texts, (std::vector<std::string>{"abcdef", "gh", "a"}));
}

TEST_F(QueueTest, RefusesSizesAndPlaces) {
    FakeQueue good(machine, 8);
    auto error = [&](auto change) {
        QueueConfig config = good.config;
        change(config);
        auto made = Queue::create(machine.memory(), config, 256, false, false);
        return made.ok() ? 0 : made.error().value;
    };
    EXPECT_EQ(error([](QueueConfig&) {}), 0);
    EXPECT_EQ(error([](QueueConfig& c) { c.size = 0; }), EINVAL);
    EXPECT_EQ(error([](QueueConfig& c) { c.size = 6; }), EINVAL);
    EXPECT_EQ(error([](QueueConfig& c) { c.size = 512; }), EINVAL);
    EXPECT_EQ(error([](QueueConfig& c) { c.descriptors.value += 8; }), EINVAL);
    EXPECT_EQ(error([](QueueConfig& c) { c.available.value += 1; }), EINVAL);
    EXPECT_EQ(error([](QueueConfig& c) { c.used.value += 2; }), EINVAL);
    EXPECT_EQ(error([](QueueConfig& c) { c.descriptors.value = FakeMachine::kLowBytes - 112; }), EFAULT);
    EXPECT_EQ(error([](QueueConfig& c) { c.used.value = FakeMachine::kLowBytes; }), EFAULT);
    EXPECT_EQ(error([](QueueConfig& c) { c.available.value = ~uint64_t{1}; }), EFAULT);
}

TEST_F(QueueTest, IndirectTables) {
    make();
    uint64_t in = machine.put("in", 2), out = machine.allocate(8);
    driver.add_indirect({{in, 2}, {out, 4, true}, {out + 4, 4, true}});
    ASSERT_TRUE(pops());
    EXPECT_EQ(chain.readable.remaining(), 2u);
    EXPECT_EQ(chain.writable.remaining(), 8u);
    // As long as the queue is allowed, although the head took one descriptor.
    driver.add_indirect(std::vector<FakeQueue::Part>(8, {in, 1}));
    ASSERT_TRUE(pops());
    EXPECT_EQ(chain.readable.remaining(), 8u);
}

TEST_F(QueueTest, IndirectTableAcrossRegions) {
    make();
    uint64_t border = FakeMachine::kHigh + FakeMachine::kHighBytes;
    uint64_t in = machine.put("data", 4);
    vring_desc table[2] = {{in, 2, VRING_DESC_F_NEXT, 1}, {in + 2, 2, 0, 0}};
    ASSERT_TRUE(machine.memory()->write(GuestAddr{border - 24}, table, sizeof(table)).ok());
    driver.descriptor(0) = {border - 24, 32, VRING_DESC_F_INDIRECT, 0};
    driver.offer(0);
    ASSERT_TRUE(pops());
    char text[5] = {};
    EXPECT_EQ(chain.readable.read(text, 4), 4u);
    EXPECT_STREQ(text, "data");
}

TEST_F(QueueTest, HostileIndirectTables) {
    uint64_t in = machine.put("data", 4);
    auto offer = [&](vring_desc head, bool negotiated = true) {
        make(8, false, negotiated);
        driver.descriptor(0) = head;
        driver.offer(0);
    };
    uint64_t table = machine.allocate(4096);
    constexpr uint16_t kIndirect = VRING_DESC_F_INDIRECT;
    offer({table, 16, kIndirect, 0}, false);
    EXPECT_TRUE(breaks("not negotiated"));
    offer({table, 0, kIndirect, 0});
    EXPECT_TRUE(breaks("odd size"));
    offer({table, 17, kIndirect, 0});
    EXPECT_TRUE(breaks("odd size"));
    offer({table, 16 * 9, kIndirect, 0});
    EXPECT_TRUE(breaks("larger than the queue"));
    offer({table, 16, static_cast<uint16_t>(kIndirect | VRING_DESC_F_NEXT), 1});
    EXPECT_TRUE(breaks("has a next one"));
    offer({FakeMachine::kLowBytes - 8, 16, kIndirect, 0});
    EXPECT_TRUE(breaks("not in RAM"));
    vring_desc nested = {table, 16, kIndirect, 0};
    std::memcpy(machine.at(table), &nested, 16);
    offer({table, 16, kIndirect, 0});
    EXPECT_TRUE(breaks("in an indirect table"));
    vring_desc beyond = {in, 1, VRING_DESC_F_NEXT, 1};
    std::memcpy(machine.at(table), &beyond, 16);
    offer({table, 16, kIndirect, 0});
    EXPECT_TRUE(breaks("beyond the table"));
    vring_desc loop = {in, 1, VRING_DESC_F_NEXT, 0};
    std::memcpy(machine.at(table), &loop, 16);
    offer({table, 16, kIndirect, 0});
    EXPECT_TRUE(breaks("longer than the queue"));
}

TEST_F(QueueTest, HostileChains) {
    uint64_t in = machine.put("data", 4);
    make();
    driver.offer(8);
    EXPECT_TRUE(breaks("head of a chain beyond"));
    make();
    driver.descriptor(0) = {in, 4, VRING_DESC_F_NEXT, 8};
    driver.offer(0);
    EXPECT_TRUE(breaks("next descriptor beyond"));
    make();
    driver.descriptor(0) = {in, 4, VRING_DESC_F_NEXT, 0};
    driver.offer(0);
    EXPECT_TRUE(breaks("longer than the queue"));
    make();
    driver.add({{in, 4, true}, {in, 4}});
    EXPECT_TRUE(breaks("readable descriptor behind"));
    make();
    driver.add({{in, 4}, {FakeMachine::kLowBytes, 1}});
    EXPECT_TRUE(breaks("not RAM"));
    make();
    driver.add({{0, FakeMachine::kLowBytes},
                {0, FakeMachine::kLowBytes},
                {0, FakeMachine::kLowBytes},
                {0, FakeMachine::kLowBytes},
                {0, 1}});
    EXPECT_TRUE(breaks("too many bytes"));
    make();
    driver.available_index() = 9;
    EXPECT_TRUE(breaks("more requests offered"));
}

// A descriptor that crosses into the region that adjoins is two pieces; one that crosses into a hole is refused.
TEST_F(QueueTest, Cve2019_18960_DescriptorCrossingRegions) {
    make();
    uint64_t border = FakeMachine::kHigh + FakeMachine::kHighBytes;
    driver.add({{border - 3, 6, true}});
    ASSERT_TRUE(pops());
    EXPECT_EQ(chain.writable.write("abcdef", 6), 6u);
    char text[7] = {};
    ASSERT_TRUE(machine.memory()->read(GuestAddr{border - 3}, text, 6).ok());
    EXPECT_STREQ(text, "abcdef");
    driver.add({{FakeMachine::kLowBytes - 3, 6, true}});
    EXPECT_TRUE(breaks("not RAM"));
}

// The head of a request that the device still works on is offered once more.
TEST_F(QueueTest, Cve2026_45782_SameHeadInFlightTwice) {
    make();
    uint64_t in = machine.put("data", 4);
    uint16_t head = driver.add({{in, 4}});
    ASSERT_TRUE(pops());
    driver.offer(head);
    EXPECT_TRUE(breaks("in flight"));
}

// Requests beyond number, never completed: no more than the queue has places.
TEST_F(QueueTest, Cve2016_5403_MoreRequestsThanPlaces) {
    make(4);
    uint64_t in = machine.put("data", 4);
    for (int i = 0; i < 4; ++i) {
        driver.add({{in, 4}});
        ASSERT_TRUE(pops());
    }
    EXPECT_EQ(queue.in_flight(), 4u);
    driver.add({{in, 4}});
    EXPECT_TRUE(breaks("more requests offered"));
}

// Descriptors of no bytes count against the chain's length, so they end.
TEST_F(QueueTest, Cve2016_6490_ZeroLengthDescriptorsEnd) {
    make();
    for (uint16_t i = 0; i < 8; ++i)
        driver.descriptor(i) = {0, 0, VRING_DESC_F_NEXT, static_cast<uint16_t>((i + 1) % 8)};
    driver.offer(0);
    EXPECT_TRUE(breaks("longer than the queue"));
    make();
    driver.add({{0, 0}, {0, 0, true}});
    ASSERT_TRUE(pops());
    EXPECT_EQ(chain.readable.remaining() + chain.writable.remaining(), 0u);
}

TEST_F(QueueTest, InterruptsByFlag) {
    make();
    uint64_t in = machine.put("data", 4);
    driver.add({{in, 4}});
    ASSERT_TRUE(pops());
    driver.available_flags() = VRING_AVAIL_F_NO_INTERRUPT;
    queue.push(chain, 0);
    EXPECT_FALSE(queue.publish());
    queue.disable_notifications();
    EXPECT_EQ(driver.used_flags(), VRING_USED_F_NO_NOTIFY);
    EXPECT_FALSE(queue.enable_notifications());
    EXPECT_EQ(driver.used_flags(), 0);
    driver.add({{in, 4}});
    EXPECT_TRUE(queue.enable_notifications());
}

TEST_F(QueueTest, InterruptsByEventIndex) {
    make(8, true);
    uint64_t in = machine.put("data", 4);
    driver.used_event() = 1;  // not for the first, but for the second
    for (int i = 0; i < 3; ++i) driver.add({{in, 4}});
    auto one = [&] {
        EXPECT_TRUE(pops());
        queue.push(chain, 0);
        return queue.publish();
    };
    EXPECT_FALSE(one());
    EXPECT_TRUE(one());
    EXPECT_FALSE(one());
    EXPECT_FALSE(queue.enable_notifications());
    EXPECT_EQ(driver.available_event(), 3);
}

TEST_F(QueueTest, KeepsItsMemory) {
    make();
    std::weak_ptr<const GuestMemory> memory = machine.memory();
    EXPECT_GE(memory.use_count(), 2);
    driver.add({{machine.put("x", 1), 1}});
    ASSERT_TRUE(pops());
    long with_chain = memory.use_count();
    queue = Queue();
    EXPECT_EQ(memory.use_count(), with_chain - 1);  // the chain's own stays
}

}  // namespace
}  // namespace casemate::virtio
