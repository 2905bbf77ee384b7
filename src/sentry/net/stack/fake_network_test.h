// Two stacks (or one and a tester) on a simulated link: time is simulated too, so a test of minutes takes moments, and
// the same seed gives the same run. The link loses, reorders, doubles and delays; it cuts large segments and completes
// checksums as a host would.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/half_open.h"

namespace casemate::sentry::stack {

using Frame = std::vector<uint8_t>;

// Cuts a frame as the host's kernel would: at most `gso_size` of payload each, with right headers and checksums.
inline std::vector<Frame> cut(const OutFrame& out) {
    Frame whole(out.head.begin(), out.head.begin() + static_cast<ptrdiff_t>(out.head_size));
    for (size_t i = 0; i < out.piece_count; i++) {
        const auto* bytes = static_cast<const uint8_t*>(out.pieces[i].iov_base);
        whole.insert(whole.end(), bytes, bytes + out.pieces[i].iov_len);
    }
    std::vector<Frame> frames;
    bool v4 = load16(whole.data() + 12) == kEtherIpv4;
    size_t ip = v4 ? kIpv4Header : kIpv6Header;
    auto complete = [&](Frame& frame) {
        if (v4) {
            store16(frame.data() + 16, static_cast<uint32_t>(frame.size() - kEthernetHeader));
            store16(frame.data() + 24, 0);
            store16(frame.data() + 24, checksum(frame.data() + kEthernetHeader, kIpv4Header));
        } else {
            store16(frame.data() + 18, static_cast<uint32_t>(frame.size() - kEthernetHeader - kIpv6Header));
        }
        if (!(out.virtio.flags & VirtioHeader::kNeedsChecksum)) return;
        size_t start = out.virtio.csum_start;
        const uint8_t* header = frame.data() + kEthernetHeader;
        InetAddress from = v4 ? load_v4(header + 12) : load_v6(header + 8);
        InetAddress to = v4 ? load_v4(header + 16) : load_v6(header + 24);
        uint8_t protocol = v4 ? header[9] : header[6];
        uint8_t* field = frame.data() + start + out.virtio.csum_offset;
        store16(field, 0);
        uint64_t sum = pseudo_header(from, to, protocol, frame.size() - start);
        store16(field,
                static_cast<uint16_t>(~checksum_fold(checksum_add(sum, frame.data() + start, frame.size() - start))));
    };
    if (out.virtio.gso_type == VirtioHeader::kNone) {
        if (out.virtio.flags & VirtioHeader::kNeedsChecksum) complete(whole);
        frames.push_back(std::move(whole));
        return frames;
    }
    size_t head = kEthernetHeader + ip + size_t{whole[kEthernetHeader + ip + 12]} / 16 * 4;
    uint32_t sequence = load32(whole.data() + kEthernetHeader + ip + 4);
    for (size_t at = head; at < whole.size();) {
        size_t part = std::min<size_t>(out.virtio.gso_size, whole.size() - at);
        Frame frame(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(head));
        frame.insert(frame.end(), whole.begin() + static_cast<ptrdiff_t>(at),
                     whole.begin() + static_cast<ptrdiff_t>(at + part));
        uint8_t* tcp = frame.data() + kEthernetHeader + ip;
        store32(tcp + 4, sequence + static_cast<uint32_t>(at - head));
        at += part;
        if (at < whole.size()) tcp[13] &= static_cast<uint8_t>(~(kFin | kPsh));
        complete(frame);
        frames.push_back(std::move(frame));
    }
    return frames;
}

class FakeNetwork;

class FakeDevice final : public Device {
  public:
    explicit FakeDevice(std::function<bool(const OutFrame&)> sink) : sink_(std::move(sink)) {}
    bool send(const OutFrame& frame) override { return sink_(frame); }

