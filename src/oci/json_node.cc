#include "oci/json_node.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace casemate::oci {
namespace {

using nlohmann::json;

// A hostile document may earn a million notes; a log needs a few.
constexpr size_t kMaxNotes = 100;

std::string described(const json& value) {
    switch (value.type()) {
        case json::value_t::string:
            return in_quotes(value.get_ref<const std::string&>());
        case json::value_t::object:
            return "an object";
        case json::value_t::array:
            return "a list";
        case json::value_t::null:
            return "null";
        default:
            return value.dump();
    }
}

// Builds the document while nlohmann's tokenizer reads it, within the limits.
class Builder : public nlohmann::json_sax<json> {
  public:
    explicit Builder(std::string_view text, json& root) : text_(text), root_(root) {}
    std::optional<Error> failure;

    bool null() override { return add(json(nullptr)); }
    bool boolean(bool value) override { return add(json(value)); }
    bool number_integer(int64_t value) override { return add(json(value)); }
    bool number_unsigned(uint64_t value) override { return add(json(value)); }
    bool number_float(double value, const std::string&) override { return add(json(value)); }
    bool binary(json::binary_t&) override { return fail("holds binary data"); }
    bool string(std::string& value) override {
        if (value.find('\0') != std::string::npos)
            return fail(fmt::format("{} holds a NUL character", in_quotes(value)));
        return add(json(std::move(value)));
    }
    bool key(std::string& name) override {
        if (name.find('\0') != std::string::npos) return fail("a member's name holds a NUL character");
        if (open_.back()->contains(name)) return fail(fmt::format("{} is given twice in one object", in_quotes(name)));
        key_ = std::move(name);
        return true;
    }
    bool start_object(size_t) override { return enter(json::object()); }
    bool start_array(size_t) override { return enter(json::array()); }
    bool end_object() override { return leave(); }
    bool end_array() override { return leave(); }

    bool parse_error(size_t position, const std::string&, const json::exception& error) override {
        std::string_view reason = error.what();
        // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing value - ..."
        if (size_t dash = reason.find(" - "); dash != std::string_view::npos)
            reason.remove_prefix(dash + 3);
        else if (size_t bracket = reason.find("] "); bracket != std::string_view::npos)
            reason.remove_prefix(bracket + 2);
        std::string clean;
        for (char c : reason.substr(0, 200)) clean += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
        std::string_view before = text_.substr(0, position == 0 ? 0 : position - 1);
        size_t line = static_cast<size_t>(std::ranges::count(before, '\n')) + 1;
        size_t column = before.size() - (before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1) + 1;
        return fail(fmt::format("line {}, column {}: is not valid JSON: {}", line, column, clean));
    }

  private:
    bool fail(std::string sentence) {
        if (!failure) failure = Error(std::move(sentence), EINVAL);
        return false;
    }

    json* place(json value) {
        if (open_.empty()) {
            root_ = std::move(value);
            return &root_;
        }
        json& parent = *open_.back();
        if (parent.is_array()) {
            parent.push_back(std::move(value));
            return &parent.back();
        }
        return &(parent[key_] = std::move(value));
    }

    bool add(json value) {
        if (++values_ > kMaxJsonValues) return fail(fmt::format("holds more than {} values", kMaxJsonValues));
        place(std::move(value));
        return true;
    }

    bool enter(json value) {
        if (++values_ > kMaxJsonValues) return fail(fmt::format("holds more than {} values", kMaxJsonValues));
        if (open_.size() >= static_cast<size_t>(kMaxJsonDepth))
            return fail(fmt::format("is nested deeper than {} levels", kMaxJsonDepth));
        open_.push_back(place(std::move(value)));
        return true;
    }

    bool leave() {
        open_.pop_back();
        return true;
    }

    std::string_view text_;
    json& root_;
    // A list that grows moves its elements, but only while none of them is open: the pointers hold.
    std::vector<json*> open_;
    std::string key_;
    size_t values_ = 0;
};

}  // namespace

