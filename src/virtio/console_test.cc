#include "virtio/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "linux/event_fds.h"
#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

class ConsoleTest : public testing::Test {
  protected:
    std::string read_output() {
        std::string text;
        char buffer[4096];
        ssize_t got;
        while ((got = ::read(out.read_end.get(), buffer, sizeof(buffer))) > 0)
            text.append(buffer, static_cast<size_t>(got));
        return text;
    }
    void type(const std::string& text) {
        ASSERT_EQ(::write(in.write_end.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    }

    static linux::Pipe make_pipe() { return MUST(linux::create_pipe(O_NONBLOCK)); }

    linux::Pipe in = make_pipe(), out = make_pipe();
    FakeMachine machine;
    ConsoleDevice device{machine.loop(), in.read_end.get(), out.write_end.get()};
    FakeDriver driver{machine, device};
};

TEST_F(ConsoleTest, OutputReachesTheHost) {
    ASSERT_TRUE(driver.start());
    uint64_t text = machine.put("hello world", 11);
    driver.queue(1).add({{text, 5}, {text + 5, 6}});
    driver.kick(1);
    EXPECT_EQ(read_output(), "hello world");
    EXPECT_TRUE(driver.queue(1).take_used());
}

TEST_F(ConsoleTest, InputReachesTheGuestOnceItOffersRoom) {
    ASSERT_TRUE(driver.start());
    type("ls\n");
    machine.turn();
    uint64_t buffer = machine.allocate(64);
    driver.queue(0).add({{buffer, 64, true}});
    driver.kick(0);
    ASSERT_TRUE(machine.turn_until([&] { return driver.queue(0).has_used(); }));
    EXPECT_EQ(driver.queue(0).take_used()->written, 3u);
    EXPECT_EQ(machine.text(buffer, 3), "ls\n");
}

TEST_F(ConsoleTest, Resizes) {
    ASSERT_TRUE(driver.start());
    device.resize(132, 43);
    EXPECT_EQ(driver.config<uint16_t>(0), 132);
    EXPECT_EQ(driver.config<uint16_t>(2), 43);
    EXPECT_EQ(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 2u);
}

// Nobody reads the output and the guest goes on writing: the device holds one request and nothing piles up.
TEST_F(ConsoleTest, Cve2020_27173_OutputThatNobodyReads) {
    ASSERT_TRUE(driver.start());
    uint64_t text = machine.allocate(4096);
    std::memset(machine.at(text), 'x', 4096);
    size_t offered = 0;
    while (offered < 40) {
        driver.queue(1).add({{text, 4096}});
        ++offered;
        driver.kick(1);
    }
    EXPECT_LE(driver.queue(1).used_index(), 17);  // what fits into the pipe
    size_t seen = 0;
    ASSERT_TRUE(machine.turn_until([&] {
        seen += read_output().size();
        return seen == 40 * 4096;
    }));
    EXPECT_TRUE(machine.turn_until([&] { return driver.queue(1).used_index() == 40; }));
}

// Input beyond what the guest takes stays in the host's pipe.
TEST_F(ConsoleTest, Cve2020_27174_InputThatNobodyTakes) {
    ASSERT_TRUE(driver.start());
    uint64_t buffer = machine.allocate(16);
    driver.queue(0).add({{buffer, 4, true}});
    driver.kick(0);
    type("0123456789");
    machine.turn();
    ASSERT_TRUE(driver.queue(0).has_used());
    EXPECT_EQ(driver.queue(0).take_used()->written, 4u);
    driver.queue(0).add({{buffer, 16, true}});
    driver.kick(0);
    ASSERT_TRUE(driver.queue(0).has_used());
    EXPECT_EQ(driver.queue(0).take_used()->written, 6u);
}

TEST_F(ConsoleTest, GoesOnAfterTheHostClosed) {
    ASSERT_TRUE(driver.start());
    ::signal(SIGPIPE, SIG_IGN);
    out.read_end.reset();
    in.write_end.reset();
    uint64_t buffer = machine.allocate(64);
    driver.queue(0).add({{buffer, 64, true}});
    driver.kick(0);
    driver.queue(1).add({{buffer, 64}});
    driver.kick(1);
    EXPECT_TRUE(driver.queue(1).take_used());
    EXPECT_FALSE(driver.queue(0).has_used());
}

TEST_F(ConsoleTest, ASnapshotInTheMiddleOfARequestGoesOnThere) {
    ASSERT_TRUE(driver.start());
    constexpr uint32_t kBytes = 256 << 10;
    uint64_t text = machine.allocate(kBytes);
    for (uint32_t i = 0; i < kBytes; ++i) *machine.at(text + i) = static_cast<char>('a' + i % 23);
    std::string expected = machine.text(text, kBytes);
    driver.queue(1).add({{text, kBytes}});
    driver.kick(1);
    ASSERT_FALSE(driver.queue(1).has_used());
    {
        std::lock_guard lock(device.mutex());
        device.quiesce();
    }
    StateWriter writer;
    driver.transport().save(writer);
    std::string state = writer.take();
    std::string seen = read_output();

    ConsoleDevice other(machine.loop(), in.read_end.get(), out.write_end.get());
    FakeDriver shell(machine, other);
    StateReader reader(state);
    ASSERT_TRUE(shell.transport().restore(reader).ok());
    shell.transport().resume();
    ASSERT_TRUE(machine.turn_until([&] {
        seen += read_output();
        return seen.size() >= kBytes;
    }));
    EXPECT_EQ(seen, expected);
    EXPECT_TRUE(machine.turn_until([&] { return driver.queue(1).has_used(); }));
}

}  // namespace
}  // namespace casemate::virtio
