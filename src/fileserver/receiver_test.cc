#include "fileserver/receiver.h"

#include <gtest/gtest.h>
#include <sys/uio.h>
#include <unistd.h>

#include <string>
#include <thread>

namespace casemate::fileserver {
namespace {

TEST(Receiver, HearsWhatComesAtOnceAndLaterAndTheEnd) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    Receiver receiver;
    char buffer[64];
    auto receive = [&] {
        iovec piece{buffer, sizeof(buffer)};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        ssize_t n = receiver.receive(ends[0], message, 0);
        return n < 0 ? std::string("error") : std::string(buffer, static_cast<size_t>(n));
    };
    for (int round = 0; round < 20; ++round) {
        ASSERT_EQ(send(ends[1], "there", 5, 0), 5);
        EXPECT_EQ(receive(), "there");
    }
    for (int round = 0; round < 5; ++round) {
        std::thread late([&] {
            usleep(2000);
            ASSERT_EQ(send(ends[1], "late", 4, 0), 4);
        });
        EXPECT_EQ(receive(), "late");
        late.join();
    }
    close(ends[1]);
    EXPECT_EQ(receive(), "");
    close(ends[0]);
}

}  // namespace
}  // namespace casemate::fileserver
