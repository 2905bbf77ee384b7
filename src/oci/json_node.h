// JSON as the parsers of this folder see it: a value with its place in the document, so that every error names the
// field ("process.rlimits[2].soft"), and an object reader that knows which members were not asked for.
//
// The text is hostile: depth and number of values are limited, a member given twice, a NUL in a string and ill-formed
// UTF-8 are refused, nothing throws outwards. nlohmann-json is used in json_node.cc only. As in Go's parser, which
// wrote most of these documents, a member that is null counts as absent.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "oci/names.h"
#include "oci/spec.h"

namespace casemate::oci {

inline constexpr size_t kMaxJsonSize = 16 << 20;  // bytes
inline constexpr int kMaxJsonDepth = 64;
inline constexpr size_t kMaxJsonValues = 1 << 20;

// Hostile text for a message: in quotes, cut to a length a person reads, without control characters.
std::string in_quotes(std::string_view text);

// A borrowed value of a JsonDocument. Lives no longer than the document and than the parent it was made from.
class JsonNode {
  public:
    JsonNode(const nlohmann::json& value, ParseNotes& notes) : value_(&value), notes_(&notes) {}

    std::string path() const;  // "process.args[0]"; empty for the document itself
    // "<path>: <sentence>", with EINVAL.
    Error error(std::string_view sentence) const;
    // "<path>: is <this value>, must be <wanted>".
    Error must_be(std::string_view wanted) const;
    void warn(std::string_view sentence) const;  // notes "<path>: <sentence>"
    ParseNotes& notes() const { return *notes_; }

    Result<void> check_object() const;
    Result<size_t> list_size() const;  // an error if this is not a list
    JsonNode element(size_t index) const;
    // The member, or nothing if it is missing or null. This must be an object.
    std::optional<JsonNode> member(std::string_view name) const;
    // Names of all members, null ones left out; an error if this is not an object. The views live as the document.
    Result<std::vector<std::string_view>> member_names() const;

    Result<bool> to_bool() const;
    Result<std::string> to_string() const;
    Result<int64_t> to_signed(int64_t least, int64_t most) const;
    Result<uint64_t> to_unsigned(uint64_t most) const;

  private:
    const nlohmann::json* value_;
    ParseNotes* notes_;
    const JsonNode* parent_ = nullptr;
    std::string_view name_;  // of the member that this is
    size_t index_ = 0;       // else of the element
};

// Owns a parsed text. Errors name line and column.
class JsonDocument {
  public:
    static Result<JsonDocument> parse(std::string_view text);
    JsonDocument(JsonDocument&&) noexcept;
    JsonDocument& operator=(JsonDocument&&) noexcept;
    ~JsonDocument();
    JsonNode root(ParseNotes& notes) const;

  private:
    explicit JsonDocument(std::unique_ptr<nlohmann::json> value);
    std::unique_ptr<nlohmann::json> value_;
};

// --- reading into C++ types ----------------------------------------------------------------------------------------
// read(node, out) has an overload for each type; structs bring theirs. TRY(read(...)) is how they are called.

inline Result<void> read(const JsonNode& node, bool& out) {
    out = TRY(node.to_bool());
    return {};
}
inline Result<void> read(const JsonNode& node, std::string& out) {
    out = TRY(node.to_string());
    return {};
}
template <typename T>
requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Result<void> read(const JsonNode& node, T& out) {
    using Limits = std::numeric_limits<T>;
    if constexpr (std::is_signed_v<T>) {
        int64_t value = TRY(node.to_signed(Limits::min(), Limits::max()));
        out = static_cast<T>(value);
    } else {
        uint64_t value = TRY(node.to_unsigned(Limits::max()));
        out = static_cast<T>(value);
    }
    return {};
}
template <typename T>
Result<void> read(const JsonNode& node, std::optional<T>& out) {
    T value{};
    TRY(read(node, value));
    out = std::move(value);
    return {};
}
template <typename T>
Result<void> read(const JsonNode& node, std::vector<T>& out) {
    size_t size = TRY(node.list_size());
    out.reserve(size);
    for (size_t i = 0; i < size; i++) {
        T value{};
        TRY(read(node.element(i), value));
        out.push_back(std::move(value));
    }
    return {};
}
template <typename T>
Result<void> read(const JsonNode& node, std::map<std::string, T, std::less<>>& out) {
    auto names = TRY(node.member_names());
    for (std::string_view name : names) {
        auto member = node.member(name);
        T value{};
        TRY(read(*member, value));
        out.emplace(name, std::move(value));
    }
    return {};
}

// A word of a table of names.h.
template <typename T>
Result<T> read_name(const JsonNode& node, std::span<const Name<T>> names) {
    std::string text = TRY(node.to_string());
    if (const T* value = find_value(names, text)) return *value;
    std::string known;
    for (const auto& name : names) known += fmt::format("{}{}", known.empty() ? "one of " : ", ", name.text);
    return node.must_be(known);
}

// Reads the members of one object; those never asked for are noted as unknown when it goes out of scope. The node must
// be an object (check_object) and outlive the reader.
class ObjectReader {
  public:
    explicit ObjectReader(const JsonNode& node) : node_(node) {}
    ObjectReader(const ObjectReader&) = delete;
    ObjectReader& operator=(const ObjectReader&) = delete;
    ~ObjectReader();

    // The member for a closer look; nothing if absent.
    std::optional<JsonNode> member(std::string_view name);
    Result<JsonNode> required_member(std::string_view name);

    template <typename T>
    Result<void> required(std::string_view name, T& out) {
        JsonNode found = TRY(required_member(name));
        return read(found, out);
    }
    // `out` keeps its value if the member is absent.
    template <typename T>
    Result<void> optional(std::string_view name, T& out) {
        if (auto found = member(name)) return read(*found, out);
        return {};
    }
    template <typename T>
    Result<void> required_name(std::string_view name, std::span<const Name<T>> names, T& out) {
        JsonNode found = TRY(required_member(name));
        out = TRY(read_name(found, names));
        return {};
    }

  private:
    const JsonNode& node_;
    std::vector<std::string_view> asked_;
};

}  // namespace casemate::oci
