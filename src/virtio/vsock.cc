#include "virtio/vsock.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <charconv>
#include <climits>

#include "linux/unix_socket.h"

namespace casemate::virtio {

namespace {

constexpr size_t kMaxGreeting = sizeof("CONNECT 4294967295\n");

constexpr uint32_t bit(VsockOp op) { return 1u << static_cast<unsigned>(op); }

}  // namespace

SysResult<UniqueFd> connect_vsock_port(const std::string& path, uint32_t port) {
    return linux::connect_unix(path + "_" + std::to_string(port), SOCK_STREAM | SOCK_NONBLOCK);
}

VsockDevice::VsockDevice(DeviceLoop& loop, Options options)
    : Device(loop), options_(std::move(options)), listener_watch_(loop, mutex(), [this](uint32_t) { accept(); }) {
    if (options_.listener) listener_watch_.set_fd(options_.listener.get());
}

VsockDevice::~VsockDevice() { let_go(); }

size_t VsockDevice::stream_count() {
    std::lock_guard lock(mutex());
    return streams_.size();
}

void VsockDevice::read_config(uint32_t offset, std::span<uint8_t> into) {
    copy_config(&options_.guest_cid, sizeof(options_.guest_cid), offset, into);
}

SysResult<void> VsockDevice::restore(StateReader&) {
    transport_reset_ = active();
    return {};
}

void VsockDevice::on_activate() { listener_watch_.want(EPOLLIN); }

void VsockDevice::on_resume() {
    send_transport_reset();
    Device::on_resume();
}

void VsockDevice::on_reset() {
    let_go();
    transport_reset_ = false;
}

void VsockDevice::let_go() {
    listener_watch_.want(0);
    loop_.cancel(std::exchange(listener_timer_, 0));
    for (auto& [key, stream] : streams_) loop_.cancel(stream->timer);
    streams_.clear();
    to_say_.clear();
    input_ready_.clear();
    resets_.clear();
    while (!greetings_.empty()) end_greeting(greetings_.begin()->first);
}

void VsockDevice::on_notify(uint16_t index) {
    if (index == kTransmit) transmit();
    if (index == kEvent) return send_transport_reset();
    fill_receive_queue();
}

// --- packets of the guest's

void VsockDevice::transmit() {
    Queue& packets = queue(kTransmit);
    packets.disable_notifications();
    for (int i = 0; working(); ++i) {
        if (i == kPacketsPerTurn) {
            notify_again(kTransmit);
            break;
        }
        if (!pop(kTransmit, chain_)) {
            if (working() && packets.enable_notifications()) continue;
            break;
        }
        VsockHeader header;
        if (chain_.readable.read_all(header)) handle(header, chain_.readable);
        packets.push(chain_, 0);
    }
    if (active()) publish(kTransmit);
}

void VsockDevice::handle(const VsockHeader& header, ChainBuffer& data) {
    // To somebody else than the host, or from somebody else than this guest: nobody could answer.
    if (header.destination_cid != kHostCid || header.source_cid != options_.guest_cid) return;
    Ports ports{header.source_port, header.destination_port};
    VsockOp op = static_cast<VsockOp>(header.op);
    VsockStream* stream = find(ports);
    // The length in the header and that of the buffer are both the guest's word: they must agree.
    if (header.type != kVsockStream || header.length != data.remaining() ||
        (op != VsockOp::kData && header.length != 0)) {
        if (stream != nullptr) return abort_stream(*stream);
        if (op != VsockOp::kReset) queue_reset(ports);
        return;
    }
    if (stream == nullptr) {
        if (op == VsockOp::kRequest) return handle_request(header, ports);
        if (op != VsockOp::kReset) queue_reset(ports);
        return;
    }
    stream->take_credit(header);
    switch (op) {
        case VsockOp::kResponse:
            return handle_response(*stream);
        case VsockOp::kReset:
            return remove_stream(*stream);
        case VsockOp::kShutdown:
            return handle_shutdown(*stream, header.flags);
        case VsockOp::kData:
            return handle_data(*stream, data);
        case VsockOp::kCreditRequest:
            say(*stream, VsockOp::kCreditUpdate);
            [[fallthrough]];
        case VsockOp::kCreditUpdate:
            return look_for_input(*stream);
        default:  // kRequest of a stream that exists, too
            return abort_stream(*stream);
    }
}

void VsockDevice::handle_request(const VsockHeader& header, Ports ports) {
    if (streams_.size() >= options_.max_streams || !options_.connect) return queue_reset(ports);
    auto socket = options_.connect(ports.host);
    if (!socket.ok()) return queue_reset(ports);
    VsockStream& stream = add_stream(ports, std::move(*socket));
    stream.established = true;
    stream.take_credit(header);
    say(stream, VsockOp::kResponse);
    look_for_input(stream);
}

void VsockDevice::handle_response(VsockStream& stream) {
    if (!stream.requested || stream.established) return abort_stream(stream);
    stream.requested = false;
    stream.established = true;
    loop_.cancel(std::exchange(stream.timer, 0));
    std::string answer = "OK " + std::to_string(stream.ports().host) + "\n";
    // A fresh socket has room for a line.
    ssize_t put = ::send(stream.socket(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put != static_cast<ssize_t>(answer.size())) return abort_stream(stream);
    look_for_input(stream);
}

void VsockDevice::handle_data(VsockStream& stream, ChainBuffer& data) {
    if (!stream.established || !stream.receive(data).ok()) return abort_stream(stream);
    if (stream.credit_is_news()) say(stream, VsockOp::kCreditUpdate);
    look_for_input(stream);  // it carried credit, too
}

void VsockDevice::handle_shutdown(VsockStream& stream, uint32_t flags) {
    stream.guest_shutdown(flags);
    // Both ways: nothing can come any more. What is buffered still goes to the host.
    if (stream.guest_closed() == (kVsockNoReceive | kVsockNoSend)) {
        if (stream.flushed()) return abort_stream(stream);
        if (stream.timer == 0) start_timer(stream);
    }
    stream.watch(!stream.input_ready && stream.credit() > 0);
}

// --- packets to the guest

void VsockDevice::fill_receive_queue() {
    if (!working()) return;
    Queue& buffers = queue(kReceive);
    buffers.disable_notifications();
    size_t budget = kBytesPerTurn;
    while (working()) {
        // What has to be said first: it is short, and streams wait for it.
        if (!resets_.empty() || !to_say_.empty()) {
            if (say_one()) continue;
            if (!working() || !buffers.enable_notifications()) break;
            continue;
        }
        if (input_ready_.empty()) break;
        if (budget == 0) {
            notify_again(kReceive);
            break;
        }
        Ports ports = input_ready_.front();
        input_ready_.pop_front();
        VsockStream* stream = find(ports);
        if (stream == nullptr) continue;
        Sent sent = send_data(*stream, budget);
        if (!working() || (stream = find(ports)) == nullptr) continue;
        if (sent == Sent::kAll) {
            stream->input_ready = false;
            stream->watch(stream->credit() > 0);
        } else {
            // Others have their turn; without room this one stays the first.
            if (sent == Sent::kMore) {
                input_ready_.push_back(ports);
                continue;
            }
            input_ready_.push_front(ports);
            if (!buffers.enable_notifications()) break;
        }
    }
    if (active()) publish(kReceive);
}

bool VsockDevice::say_one() {
    VsockHeader header{};
    if (!resets_.empty()) {
        header.source_cid = kHostCid;
        header.source_port = resets_.front().host;
        header.destination_port = resets_.front().guest;
        header.type = kVsockStream;
        header.op = static_cast<uint16_t>(VsockOp::kReset);
        if (!send_control(header)) return false;
        resets_.pop_front();
        return true;
    }
    VsockStream* stream = find(to_say_.front());
    if (stream == nullptr || stream->to_say == 0) {
        if (stream != nullptr) stream->listed = false;
        to_say_.pop_front();
        return true;
    }
    VsockOp op = static_cast<VsockOp>(__builtin_ctz(stream->to_say));
    stream->fill(header);
    header.op = static_cast<uint16_t>(op);
    if (op == VsockOp::kShutdown) header.flags = stream->host_closed();
    if (!send_control(header)) return false;
    stream->to_say &= ~bit(op);
    return true;
}

bool VsockDevice::send_control(VsockHeader& header) {
    if (!pop(kReceive, chain_)) return false;
    header.destination_cid = options_.guest_cid;
    uint32_t written = chain_.writable.write_all(header) ? sizeof(header) : 0;
    queue(kReceive).push(chain_, written);
    // A buffer too short for a header is no buffer of a driver that works.
    if (written == 0) fail("receive buffer shorter than a header");
    return written != 0;
}

VsockDevice::Sent VsockDevice::send_data(VsockStream& stream, size_t& budget) {
    if (!stream.established || stream.host_closed() != 0 || (stream.guest_closed() & kVsockNoReceive) != 0)
        return Sent::kAll;
    uint32_t room = std::min(stream.credit(), kBytesPerRead);
    if (room == 0) {
        say(stream, VsockOp::kCreditRequest);
        return Sent::kAll;
    }
    // One read for as many buffers as it fills.
    parts_.clear();
    size_t used = 0, offered = 0;
    while (offered < room && parts_.size() < IOV_MAX / 2) {
        if (used == chains_.size()) chains_.emplace_back();
        if (!pop(kReceive, chains_[used])) break;
        ChainBuffer& buffer = chains_[used++].writable;
        if (buffer.skip(sizeof(VsockHeader)) != sizeof(VsockHeader) || buffer.remaining() == 0) {
            fail("receive buffer shorter than a header and a byte");
            return Sent::kAll;
        }
        offered += buffer.take(room - offered, parts_);
    }
    if (!working()) return Sent::kAll;
    if (used == 0) return Sent::kNoRoom;
    ssize_t got = ::readv(stream.socket(), parts_.data(), static_cast<int>(std::min<size_t>(parts_.size(), IOV_MAX)));
    int error = got < 0 ? errno : 0;
    uint32_t left = got > 0 ? static_cast<uint32_t>(got) : 0;
    size_t filled = 0;
    for (uint32_t room_left = room; left > 0; ++filled) {
        ChainBuffer& buffer = chains_[filled].writable;
        buffer.rewind();
        uint32_t capacity = std::min(static_cast<uint32_t>(buffer.remaining() - sizeof(VsockHeader)), room_left);
        uint32_t part = std::min(capacity, left);
        room_left -= capacity;
        left -= part;
        VsockHeader header{};
        stream.fill(header);
        header.destination_cid = options_.guest_cid;
        header.op = static_cast<uint16_t>(VsockOp::kData);
        header.length = part;
        buffer.write_all(header);
        queue(kReceive).push(chains_[filled], static_cast<uint32_t>(sizeof(header)) + part);
        stream.count_sent(part);
    }
    while (used > filled) queue(kReceive).undo_pop(chains_[--used]);
    if (got > 0) {
        budget -= std::min(budget, static_cast<size_t>(got));
        return static_cast<size_t>(got) < offered ? Sent::kAll : Sent::kMore;
    }
    if (error == EAGAIN || error == EINTR) return Sent::kAll;
    if (error != 0) {
        abort_stream(stream);
        return Sent::kAll;
    }
    host_closed(stream);
    return Sent::kAll;
}

void VsockDevice::send_transport_reset() {
    if (!transport_reset_ || !working() || !pop(kEvent, chain_)) return;
    uint32_t id = 0;  // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
    uint32_t written = chain_.writable.write_all(id) ? sizeof(id) : 0;
    queue(kEvent).push(chain_, written);
    publish(kEvent);
    transport_reset_ = false;
}

// --- streams

VsockStream* VsockDevice::find(Ports ports) {
    auto found = streams_.find(ports.key());
    return found == streams_.end() ? nullptr : found->second.get();
}

VsockStream& VsockDevice::add_stream(Ports ports, UniqueFd socket) {
    auto stream = std::make_unique<VsockStream>(ports, std::move(socket), loop_, mutex(),
                                                [this, ports](uint32_t events) { host_ready(ports, events); });
    VsockStream& added = *stream;
    streams_.emplace(ports.key(), std::move(stream));
    return added;
}

void VsockDevice::say(VsockStream& stream, VsockOp op) {
    stream.to_say |= bit(op);
    if (stream.listed) return;
    stream.listed = true;
    to_say_.push_back(stream.ports());
}

void VsockDevice::look_for_input(VsockStream& stream) {
    bool can = stream.established && stream.host_closed() == 0 && (stream.guest_closed() & kVsockNoReceive) == 0 &&
               stream.credit() > 0;
    // The watch finds out when bytes come; a stream in the list is looked at anyway.
    stream.watch(can && !stream.input_ready);
}

void VsockDevice::abort_stream(VsockStream& stream) {
    queue_reset(stream.ports());
    remove_stream(stream);
}

void VsockDevice::remove_stream(VsockStream& stream) {
    loop_.cancel(stream.timer);
    streams_.erase(stream.ports().key());
}

void VsockDevice::queue_reset(Ports ports) {
    if (resets_.size() < kMaxResets) resets_.push_back(ports);
}

void VsockDevice::start_timer(VsockStream& stream) {
    Ports ports = stream.ports();
    stream.timer = loop_.after(mutex(), options_.answer_time, [this, ports] {
        VsockStream* late = find(ports);
        if (late == nullptr) return;
        late->timer = 0;
        abort_stream(*late);
        fill_receive_queue();
    });
}

void VsockDevice::host_ready(Ports ports, uint32_t events) {
    VsockStream* stream = find(ports);
    if (stream == nullptr || !working()) return;
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0 && !stream->flushed()) {
        if (!stream->flush().ok()) {
            abort_stream(*stream);
            return fill_receive_queue();
        }
        if (stream->credit_is_news()) say(*stream, VsockOp::kCreditUpdate);
        if (stream->flushed() && stream->guest_closed() == (kVsockNoReceive | kVsockNoSend)) {
            abort_stream(*stream);
            return fill_receive_queue();
        }
    }
    if ((events & (EPOLLERR | EPOLLHUP)) != 0 && stream->host_closed() == kVsockNoSend) host_closed(*stream);
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0 && !stream->input_ready && stream->host_closed() == 0) {
        if (stream->requested) {  // gone before the guest answered, or bytes too early: only the first is an end
            char byte;
            ssize_t got = ::recv(stream->socket(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
            if (got == 0 || (got < 0 && errno != EAGAIN))
                abort_stream(*stream);
            else
                stream->watch(false);
            return fill_receive_queue();
        }
        stream->input_ready = true;
        input_ready_.push_back(ports);
    }
    stream->watch(!stream->input_ready && stream->established && stream->credit() > 0);
    fill_receive_queue();
}

void VsockDevice::host_closed(VsockStream& stream) {
    pollfd poll_fd{stream.socket(), 0, 0};
    bool altogether = ::poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLHUP | POLLERR)) != 0;
    stream.host_shutdown(kVsockNoSend | (altogether ? kVsockNoReceive : 0));
    say(stream, VsockOp::kShutdown);
    // The guest answers with a reset when it has read what is there.
    if (altogether && stream.timer == 0) start_timer(stream);
}

