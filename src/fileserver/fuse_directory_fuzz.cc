// Hostile FUSE messages, several in a row, against a directory in /tmp.
#include <cstring>

#include "fileserver/directory_to_fuzz.h"

using namespace casemate;
using namespace casemate::fileserver;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FuseDirectory* server = directory_to_fuzz();
    server->forget_all();
    static std::string reply(8192, 0);
    // opcode, node, room for the reply, length of what follows, that
    while (size >= 4) {
        fuse_in_header header{};
        header.opcode = data[0];
        header.nodeid = data[1];
        size_t room = size_t{data[2]} * 32, length = data[3];
        data += 4;
        size -= 4;
        length = std::min(length, size);
        if (header.opcode == 255) {
            virtio::StateReader reader(std::string_view(reinterpret_cast<const char*>(data), length));
            (void)server->restore(reader).ok();
        } else {
            std::string body(reinterpret_cast<const char*>(data), length);
            virtio::ChainBuffer in(body.data(), body.size()), out(reply.data(), room);
            (void)server->serve(header, in, out).ok();
        }
        data += length;
        size -= length;
    }
    return 0;
}
