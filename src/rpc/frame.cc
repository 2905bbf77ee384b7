#include "rpc/frame.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace casemate::rpc {

namespace {

void put32(char* to, uint32_t value) {
    for (int i = 0; i < 4; i++) to[i] = static_cast<char>(value >> (24 - 8 * i));
}

uint32_t get32(const char* from) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value = value << 8 | static_cast<unsigned char>(from[i]);
    return value;
}

}  // namespace

std::array<char, kHeaderSize> FrameHeader::encode() const {
    std::array<char, kHeaderSize> bytes;
    put32(bytes.data(), length);
    put32(bytes.data() + 4, stream);
    bytes[8] = static_cast<char>(type);
    bytes[9] = static_cast<char>(flags);
    return bytes;
}

FrameHeader FrameHeader::decode(const char* bytes) {
    FrameHeader header;
    header.length = get32(bytes);
    header.stream = get32(bytes + 4);
    header.type = static_cast<uint8_t>(bytes[8]);
    header.flags = static_cast<uint8_t>(bytes[9]);
    return header;
}

std::optional<Frame> FrameParser::consume(std::string_view& input) {
    for (;;) {
        if (discard_ != 0) {
            size_t count = std::min<uint64_t>(discard_, input.size());
            input.remove_prefix(count);
            discard_ -= count;
            if (discard_ != 0) return std::nullopt;
        }
        if (header_have_ < kHeaderSize) {
            size_t count = std::min(kHeaderSize - header_have_, input.size());
            if (count == 0) return std::nullopt;
            std::memcpy(header_bytes_.data() + header_have_, input.data(), count);
            header_have_ += count;
            input.remove_prefix(count);
            if (header_have_ < kHeaderSize) return std::nullopt;
            header_ = FrameHeader::decode(header_bytes_.data());
            if (header_.length > max_payload_) {
                header_have_ = 0;
                discard_ = header_.length;
                return Frame{header_, true, {}};
            }
        }
        size_t count = std::min<size_t>(header_.length - payload_.size(), input.size());
        payload_.append(input.data(), count);
        input.remove_prefix(count);
        if (payload_.size() < header_.length) return std::nullopt;
        header_have_ = 0;
        return Frame{header_, false, std::exchange(payload_, {})};
    }
}

}  // namespace casemate::rpc
