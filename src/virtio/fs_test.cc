#include "virtio/fs.h"

#include <gtest/gtest.h>

#include <list>

#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

// Keeps requests until the test answers them.
class FakeHandler final : public FuseHandler {
  public:
    struct Request {
        uint16_t slot;
        fuse_in_header header;
        std::string body;
        ChainBuffer* out;
    };
    void attach(DeviceLoop&, std::mutex&, Done d, std::function<void()> r) override {
        done = std::move(d);
        room = std::move(r);
    }
    void start(uint16_t slot, const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) override {
        std::string body(in.remaining(), 0);
        in.read(body.data(), body.size());
        requests.push_back({slot, header, body, &out});
    }
    void tell(const fuse_in_header& header, ChainBuffer&) override { told.push_back(header.opcode); }
    bool full() const override { return requests.size() >= limit; }
    void drain() override {
        while (!requests.empty()) answer(EIO);
    }
    void forget_all() override {
        requests.clear();
        ++forgotten;
    }
    void save(StateWriter& writer) override { writer.number(uint32_t{7}); }
    SysResult<void> restore(StateReader& reader) override {
        restored = TRY(reader.number<uint32_t>());
        return {};
    }
    void answer(int error, const std::string& body = "") {
        Request request = requests.front();
        requests.pop_front();
        size_t put = request.out->write(body.data(), body.size());
        done(request.slot, error, static_cast<uint32_t>(put));
    }

    Done done;
    std::function<void()> room;
    std::list<Request> requests;
    std::vector<uint32_t> told;
    size_t limit = 100;
    int forgotten = 0;
    uint32_t restored = 0;
};

class FsTest : public testing::Test {
  protected:
    struct Sent {
        uint64_t out;
        uint32_t room;
    };
    Sent send(uint32_t opcode, const std::string& body, uint32_t room = 256, std::optional<uint32_t> length = {},
              uint16_t queue = 1) {
        fuse_in_header header{};
        header.len = length.value_or(static_cast<uint32_t>(sizeof(header) + body.size()));
        header.opcode = opcode;
        header.unique = ++unique;
        std::vector<FakeQueue::Part> parts = {{machine.put(header), sizeof(header)}};
        if (!body.empty()) parts.push_back({machine.put(body.data(), body.size()), static_cast<uint32_t>(body.size())});
        uint64_t out = machine.allocate(room);
        if (room > 0) parts.push_back({out, room, true});
        driver.queue(queue).add(parts);
        driver.kick(queue);
        return {out, room};
    }
    fuse_out_header reply(const Sent& sent) {
        fuse_out_header header{};
        std::memcpy(&header, machine.at(sent.out), sizeof(header));
        return header;
    }
    template <typename F>
    void locked(F&& f) {
        std::lock_guard lock(device->mutex());
        f();
    }

    FakeMachine machine;
    FakeHandler handler;
    static std::unique_ptr<FsDevice> make(FakeMachine& machine, FakeHandler& handler) {
        return MUST(FsDevice::create(machine.loop(), "share", handler));
    }
    std::unique_ptr<FsDevice> device = make(machine, handler);
    FakeDriver driver{machine, *device, 64};
    uint64_t unique = 100;
};

TEST_F(FsTest, TellsItsTag) {
    std::string tag(36, 'x');
    driver.transport().read(VIRTIO_MMIO_CONFIG, {reinterpret_cast<uint8_t*>(tag.data()), 36});
    EXPECT_EQ(tag, "share" + std::string(31, 0));
    EXPECT_EQ(driver.config<uint32_t>(36), 1u);
    EXPECT_FALSE(FsDevice::create(machine.loop(), "", handler).ok());
    EXPECT_FALSE(FsDevice::create(machine.loop(), std::string(37, 'x'), handler).ok());
}

