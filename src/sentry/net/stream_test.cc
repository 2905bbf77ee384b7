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

}  // namespace
}  // namespace casemate::sentry
