// MonitorOptions as words: `name=value`. Both ends are ours; the reading end still refuses what it does not know.
#include <fmt/core.h>

#include <charconv>

#include "vmm/monitor.h"

namespace casemate::vmm {

namespace {

// Calls visit(name, field) for every option; to_words() and from_words() are its two uses.
template <typename Options, typename Visit>
void each_option(Options& options, Visit&& visit) {
    visit("vcpus", options.vcpus);
    visit("memory", options.memory);
    visit("huge-pages", options.huge_pages);
    visit("preallocate", options.preallocate);
    visit("map-images", options.map_images);
    visit("kvm", options.kvm);
    visit("memory-file", options.memory_file);
    visit("image-pipe-in", options.image_pipe_in);
    visit("image-pipe-out", options.image_pipe_out);
    visit("kernel", options.kernel);
    visit("initrd", options.initrd);
    visit("command-line", options.command_line);
    visit("restore-state", options.restore_state);
    visit("restore-memory", options.restore_memory);
    visit("advance-clocks", options.advance_clocks);
    visit("control", options.control);
    visit("serial-input", options.serial_input);
    visit("serial-output", options.serial_output);
    visit("virtio-console", options.virtio_console);
    visit("vsock-listener", options.vsock_listener);
    visit("vsock-broker", options.vsock_broker);
    visit("vsock-path", options.vsock_path);
    visit("vsock-cid", options.vsock_cid);
}

template <typename T>
bool parse(std::string_view text, T& into) {
    if constexpr (std::is_same_v<T, std::string>) {
        into = text;
        return true;
    } else if constexpr (std::is_same_v<T, bool>) {
        into = text == "1";
        return into || text == "0";
    } else if constexpr (std::is_enum_v<T>) {
        int value = 0;
        bool good = parse(text, value);
        into = static_cast<T>(value);
        return good;
    } else {
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into);
        return error == std::errc() && end == text.data() + text.size();
    }
}

template <typename T>
std::string print(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
        return value;
    } else {
        return std::to_string(static_cast<long long>(value));
    }
}

// "7,1,0,0": as many values as there are references.
template <typename... T>
bool parse_list(std::string_view text, T&... into) {
    bool more = true;
    auto one = [&](auto& value) {
        size_t comma = text.find(',');
        if (!more || !parse(text.substr(0, comma), value)) return false;
        more = comma != std::string_view::npos;
        text.remove_prefix(more ? comma + 1 : text.size());
        return true;
    };
    return (one(into) && ...) && !more;
}

}  // namespace

std::vector<std::string> MonitorOptions::to_words() const {
    std::vector<std::string> words;
    each_option(
        *this, [&](const char* name, const auto& value) { words.push_back(fmt::format("{}={}", name, print(value))); });
    for (const Disk& disk : disks)
        words.push_back(fmt::format("disk={},{},{},{}", disk.fd, print(disk.read_only), disk.operations, disk.bytes));
    for (const Share& share : shares) words.push_back(fmt::format("share={},{}", share.socket, share.tag));
    for (const Net& net : nets)
        words.push_back(fmt::format("net={},{},{},{},{}", net.tap, net.mac, net.mtu, net.frames, net.bytes));
    return words;
}

Result<MonitorOptions> MonitorOptions::from_words(const std::vector<std::string>& words) {
    MonitorOptions options;
    for (const std::string& word : words) {
        size_t equals = word.find('=');
        bool known = false, good = false;
        if (word.starts_with("disk=")) {
            Disk& disk = options.disks.emplace_back();
            known = true;
            good = parse_list(std::string_view(word).substr(5), disk.fd, disk.read_only, disk.operations, disk.bytes);
        } else if (word.starts_with("net=")) {
            Net& net = options.nets.emplace_back();
            known = true;
            good = parse_list(std::string_view(word).substr(4), net.tap, net.mac, net.mtu, net.frames, net.bytes);
        } else if (word.starts_with("share=")) {
            Share& share = options.shares.emplace_back();
            known = true;
            good = parse_list(std::string_view(word).substr(6), share.socket, share.tag);
        }
        each_option(options, [&](std::string_view name, auto& value) {
            if (equals == std::string::npos || name != std::string_view(word).substr(0, equals)) return;
            known = true;
            good = parse(std::string_view(word).substr(equals + 1), value);
        });
        if (!known || !good) return Error(fmt::format("casemate-vmm does not understand \"{}\"", word), EINVAL);
    }
    return options;
}

std::vector<int*> MonitorOptions::descriptors() {
    std::vector<int*> all = {&kvm,           &memory_file,    &image_pipe_in,  &image_pipe_out, &kernel,
                             &initrd,        &restore_state,  &restore_memory, &control,        &serial_input,
                             &serial_output, &vsock_listener, &vsock_broker};
    for (Disk& disk : disks) all.push_back(&disk.fd);
    for (Net& net : nets) all.push_back(&net.tap);
    for (Share& share : shares) all.push_back(&share.socket);
    std::erase_if(all, [](const int* fd) { return *fd < 0; });
    return all;
}

}  // namespace casemate::vmm
