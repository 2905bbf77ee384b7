// Sessions and their controlling terminals.
#pragma once

#include "base/ref.h"
#include "sentry/kernel/pid.h"

namespace casemate::sentry {

class Session;

// What a pty (fs/devpts) is to the task side. Its fields are guarded by TaskSet::mutex.
class ControllingTerminal : public RefCounted {
  public:
    Session* session = nullptr;  // whose controlling terminal it is
    Ref<Pid> foreground;         // process group; null: none
    // The session leader has gone: the terminal answers EIO to those who still have it open. Called without locks.
    virtual void session_ended() = 0;
    virtual uint64_t device_number() const = 0;  // for /proc/PID/stat
};

// Fields are guarded by TaskSet::mutex.
class Session final : public RefCounted {
  public:
    explicit Session(Ref<Pid> pid) : id(std::move(pid)) {}
    const Ref<Pid> id;
    Process* leader = nullptr;
    Ref<ControllingTerminal> terminal;
};

}  // namespace casemate::sentry
