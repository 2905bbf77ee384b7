#include "virtio/block.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/virtio_blk.h>
#include <sys/resource.h>

#include "linux/event_fds.h"
#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

constexpr uint64_t kDisk = 1 << 20;

class BlockTest : public testing::TestWithParam<bool> {
  protected:
    void make(BlockDevice::Options options = {}) {
        options.use_uring = GetParam();
        if (!file) {
            file = MUST(linux::create_memfd("disk"));
            ASSERT_EQ(::ftruncate(file.get(), kDisk), 0);
        }
        driver.reset();
        device = MUST(BlockDevice::create(machine.loop(), MUST(linux::duplicate_fd(file.get())), "disk", options));
        driver = std::make_unique<FakeDriver>(machine, *device);
        ASSERT_TRUE(driver->start());
    }
    // Offers a request; the guest address of its status.
    uint64_t offer(uint32_t type, uint64_t sector, std::vector<FakeQueue::Part> data) {
        struct {
            uint32_t type, reserved;
            uint64_t sector;
        } header{type, 0, sector};
        uint64_t status = machine.put<uint8_t>(0xee);
        std::vector<FakeQueue::Part> parts = {{machine.put(header), 16}};
        parts.insert(parts.end(), data.begin(), data.end());
        parts.push_back({status, 1, true});
        driver->queue(0).add(parts);
        return status;
    }
    int run(uint32_t type, uint64_t sector, std::vector<FakeQueue::Part> data, uint32_t* written = nullptr) {
        uint64_t status = offer(type, sector, std::move(data));
        driver->kick(0);
        if (!machine.turn_until([&] { return driver->queue(0).has_used(); })) return -1;
        auto used = driver->queue(0).take_used();
        if (written != nullptr) *written = used->written;
        return static_cast<uint8_t>(*machine.at(status));
    }
    int range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
        virtio_blk_discard_write_zeroes range{sector, sectors, flags};
        return run(type, 0, {{machine.put(range), sizeof(range)}});
    }
    std::string on_disk(uint64_t offset, size_t size) {
        std::string text(size, 0);
        EXPECT_EQ(::pread(file.get(), text.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
        return text;
    }

    UniqueFd file;
    FakeMachine machine;
    std::unique_ptr<BlockDevice> device;
    std::unique_ptr<FakeDriver> driver;
};

INSTANTIATE_TEST_SUITE_P(Io, BlockTest, testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "uring" : "plain"); });

