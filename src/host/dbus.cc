#include "host/dbus.h"

#include <fmt/core.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>

#include "linux/unix_message.h"
#include "linux/unix_socket.h"

namespace casemate::host {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxMessage = 1 << 20;
constexpr auto kPatience = std::chrono::seconds(30);

enum HeaderField : uint8_t {
    kPath = 1,
    kInterface = 2,
    kMember = 3,
    kErrorName = 4,
    kReplySerial = 5,
    kDestination = 6,
    kSignature = 8,
};

Error malformed() { return Error("a malformed D-Bus message", EBADMSG); }

size_t aligned(size_t value, size_t to) { return (value + to - 1) / to * to; }

}  // namespace

void DbusWriter::align(size_t to) { bytes_.resize(aligned(bytes_.size(), to), 0); }

void DbusWriter::u32(uint32_t value) {
    align(4);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);  // little-endian, as the header says
}

void DbusWriter::u64(uint64_t value) {
    align(8);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void DbusWriter::string(std::string_view value) {
    u32(static_cast<uint32_t>(value.size()));
    bytes_.append(value).push_back(0);
}

void DbusWriter::signature(std::string_view value) {
    byte(static_cast<uint8_t>(value.size()));
    bytes_.append(value).push_back(0);
}

size_t DbusWriter::begin_array(size_t alignment) {
    align(4);
    OpenArray array;
    array.length_at = bytes_.size();
    u32(0);
    align(alignment);  // this padding does not count into the length
    array.content_at = bytes_.size();
    arrays_.push_back(array);
    return arrays_.size() - 1;
}

void DbusWriter::end_array(size_t array) {
    uint32_t length = static_cast<uint32_t>(bytes_.size() - arrays_[array].content_at);
    std::memcpy(bytes_.data() + arrays_[array].length_at, &length, sizeof length);
}

Result<std::string_view> DbusReader::take(size_t size) {
    if (size > bytes_.size() - at_) return malformed();
    std::string_view part = bytes_.substr(at_, size);
    at_ += size;
    return part;
}

Result<void> DbusReader::align(size_t to) {
    size_t next = aligned(at_, to);
    if (next > bytes_.size()) return malformed();
    at_ = next;
    return {};
}

Result<uint8_t> DbusReader::byte() {
    std::string_view part = TRY(take(1));
    return static_cast<uint8_t>(part[0]);
}

Result<uint32_t> DbusReader::u32() {
    TRY(align(4));
    std::string_view part = TRY(take(4));
    uint32_t value;
    std::memcpy(&value, part.data(), sizeof value);
    return value;
}

Result<std::string> DbusReader::string() {
    uint32_t size = TRY(u32());
    std::string value(TRY(take(size)));
    TRY(take(1));
    return value;
}

Result<std::string> DbusReader::signature() {
    uint8_t size = TRY(byte());
    std::string value(TRY(take(size)));
    TRY(take(1));
    return value;
}

Result<void> DbusReader::skip(std::string_view type) {
    if (type == "v") {
        std::string inner = TRY(signature());
        if (inner == "v") return malformed();
        return skip(inner);
    }
    if (type == "s" || type == "o") {
        TRY(string());
    } else if (type == "g") {
        TRY(signature());
    } else if (type == "u" || type == "i" || type == "b") {
        TRY(u32());
    } else if (type == "y") {
        TRY(byte());
    } else {
        return malformed();
    }
    return {};
}

std::string encode_dbus_message(const DbusMessage& message) {
    DbusWriter writer;
    writer.byte('l');
    writer.byte(message.type);
    writer.byte(0);
    writer.byte(1);  // protocol version
    writer.u32(static_cast<uint32_t>(message.body.size()));
    writer.u32(message.serial);
    size_t fields = writer.begin_array(8);
    auto field = [&](HeaderField name, const char* type, const std::string& value) {
        if (value.empty()) return;
        writer.begin_struct();
        writer.byte(name);
        writer.variant(type);
        if (*type == 'g')
            writer.signature(value);
        else
            writer.string(value);
    };
    field(kPath, "o", message.path);
    field(kInterface, "s", message.interface);
    field(kMember, "s", message.member);
    field(kErrorName, "s", message.error_name);
    if (message.reply_to != 0) {
        writer.begin_struct();
        writer.byte(kReplySerial);
        writer.variant("u");
        writer.u32(message.reply_to);
    }
    field(kDestination, "s", message.destination);
    field(kSignature, "g", message.signature);
    writer.end_array(fields);
    writer.align(8);
    return writer.bytes() + message.body;
}

Result<size_t> dbus_message_size(std::string_view header) {
    uint32_t body, fields;
    if (header.size() < 16 || header[0] != 'l') return malformed();
    std::memcpy(&body, header.data() + 4, sizeof body);
    std::memcpy(&fields, header.data() + 12, sizeof fields);
    if (body > kMaxMessage || fields > kMaxMessage) return malformed();
    return aligned(16 + size_t{fields}, 8) + body;
}

Result<DbusMessage> decode_dbus_message(std::string_view bytes) {
    size_t size = TRY(dbus_message_size(bytes));
    if (size != bytes.size()) return malformed();
    DbusMessage message;
    DbusReader reader(bytes);
    TRY(reader.byte());
    message.type = TRY(reader.byte());
    TRY(reader.byte());
    TRY(reader.byte());
    uint32_t body_size = TRY(reader.u32());
    message.serial = TRY(reader.u32());
    uint32_t fields_size = TRY(reader.u32());
    size_t fields_end = 16 + size_t{fields_size};
    while (reader.position() < fields_end) {
        TRY(reader.align(8));
        uint8_t name = TRY(reader.byte());
        std::string type = TRY(reader.signature());
        std::string* text = name == kPath        ? &message.path
                            : name == kInterface ? &message.interface
                            : name == kMember    ? &message.member
                            : name == kErrorName ? &message.error_name
                            : name == kSignature ? &message.signature
                                                 : nullptr;
        if (text != nullptr && (type == "s" || type == "o")) {
            *text = TRY(reader.string());
        } else if (text != nullptr && type == "g") {
            *text = TRY(reader.signature());
        } else if (name == kReplySerial && type == "u") {
            message.reply_to = TRY(reader.u32());
        } else {
            TRY(reader.skip(type));
        }
    }
    message.body = bytes.substr(bytes.size() - body_size);
    return message;
}

Result<DbusConnection> DbusConnection::connect(const std::string& socket_path, bool bus) {
    DbusConnection connection;
    auto socket = linux::connect_unix(socket_path);
    if (!socket.ok()) return sys_error("connect to the D-Bus socket " + socket_path, socket.error().value);
    connection.socket_ = socket.take_value();
    TRY(connection.authenticate());
    if (bus)
        TRY(connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", "", ""));
    return connection;
}

Result<void> DbusConnection::authenticate() {
    std::string uid, line = std::to_string(::geteuid());
    for (char c : line) uid += fmt::format("{:02x}", c);
    auto send = [&](std::string_view text) -> Result<void> {
        auto sent = linux::send_message(socket_.get(), text);
        if (!sent.ok()) return sys_error("D-Bus authentication", sent.error().value);
        return {};
    };
    // BEGIN goes along at once, as sd-bus does: sent after the OK it could reach systemd in one read with the first
    // call, which systemd then leaves in its buffer until something else arrives.
    TRY(send(std::string(1, 0) + "AUTH EXTERNAL " + uid + "\r\nBEGIN\r\n"));
    std::string answer;
    while (!answer.ends_with("\r\n")) {
        pollfd poll = {socket_.get(), POLLIN, 0};
        char c;
        if (answer.size() > 1000 || ::poll(&poll, 1, 5000) != 1 || ::read(socket_.get(), &c, 1) != 1)
            return Error("the D-Bus peer does not answer the authentication", ETIMEDOUT);
        answer += c;
    }
    if (!answer.starts_with("OK"))
        return Error("the D-Bus peer refuses us: " + answer.substr(0, answer.size() - 2), EACCES);
    return {};
}

Result<DbusMessage> DbusConnection::receive(Clock::time_point deadline) {
    while (true) {
        if (received_.size() >= 16) {
            size_t size = TRY(dbus_message_size(received_));
            if (received_.size() >= size) {
                auto message = decode_dbus_message(std::string_view(received_).substr(0, size));
                received_.erase(0, size);
                return message;
            }
        }
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        pollfd poll = {socket_.get(), POLLIN, 0};
        int ready = left <= 0 ? 0 : ::poll(&poll, 1, static_cast<int>(left));
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return Error("no answer on D-Bus", ETIMEDOUT);
        char buffer[4096];
        ssize_t size = ::read(socket_.get(), buffer, sizeof buffer);
        if (size <= 0) return Error("the D-Bus connection was closed", ECONNRESET);
        received_.append(buffer, static_cast<size_t>(size));
    }
}

Result<DbusMessage> DbusConnection::call(const std::string& destination, const std::string& path,
                                         const std::string& interface, const std::string& member,
                                         const std::string& signature, const std::string& body) {
    DbusMessage request;
    request.type = DbusMessage::kCall;
    request.serial = next_serial_++;
    request.destination = destination;
    request.path = path;
    request.interface = interface;
    request.member = member;
    request.signature = signature;
    request.body = body;
    auto sent = linux::send_message(socket_.get(), encode_dbus_message(request));
    if (!sent.ok()) return sys_error("D-Bus call " + member, sent.error().value);
    Clock::time_point deadline = Clock::now() + kPatience;
    while (true) {
        auto message = receive(deadline);
        if (!message.ok()) return message.take_error().with_context("D-Bus call " + member);
        if (message->type == DbusMessage::kSignal) {
            signals_.push_back(message.take_value());
        } else if (message->reply_to == request.serial) {
            if (message->type == DbusMessage::kReturn) return message;
            auto words = DbusReader(message->body).string();
            return Error(message->error_name + ": " + (words.ok() ? *words : ""), EIO);
        }
    }
}

Result<DbusMessage> DbusConnection::wait_signal(const std::string& member) {
    Clock::time_point deadline = Clock::now() + kPatience;
    while (true) {
        for (size_t i = 0; i < signals_.size(); i++) {
            if (signals_[i].member != member) continue;
            DbusMessage signal = std::move(signals_[i]);
            signals_.erase(signals_.begin() + static_cast<ptrdiff_t>(i));
            return signal;
        }
        auto message = receive(deadline);
        if (!message.ok()) return message.take_error().with_context("waiting for the D-Bus signal " + member);
        if (message->type == DbusMessage::kSignal) signals_.push_back(message.take_value());
    }
}

}  // namespace casemate::host
