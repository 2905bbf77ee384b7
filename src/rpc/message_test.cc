#include "rpc/message.h"

#include <gtest/gtest.h>

namespace casemate::rpc {
namespace {

TEST(Message, RequestSurvives) {
    RequestMessage request{
        "svc", "Method", std::string("\0\xff", 2), std::chrono::seconds(3), {{"k", "v"}, {"k", "w"}}};
    auto back = decode_request(encode_request(request));
    ASSERT_TRUE(back.has_value());
    EXPECT_EQ(back->service, "svc");
    EXPECT_EQ(back->method, "Method");
    EXPECT_EQ(back->payload, request.payload);
    EXPECT_EQ(back->timeout, std::chrono::seconds(3));
    EXPECT_EQ(back->metadata, request.metadata);
}

TEST(Message, NegativeTimeoutIsNone) {
    RequestMessage request{"s", "m", "", std::chrono::nanoseconds(-5), {}};
    EXPECT_EQ(decode_request(encode_request(request))->timeout.count(), 0);
}

TEST(Message, StatusSurvivesWithDetails) {
    Status status(Code::kNotFound, "no container x");
    status.details.push_back({"type", "value"});
    CallResult back = decode_response(encode_response(status, "ignored"));
    EXPECT_EQ(back.status.code, Code::kNotFound);
    EXPECT_EQ(back.status.message, "no container x");
    ASSERT_EQ(back.status.details.size(), 1u);
    EXPECT_EQ(back.status.details[0].value, "value");
    EXPECT_EQ(back.payload, "");
}

TEST(Message, GarbageIsAnErrorOfItsOwn) {
    EXPECT_FALSE(decode_request("\xff\xff\xff").has_value());
    EXPECT_EQ(decode_response("\xff\xff\xff").status.code, Code::kDataLoss);
}

TEST(Message, UnknownCodesAreUnknown) {
    CallResult result = decode_response(encode_response(Status(static_cast<Code>(99), "odd"), ""));
    EXPECT_EQ(result.status.code, Code::kUnknown);
    EXPECT_EQ(result.status.message, "odd");
}

TEST(Message, FieldsAreCounted) {
    std::string many;
    for (int i = 0; i < 100; i++) many += std::string("\x2a\x00", 2);  // field 5, empty
    EXPECT_TRUE(fields_within(many, 100));
    EXPECT_FALSE(fields_within(many, 99));
    EXPECT_TRUE(fields_within("", 0));
    EXPECT_FALSE(fields_within("\x0a\x05x", 10));  // longer than what is there
    EXPECT_FALSE(fields_within("\x0b", 10));       // a group
    EXPECT_FALSE(fields_within(std::string(11, '\xff'), 10));
    std::string flood;
    for (int i = 0; i < 100'000; i++) flood += std::string("\x2a\x00", 2);
    EXPECT_FALSE(decode_request(flood).has_value());
}

TEST(Status, ErrnoKeepsItsKind) {
    for (Code code : {Code::kNotFound, Code::kAlreadyExists, Code::kInvalidArgument, Code::kDeadlineExceeded,
                      Code::kFailedPrecondition, Code::kUnimplemented, Code::kUnavailable, Code::kResourceExhausted,
                      Code::kPermissionDenied, Code::kCancelled, Code::kOutOfRange, Code::kDataLoss, Code::kInternal})
        EXPECT_EQ(code_of_errno(errno_of_code(code)), code) << code_name(code);
}

}  // namespace
}  // namespace casemate::rpc
