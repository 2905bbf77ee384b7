#include "rpc/frame.h"

#include <gtest/gtest.h>

namespace casemate::rpc {
namespace {

std::string frame_bytes(uint32_t stream, uint8_t type, std::string_view payload) {
    FrameHeader header{static_cast<uint32_t>(payload.size()), stream, type, 0};
    auto head = header.encode();
    return std::string(head.data(), head.size()) + std::string(payload);
}

TEST(Frame, HeaderIsBigEndian) {
    FrameHeader header{0x01020304, 0x05060708, kResponse, kNoData};
    auto bytes = header.encode();
    EXPECT_EQ(std::string(bytes.data(), bytes.size()), std::string("\1\2\3\4\5\6\7\x8\2\4", 10));
    FrameHeader back = FrameHeader::decode(bytes.data());
    EXPECT_EQ(back.length, header.length);
    EXPECT_EQ(back.stream, header.stream);
    EXPECT_EQ(back.type, header.type);
    EXPECT_EQ(back.flags, header.flags);
}

TEST(Frame, ParserTakesFramesByteByByte) {
    std::string bytes = frame_bytes(1, kRequest, "hello") + frame_bytes(3, kRequest, "") + frame_bytes(5, kData, "x");
    FrameParser parser;
    std::vector<Frame> frames;
    for (char byte : bytes) {
        std::string_view input(&byte, 1);
        while (auto frame = parser.consume(input)) frames.push_back(std::move(*frame));
        EXPECT_TRUE(input.empty());
    }
    ASSERT_EQ(frames.size(), 3u);
    EXPECT_EQ(frames[0].payload, "hello");
    EXPECT_EQ(frames[1].header.stream, 3u);
    EXPECT_EQ(frames[1].payload, "");
    EXPECT_EQ(frames[2].header.type, kData);
    EXPECT_FALSE(parser.in_frame());
}

TEST(Frame, OversizeIsReportedOnceAndSkipped) {
    std::string bytes = frame_bytes(1, kRequest, std::string(101, 'x')) + frame_bytes(3, kRequest, "next");
    for (size_t step : {size_t(1), size_t(7), bytes.size()}) {
        FrameParser parser(100);
        std::vector<Frame> frames;
        for (size_t at = 0; at < bytes.size(); at += step) {
            std::string_view input = std::string_view(bytes).substr(at, step);
            while (auto frame = parser.consume(input)) frames.push_back(std::move(*frame));
        }
        ASSERT_EQ(frames.size(), 2u);
        EXPECT_TRUE(frames[0].oversize);
        EXPECT_EQ(frames[0].header.length, 101u);
        EXPECT_EQ(frames[1].payload, "next");
    }
}

TEST(Frame, LargestClaimTakesNoMemory) {
    FrameParser parser;
    FrameHeader header{UINT32_MAX, 1, kRequest, 0};
    auto head = header.encode();
    std::string_view input(head.data(), head.size());
    auto frame = parser.consume(input);
    ASSERT_TRUE(frame.has_value());
    EXPECT_TRUE(frame->oversize);
    EXPECT_TRUE(parser.in_frame());
}

}  // namespace
}  // namespace casemate::rpc
