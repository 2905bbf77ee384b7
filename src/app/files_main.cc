// casemate-files: the file server of one pod. Started by the sandbox host with the control socket as descriptor 3 and
// the guest kernel's socket as descriptor 4; it ends when the guest kernel goes away.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "base/footprint.h"
#include "base/log.h"
#include "fileserver/connection.h"
#include "fileserver/control.h"
#include "fileserver/file_server.h"
#include "fileserver/jail.h"

namespace {

constexpr int kControlSocket = 3;
constexpr int kGuestSocket = 4;

casemate::Result<void> run() {
    using namespace casemate;
    using namespace casemate::fileserver;
    ::umask(0);
    ::signal(SIGPIPE, SIG_IGN);
    UniqueFd self = TRY(enter_jail());
    FileServer::Limits limits;
    size_t descriptors = raise_descriptor_limit();
    // Half of the descriptors may be nodes; those in flight to the guest are few.
    limits.nodes = descriptors / 2;
    TRY(drop_capabilities());
    FileServer server(limits, std::move(self));
    // The control thread sleeps in recvmsg and needs little stack; it goes with the process.
    std::thread control([&server] { (void)serve_control(server, kControlSocket); });
    control.detach();
    Connection connection(server, UniqueFd(kGuestSocket));
    SpareThread rings;
    TRY(install_filter());
    release_program_pages();
    auto served = connection.serve(rings);
    if (!served.ok()) return Error("the guest kernel broke the file protocol", served.error().value);
    return {};
}

}  // namespace

int main() {
    casemate::log::set_component("files");
    auto result = run();
    if (!result.ok()) {
        casemate::log::error("{}", result.error().message());
        ::_exit(1);
    }
    // Other threads may be at work: no destructors under them.
    ::_exit(0);
}
