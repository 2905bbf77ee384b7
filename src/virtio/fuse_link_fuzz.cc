// A hostile file server at the monitor's end of the link (a casemate-share that was taken over), behind a device whose
// guest does what the input says too: replies of any length to any request, in pieces, floods, hang-ups, states.
#include <fcntl.h>
#include <sys/socket.h>

#include "base/log.h"
#include "linux/unix_socket.h"
#include "virtio/fs.h"
#include "virtio/fuse_link.h"
#include "virtio/fuzz_device.h"

using namespace casemate;
using namespace casemate::virtio;

namespace {

// One guest's session: a link that broke stays so, and making one is cheap.
struct Session {
    explicit Session(FakeMachine& machine) {
        auto pair = MUST(linux::create_socket_pair(SOCK_STREAM));
        server = std::move(pair.second);
        link = std::make_unique<FuseLink>(std::move(pair.first));
        device = MUST(FsDevice::create(machine.loop(), "share", *link));
        driver = std::make_unique<FakeDriver>(machine, *device, 16);
    }
    ~Session() {
        driver.reset();
        device.reset();
    }
    UniqueFd server;
    std::unique_ptr<FuseLink> link;
    std::unique_ptr<FsDevice> device;
    std::unique_ptr<FakeDriver> driver;
};

void say(const Session& session, std::string_view bytes) {
    if (session.server) (void)!::send(session.server.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void request(FakeMachine& machine, Session& session, FuzzInput& input) {
    fuse_in_header header{};
    header.opcode = input.take<uint8_t>() & 63;
    header.unique = input.take<uint8_t>();
    header.nodeid = 1;
    std::string_view body = input.bytes(input.take<uint8_t>());
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    uint32_t room = input.take<uint16_t>() & 0x1fff;
    std::memcpy(machine.at(kFuzzBuffers), &header, sizeof(header));
    std::memcpy(machine.at(kFuzzBuffers + sizeof(header)), body.data(), body.size());
    session.driver->queue(1).add({{kFuzzBuffers, header.len}, {kFuzzBuffers + 0x1000, room, true}});
    session.driver->write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // Each input makes the link say that it gives up.
    static bool quiet = (log::set_sink(::open("/dev/null", O_WRONLY), log::Format::kText, log::Level::kError), true);
    static FakeMachine machine;
    if (!quiet) return 0;
    machine.forget_allocations();
    Session session(machine);
    std::memset(machine.at(0), 0, kFuzzBuffers);
    FuzzInput input(data, size);
    if (!session.driver->start()) return 0;
    for (int steps = 0; !input.empty() && steps < 64; ++steps) {
        switch (input.take<uint8_t>() & 7) {
            case 0:
            case 1:
                request(machine, session, input);
                break;
            case 2: {  // a reply whose numbers are likely to fit
                fuse_out_header reply{};
                std::string_view body = input.bytes(input.take<uint8_t>());
                reply.unique = input.take<uint8_t>() & 15;
                reply.error = -static_cast<int32_t>(input.take<uint8_t>() & 3);
                reply.len = static_cast<uint32_t>(sizeof(reply) + body.size());
                say(session, {reinterpret_cast<const char*>(&reply), sizeof(reply)});
                say(session, body);
                break;
            }
            case 3:
                say(session, input.bytes(input.take<uint8_t>()));
                break;
            case 4: {
                char drained[4096];
                if (session.server) (void)!::recv(session.server.get(), drained, sizeof(drained), MSG_DONTWAIT);
                break;
            }
            case 5:
                if ((input.take<uint8_t>() & 7) == 0) session.server.reset();
                break;
            case 6:
                if ((input.take<uint8_t>() & 3) != 0) break;
                session.driver->write(VIRTIO_MMIO_STATUS, 0);
                for (uint16_t queue : {0, 1}) {
                    session.driver->queue(queue).forget();
                    session.driver->queue(queue).available_index() = 0;
                    std::memset(machine.at(session.driver->queue(queue).config.used.value), 0, 6 + 8 * 16);
                }
                session.driver->start();
                break;
            default:
                machine.turn(1);
        }
    }
    machine.turn(2);
    // A snapshot of what is left, with a server that has hung up: nothing waits for its patience to end.
    session.server.reset();
    {
        std::lock_guard lock(session.device->mutex());
        session.device->quiesce();
        StateWriter writer;
        session.device->save(writer);
    }
    return 0;
}
