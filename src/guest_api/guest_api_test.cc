// The guest API end to end against the fake guest lives in guest_fake; here are its parts.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest_api/errors.h"
#include "guest_api/streams.h"

namespace casemate::guest_api {
namespace {

int open_descriptors() {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    return count;
}

struct Channel {
    Channel() {
        auto pair = MUST(DescriptorChannel::create());
        raw = ::dup(pair.host.get());
        sender = std::make_unique<DescriptorSender>(std::move(pair.host));
        receiver = std::make_unique<DescriptorReceiver>(std::move(pair.guest), 4);
    }
    ~Channel() { ::close(raw); }
    int raw;
    std::unique_ptr<DescriptorSender> sender;
    std::unique_ptr<DescriptorReceiver> receiver;
};

void send_raw(int channel, std::string_view bytes, std::vector<int> fds) {
    iovec piece = {const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
    }
    ASSERT_GE(::sendmsg(channel, &message, 0), 0);
}

TEST(Streams, DescriptorsArriveUnderTheirTokenOnce) {
    Channel channel;
    int pipe_fds[2];
    ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
    UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
    StreamToken first = MUST(channel.sender->send(read_end.get()));
    StreamToken second = MUST(channel.sender->send(write_end.get()));
    EXPECT_NE(first, 0u);
    EXPECT_NE(first, second);
    UniqueFd theirs = channel.receiver->open(second).take_value();
    ASSERT_EQ(::write(theirs.get(), "x", 1), 1);
    char byte;
    UniqueFd reader = channel.receiver->open(first).take_value();
    EXPECT_EQ(::read(reader.get(), &byte, 1), 1);
    EXPECT_NE(::fcntl(reader.get(), F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(channel.receiver->open(first).error().value, EINVAL);
    EXPECT_EQ(channel.receiver->open(0).error().value, EINVAL);
    EXPECT_EQ(channel.receiver->open(999).error().value, EINVAL);
}

TEST(Streams, WrongMessagesAreDroppedWithoutALeak) {
    Channel channel;
    int before = open_descriptors();
    int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    send_raw(channel.raw, "short", {null});
    send_raw(channel.raw, std::string(16, 'l'), {null});
    send_raw(channel.raw, std::string("\7\0\0\0\0\0\0\0", 8), {});
    send_raw(channel.raw, std::string("\7\0\0\0\0\0\0\0", 8), {null, null});
    send_raw(channel.raw, std::string("\7\0\0\0\0\0\0\0", 8), std::vector<int>(16, null));
    send_raw(channel.raw, std::string(8, '\0'), {null});
    EXPECT_FALSE(channel.receiver->open(7).ok());
    send_raw(channel.raw, std::string("\7\0\0\0\0\0\0\0", 8), {null});
    EXPECT_TRUE(channel.receiver->open(7).ok());
    ::close(null);
    EXPECT_EQ(open_descriptors(), before);
}

TEST(Streams, DescriptorsThatNobodyNamesDoNotPileUp) {
    Channel channel;
    StreamToken last = 0;
    for (int i = 0; i < 20; i++) last = MUST(channel.sender->send(0));
    EXPECT_FALSE(channel.receiver->open(999).ok());
    EXPECT_EQ(channel.receiver->waiting(), 4u);
    EXPECT_TRUE(channel.receiver->open(last).ok());
    EXPECT_FALSE(channel.receiver->open(1).ok());
}

TEST(Streams, ARequestUsesUpItsTokensAlsoWhenItFails) {
    Channel channel;
    int before = open_descriptors();
    std::vector<StreamToken> tokens{MUST(channel.sender->send(0)), 0, MUST(channel.sender->send(0)), 0};
    {
        auto streams = RequestStreams::open(*channel.receiver, tokens).take_value();
        EXPECT_TRUE(streams.take(tokens[0]));
        EXPECT_FALSE(streams.take(tokens[0]));
        EXPECT_FALSE(streams.take(0));
        EXPECT_FALSE(streams.take(77));
    }
    tokens = {MUST(channel.sender->send(0)), 777, MUST(channel.sender->send(0))};
    EXPECT_EQ(RequestStreams::open(*channel.receiver, tokens).error().value, EINVAL);
    EXPECT_EQ(channel.receiver->waiting(), 0u);
    StreamToken twice = MUST(channel.sender->send(0));
    std::vector<StreamToken> doubled{twice, twice};
    EXPECT_EQ(RequestStreams::open(*channel.receiver, doubled).error().value, EINVAL);
    EXPECT_EQ(open_descriptors(), before);
}

TEST(Errors, KeepKindErrnoAndField) {
    GuestError error = GuestError::from_status(failure(Code::kInvalidArgument, ENOEXEC, "bad program", "args[0]"));
    EXPECT_EQ(error.kind(), Code::kInvalidArgument);
    EXPECT_EQ(error.code(), ENOEXEC);
    EXPECT_EQ(error.message(), "bad program");
    EXPECT_EQ(error.field(), "args[0]");
    EXPECT_EQ(GuestError::from_status(rpc::Status(Code::kNotFound, "")).code(), ENOENT);
    EXPECT_EQ(GuestError::from_status(rpc::Status(Code::kNotFound, "")).message(), "not found");
}

TEST(Errors, TextOfTheGuestIsMadePrintable) {
    GuestError error = GuestError::from_status(rpc::Status(Code::kUnknown, "a\033[2Jb\nc" + std::string(10'000, 'x')));
    EXPECT_TRUE(error.message().starts_with("a?[2Jb?c"));
    EXPECT_EQ(error.message().size(), 4096u);
    EXPECT_EQ(failure(Code::kUnknown, 99999, "").code, Code::kUnknown);
    EXPECT_EQ(GuestError::from_status(failure(Code::kUnknown, 99999, "x")).code(), EIO);
}

TEST(Errors, TryTurnsAGuestErrorIntoAnError) {
    auto guest_call = []() -> GuestResult<int> { return GuestError(Code::kNotFound, "gone", ENOENT, ""); };
    auto caller = [&]() -> Result<std::string> {
        int value = TRY(guest_call());
        return std::to_string(value);
    };
    EXPECT_EQ(caller().error().message(), "gone");
    EXPECT_EQ(caller().error().code(), ENOENT);
}

}  // namespace
}  // namespace casemate::guest_api
