#include "sentry/net/stream.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace casemate::sentry {
namespace {

std::byte byte_at(uint64_t position) { return static_cast<std::byte>(position * 2654435761u >> 13); }

class StreamTest : public testing::Test {
  protected:
    // As many of `size` bytes as the stream takes, numbered from `at`.
    size_t put(uint64_t at, size_t size, size_t limit) {
        std::vector<std::byte> bytes(size);
        for (size_t i = 0; i < size; i++) bytes[i] = byte_at(at + i);
        IoBuffer from = IoBuffer::kernel(bytes);
        return stream_.write(from, limit, nullptr).bytes;
    }
    // Reads up to `size` bytes and compares them.
    size_t get(uint64_t at, size_t size) {
        std::vector<std::byte> bytes(size);
        IoBuffer into = IoBuffer::kernel(bytes);
        StreamDirection::Reading reading;
        size_t got = stream_.read(into, reading).bytes;
        for (size_t i = 0; i < got; i++)
            if (bytes[i] != byte_at(at + i)) {
                ADD_FAILURE() << "byte " << at + i;
                break;
            }
        return got;
    }
    Ref<SocketWaiters> writer_ = make_ref<SocketWaiters>(), reader_ = make_ref<SocketWaiters>();
    StreamDirection stream_{writer_, reader_};
};

TEST_F(StreamTest, GrowsShrinksAndGrowsAgain) {
    uint64_t written = 0, read = 0;
    for (size_t size : {1u, 5000u, 200'000u, 70'000u, 3u, 500'000u}) {
        written += put(written, size, 512 << 10);
        while (read < written) read += get(read, size / 3 + 1);
    }
    EXPECT_EQ(written, 775'004u);
    EXPECT_EQ(stream_.bytes(), 0u);
    EXPECT_EQ(stream_.total().bytes, written);
}

TEST_F(StreamTest, OneReadsWhileTheOtherWrites) {
    constexpr uint64_t kTotal = 40 << 20;
    std::thread writer([&] {
        std::mt19937 random(1);
        for (uint64_t at = 0; at < kTotal;) {
            size_t done = put(at, std::min<uint64_t>(random() % 200'000 + 1, kTotal - at), 512 << 10);
            at += done;
            if (done == 0) std::this_thread::yield();
        }
        stream_.end();
    });
    std::mt19937 random(2);
    uint64_t at = 0;
    while (at < kTotal) {
        size_t done = get(at, random() % 200'000 + 1);
        at += done;
        if (done == 0) std::this_thread::yield();
    }
    writer.join();
    std::byte one;
    IoBuffer into = IoBuffer::kernel(&one, 1);
    StreamDirection::Reading reading;
    EXPECT_TRUE(stream_.read(into, reading).ended);
}

TEST_F(StreamTest, TwoWritersAndTwoReadersLoseNothing) {
    constexpr size_t kEach = 4 << 20;
    std::atomic<size_t> read{0};
    std::atomic<uint64_t> sum{0};
    auto write = [&](std::byte value) {
        std::vector<std::byte> bytes(30'000, value);
        for (size_t left = kEach; left > 0;) {
            IoBuffer from = IoBuffer::kernel(std::span(bytes).first(std::min(left, bytes.size())));
            size_t done = stream_.write(from, 100'000, nullptr).bytes;
            left -= done;
            if (done == 0) std::this_thread::yield();
        }
    };
    auto take = [&] {
        std::vector<std::byte> bytes(50'000);
        while (read < 2 * kEach) {
            IoBuffer into = IoBuffer::kernel(bytes);
            StreamDirection::Reading reading;
            size_t got = stream_.read(into, reading).bytes;
            for (size_t i = 0; i < got; i++) sum += static_cast<uint8_t>(bytes[i]);
            read += got;
            if (got == 0) std::this_thread::yield();
        }
    };
    std::thread threads[] = {std::thread(write, std::byte{1}), std::thread(write, std::byte{2}), std::thread(take),
                             std::thread(take)};
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(read, 2 * kEach);
    EXPECT_EQ(sum, 3 * kEach);
}

TEST_F(StreamTest, AReaderThatGoesEndsTheWriter) {
    std::thread writer([&] {
        std::vector<std::byte> bytes(100'000);
        while (true) {
            IoBuffer from = IoBuffer::kernel(bytes);
            if (stream_.write(from, 512 << 10, nullptr).ended) return;
        }
    });
    while (stream_.total().writes < 3) std::this_thread::yield();
    stream_.close_reader();
    writer.join();
    EXPECT_EQ(stream_.bytes(), 0u);
}

// Bytes offered to an application, as if it were this test.
class OfferTest : public StreamTest {
  protected:
    static constexpr size_t kMost = 48;
    static constexpr uint64_t kTaken = 1;
    bool offer() {
        return bool(stream_.offer(kMost, [&](size_t size) {
            return make_ref<OfferedRead>(StandingPlace{&behind_, 7},
                                         OfferPlace{&word_, data_, sizeof(data_), size << 8}, size);
        }));
    }
    // As the stub does it: copies, then claims. The bytes' number; 0: there is no offer, or it went meanwhile.
    size_t take(uint64_t at) {
        uint64_t word = word_.load();
        const size_t size = word >> 8;
        if (size == 0) return 0;
        std::byte copy[kMost];
        memcpy(copy, data_, size);
        if (!word_.compare_exchange_strong(word, kTaken)) return 0;
        for (size_t i = 0; i < size; ++i) EXPECT_EQ(copy[i], byte_at(at + i));
        return size;
    }
    std::atomic<uint64_t> word_{0}, behind_{0};
    std::byte data_[kMost];
};

TEST_F(OfferTest, WhatIsTakenIsGoneAndBehindItIsNothing) {
    put(0, 10, 4096);
    ASSERT_TRUE(offer());
    EXPECT_EQ(behind_, 7u);
    EXPECT_EQ(take(0), 10u);
    EXPECT_EQ(stream_.bytes(), 0u);
    EXPECT_EQ(behind_, 0u);
    EXPECT_EQ(put(10, 5, 4096), 5u);
    EXPECT_EQ(get(10, 9), 5u);
}

TEST_F(OfferTest, WhoeverLooksEndsIt) {
    put(0, 10, 4096);
    ASSERT_TRUE(offer());
    EXPECT_EQ(get(0, 4), 4u);
    EXPECT_EQ(take(0), 0u);
    ASSERT_TRUE(offer());
    EXPECT_EQ(put(10, 1, 4096), 1u);
    EXPECT_EQ(take(4), 0u);
    ASSERT_TRUE(offer());
    EXPECT_TRUE(stream_.readable());
    EXPECT_EQ(take(4), 0u);
    ASSERT_TRUE(offer());
    EXPECT_EQ(take(4), 7u);
    EXPECT_FALSE(stream_.readable());
}

TEST_F(OfferTest, OnlyAllThatThereIs) {
    EXPECT_FALSE(offer());
    put(0, kMost + 1, 4096);
    EXPECT_FALSE(offer());
    EXPECT_EQ(get(0, 1), 1u);
    EXPECT_TRUE(offer());
    EXPECT_FALSE(stream_.writable(16));  // who waits for room is told by a read
    EXPECT_FALSE(offer());
    EXPECT_EQ(get(1, kMost), kMost);
    put(1 + kMost, 3, 4096);
    stream_.end();
    EXPECT_FALSE(offer());
    EXPECT_EQ(get(1 + kMost, 9), 3u);
}

TEST_F(OfferTest, OneThatHasEndedIsNotMade) {
    OfferedRead late({&behind_, 7}, {&word_, data_, sizeof(data_), 3 << 8}, 3);
    word_ = kTaken;  // of an offer before
    EXPECT_EQ(late.end(), 0u);
    late.make([](std::byte*) { FAIL(); });
    EXPECT_EQ(behind_, 0u);
    EXPECT_EQ(word_, kTaken);
}

TEST_F(OfferTest, NoneIsLostOrReadTwice) {
    constexpr uint64_t kTotal = 2 << 20;
    std::thread writer([&] {
        std::mt19937 random(1);
        for (uint64_t at = 0; at < kTotal;) {
            const size_t done = put(at, std::min<uint64_t>(random() % 90 + 1, kTotal - at), 128);
            at += done;
            if (done == 0) std::this_thread::yield();
        }
    });
    // Offers end in two ways; either way what comes next begins where the stream is.
    std::mt19937 random(2);
    uint64_t taken = 0;
    for (uint64_t at = 0; at < kTotal;) {
        if (offer() && random() % 2 == 0) {
            const size_t size = take(at);
            at += size;
            taken += size;
        } else {
            at += get(at, random() % 60 + 1);
        }
    }
    writer.join();
    EXPECT_EQ(stream_.bytes(), 0u);
    EXPECT_GT(taken, 0u);
}

}  // namespace
}  // namespace casemate::sentry
