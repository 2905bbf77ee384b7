// Control of a running monitor, over a Unix socket of messages (SOCK_SEQPACKET): one request, one answer. Whoever may
// connect to the socket may do all of it. Requests are words:
//
//   pause | resume | stop | status          status answers "ok running" or "ok paused"
//   snapshot                                with two descriptors, for the state and for the memory; the guest is paused
//
// Answers are "ok", or "error " and a sentence.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "linux/event_loop.h"
#include "vmm/machine.h"

namespace casemate::vmm {

class ControlServer {
  public:
    // The listening socket is borrowed.
    static Result<std::unique_ptr<ControlServer>> create(int listener, Machine& machine, linux::EventLoop& loop);
    ~ControlServer();

  private:
    ControlServer(int listener, Machine& machine, linux::EventLoop& loop)
        : listener_(listener), machine_(machine), loop_(loop) {}
    void accept_client();
    void serve(int client);
    Result<std::string> carry_out(std::string_view request, std::vector<UniqueFd> fds);

    int listener_;
    Machine& machine_;
    linux::EventLoop& loop_;
    std::map<int, UniqueFd> clients_;
};

// The other end: one request to the monitor that listens at `path`, its answer without the "ok".
Result<std::string> control_monitor(const std::string& path, std::string_view request, std::initializer_list<int> fds);

}  // namespace casemate::vmm