TEST_F(FsTest, RequestsAndRepliesInAnyOrder) {
    ASSERT_TRUE(driver.start());
    Sent first = send(FUSE_GETATTR, "first"), second = send(FUSE_LOOKUP, "second");
    ASSERT_EQ(handler.requests.size(), 2u);
    EXPECT_EQ(handler.requests.front().body, "first");
    handler.requests.reverse();
    locked([&] { handler.answer(0, "answer"); });
    locked([&] { handler.answer(ENOENT); });
    EXPECT_EQ(reply(second).unique, 102u);
    EXPECT_EQ(reply(second).len, 22u);
    EXPECT_EQ(reply(second).error, 0);
    EXPECT_EQ(machine.text(second.out + 16, 6), "answer");
    EXPECT_EQ(reply(first).unique, 101u);
    EXPECT_EQ(reply(first).error, -ENOENT);
    EXPECT_EQ(driver.queue(1).take_used()->written, 22u);
    EXPECT_EQ(driver.queue(1).take_used()->written, 16u);
}

TEST_F(FsTest, MessagesWithoutReplies) {
    ASSERT_TRUE(driver.start());
    send(FUSE_FORGET, "12345678", 0, {}, 0);
    send(FUSE_BATCH_FORGET, "12345678", 0);
    EXPECT_EQ(handler.told, (std::vector<uint32_t>{FUSE_FORGET, FUSE_BATCH_FORGET}));
    Sent urgent = send(FUSE_LOOKUP, "x", 64, {}, 0);
    EXPECT_EQ(reply(urgent).error, -EINVAL);
    EXPECT_TRUE(handler.requests.empty());
}

TEST_F(FsTest, LengthsThatDoNotAgree) {
    ASSERT_TRUE(driver.start());
    for (uint32_t length : {0u, 39u, 40u, 44u, 46u, 0xffffffffu}) {
        Sent sent = send(FUSE_LOOKUP, "hello", 64, length);
        EXPECT_EQ(reply(sent).error, -EINVAL) << length;
    }
    send(FUSE_FORGET, "12345678", 0, 41);
    EXPECT_TRUE(handler.told.empty());
    driver.queue(1).add({{machine.allocate(39), 39}, {machine.allocate(64), 64, true}});
    driver.kick(1);
    send(FUSE_LOOKUP, "no room for a reply", 15);
    EXPECT_TRUE(handler.requests.empty());
    EXPECT_FALSE(driver.broken());
    EXPECT_EQ(driver.queue(1).used_index(), 9);
}

TEST_F(FsTest, OurOwnOpcodesAreNotTheGuests) {
    ASSERT_TRUE(driver.start());
    EXPECT_EQ(reply(send(kOwnFuseOpcodes + 1, "")).error, -ENOSYS);
    EXPECT_TRUE(handler.requests.empty());
}

TEST_F(FsTest, AHandlerThatIsFullHoldsTheGuestBack) {
    ASSERT_TRUE(driver.start());
    handler.limit = 2;
    for (int i = 0; i < 5; ++i) send(FUSE_LOOKUP, "x");
    EXPECT_EQ(handler.requests.size(), 2u);
    locked([&] {
        handler.answer(0);
        handler.room();
    });
    EXPECT_EQ(handler.requests.size(), 2u);
    EXPECT_EQ(driver.queue(1).used_index(), 1);
}

TEST_F(FsTest, ResetForgetsAndQuiesceAnswers) {
    ASSERT_TRUE(driver.start());
    send(FUSE_LOOKUP, "x");
    locked([&] { device->quiesce(); });
    EXPECT_EQ(driver.queue(1).used_index(), 1);
    int before = handler.forgotten;
    send(FUSE_LOOKUP, "x");
    driver.write(VIRTIO_MMIO_STATUS, 0);
    EXPECT_GT(handler.forgotten, before);
    EXPECT_EQ(driver.queue(1).used_index(), 1);
}

TEST_F(FsTest, SavesTheHandlersState) {
    ASSERT_TRUE(driver.start());
    StateWriter writer;
    driver.transport().save(writer);
    std::string state = writer.take();
    FakeHandler other_handler;
    auto other = make(machine, other_handler);
    FakeDriver shell(machine, *other);
    StateReader reader(state);
    ASSERT_TRUE(shell.transport().restore(reader).ok());
    EXPECT_EQ(other_handler.restored, 7u);
}

}  // namespace
}  // namespace casemate::virtio