std::string in_quotes(std::string_view text) {
    constexpr size_t kMost = 60;
    std::string out = "\"";
    for (char c : text.substr(0, kMost)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    out += text.size() > kMost ? "...\"" : "\"";
    return out;
}

JsonDocument::JsonDocument(std::unique_ptr<json> value) : value_(std::move(value)) {}
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;
JsonDocument::~JsonDocument() = default;

Result<JsonDocument> JsonDocument::parse(std::string_view text) {
    if (text.size() > kMaxJsonSize)
        return Error(fmt::format("is {} bytes long, at most {} are read", text.size(), kMaxJsonSize), EFBIG);
    try {
        auto value = std::make_unique<json>();
        Builder builder(text, *value);
        if (!json::sax_parse(text, &builder)) {
            if (builder.failure) return *std::move(builder.failure);
            return Error("is not valid JSON", EINVAL);
        }
        return JsonDocument(std::move(value));
    } catch (const std::exception& exception) {
        return Error(fmt::format("cannot be read: {}", exception.what()), EINVAL);
    }
}

JsonNode JsonDocument::root(ParseNotes& notes) const { return JsonNode(*value_, notes); }

std::string JsonNode::path() const {
    if (parent_ == nullptr) return {};
    std::string path = parent_->path();
    if (name_.empty()) return path + fmt::format("[{}]", index_);
    // Keys of maps (annotations, sysctl) hold dots of their own.
    bool plain = name_.size() <= 60 &&
                 name_.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
                     std::string_view::npos;
    if (!plain) return path + fmt::format("[{}]", in_quotes(name_));
    return path + (path.empty() ? "" : ".") + std::string(name_);
}

Error JsonNode::error(std::string_view sentence) const {
    std::string place = path();
    if (place.empty()) return Error(std::string(sentence), EINVAL);
    return Error(fmt::format("{}: {}", place, sentence), EINVAL);
}

Error JsonNode::must_be(std::string_view wanted) const {
    return error(fmt::format("is {}, must be {}", described(*value_), wanted));
}

void JsonNode::warn(std::string_view sentence) const {
    if (notes_->warnings.size() < kMaxNotes) notes_->warnings.push_back(error(sentence).message());
}

Result<void> JsonNode::check_object() const {
    if (!value_->is_object()) return must_be("an object");
    return {};
}

Result<size_t> JsonNode::list_size() const {
    if (!value_->is_array()) return must_be("a list");
    return value_->size();
}

JsonNode JsonNode::element(size_t index) const {
    JsonNode node((*value_)[index], *notes_);
    node.parent_ = this;
    node.index_ = index;
    return node;
}

std::optional<JsonNode> JsonNode::member(std::string_view name) const {
    auto found = value_->find(name);
    if (found == value_->end() || found->is_null()) return std::nullopt;
    JsonNode node(*found, *notes_);
    node.parent_ = this;
    node.name_ = found.key();
    return node;
}

Result<std::vector<std::string_view>> JsonNode::member_names() const {
    TRY(check_object());
    std::vector<std::string_view> names;
    for (auto member = value_->begin(); member != value_->end(); ++member) {
        if (member.key().empty()) return error("has a member without a name");
        if (!member->is_null()) names.push_back(member.key());
    }
    return names;
}

Result<bool> JsonNode::to_bool() const {
    if (!value_->is_boolean()) return must_be("true or false");
    return value_->get<bool>();
}

Result<std::string> JsonNode::to_string() const {
    if (!value_->is_string()) return must_be("a string");
    return value_->get<std::string>();
}

Result<int64_t> JsonNode::to_signed(int64_t least, int64_t most) const {
    bool fits = value_->is_number_integer() &&
                !(value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
    if (fits) {
        auto number = value_->get<int64_t>();
        if (number >= least && number <= most) return number;
    }
    return must_be(fmt::format("a number of {} to {}", least, most));
}

Result<uint64_t> JsonNode::to_unsigned(uint64_t most) const {
    if (value_->is_number_unsigned()) {
        auto number = value_->get<uint64_t>();
        if (number <= most) return number;
    }
    return must_be(fmt::format("a number of 0 to {}", most));
}

ObjectReader::~ObjectReader() {
    auto names = node_.member_names();
    if (!names.ok()) return;
    for (std::string_view name : *names) {
        if (std::ranges::find(asked_, name) != asked_.end()) continue;
        auto& unknown = node_.notes().unknown_fields;
        if (unknown.size() < kMaxNotes) unknown.push_back(node_.member(name)->path());
    }
}

std::optional<JsonNode> ObjectReader::member(std::string_view name) {
    asked_.push_back(name);
    return node_.member(name);
}

Result<JsonNode> ObjectReader::required_member(std::string_view name) {
    if (auto found = member(name)) return *found;
    std::string place = node_.path();
    return Error(fmt::format("{}{}{}: is missing", place, place.empty() ? "" : ".", name), EINVAL);
}

}  // namespace casemate::oci