  private:
    std::function<bool(const OutFrame&)> sink_;
};

class FakeListener final : public RefCounted, public Listener {
  public:
    bool has_room() override { return accepted.size() < room; }
    bool established(Ref<Connection> connection) override {
        if (!has_room()) return false;
        auto waiters = make_ref<SocketWaiters>();
        connection->set_waiters(waiters);
        accepted.push_back(std::move(connection));
        return true;
    }
    size_t receive_buffer() override { return buffer; }
    std::deque<Ref<Connection>> accepted;
    size_t room = 128, buffer = 0;
};

class FakeSockets final : public Sockets {
  public:
    FoundListener tcp_listener(const InetEndpoint& to, const InetEndpoint&, uint32_t) override {
        auto it = listeners.find(to.port);
        if (it == listeners.end()) return {};
        return {Ref<RefCounted>(it->second), it->second.get()};
    }
    bool udp_input(const InPacket& packet) override {
        if (packet.to.port != udp_port) return false;
        datagrams.emplace_back(packet.payload.begin(), packet.payload.end());
        return true;
    }
    void udp_error(const InetEndpoint&, const InetEndpoint&, int error) override { udp_errors.push_back(error); }
    bool raw_input(const InPacket& packet) override {
        raw.emplace_back(packet.payload.begin(), packet.payload.end());
        return packet.protocol == kIcmp || packet.protocol == kIcmp6;
    }
    int ecn() override { return ecn_setting; }
    std::map<uint16_t, Ref<FakeListener>> listeners;
    int ecn_setting = 2;
    uint16_t udp_port = 0;
    std::vector<Frame> datagrams, raw;
    std::vector<int> udp_errors;
};

struct FakeHost {
    FakeSockets sockets;
    Ref<Stack> stack;
    Ref<Link> link;
    MacAddress mac{};
    std::vector<Frame> sent;  // when nobody is on the other end

    ~FakeHost() {
        if (stack) stack->stop();
    }
};

class FakeNetwork {
  public:
    static constexpr uint32_t kA = 0x0a000001, kB = 0x0a000002;
    double loss = 0, reorder = 0, twice = 0;
    Nanoseconds delay = 100'000, jitter = 0;
    uint64_t bytes_per_second = 0;  // 0: no limit
    size_t queue_limit = 1000;
    uint64_t delivered = 0, lost = 0;

    explicit FakeNetwork(uint32_t mtu = 1500, unsigned seed = 1) : random_(seed) {
        for (int i = 0; i < 2; i++) {
            FakeHost& host = hosts[i];
            host.stack = make_ref<Stack>(host.sockets, Surroundings{[this] { return now; }, [](Nanoseconds) {}});
            host.mac = {2, 0, 0, 0, 0, static_cast<uint8_t>(i + 1)};
            auto device = std::make_shared<FakeDevice>([this, i](const OutFrame& frame) { return carry(i, frame); });
            host.link = host.stack->add_link(2, host.mac, mtu, device);
            Settings settings;
            InetAddress v4 = InetAddress::v4(i == 0 ? kA : kB), v6 = address6(i);
            settings.addresses.push_back({2, v4, 120, InetAddress::v4(0x0a0000ff)});
            settings.addresses.push_back({2, v6, 64, {}});
            settings.routes.push_back({InetAddress::v4(0x0a000000), 120, 2, {}, v4, 0, 0});
            InetAddress net6 = v6;
            net6.bytes[15] = 0;
            settings.routes.push_back({net6, 64, 2, {}, v6, 0, 0});
            host.stack->configure(settings);
        }
    }
    static InetAddress address6(int i) {
        InetAddress v6;
        v6.bytes = {0xfd};
        v6.bytes[15] = static_cast<uint8_t>(i + 1);
        return v6;
    }

    bool carry(int from, const OutFrame& out) {
        for (Frame& frame : cut(out)) {
            auto chance = [&](double p) { return p > 0 && std::uniform_real_distribution<>(0, 1)(random_) < p; };
            if (cut_off) {
                hosts[from].sent.push_back(std::move(frame));
                continue;
            }
            if (change) change(from, frame);
            if (watch) watch(from, frame);
            if (chance(loss)) {
                lost++;
                continue;
            }
            Nanoseconds at = now + delay;
            if (bytes_per_second != 0) {
                Nanoseconds& free_at = busy_until_[from];
                free_at = std::max(free_at, now);
                if (free_at - now >
                    static_cast<Nanoseconds>(queue_limit * 1500 * 1e9 / static_cast<double>(bytes_per_second))) {
                    lost++;
                    continue;
                }
                free_at += static_cast<Nanoseconds>(static_cast<double>(frame.size()) * 1e9 /
                                                    static_cast<double>(bytes_per_second));
                at = free_at + delay;
            }
            if (chance(reorder)) at += jitter;
            if (chance(twice)) flying_.emplace(at + 1, std::pair(1 - from, frame));
            flying_.emplace(at, std::pair(1 - from, std::move(frame)));
        }
        return true;
    }

