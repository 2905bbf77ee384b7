// Hostile requests: several in a row, each with its length in front, against a tree in /tmp.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstring>

#include "fileserver/connection.h"
#include "fileserver/jail.h"

using namespace casemate;
using namespace casemate::fileserver;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static FileServer* server = [] {
        static char name[] = "/tmp/casemate-files-fuzz-XXXXXX";
        const char* top = ::mkdtemp(name);
        UniqueFd self = MUST(enter_proc_self_fd());
        auto* made = new FileServer(FileServer::Limits{64}, std::move(self));
        MUST(made->add_mount(1, 0, UniqueFd(::open(top, O_PATH | O_DIRECTORY | O_CLOEXEC))));
        (void)MUST(made->attach(1));
        return made;
    }();
    Connection connection(*server, UniqueFd());
    while (size >= 2) {
        uint16_t length;
        std::memcpy(&length, data, 2);
        data += 2;
        size -= 2;
        if (length > size) length = static_cast<uint16_t>(size);
        if (!connection.handle(std::string_view(reinterpret_cast<const char*>(data), length))) break;
        data += length;
        size -= length;
    }
    return 0;
}
