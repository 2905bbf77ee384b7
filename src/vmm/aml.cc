#include "vmm/aml.h"

#include "base/result.h"

namespace casemate::vmm::aml {

namespace {

void append(std::string& to, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<char>(value >> (8 * i)));
}

// PkgLength counts itself.
std::string with_length(const std::string& body) {
    size_t length = body.size();
    std::string out;
    if (length + 1 <= 0x3f) {
        append(out, length + 1, 1);
        return out + body;
    }
    unsigned more = length + 2 <= 0xfff ? 1 : length + 3 <= 0xfffff ? 2 : 3;
    length += 1 + more;
    append(out, (more << 6) | (length & 0xf), 1);
    append(out, length >> 4, more);
    return out + body;
}

std::string extended(char opcode) { return std::string("\x5b") + opcode; }

}  // namespace

std::string path(std::string_view name) {
    std::string out;
    if (name.starts_with('\\')) {
        out.push_back('\\');
        name.remove_prefix(1);
    }
    size_t segments = (name.size() + 1) / 5;
    CHECK(name.size() == segments * 5 - 1 && segments <= 2);
    if (segments == 2) out.push_back('\x2e');
    for (size_t i = 0; i < segments; ++i) out += name.substr(i * 5, 4);
    return out;
}

std::string integer(uint64_t value) {
    std::string out;
    if (value <= 1) {
        append(out, value, 1);
    } else if (value <= 0xff) {
        out = "\x0a";
        append(out, value, 1);
    } else if (value <= 0xffff) {
        out = "\x0b";
        append(out, value, 2);
    } else if (value <= 0xffffffff) {
        out = "\x0c";
        append(out, value, 4);
    } else {
        out = "\x0e";
        append(out, value, 8);
    }
    return out;
}

std::string text(std::string_view value) {
    std::string out = "\x0d";
    out += value;
    out.push_back('\0');
    return out;
}

std::string eisa_id(std::string_view id) {
    CHECK(id.size() == 7);
    auto hex = [&](size_t i) { return static_cast<uint32_t>(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10); };
    uint32_t value = static_cast<uint32_t>(id[0] - 0x40) << 26 | static_cast<uint32_t>(id[1] - 0x40) << 21 |
                     static_cast<uint32_t>(id[2] - 0x40) << 16 | hex(3) << 12 | hex(4) << 8 | hex(5) << 4 | hex(6);
    std::string out = "\x0c";
    append(out, __builtin_bswap32(value), 4);
    return out;
}

std::string package(std::initializer_list<std::string> elements) {
    std::string body;
    append(body, elements.size(), 1);
    for (const std::string& element : elements) body += element;
    return "\x12" + with_length(body);
}

std::string name(std::string_view where, const std::string& value) { return "\x08" + path(where) + value; }

std::string device(std::string_view where, const std::string& body) {
    return extended('\x82') + with_length(path(where) + body);
}

std::string scope(std::string_view where, const std::string& body) { return "\x10" + with_length(path(where) + body); }

std::string method(std::string_view where, unsigned arguments, const std::string& body) {
    std::string inner = path(where);
    inner.push_back(static_cast<char>(arguments | 8));  // serialized
    return "\x14" + with_length(inner + body);
}

std::string notify(std::string_view object, uint64_t value) { return "\x86" + path(object) + integer(value); }

std::string resources(std::initializer_list<std::string> descriptors) {
    std::string bytes;
    for (const std::string& descriptor : descriptors) bytes += descriptor;
    append(bytes, 0x79, 2);  // end tag; a checksum of 0 is always right
    return "\x11" + with_length(integer(bytes.size()) + bytes);
}

std::string memory_range(uint32_t address, uint32_t size) {
    std::string out;
    append(out, 0x86, 1);
    append(out, 9, 2);
    append(out, 1, 1);  // writable
    append(out, address, 4);
    append(out, size, 4);
    return out;
}

std::string interrupt(uint32_t gsi) {
    std::string out;
    append(out, 0x89, 1);
    append(out, 6, 2);
    append(out, 3, 1);  // consumer, edge, active high, exclusive
    append(out, 1, 1);
    append(out, gsi, 4);
    return out;
}

std::string ports(uint16_t first, uint8_t count) {
    std::string out;
    append(out, 0x47, 1);
    append(out, 1, 1);  // decodes 16 bits
    append(out, first, 2);
    append(out, first, 2);
    append(out, 1, 1);
    append(out, count, 1);
    return out;
}

}  // namespace casemate::vmm::aml
