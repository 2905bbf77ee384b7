// A small D-Bus client: method calls and their replies, and waiting for a signal. Just what is needed to ask systemd
// for a scope; the wire format is that of the D-Bus specification 0.42, "Message Protocol".
//
// Trusts the bus and systemd as the host's own; lengths are checked all the same.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::host {

// Marshals a body. The caller's order of calls follows the signature; arrays and structs are opened and closed.
class DbusWriter {
  public:
    void byte(uint8_t value) { bytes_.push_back(static_cast<char>(value)); }
    void boolean(bool value) { u32(value ? 1 : 0); }
    void u32(uint32_t value);
    void u64(uint64_t value);
    void string(std::string_view value);  // also object paths
    void signature(std::string_view value);
    void variant(std::string_view type) { signature(type); }  // the value follows
    void align(size_t to);
    // The length goes in at end_array(). `alignment` of the elements: 8 for structs and 64-bit numbers.
    size_t begin_array(size_t alignment);
    void end_array(size_t array);
    void begin_struct() { align(8); }

    const std::string& bytes() const { return bytes_; }

  private:
    struct OpenArray {
        size_t length_at, content_at;
    };
    std::string bytes_;
    std::vector<OpenArray> arrays_;
};

class DbusReader {
  public:
    explicit DbusReader(std::string_view bytes) : bytes_(bytes) {}
    Result<uint8_t> byte();
    Result<uint32_t> u32();
    Result<std::string> string();
    Result<std::string> signature();
    Result<void> align(size_t to);
    // Skips one value of a basic type or a variant of one.
    Result<void> skip(std::string_view type);
    size_t position() const { return at_; }
    bool done() const { return at_ >= bytes_.size(); }

  private:
    Result<std::string_view> take(size_t size);
    std::string_view bytes_;
    size_t at_ = 0;
};

struct DbusMessage {
    enum Type { kCall = 1, kReturn = 2, kError = 3, kSignal = 4 };
    uint8_t type = 0;
    uint32_t serial = 0;
    uint32_t reply_to = 0;
    std::string path, interface, member, error_name, destination, signature;
    std::string body;
};
std::string encode_dbus_message(const DbusMessage& message);
// `header` is at least 16 bytes; the whole message's size from them. An error past 1 MiB.
Result<size_t> dbus_message_size(std::string_view header);
Result<DbusMessage> decode_dbus_message(std::string_view bytes);

class DbusConnection {
  public:
    // Connects to a Unix socket and authenticates as our own uid. `bus` is false for a peer that is no message bus
    // (systemd's private socket).
    static Result<DbusConnection> connect(const std::string& socket_path, bool bus);

    // The reply's body. An error reply is an Error with the peer's words, and the error's name before them.
    Result<DbusMessage> call(const std::string& destination, const std::string& path, const std::string& interface,
                             const std::string& member, const std::string& signature, const std::string& body);
    // The next signal `member`, also one that came in during call().
    Result<DbusMessage> wait_signal(const std::string& member);

  private:
    DbusConnection() = default;
    Result<void> authenticate();
    Result<DbusMessage> receive(std::chrono::steady_clock::time_point deadline);

    UniqueFd socket_;
    uint32_t next_serial_ = 1;
    std::string received_;
    std::vector<DbusMessage> signals_;
};

}  // namespace casemate::host