TEST_P(BlockTest, WritesReadsAndFlushes) {
    make();
    EXPECT_EQ(driver->config<uint64_t>(0), kDisk / 512);
    uint64_t data = machine.allocate(4096);
    std::memset(machine.at(data), 'A', 4096);
    EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 8, {{data, 512}, {data + 512, 3584}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(run(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(on_disk(4096, 4096), std::string(4096, 'A'));
    uint64_t back = machine.allocate(4096);
    uint32_t written = 0;
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, 8, {{back, 1000, true}, {back + 1000, 3096, true}}, &written), VIRTIO_BLK_S_OK);
    EXPECT_EQ(written, 4097u);
    EXPECT_EQ(machine.text(back, 4096), std::string(4096, 'A'));
}

TEST_P(BlockTest, ManyRequestsAtOnce) {
    make();
    std::vector<uint64_t> states;
    std::vector<uint64_t> buffers;
    for (uint64_t i = 0; i < 60; ++i) {
        uint64_t data = machine.allocate(512);
        std::memset(machine.at(data), static_cast<int>('0' + i), 512);
        buffers.push_back(data);
        states.push_back(offer(VIRTIO_BLK_T_OUT, i, {{data, 512}}));
    }
    driver->kick(0);
    ASSERT_TRUE(machine.turn_until([&] { return driver->queue(0).used_index() == 60; }));
    for (uint64_t i = 0; i < 60; ++i) {
        EXPECT_EQ(*machine.at(states[i]), VIRTIO_BLK_S_OK);
        EXPECT_EQ(on_disk(i * 512, 512), std::string(512, static_cast<char>('0' + i)));
    }
}

TEST_P(BlockTest, RangesBeyondTheDiskAreErrors) {
    make();
    uint64_t data = machine.allocate(1024);
    for (uint64_t sector : {kDisk / 512 - 1, kDisk / 512, ~uint64_t{0}, uint64_t{1} << 55}) {
        EXPECT_EQ(run(VIRTIO_BLK_T_IN, sector, {{data, 1024, true}}), VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(run(VIRTIO_BLK_T_OUT, sector, {{data, 1024}}), VIRTIO_BLK_S_IOERR);
    }
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 100, true}}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, kDisk / 512 - 1, {{data, 512, true}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(run(77, 0, {{data, 512, true}}), VIRTIO_BLK_S_UNSUPP);
    struct stat info;
    ASSERT_EQ(::fstat(file.get(), &info), 0);
    EXPECT_EQ(info.st_size, static_cast<off_t>(kDisk));
}

TEST_P(BlockTest, MalformedRequestsAreAnswered) {
    make();
    uint64_t data = machine.allocate(64);
    driver->queue(0).add({{data, 64}});                  // no room for a status
    driver->queue(0).add({{data, 8}, {data, 1, true}});  // half a header
    driver->queue(0).add({{data, 1, true}});
    driver->kick(0);
    ASSERT_TRUE(machine.turn_until([&] { return driver->queue(0).used_index() == 3; }));
    EXPECT_EQ(driver->queue(0).take_used()->written, 0u);
    EXPECT_EQ(driver->queue(0).take_used()->written, 1u);
    EXPECT_EQ(*machine.at(data), VIRTIO_BLK_S_IOERR);
    EXPECT_FALSE(driver->broken());
}

TEST_P(BlockTest, DiscardAndWriteZeroes) {
    make();
    uint64_t data = machine.allocate(16384);
    std::memset(machine.at(data), 'x', 16384);
    ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{data, 16384}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, 8, 8), VIRTIO_BLK_S_OK);
    EXPECT_EQ(on_disk(4096, 4096), std::string(4096, 0));
    EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 1), VIRTIO_BLK_S_OK);
    EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, 17, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
    EXPECT_EQ(on_disk(8192, 2048), std::string(1024, 0) + std::string(1024, 'x'));
    EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, kDisk / 512, 1), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, ~uint64_t{0}, 1), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, 0, ~0u), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(run(VIRTIO_BLK_T_DISCARD, 0, {{data, 32}}), VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(run(VIRTIO_BLK_T_DISCARD, 0, {{data, 3}}), VIRTIO_BLK_S_IOERR);
}

TEST_P(BlockTest, ReadOnly) {
    BlockDevice::Options options;
    options.read_only = true;
    make(options);
    uint64_t data = machine.allocate(512);
    EXPECT_TRUE(driver->device_features() & feature_bit(VIRTIO_BLK_F_RO));
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 512, true}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{data, 512}}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, 0, 1), VIRTIO_BLK_S_IOERR);
}

TEST_P(BlockTest, TellsItsSerial) {
    BlockDevice::Options options;
    options.serial = "casemate-1";
    make(options);
    uint64_t id = machine.allocate(20);
    EXPECT_EQ(run(VIRTIO_BLK_T_GET_ID, 0, {{id, 20, true}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(machine.text(id, 20), std::string("casemate-1") + std::string(10, 0));
    EXPECT_EQ(run(VIRTIO_BLK_T_GET_ID, 0, {{id, 19, true}}), VIRTIO_BLK_S_IOERR);
}

TEST_P(BlockTest, AFullDiskIsAnErrorOfTheRequest) {
    // A limit on the size of files stands for the full disk: EFBIG where ENOSPC would be.
    make();
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit before;
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit small = before;
    small.rlim_cur = 4096;
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    uint64_t data = machine.allocate(512);
    int status = run(VIRTIO_BLK_T_OUT, 100, {{data, 512}});
    ::setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(status, VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 100, {{data, 512}}), VIRTIO_BLK_S_OK);
}

TEST_P(BlockTest, AFileThatShrankIsAnError) {
    make();
    ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
    uint64_t data = machine.allocate(8192);
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 8192, true}}), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 4096, true}}), VIRTIO_BLK_S_OK);
}

