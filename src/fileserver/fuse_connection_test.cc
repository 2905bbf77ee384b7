#include "fileserver/fuse_connection.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <thread>

#include "linux/unix_message.h"
#include "linux/unix_socket.h"
#include "virtio/fake_driver.h"
#include "virtio/fs.h"
#include "virtio/fuse_link.h"

namespace casemate::fileserver {
namespace {

using virtio::FakeDriver;
using virtio::FakeMachine;
using virtio::FakeQueue;

// A guest, the device, the link and the server, with a directory of its own.
class FuseLinkTest : public testing::Test {
  protected:
    FuseLinkTest() {
        char name[] = "/tmp/casemate-fuse-link-XXXXXX";
        top = ::mkdtemp(name);
        FuseDirectory::Options options;
        options.self_fd_prefix = "/proc/self/fd/";
        directory = MUST(FuseDirectory::create(UniqueFd(::open(top.c_str(), O_PATH | O_CLOEXEC)),
                                               UniqueFd(::open("/proc/self/fd", O_PATH | O_CLOEXEC)), options));
        auto pair = MUST(linux::create_socket_pair(SOCK_STREAM));
        server_socket = std::move(pair.second);
        link = std::make_unique<virtio::FuseLink>(std::move(pair.first));
        device = MUST(virtio::FsDevice::create(machine.loop(), "share", *link));
        driver = std::make_unique<FakeDriver>(machine, *device);
    }
    ~FuseLinkTest() override {
        stop_server();
        driver.reset();
        device.reset();
        link.reset();
        std::filesystem::remove_all(top);
    }
    void start_server() {
        server = std::thread([this] { served = serve_fuse_link(*directory, server_socket.get(), memory).ok(); });
    }
    void stop_server() {
        if (!server.joinable()) return;
        ::shutdown(server_socket.get(), SHUT_RDWR);
        server.join();
    }
    template <typename T>
    static std::string bytes(const T& value) {
        return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    // The guest address of the reply.
    uint64_t send(uint32_t opcode, uint64_t node, const std::string& body, uint32_t room) {
        fuse_in_header header{};
        header.len = static_cast<uint32_t>(sizeof(header) + body.size());
        header.opcode = opcode;
        header.unique = ++unique;
        header.nodeid = node;
        header.uid = ::getuid();
        header.gid = ::getgid();
        uint64_t in = machine.put(body.data(), body.size()), out = machine.allocate(room);
        std::vector<FakeQueue::Part> parts = {{machine.put(header), sizeof(header)}};
        if (!body.empty()) parts.push_back({in, static_cast<uint32_t>(body.size())});
        parts.push_back({out, room, true});
        driver->queue(1).add(parts);
        driver->kick(1);
        return out;
    }
    std::string call(uint32_t opcode, uint64_t node, const std::string& body, uint32_t room = 4096) {
        uint64_t out = send(opcode, node, body, room);
        EXPECT_TRUE(machine.turn_until([&] { return driver->queue(1).has_used(); }));
        driver->queue(1).take_used();
        fuse_out_header header;
        std::memcpy(&header, machine.at(out), sizeof(header));
        EXPECT_EQ(header.unique, unique);
        error = -header.error;
        return machine.text(out + sizeof(header), header.len - sizeof(header));
    }
    fuse_create_in create_arguments() {
        fuse_create_in arguments{};
        arguments.flags = O_RDWR;
        arguments.mode = S_IFREG | 0644;
        return arguments;
    }

    std::string top;
    FakeMachine machine;
    std::unique_ptr<FuseDirectory> directory;
    UniqueFd server_socket;
    std::unique_ptr<virtio::FuseLink> link;
    std::unique_ptr<virtio::FsDevice> device;
    std::unique_ptr<FakeDriver> driver;
    GuestData memory;
    std::thread server;
    bool served = false;
    uint64_t unique = 0;
    int error = 0;
};

TEST_F(FuseLinkTest, FilesThroughDeviceLinkAndServer) {
    start_server();
    ASSERT_TRUE(driver->start());
    std::string made = call(FUSE_CREATE, 1, bytes(create_arguments()) + std::string("file\0", 5));
    ASSERT_EQ(error, 0);
    fuse_open_out open;
    std::memcpy(&open, made.data() + sizeof(fuse_entry_out), sizeof(open));
    std::string data;
    for (int i = 0; i < 500'000; ++i) data.push_back(static_cast<char>(i * 31));
    fuse_write_in write{};
    write.fh = open.fh;
    write.size = static_cast<uint32_t>(data.size());
    call(FUSE_WRITE, 1, bytes(write) + data);
    ASSERT_EQ(error, 0);
    fuse_read_in read{};
    read.fh = open.fh;
    read.size = static_cast<uint32_t>(data.size());
    EXPECT_TRUE(call(FUSE_READ, 1, bytes(read), 600'000) == data);
    call(FUSE_LOOKUP, 1, std::string("none\0", 5));
    EXPECT_EQ(error, ENOENT);
}

TEST_F(FuseLinkTest, LargeWritesAreTakenFromTheGuestsMemory) {
    ASSERT_TRUE(link->share_memory(machine.file(), {{machine.at(0), FakeMachine::kLowBytes, 0}}).ok());
    memory = MUST(receive_guest_data(server_socket.get()));
    start_server();
    ASSERT_TRUE(driver->start());
    std::string made = call(FUSE_CREATE, 1, bytes(create_arguments()) + std::string("file\0", 5));
    ASSERT_EQ(error, 0);
    fuse_open_out open;
    std::memcpy(&open, made.data() + sizeof(fuse_entry_out), sizeof(open));
    std::string all;
    // The second piece adjoins the first, in the third all lies in one descriptor; and a small one, which is copied.
    for (size_t size : {100'000u, 4096u, 1000u}) {
        std::string data;
        for (size_t i = 0; i < size; ++i) data.push_back(static_cast<char>(i * 31 + size));
        fuse_write_in write{};
        write.fh = open.fh;
        write.offset = all.size();
        write.size = static_cast<uint32_t>(size);
        std::string body = call(FUSE_WRITE, 1, bytes(write) + data);
        ASSERT_EQ(error, 0);
        fuse_write_out reply;
        ASSERT_EQ(body.size(), sizeof(reply));
        std::memcpy(&reply, body.data(), sizeof(reply));
        EXPECT_EQ(reply.size, size);
        all += data;
    }
    std::stringstream file;
    file << std::ifstream(top + "/file").rdbuf();
    EXPECT_TRUE(file.str() == all);
    // Its own word for its size.
    fuse_write_in write{};
    write.fh = open.fh;
    write.size = 4097;
    call(FUSE_WRITE, 1, bytes(write) + std::string(5000, 'x'));
    EXPECT_EQ(error, EINVAL);
    EXPECT_EQ(std::filesystem::file_size(top + "/file"), all.size());
}

TEST_F(FuseLinkTest, ASnapshotGoesOverTheLink) {
    start_server();
    ASSERT_TRUE(driver->start());
    std::string made = call(FUSE_CREATE, 1, bytes(create_arguments()) + std::string("file\0", 5));
    ASSERT_EQ(error, 0);
    virtio::StateWriter writer;
    driver->transport().save(writer);
    std::string state = writer.take();
    driver->write(VIRTIO_MMIO_STATUS, 0);  // forgets everything
    auto fresh = std::make_unique<FakeDriver>(machine, *device);
    virtio::StateReader reader(state);
    ASSERT_TRUE(fresh->transport().restore(reader).ok());
    EXPECT_EQ(directory->handle_count(), 1u);
    EXPECT_EQ(directory->node_count(), 1u);
    fresh.reset();
}

TEST_F(FuseLinkTest, AServerThatHangsUp) {
    start_server();
    ASSERT_TRUE(driver->start());
    machine.turn();
    stop_server();
    server_socket.reset();
    call(FUSE_LOOKUP, 1, std::string("file\0", 5));
    EXPECT_EQ(error, EIO);
    call(FUSE_LOOKUP, 1, std::string("file\0", 5));
    EXPECT_EQ(error, EIO);
    EXPECT_FALSE(driver->broken());
}

TEST_F(FuseLinkTest, AServerThatLies) {
    auto answer = [&](fuse_out_header header) {
        ASSERT_EQ(::send(server_socket.get(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
    };
    ASSERT_TRUE(driver->start());
    uint64_t out = send(FUSE_LOOKUP, 1, std::string("file\0", 5), 100);
    answer({16, 0, 999});  // a number that nobody asked with: ignored
    machine.turn();
    EXPECT_FALSE(driver->queue(1).has_used());
    answer({200, 0, 1});  // more than the guest has room for
    ASSERT_TRUE(machine.turn_until([&] { return driver->queue(1).has_used(); }));
    fuse_out_header header;
    std::memcpy(&header, machine.at(out), sizeof(header));
    EXPECT_EQ(header.error, -EIO);
    EXPECT_EQ(header.len, 16u);
}

TEST_F(FuseLinkTest, AServerThatFloodsDoesNotStallTheDevices) {
    ASSERT_TRUE(driver->start());
    std::atomic<bool> done{false};
    std::thread flood([&] {
        std::vector<fuse_out_header> answers(4096, fuse_out_header{16, 0, 999});  // to nobody
        while (!done)
            (void)!::send(server_socket.get(), answers.data(), answers.size() * sizeof(answers[0]),
                          MSG_NOSIGNAL | MSG_DONTWAIT);
    });
    send(FUSE_LOOKUP, 1, std::string("file\0", 5), 100);
    for (int i = 0; i < 100; ++i) machine.turn(1);  // each comes back
    EXPECT_FALSE(driver->queue(1).has_used());
    done = true;
    flood.join();
}

TEST_F(FuseLinkTest, ResetWhileTheServerIsAtWork) {
    ASSERT_TRUE(driver->start());
    send(FUSE_LOOKUP, 1, std::string("file\0", 5), 100);
    driver->write(VIRTIO_MMIO_STATUS, 0);
    start_server();  // its late answer is for nobody
    machine.turn();
    EXPECT_EQ(driver->queue(1).used_index(), 0);
    FakeDriver again(machine, *device);
    ASSERT_TRUE(again.start());
    machine.turn();
    EXPECT_EQ(driver->queue(1).used_index(), 0);
}

TEST_F(FuseLinkTest, AMonitorThatLies) {
    virtio::FuseLinkRequest request{};
    for (uint32_t length : {0u, 39u, 0xffffffffu, 40u + (2u << 20)}) {
        auto sockets = MUST(linux::create_socket_pair(SOCK_STREAM));
        request.header.len = length;
        ASSERT_EQ(::send(sockets.first.get(), &request, sizeof(request), 0), static_cast<ssize_t>(sizeof(request)));
        auto result = serve_fuse_link(*directory, sockets.second.get());
        EXPECT_FALSE(result.ok());
    }
}

TEST_F(FuseLinkTest, AMonitorThatLiesAboutTheGuestsMemory) {
    constexpr uint64_t kSize = FakeMachine::kLowBytes + 2 * FakeMachine::kHighBytes + 4096;
    auto hello = [&](uint32_t opcode, uint32_t length, int fd) {
        auto sockets = MUST(linux::create_socket_pair(SOCK_STREAM));
        virtio::FuseLinkRequest message{};
        message.header.len = length;
        message.header.opcode = opcode;
        MUST(linux::send_message(sockets.first.get(), std::as_bytes(std::span(&message, 1)),
                                 std::span(&fd, fd >= 0 ? 1 : 0)));
        return receive_guest_data(sockets.second.get());
    };
    EXPECT_TRUE(hello(virtio::kFuseLinkMemory, sizeof(fuse_in_header), -1).ok());
    EXPECT_FALSE(hello(virtio::kFuseLinkMemory, sizeof(fuse_in_header) + 1, -1).ok());
    EXPECT_FALSE(hello(FUSE_INIT, sizeof(fuse_in_header), -1).ok());
    EXPECT_FALSE(hello(virtio::kFuseLinkMemory, sizeof(fuse_in_header), server_socket.get()).ok());
    GuestData seen = MUST(hello(virtio::kFuseLinkMemory, sizeof(fuse_in_header), machine.file()));
    auto serve = [&](bool with_memory, uint32_t opcode, uint64_t size,
                     std::vector<virtio::FuseLinkSegment> segments) -> int {
        auto sockets = MUST(linux::create_socket_pair(SOCK_STREAM));
        virtio::FuseLinkRequest request{};
        request.header.opcode = opcode;
        request.header.len = static_cast<uint32_t>(sizeof(request.header) + sizeof(fuse_write_in) + size);
        request.room = 100;
        request.segments = static_cast<uint32_t>(segments.size());
        std::string message = bytes(request) + bytes(fuse_write_in{});
        for (const auto& segment : segments) message += bytes(segment);
        MUST(linux::send_message(sockets.first.get(), message));
        ::shutdown(sockets.first.get(), SHUT_WR);
        auto result = serve_fuse_link(*directory, sockets.second.get(), with_memory ? seen : memory);
        return result.ok() ? 0 : result.error().value;
    };
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{kSize - 100, 100}}), 0);
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{0, 60}, {kSize - 40, 40}}), 0);
    EXPECT_EQ(serve(false, FUSE_WRITE, 100, {{0, 100}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{kSize - 99, 100}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{~uint64_t{0} - 9, 100}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{0, 99}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{0, 101}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_WRITE, 100, {{0, 100}, {0, 0}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_READ, 100, {{0, 100}}), EPROTO);
    EXPECT_EQ(serve(true, FUSE_WRITE, 1025, std::vector<virtio::FuseLinkSegment>(1025, {0, 1})), EPROTO);
}

}  // namespace
}  // namespace casemate::fileserver
