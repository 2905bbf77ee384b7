// virtio-vsock (virtio 1.2, section 5.10): streams between guest and host, bridged to Unix sockets.
//
//   guest -> host   the guest connects to port P of CID 2: the device connects to the socket that Options::connect
//                   gives for P (by custom the file <path>_<P>)
//   host -> guest   a program connects to the listening socket and writes "CONNECT <P>\n"; when the guest's port has
//                   accepted, it reads "OK <its own port>\n", and then the stream is open
//
// Everything is bounded: streams, connections that have not said their port yet, resets to be sent, bytes per stream.
// After a restore all streams are gone and the guest is told so (a transport reset).
#pragma once

#include <deque>
#include <string>
#include <unordered_map>

#include "virtio/device.h"
#include "virtio/vsock_stream.h"

namespace casemate::virtio {

// Connects to the file `<path>_<port>`; non-blocking.
SysResult<UniqueFd> connect_vsock_port(const std::string& path, uint32_t port);

class VsockDevice final : public Device {
  public:
    struct Options {
        uint64_t guest_cid = 3;  // 3 to 2^32 - 2
        // A socket for a port of the host's, non-blocking; an error refuses the guest. Called under the device's lock:
        // must not block.
        std::function<SysResult<UniqueFd>(uint32_t port)> connect;
        UniqueFd listener;  // a listening Unix socket, or empty
        size_t max_streams = 1024;
        size_t max_greetings = 64;                      // accepted, and no "CONNECT" yet
        std::chrono::milliseconds answer_time{30'000};  // for the guest to answer, and for hosts to say CONNECT
    };
    VsockDevice(DeviceLoop& loop, Options options);
    ~VsockDevice() override;

    // Any thread.
    size_t stream_count();

    DeviceType type() const override { return DeviceType::kVsock; }
    const char* name() const override { return "vsock"; }
    uint64_t features() const override { return 0; }
    std::span<const uint16_t> queue_sizes() const override { return kSizes; }
    void read_config(uint32_t offset, std::span<uint8_t> into) override;
    // The state is that there is none: streams do not survive.
    SysResult<void> restore(StateReader& reader) override;

  protected:
    void on_activate() override;
    void on_notify(uint16_t queue) override;
    void on_reset() override;
    void on_resume() override;

  private:
    static constexpr uint16_t kSizes[] = {256, 256, 16};
    static constexpr uint16_t kReceive = 0, kTransmit = 1, kEvent = 2;
    static constexpr int kPacketsPerTurn = 256;
    static constexpr size_t kBytesPerTurn = 4 << 20;
    static constexpr uint32_t kBytesPerRead = 64 << 10;
    static constexpr size_t kMaxResets = 256;

    struct Greeting {
        UniqueFd socket;
        std::string line;
        DeviceLoop::Id watch = 0, timer = 0;
    };
    using Ports = VsockStream::Ports;

    // Packets of the guest's.
    void transmit();
    void handle(const VsockHeader& header, ChainBuffer& data);
    void handle_request(const VsockHeader& header, Ports ports);
    void handle_response(VsockStream& stream);
    void handle_data(VsockStream& stream, ChainBuffer& data);
    void handle_shutdown(VsockStream& stream, uint32_t flags);
    // Packets to the guest.
    void fill_receive_queue();
    bool say_one();
    bool send_control(VsockHeader& header);
    enum class Sent { kAll, kMore, kNoRoom };
    Sent send_data(VsockStream& stream, size_t& budget);
    void send_transport_reset();
    // Streams.
    VsockStream* find(Ports ports);
    VsockStream& add_stream(Ports ports, UniqueFd socket);
    void say(VsockStream& stream, VsockOp op);
    void look_for_input(VsockStream& stream);
    // Ends the stream and tells the guest; the reference is invalid afterwards.
    void abort_stream(VsockStream& stream);
    void remove_stream(VsockStream& stream);
    void queue_reset(Ports ports);
    void host_ready(Ports ports, uint32_t events);
    void host_closed(VsockStream& stream);
    void start_timer(VsockStream& stream);
    // Connections of the host's.
    void accept();
    void greet(uint64_t number);
    void end_greeting(uint64_t number);
    void request_guest(uint32_t guest_port, UniqueFd socket);
    void let_go();

    const Options options_;
    FdWatch listener_watch_;
    DeviceLoop::Id listener_timer_ = 0;
    std::unordered_map<uint64_t, std::unique_ptr<VsockStream>> streams_;
    std::deque<Ports> to_say_;       // streams with something to say, each once
    std::deque<Ports> input_ready_;  // streams whose sockets may have bytes, each once
    std::deque<Ports> resets_;       // to be sent for what is no stream (any more)
    std::unordered_map<uint64_t, Greeting> greetings_;
    uint64_t next_greeting_ = 1;
    uint32_t next_host_port_ = 1u << 30;
    bool transport_reset_ = false;  // to be told
    Chain chain_;
    std::vector<Chain> chains_;
    std::vector<iovec> parts_;
};

}  // namespace casemate::virtio
