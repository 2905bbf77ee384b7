#include "virtio/block_io.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>

#include "linux/event_fds.h"

namespace casemate::virtio {
namespace {

// What a monitor that was taken over may do with the ring of its disk.
class BlockRing : public testing::Test {
  protected:
    void SetUp() override {
        disk = MUST(linux::create_memfd("disk"));
        ASSERT_EQ(::ftruncate(disk.get(), 4096), 0);
        int made = ::io_uring_queue_init(4, &ring, IORING_SETUP_R_DISABLED);
        if (made != 0) GTEST_SKIP() << "no io_uring here: " << strerrordesc_np(-made);
        ASSERT_TRUE(bind_block_ring(ring, disk.get()));
    }
    void TearDown() override {
        if (ring.ring_fd > 0) ::io_uring_queue_exit(&ring);
    }
    int run(const std::function<void(io_uring_sqe*)>& prepare, unsigned flags = IOSQE_FIXED_FILE) {
        io_uring_sqe* entry = ::io_uring_get_sqe(&ring);
        prepare(entry);
        ::io_uring_sqe_set_flags(entry, flags);
        EXPECT_EQ(::io_uring_submit(&ring), 1);
        io_uring_cqe* done;
        if (::io_uring_wait_cqe(&ring, &done) != 0) return -1;
        int result = done->res;
        ::io_uring_cqe_seen(&ring, done);
        return result;
    }

    UniqueFd disk;
    io_uring ring{};
    char bytes[64] = {};
    iovec part = {bytes, sizeof bytes};
};

TEST_F(BlockRing, DoesWhatADiskNeeds) {
    EXPECT_EQ(run([&](auto* entry) { ::io_uring_prep_writev(entry, 0, &part, 1, 0); }), 64);
    EXPECT_EQ(run([&](auto* entry) { ::io_uring_prep_readv(entry, 0, &part, 1, 0); }), 64);
    EXPECT_EQ(run([&](auto* entry) { ::io_uring_prep_fsync(entry, 0, IORING_FSYNC_DATASYNC); }), 0);
    EXPECT_EQ(run([&](auto* entry) {
                  ::io_uring_prep_fallocate(entry, 0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
              }),
              0);
}

TEST_F(BlockRing, RefusesEverythingElse) {
    sockaddr address = {};
    open_how how = {};
    int fd = disk.get();
    std::function<void(io_uring_sqe*)> others[] = {
        [&](auto* entry) { ::io_uring_prep_openat(entry, AT_FDCWD, "/etc/passwd", O_RDONLY, 0); },
        [&](auto* entry) { ::io_uring_prep_openat2(entry, AT_FDCWD, "/etc/passwd", &how); },
        [&](auto* entry) { ::io_uring_prep_socket(entry, AF_INET, SOCK_STREAM, 0, 0); },
        [&](auto* entry) { ::io_uring_prep_connect(entry, 0, &address, sizeof address); },
        [&](auto* entry) { ::io_uring_prep_accept(entry, 0, nullptr, nullptr, 0); },
        [&](auto* entry) { ::io_uring_prep_sendmsg(entry, 0, nullptr, 0); },
        [&](auto* entry) { ::io_uring_prep_unlink(entry, "/etc/passwd", 0); },
        [&](auto* entry) { ::io_uring_prep_files_update(entry, &fd, 1, 0); },
        [&](auto* entry) { ::io_uring_prep_read(entry, 0, bytes, sizeof bytes, 0); },
        [&](auto* entry) { ::io_uring_prep_nop(entry); },
    };
    for (auto& other : others) EXPECT_EQ(run(other), -EACCES) << &other - others;
    // Another file than the disk, by its descriptor; and a chain of operations.
    EXPECT_EQ(run([&](auto* entry) { ::io_uring_prep_readv(entry, disk.get(), &part, 1, 0); }, 0), -EACCES);
    EXPECT_EQ(run([&](auto* entry) { ::io_uring_prep_readv(entry, 0, &part, 1, 0); }, IOSQE_FIXED_FILE | IOSQE_ASYNC),
              -EACCES);
    EXPECT_EQ(run([&](auto* entry) { ::io_uring_prep_readv(entry, 1, &part, 1, 0); }), -EBADF);
    // Nor are other files, buffers or rules registered any more.
    EXPECT_EQ(::io_uring_register_files_update(&ring, 0, &fd, 1), -EACCES);
    EXPECT_EQ(::io_uring_register_buffers(&ring, &part, 1), -EACCES);
    EXPECT_FALSE(bind_block_ring(ring, disk.get()));
}

}  // namespace
}  // namespace casemate::virtio