    void inject(int to, const Frame& frame, VirtioHeader virtio = {}) {
        InFrame in;
        in.buffer = FrameBuffer::create(std::max<size_t>(frame.size(), 1));
        memcpy(in.buffer->data(), frame.data(), frame.size());
        in.size = static_cast<uint32_t>(frame.size());
        in.virtio = virtio;
        hosts[to].stack->input(*hosts[to].link, {&in, 1});
        delivered++;
    }

    // Until `done`, or nothing is left to happen, or `limit` of simulated time is over. True: done.
    bool run(const std::function<bool()>& done, Nanoseconds limit = 600 * kSecond) {
        Nanoseconds end = now + limit;
        while (!done()) {
            Nanoseconds next = 0;
            if (!flying_.empty()) next = flying_.begin()->first;
            for (auto& host : hosts)
                if (Nanoseconds timer = host.stack->timers().next(); timer != 0 && (next == 0 || timer < next))
                    next = timer;
            if (next == 0 || next > end) {
                now = std::max(now, end);
                return done();
            }
            now = std::max(now, next);
            while (!flying_.empty() && flying_.begin()->first <= now) {
                auto [to, frame] = std::move(flying_.begin()->second);
                flying_.erase(flying_.begin());
                inject(to, frame);
            }
            for (auto& host : hosts) host.stack->run_timers();
        }
        return true;
    }
    void run_for(Nanoseconds time) {
        run([] { return false; }, time);
    }

    Ref<Connection> connect(int from, uint16_t port, bool v6 = false, uint16_t local_port = 40000) {
        Tuple tuple;
        tuple.local = {v6 ? address6(from) : InetAddress::v4(from == 0 ? kA : kB), local_port};
        tuple.peer = {v6 ? address6(1 - from) : InetAddress::v4(from == 0 ? kB : kA), port};
        auto connection = make_ref<Connection>(hosts[from].stack, tuple, 0, make_ref<SocketWaiters>());
        MUST(hosts[from].stack->connect(connection));
        return connection;
    }
    Ref<FakeListener> listen(int host, uint16_t port) {
        auto listener = make_ref<FakeListener>();
        hosts[host].sockets.listeners[port] = listener;
        return listener;
    }

    Nanoseconds now = kSecond;
    FakeHost hosts[2];
    bool cut_off = false;
    std::function<void(int from, const Frame& frame)> watch;
    std::function<void(int from, Frame& frame)> change;  // what a router does to it

  private:
    std::mt19937 random_;
    std::multimap<Nanoseconds, std::pair<int, Frame>> flying_;
    Nanoseconds busy_until_[2] = {0, 0};
};

// A stream of numbered bytes, sent and checked.
class Pump {
  public:
    Pump(Ref<Connection> from, Ref<Connection> to, size_t total)
        : from_(std::move(from)), to_(std::move(to)), total_(total) {}
    // Sends what fits, reads what is there. True when all has arrived, and the end with it.
    bool step() {
        while (sent_ < total_) {
            uint8_t bytes[20000];
            size_t part = std::min(sizeof(bytes), total_ - sent_);
            for (size_t i = 0; i < part; i++) bytes[i] = at(sent_ + i);
            IoBuffer buffer = IoBuffer::kernel(bytes, part);
            auto progress = from_->send(buffer, false);
            if (progress.error != 0) error = progress.error;
            if (progress.bytes == 0) break;
            sent_ += progress.bytes;
            if (sent_ == total_) from_->shutdown_send();
        }
        while (!paused) {
            uint8_t bytes[30000];
            IoBuffer buffer = IoBuffer::kernel(bytes, sizeof(bytes));
            Connection::Reading reading;
            auto progress = to_->receive(buffer, reading);
            if (progress.error != 0) error = progress.error;
            if (progress.ended) ended = true;
            if (progress.bytes == 0) break;
            for (size_t i = 0; i < progress.bytes; i++)
                if (bytes[i] != at(got + i)) wrong++;
            got += progress.bytes;
        }
        return error != 0 || (ended && got == total_);
    }
    size_t got = 0, wrong = 0;
    bool ended = false, paused = false;
    int error = 0;

  private:
    static uint8_t at(size_t i) { return static_cast<uint8_t>(i * 2654435761u >> 13 ^ i); }
    Ref<Connection> from_, to_;
    const size_t total_;
    size_t sent_ = 0;
};

}  // namespace casemate::sentry::stack
