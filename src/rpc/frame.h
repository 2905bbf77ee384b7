// ttrpc's framing (github.com/containerd/ttrpc, channel.go and PROTOCOL.md): ten bytes, then the payload.
//
//   length   u32 big endian, of the payload, at most 4 MiB
//   stream   u32 big endian, odd for calls that a client began
//   type     u8: 1 request, 2 response, 3 data of a streaming call
//   flags    u8
//
// All bytes are hostile. A frame that claims more than the limit is reported once and its bytes are thrown away, so the
// connection stays in step. Memory grows with the bytes that came, never with the length that was claimed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace casemate::rpc {

constexpr size_t kHeaderSize = 10;
constexpr size_t kMaxPayload = 4 << 20;

enum FrameType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };
enum FrameFlags : uint8_t { kRemoteClosed = 1, kRemoteOpen = 2, kNoData = 4 };

struct FrameHeader {
    uint32_t length = 0;
    uint32_t stream = 0;
    uint8_t type = 0;
    uint8_t flags = 0;

    std::array<char, kHeaderSize> encode() const;
    static FrameHeader decode(const char* bytes);  // of kHeaderSize bytes
};

struct Frame {
    FrameHeader header;
    bool oversize = false;  // the payload was over the limit and is not here
    std::string payload;
};

class FrameParser {
  public:
    explicit FrameParser(size_t max_payload = kMaxPayload) : max_payload_(max_payload) {}

    // Eats from the front of `input` until a frame is complete (returned) or the input is empty (nullopt).
    std::optional<Frame> consume(std::string_view& input);
    // In the middle of a frame: an end of file now is a truncation.
    bool in_frame() const { return header_have_ != 0 || discard_ != 0; }

  private:
    size_t max_payload_;
    std::array<char, kHeaderSize> header_bytes_{};
    size_t header_have_ = 0;
    FrameHeader header_;
    std::string payload_;
    uint64_t discard_ = 0;
};

}  // namespace casemate::rpc
