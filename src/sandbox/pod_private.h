// What pod.cc and control_server.cc share.
#pragma once

#include <optional>

#include "sandbox/anchor_protocol.h"
#include "sandbox/pod.h"

namespace casemate::sandbox {

struct Pod::Container {
    std::string id;
    StateDir dir;
    std::vector<guest::FileTree> trees;
    std::shared_ptr<Anchor> anchor;

    // Guarded by Pod::mutex_.
    // The terminal's outer end, to ask its size. With an anchor, which holds it and tells, only until the start.
    UniqueFd console;
    TerminalSize size;  // that the guest was created with
    Record record;
    bool ended = false;
    int exit_code = 0;
    uint64_t oom_events = 0;
    uint64_t oom_kills = 0;    // that the guest told
    uint64_t oom_echoed = 0;   // of which the host's kernel knows
    bool oom_watched = false;  // a thread of hear_of_oom() is there
};

// The socket to an anchor process.
struct Pod::Anchor {
    UniqueFd socket;
    std::string container;
    std::string exec;   // empty: init
    bool done = false;  // main loop only

    void exit(int code) const;
};

}  // namespace casemate::sandbox
