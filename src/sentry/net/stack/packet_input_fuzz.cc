// Frames from a stranger: the input is a row of them, each with its length; some are given a right checksum so that
// they get beyond it. The stack has a listener, a datagram socket and an open connection.
#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/half_open.h"

using namespace casemate;
using namespace casemate::sentry;
using namespace casemate::sentry::stack;

namespace {

class Acceptor final : public RefCounted, public Listener {
  public:
    bool has_room() override { return accepted.size() < 16; }
    bool established(Ref<Connection> connection) override {
        accepted.push_back(std::move(connection));
        return true;
    }
    size_t receive_buffer() override { return 0; }
    std::vector<Ref<Connection>> accepted;
};

class AnySockets final : public Sockets {
  public:
    FoundListener tcp_listener(const InetEndpoint&, const InetEndpoint&, uint32_t) override {
        return {Ref<RefCounted>(acceptor), acceptor.get()};
    }
    bool udp_input(const InPacket& packet) override { return packet.to.port & 1; }
    void udp_error(const InetEndpoint&, const InetEndpoint&, int) override {}
    bool raw_input(const InPacket& packet) override { return packet.protocol & 1; }
    Ref<Acceptor> acceptor = make_ref<Acceptor>();
};

class Sink final : public Device {
  public:
    bool send(const OutFrame& frame) override {
        last_sequence = load32(frame.head.data() + 38);
        return true;
    }
    uint32_t last_sequence = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    AnySockets sockets;
    Nanoseconds now = kSecond;
    auto stack = make_ref<Stack>(sockets, Surroundings{[&] { return now; }, [](Nanoseconds) {}});
    auto sink = std::make_shared<Sink>();
    MacAddress mac = {2, 0, 0, 0, 0, 1};
    auto link = stack->add_link(2, mac, 1500, sink);
    InetAddress own = InetAddress::v4(0x0a000001), own6, peer = InetAddress::v4(0x0a000002);
    own6.bytes = {0xfd};
    own6.bytes[15] = 1;
    Settings settings;
    settings.addresses = {{2, own, 120, InetAddress::v4(0x0a0000ff)}, {2, own6, 64, {}}};
    settings.routes = {{InetAddress::v4(0), 96, 2, {}, own, 0, 0}, {InetAddress(), 0, 2, {}, own6, 0, 0}};
    stack->configure(settings);
    link->neighbours.set_permanent(peer, {2, 0, 0, 0, 0, 2});
    auto connection = make_ref<Connection>(stack, Tuple{{own, 40000}, {peer, 80}}, 0, make_ref<SocketWaiters>());
    static_cast<void>(stack->connect(connection));
    while (size > 3) {
        size_t length = std::min<size_t>((size_t{data[0]} << 8 | data[1]) % 2048, size - 3);
        uint8_t how = data[2];
        if (length == 0) {  // our end, so that the peer's brings TIME_WAIT
            if (how & 1)
                connection->close(false);
            else if (!connection->connecting())
                connection->shutdown_send();
        }
        InFrame frame;
        frame.buffer = FrameBuffer::create(length + 64);
        size_t head = 0;
        uint8_t* p = frame.buffer->data();
        if (how & 1) {  // an Ethernet header that reaches us
            memcpy(p, mac.data(), 6);
            memcpy(p + 6, "\2\0\0\0\0\2", 6);
            store16(p + 12, how & 2 ? kEtherIpv6 : how & 4 ? kEtherArp : kEtherIpv4);
            head = kEthernetHeader;
            if (!(how & 2) && !(how & 4) && how & 8) {  // and an IPv4 header
                uint8_t header[20] = {0x45};
                store16(header + 2, static_cast<uint32_t>(20 + length));
                header[8] = 64;
                header[9] = how & 16 ? kTcp : how & 32 ? kUdp : kIcmp;
                store_v4(header + 12, peer);
                store_v4(header + 16, own);
                store16(header + 10, checksum(header, 20));
                memcpy(p + head, header, 20);
                head += 20;
            }
        }
        memcpy(p + head, data + 3, length);
        if (how & 16 && how & 8 && how & 1 && length >= 20 && how & 64) {
            store16(p + head, 80);  // for the connection, near what it expects
            store16(p + head + 2, 40000);
            store32(p + head + 8, sink->last_sequence + (p[head + 8] & 3));
        }
        frame.size = static_cast<uint32_t>(head + length);
        frame.virtio.flags = how & 128 ? VirtioHeader::kNeedsChecksum : 0;
        stack->input(*link, {&frame, 1});
        data += 3 + length;
        size -= 3 + length;
        now += 10'000'000;
        stack->run_timers();
    }
    char bytes[100] = {};
    IoBuffer buffer = IoBuffer::kernel(bytes, sizeof(bytes));
    connection->send(buffer, false);
    for (int i = 0; i < 5; i++) {
        now += kSecond;
        stack->run_timers();
    }
    for (auto& one : sockets.acceptor->accepted) one->close(false);
    sockets.acceptor->accepted.clear();
    connection->close(false);
    stack->stop();
    return 0;
}
