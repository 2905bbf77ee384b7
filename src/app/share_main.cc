// casemate-share: serves one directory to one virtual machine. Started by `casemate vmm` (vmm/share.h) in a jail, with
// the monitor's socket as descriptor 3 and the directory as descriptor 4; it ends when the monitor goes away. With the
// word "read-only" it changes nothing.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/log.h"
#include "fileserver/fuse_connection.h"
#include "fileserver/jail.h"

namespace {

constexpr int kMonitorSocket = 3;
constexpr int kDirectory = 4;

casemate::Result<void> run(bool read_only) {
    using namespace casemate;
    using namespace casemate::fileserver;
    ::umask(0);
    ::signal(SIGPIPE, SIG_IGN);
    UniqueFd self = TRY(enter_proc_self_fd());
    raise_descriptor_limit();
    TRY(drop_capabilities());
    FuseDirectory::Options options;
    options.read_only = read_only;
    auto directory = TRY(FuseDirectory::create(UniqueFd(kDirectory), std::move(self), std::move(options)));
    TRY(install_share_filter());
    auto served = serve_fuse_link(*directory, kMonitorSocket);
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