TEST_P(BlockTest, RateLimits) {
    BlockDevice::Options options;
    options.operations = {50, 5};
    make(options);
    uint64_t data = machine.allocate(512);
    for (int i = 0; i < 12; ++i) offer(VIRTIO_BLK_T_IN, 0, {{data, 512, true}});
    auto start = std::chrono::steady_clock::now();
    driver->kick(0);
    EXPECT_LT(driver->queue(0).used_index(), 12);
    ASSERT_TRUE(machine.turn_until([&] { return driver->queue(0).used_index() == 12; }));
    // 12 requests less the burst, at 50 a second.
    EXPECT_GT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(80));
}

TEST_P(BlockTest, ResetWithRequestsInFlight) {
    make();
    uint64_t data = machine.allocate(64 << 10);
    for (int i = 0; i < 60; ++i) offer(VIRTIO_BLK_T_OUT, 0, {{data, 64 << 10}});
    driver->write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    machine.turn(1);
    driver->write(VIRTIO_MMIO_STATUS, 0);
    machine.turn();
    EXPECT_FALSE(device->active());
}

TEST_P(BlockTest, QuiescedIsNothingInFlight) {
    make();
    uint64_t data = machine.allocate(64 << 10);
    for (int i = 0; i < 20; ++i) offer(VIRTIO_BLK_T_OUT, 0, {{data, 64 << 10}});
    driver->write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    machine.turn(1);
    std::lock_guard lock(device->mutex());
    device->quiesce();
    EXPECT_EQ(device->queue_position(0).next_available, device->queue_position(0).next_used);
}

// A disk is raw, whatever its first bytes claim: a qcow2 header in it names no file of the host's.
TEST_P(BlockTest, Cve2026_27211_ContentIsNeverAFormat) {
    make();
    uint64_t sector = machine.allocate(512);
    std::memcpy(machine.at(sector), "QFI\xfb\0\0\0\3", 8);
    ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{sector, 512}}), VIRTIO_BLK_S_OK);
    make();  // again, as after a restart
    EXPECT_EQ(device->capacity_bytes(), kDisk);
    uint64_t back = machine.allocate(512);
    ASSERT_EQ(run(VIRTIO_BLK_T_IN, 0, {{back, 512, true}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(machine.text(back, 512), machine.text(sector, 512));
}

TEST(BlockCreate, RefusesWhatIsNoDisk) {
    auto loop = MUST(DeviceLoop::create());
    auto error = [&](UniqueFd fd, BlockDevice::Options options = {}) {
        auto made = BlockDevice::create(*loop, std::move(fd), "/x", options);
        return made.ok() ? std::string() : made.error().message();
    };
    EXPECT_NE(error(UniqueFd(::open("/dev/null", O_RDWR))).find("neither a regular file"), std::string::npos);
    EXPECT_NE(error(UniqueFd(::open("/", O_RDONLY))).find("neither a regular file"), std::string::npos);
    EXPECT_NE(error(MUST(linux::create_memfd("empty"))).find("smaller than one sector"), std::string::npos);
    EXPECT_NE(error(UniqueFd(::open("/proc/self/exe", O_RDONLY))).find("not open for writing"), std::string::npos);
    BlockDevice::Options options;
    options.read_only = true;
    EXPECT_EQ(error(UniqueFd(::open("/proc/self/exe", O_RDONLY)), options), "");
    options.serial = std::string(21, 'x');
    EXPECT_NE(error(UniqueFd(::open("/proc/self/exe", O_RDONLY)), options).find("20 bytes"), std::string::npos);
}

}  // namespace
}  // namespace casemate::virtio
