#include "vmm/devices.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "linux/unix_socket.h"

namespace casemate::vmm {
namespace {

using namespace std::chrono_literals;

class VsockBrokerTest : public testing::Test {
  protected:
    VsockBrokerTest() {
        char name[] = "/tmp/casemate-broker-XXXXXX";
        path = std::string(::mkdtemp(name)) + "/vsock";
        pair = MUST(linux::create_socket_pair(SOCK_SEQPACKET));
    }
    ~VsockBrokerTest() override {
        for (const char* port : {"_1", "_2"}) ::unlink((path + port).c_str());
        ::rmdir(path.substr(0, path.rfind('/')).c_str());
    }
    UniqueFd listen(uint32_t port) { return MUST(linux::listen_unix(path + "_" + std::to_string(port))); }
    SysResult<UniqueFd> ask(uint32_t port, std::chrono::milliseconds patience = 10s) {
        return ask_vsock_broker(pair.first.get(), ++asked, port, patience);
    }
    // What a stream's other end says of itself.
    static std::string greeting_of(int listener, int stream) {
        UniqueFd other = MUST(linux::accept_unix(listener, false));
        EXPECT_EQ(::write(other.get(), "me", 2), 2);
        char bytes[2] = {};
        EXPECT_EQ(::recv(stream, bytes, 2, MSG_WAITALL | MSG_DONTWAIT), 2);
        return {bytes, 2};
    }

    // The parent, until the device's end is closed.
    void serve() {
        char peek;
        while (::recv(pair.second.get(), &peek, 1, MSG_PEEK) > 0) answer_vsock_broker(pair.second.get(), path);
    }

    std::string path;
    linux::SocketPair pair;
    uint32_t asked = 0;
};

TEST_F(VsockBrokerTest, ConnectsToThePortsSocket) {
    UniqueFd listener = listen(1);
    std::thread parent([&] { serve(); });
    auto stream = ask(1);
    ASSERT_TRUE(stream.ok());
    EXPECT_EQ(greeting_of(listener.get(), stream->get()), "me");
    auto none = ask(2);
    ASSERT_FALSE(none.ok());
    EXPECT_EQ(none.error().value, ENOENT);
    pair.first.reset();
    parent.join();
}

TEST_F(VsockBrokerTest, ALateAnswerIsNotThatToTheNextQuestion) {
    UniqueFd first = listen(1), second = listen(2);
    auto late = ask(1, 1ms);
    ASSERT_FALSE(late.ok());
    EXPECT_EQ(late.error().value, ETIMEDOUT);
    // The parent wakes up, answers what was given up, and then the next.
    std::thread parent([&] { serve(); });
    auto stream = ask(2);
    pair.first.reset();
    parent.join();
    ASSERT_TRUE(stream.ok());
    EXPECT_EQ(greeting_of(second.get(), stream->get()), "me");
}

TEST_F(VsockBrokerTest, AParentThatIsGone) {
    pair.second.reset();
    EXPECT_FALSE(ask(1).ok());
}

}  // namespace
}  // namespace casemate::vmm
