// casemate-share: serves one directory to one virtual machine. Started by `casemate vmm` (vmm/share.h) in a jail, with
// the monitor's socket as descriptor 3 and the directory in its root (fileserver/jail.h); it ends when the monitor goes
// away. With the word "read-only" it changes nothing.
#include <sys/stat.h>

#include <csignal>
#include <cstring>

#include "base/log.h"
#include "fileserver/fuse_connection.h"
#include "fileserver/jail.h"
#include "linux/process.h"

namespace {

constexpr int kMonitorSocket = 3;

casemate::Result<void> run(bool read_only) {
    using namespace casemate;
    using namespace casemate::fileserver;
    linux::set_process_name("casemate-share");  // it was executed by a descriptor
    ::umask(0);
    ::signal(SIGPIPE, SIG_IGN);
    auto memory = receive_guest_data(kMonitorSocket);
    if (!memory.ok() && memory.error().value == ECONNRESET) return {};  // it did not get as far as a guest
    if (!memory.ok()) return sys_error("what the monitor said of the guest's memory", memory.error().value);
    ShareJail jail = TRY(enter_share_jail());
    FuseDirectory::Options options;
    options.read_only = read_only;
    auto directory = TRY(FuseDirectory::create(std::move(jail.directory), std::move(jail.self), std::move(options)));
    TRY(install_share_filter());
    auto served = serve_fuse_link(*directory, kMonitorSocket, *memory);
    if (!served.ok()) return Error("the monitor broke the protocol of shared directories", served.error().value);
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    casemate::log::set_component("share");
    auto result = run(argc > 1 && std::strcmp(argv[1], "read-only") == 0);
    if (result.ok()) return 0;
    casemate::log::error("{}", result.error().message());
    return 1;
}
