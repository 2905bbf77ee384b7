// casemate-sockets: makes sockets of the host's network for the sentry of a pod in host network mode. Started by the
// sandbox host in a jail that keeps the network namespace, with the sentry's socket as descriptor 3 and the log as 4.
#include <sys/prctl.h>

#include <csignal>

#include "base/log.h"
#include "host/socket_server.h"

namespace {

constexpr int kSentry = 3, kLog = 4;

casemate::Result<void> run() {
    casemate::log::set_sink(kLog, casemate::log::Format::kText, casemate::log::Level::kWarning);
    prctl(PR_SET_DUMPABLE, 0);
    ::signal(SIGPIPE, SIG_IGN);
    TRY(casemate::host::confine_socket_server());
    casemate::host::serve_sockets(kSentry);
    return {};
}

}  // namespace

int main() {
    casemate::log::set_component("sockets");
    auto result = run();
    if (result.ok()) return 0;
    casemate::log::error("{}", result.error().message());
    return 1;
}