// --- connections of the host's

void VsockDevice::accept() {
    for (int i = 0; i < 16; ++i) {
        auto socket = linux::accept_unix(options_.listener.get(), true);
        if (!socket.ok()) {
            if (socket.error().value == EAGAIN) return;
            // No descriptors left: the connection stays in the backlog for a while.
            listener_watch_.want(0);
            listener_timer_ = loop_.after(mutex(), std::chrono::milliseconds(200), [this] {
                listener_timer_ = 0;
                if (working()) listener_watch_.want(EPOLLIN);
            });
            return;
        }
        if (!working() || greetings_.size() >= options_.max_greetings || streams_.size() >= options_.max_streams)
            continue;  // closes it
        uint64_t number = next_greeting_++;
        auto watch = loop_.watch(mutex(), socket->get(), EPOLLIN, [this, number](uint32_t) { greet(number); });
        if (!watch.ok()) continue;
        Greeting greeting;
        greeting.socket = std::move(*socket);
        greeting.watch = *watch;
        greeting.timer = loop_.after(mutex(), options_.answer_time, [this, number] { end_greeting(number); });
        greetings_.emplace(number, std::move(greeting));
    }
}

void VsockDevice::end_greeting(uint64_t number) {
    auto found = greetings_.find(number);
    if (found == greetings_.end()) return;
    loop_.cancel(found->second.timer);
    loop_.remove(found->second.watch);
    greetings_.erase(found);
}

