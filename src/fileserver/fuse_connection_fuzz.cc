// A hostile monitor at casemate-share's end of the link: any bytes on the socket, in front of a directory in /tmp. The
// same bytes once as they are, and once as messages whose lengths fit.
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstring>

#include "fileserver/directory_to_fuzz.h"
#include "fileserver/fuse_connection.h"
#include "linux/unix_socket.h"
#include "virtio/fuse_link.h"

using namespace casemate;
using namespace casemate::fileserver;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FuseDirectory* directory = directory_to_fuzz();
    static const GuestData* guest =
        new GuestData(MUST(UniqueMap::create(64 << 10, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)));
    if (size == 0) return 0;
    std::string bytes;
    if ((data[0] & 7) == 0) {
        bytes.assign(reinterpret_cast<const char*>(data + 1), size - 1);
    } else {
        // opcode, node, room for the reply, length of the arguments, those
        const uint8_t* at = data + 1;
        size_t left = size - 1;
        while (left >= 4) {
            virtio::FuseLinkRequest request{};
            request.header.opcode = at[0] >= 0xfc ? virtio::kOwnFuseOpcodes + (at[0] & 3) : at[0] & 63;
            request.header.nodeid = at[1];
            request.room = uint32_t{at[2]} * 64;
            size_t length = std::min<size_t>(at[3], left - 4);
            // A write of data that lies in the guest's memory: the arguments are a write's and a few segments.
            if (request.header.opcode == FUSE_WRITE && (at[1] & 0x80) != 0 && length > sizeof(fuse_write_in)) {
                virtio::FuseLinkSegment segments[4] = {};
                uint64_t size = 0;
                request.segments = (at[1] & 3) + 1;
                for (uint32_t i = 0; i < request.segments; ++i) {
                    uint8_t chosen = at[4 + sizeof(fuse_write_in) + i % (length - sizeof(fuse_write_in))];
                    segments[i] = {chosen >= 0xf0 ? ~uint64_t{0} - chosen : uint64_t{chosen} * 300, chosen & 0x3fu};
                    size += segments[i].length;
                }
                request.header.nodeid &= 0x7f;
                request.header.len =
                    static_cast<uint32_t>(sizeof(request.header) + sizeof(fuse_write_in) + size + (at[2] == 0 ? 1 : 0));
                bytes.append(reinterpret_cast<const char*>(&request), sizeof(request));
                bytes.append(reinterpret_cast<const char*>(at + 4), sizeof(fuse_write_in));
                bytes.append(reinterpret_cast<const char*>(segments), request.segments * sizeof(segments[0]));
                at += 4 + length;
                left -= 4 + length;
                continue;
            }
            request.header.len = static_cast<uint32_t>(sizeof(request.header) + length);
            request.header.unique = 1;
            bytes.append(reinterpret_cast<const char*>(&request), sizeof(request));
            bytes.append(reinterpret_cast<const char*>(at + 4), length);
            at += 4 + length;
            left -= 4 + length;
        }
    }
    // All at once, and nobody behind it: the server ends when it has read it. Replies are few enough for the socket.
    auto pair = MUST(linux::create_socket_pair(SOCK_STREAM));
    int room = 4 << 20;
    ::setsockopt(pair.second.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    timeval patience = {1, 0};
    ::setsockopt(pair.second.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    (void)!::send(pair.first.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    ::shutdown(pair.first.get(), SHUT_WR);
    directory->forget_all();
    (void)serve_fuse_link(*directory, pair.second.get(), *guest).ok();
    return 0;
}
