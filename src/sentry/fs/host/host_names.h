// What a HostInode that is a directory knows of its names, and how it asks. Private to fs/host.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "sentry/fs/host/host_fs.h"

namespace casemate::sentry {

inline fileserver::Request request_of(fileserver::Op op, fileserver::NodeId node) {
    fileserver::Request request;
    request.op = static_cast<uint16_t>(op);
    request.node = node;
    return request;
}

struct HostInode::Names {
    struct Entry {
        uint8_t type = 0;  // DT_*
        bool has_attributes = false;
        uint64_t inode = 0;
        fileserver::Attributes attributes;
    };
    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view name) const { return std::hash<std::string_view>{}(name); }
    };
    using Table = std::unordered_map<std::string, Entry, Hash, std::equal_to<>>;

    bool complete = false;  // `entries` is the whole directory
    bool too_big = false;   // not worth knowing
    uint32_t misses = 0;    // lookups that had to ask
    Table entries;
    std::shared_ptr<const Listing> listing;  // made of entries; dropped when they change
    // Asking for attributes that the listing did not bring: how many names the last time, how far it came in the
    // listing, and how often what is known here was found to be old.
    uint32_t asked = 0;
    size_t cursor = 0;
    uint32_t version = 0;

    // Shared trees: the order in which the directory was last read, and the attributes of some names in it, asked for
    // together when they were looked at one after the other. Believed as long as everything there.
    struct Ahead {
        std::shared_ptr<const Listing> order;
        size_t cursor = 0;
        size_t asked = 0;     // how many the last time
        uint32_t strays = 0;  // names looked at out of order, since one was in order
        Nanoseconds when = 0;
        std::unordered_map<std::string, fileserver::Attributes, Hash, std::equal_to<>> attributes;

        const fileserver::Attributes* find(std::string_view name) const {
            auto found = attributes.find(name);
            if (found == attributes.end() || monotonic_now() - when > HostFileSystem::kSharedValidity) return nullptr;
            return &found->second;
        }
        void forget(std::string_view name) {
            auto found = attributes.find(name);
            if (found != attributes.end()) attributes.erase(found);
        }
    };
    Ahead ahead;

    // Answers that came along with another one, waiting for the walk to reach them.
    struct Hint {
        std::string name;
        bool exists = false;
        fileserver::Attributes attributes;
        UniqueFd fd;
        std::string link_text;
        Nanoseconds when = 0;
    };
    static constexpr size_t kMaxHints = 16;
    std::vector<Hint> hints;

    void add_hint(Hint hint) {
        for (Hint& known : hints)
            if (known.name == hint.name) {
                known = std::move(hint);
                return;
            }
        if (hints.size() >= kMaxHints) hints.erase(hints.begin());
        hints.push_back(std::move(hint));
    }
    std::optional<Hint> take_hint(std::string_view name) {
        for (size_t i = 0; i < hints.size(); ++i)
            if (hints[i].name == name) {
                Hint hint = std::move(hints[i]);
                hints.erase(hints.begin() + static_cast<ptrdiff_t>(i));
                return hint;
            }
        return std::nullopt;
    }
};

}  // namespace casemate::sentry
