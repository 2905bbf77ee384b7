// A socket per UDP peer, on this machine's loopback.
#include "sandbox/udp_peers.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>

namespace casemate::sandbox {
namespace {

struct Client {
    explicit Client(uint16_t port) : fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        // SAFETY: the way the C interface takes addresses.
        EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    }
    void say(const std::string& text) {
        EXPECT_EQ(send(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    }
    UniqueFd fd;
};

std::string hear(int fd) {
    pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
    char text[100];
    ssize_t got = poll(&wait, 1, 5000) == 1 ? recv(fd, text, sizeof(text), 0) : -1;
    return got < 0 ? "nothing" : std::string(text, static_cast<size_t>(got));
}

TEST(UdpPeers, each_has_a_socket_with_what_it_said_in_order) {
    // A port that nobody has.
    uint16_t port = 0;
    SysResult<UniqueFd> listener = Errno(EADDRINUSE);
    for (int i = 0; i < 50 && !listener.ok(); i++) {
        port = static_cast<uint16_t>(20000 + (getpid() * 7 + i * 101) % 10000);
        listener = bind_loopback_datagrams(port, false);
    }
    ASSERT_TRUE(listener.ok());
    EXPECT_FALSE(bind_loopback_datagrams(port, false).ok());
    EXPECT_TRUE(accept_udp_peers(listener->get(), port, false).empty());

    Client one(port), other(port);
    one.say("1");
    other.say("a");
    one.say("2");
    one.say("");
    other.say("b");
    std::map<std::string, UdpPeer> peers;
    for (UdpPeer& peer : accept_udp_peers(listener->get(), port, false)) {
        ASSERT_FALSE(peer.first.empty());
        std::string begins = peer.first[0];
        peers.emplace(begins, std::move(peer));
    }
    ASSERT_EQ(peers.size(), 2u);
    EXPECT_EQ(peers.at("1").first, (std::vector<std::string>{"1", "2", ""}));
    EXPECT_EQ(peers.at("a").first, (std::vector<std::string>{"a", "b"}));

    // From now on each is heard by its own socket alone, and hears it.
    one.say("3");
    other.say("c");
    EXPECT_EQ(hear(peers.at("1").socket.get()), "3");
    EXPECT_EQ(hear(peers.at("a").socket.get()), "c");
    EXPECT_TRUE(accept_udp_peers(listener->get(), port, false).empty());
    EXPECT_EQ(send(peers.at("1").socket.get(), "for one", 7, 0), 7);
    EXPECT_EQ(hear(one.fd.get()), "for one");

    // One that was forgotten is somebody new.
    peers.erase("1");
    one.say("4");
    auto again = accept_udp_peers(listener->get(), port, false);
    ASSERT_EQ(again.size(), 1u);
    EXPECT_EQ(again[0].first, std::vector<std::string>{"4"});
}

TEST(UdpPeers, are_bounded_in_number) {
    uint16_t port = 0;
    SysResult<UniqueFd> listener = Errno(EADDRINUSE);
    for (int i = 0; i < 50 && !listener.ok(); i++) {
        port = static_cast<uint16_t>(20000 + (getpid() * 7 + i * 103 + 1) % 10000);
        listener = bind_loopback_datagrams(port, false);
    }
    ASSERT_TRUE(listener.ok());
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 100; i++) {
        clients.push_back(std::make_unique<Client>(port));
        clients.back()->say(std::to_string(i));
    }
    EXPECT_EQ(accept_udp_peers(listener->get(), port, false).size(), 64u);
}

}  // namespace
}  // namespace casemate::sandbox
