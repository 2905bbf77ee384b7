// Console: the bridge between a terminal inside the pod and the host's end of it, byte for byte both ways.
//
// One thread while the terminal is open; it ends when the host hangs up (the terminal gets a hang-up) or the process
// that the console belongs to has ended and its output is drained.
#pragma once

#include <memory>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sentry/fs/tty/terminal.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class Console {
  public:
    // `master`: the pty's master, kept open; `host`: the bidirectional stream of the host, owned.
    static SysResult<std::unique_ptr<Console>> start(Ref<File> master, Ref<Terminal> terminal, UniqueFd host);
    ~Console();  // waits for the thread

    Terminal& terminal() { return *terminal_; }
    // What the process wrote before it ended is still passed on, then the bridge closes.
    void process_ended();

  private:
    class Doorbell;
    Console(Ref<File> master, Ref<Terminal> terminal, UniqueFd host, UniqueFd bell);
    void run();

    Ref<File> master_;
    Ref<Terminal> terminal_;
    UniqueFd host_, bell_;
    std::atomic<bool> ended_{false};
    std::thread thread_;
};

}  // namespace casemate::sentry
