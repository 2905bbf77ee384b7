#include "host/cgroup_stats.h"

#include <charconv>

namespace casemate::host {

namespace {

// Takes the text up to `separator` off the front.
std::string_view take(std::string_view& text, char separator) {
    size_t end = text.find(separator);
    std::string_view part = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    return part;
}

template <typename T>
bool parse_number(std::string_view text, T& out) {
    auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
    return failure == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool parse_device(std::string_view text, BlockIoEntry& entry) {
    std::string_view major = take(text, ':');
    return parse_number(major, entry.major) && parse_number(text, entry.minor);
}

}  // namespace

std::map<std::string, uint64_t, std::less<>> parse_flat_keyed(std::string_view text) {
    std::map<std::string, uint64_t, std::less<>> values;
    while (!text.empty()) {
        std::string_view line = take(text, '\n');
        std::string_view key = take(line, ' ');
        uint64_t value;
        if (parse_number(line, value)) values.emplace(key, value);
    }
    return values;
}

uint64_t parse_limit(std::string_view text) {
    text = take(text, '\n');
    uint64_t value = 0;
    if (text == "max") return kNoLimit;
    if (!parse_number(text, value)) return 0;
    // v1: the largest multiple of the page size.
    return value >= (uint64_t{1} << 63) - 4096 * 16 ? kNoLimit : value;
}

std::vector<BlockIoEntry> parse_blkio(std::string_view text) {
    std::vector<BlockIoEntry> entries;
    while (!text.empty()) {
        std::string_view line = take(text, '\n');
        BlockIoEntry entry;
        if (!parse_device(take(line, ' '), entry)) continue;  // the line "Total N"
        entry.op = take(line, ' ');
        if (parse_number(line, entry.value)) entries.push_back(std::move(entry));
    }
    return entries;
}

std::vector<BlockIoEntry> parse_io_stat(std::string_view text) {
    std::vector<BlockIoEntry> entries;
    while (!text.empty()) {
        std::string_view line = take(text, '\n');
        BlockIoEntry device;
        if (!parse_device(take(line, ' '), device)) continue;
        while (!line.empty()) {
            std::string_view pair = take(line, ' ');
            BlockIoEntry entry = device;
            entry.op = take(pair, '=');
            if (parse_number(pair, entry.value)) entries.push_back(std::move(entry));
        }
    }
    return entries;
}

std::vector<RdmaStats> parse_rdma(std::string_view text) {
    std::vector<RdmaStats> devices;
    while (!text.empty()) {
        std::string_view line = take(text, '\n');
        RdmaStats device;
        device.device = take(line, ' ');
        while (!line.empty()) {
            std::string_view pair = take(line, ' ');
            std::string_view key = take(pair, '=');
            uint32_t value = pair == "max" ? UINT32_MAX : 0;
            if (pair != "max" && !parse_number(pair, value)) continue;
            if (key == "hca_handle") device.hca_handles = value;
            if (key == "hca_object") device.hca_objects = value;
        }
        if (!device.device.empty()) devices.push_back(std::move(device));
    }
    return devices;
}

}  // namespace casemate::host