void VsockDevice::greet(uint64_t number) {
    auto found = greetings_.find(number);
    if (found == greetings_.end()) return;
    Greeting& greeting = found->second;
    // Only the line is taken: behind it may be bytes of the stream already.
    char bytes[kMaxGreeting];
    ssize_t got = ::recv(greeting.socket.get(), bytes, kMaxGreeting - greeting.line.size(), MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return end_greeting(number);
    std::string_view seen(bytes, static_cast<size_t>(got));
    size_t end = seen.find('\n');
    if (end != std::string_view::npos) seen = seen.substr(0, end + 1);
    if (::recv(greeting.socket.get(), bytes, seen.size(), MSG_DONTWAIT) != static_cast<ssize_t>(seen.size()))
        return end_greeting(number);
    greeting.line += seen;
    if (end == std::string_view::npos) {
        if (greeting.line.size() >= kMaxGreeting) end_greeting(number);
        return;
    }
    constexpr std::string_view kWord = "CONNECT ";
    std::string_view line(greeting.line);
    line.remove_suffix(1);
    uint32_t port = 0;
    bool good = line.starts_with(kWord);
    if (good) {
        const char* last = line.data() + line.size();
        auto parsed = std::from_chars(line.data() + kWord.size(), last, port);
        good = parsed.ec == std::errc() && parsed.ptr == last;
    }
    loop_.remove(greeting.watch);
    greeting.watch = 0;
    UniqueFd socket = std::move(greeting.socket);
    end_greeting(number);
    if (good && working()) request_guest(port, std::move(socket));
}

void VsockDevice::request_guest(uint32_t guest_port, UniqueFd socket) {
    if (streams_.size() >= options_.max_streams) return;
    Ports ports{guest_port, 0};
    do {
        ports.host = next_host_port_;
        next_host_port_ = next_host_port_ == 0x7fffffff ? 1u << 30 : next_host_port_ + 1;
    } while (find(ports) != nullptr);
    VsockStream& stream = add_stream(ports, std::move(socket));
    stream.requested = true;
    say(stream, VsockOp::kRequest);
    start_timer(stream);
    stream.watch(true);
    fill_receive_queue();
}

}  // namespace casemate::virtio
