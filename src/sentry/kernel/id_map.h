// What a user namespace calls which ids of its parent: user_namespaces(7), /proc/PID/uid_map.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace casemate::sentry {

struct IdRange {
    uint32_t inside = 0, outside = 0, count = 0;
};

// Empty: every id is itself.
struct IdMap {
    static constexpr uint32_t kOverflow = 65534;  // how an id that has none inside is shown
    std::vector<IdRange> ranges;

    bool identity() const { return ranges.empty(); }
    std::optional<uint32_t> inside(uint32_t outside) const {
        if (identity()) return outside;
        for (const IdRange& range : ranges)
            if (outside - range.outside < range.count) return range.inside + (outside - range.outside);
        return std::nullopt;
    }
    std::optional<uint32_t> outside(uint32_t inside) const {
        if (identity()) return inside;
        for (const IdRange& range : ranges)
            if (inside - range.inside < range.count) return range.outside + (inside - range.inside);
        return std::nullopt;
    }
};

struct IdMaps {
    IdMap uids, gids;
};

}  // namespace casemate::sentry
