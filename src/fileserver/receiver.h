// Receiver: recvmsg(2) that looks for the message a little while before it sleeps, on both ends of the files' socket.
//
// Waking a process on another core costs more than most requests take to answer. So with a core for each end, either
// one polls for some 30 us, but only as long as that pays: each failure doubles the number of messages that are waited
// for asleep. An end that hears nothing sleeps.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstdint>

namespace casemate::fileserver {

class Receiver {
  public:
    Receiver();  // reads how many cores this process may use
    // As recvmsg(2).
    ssize_t receive(int socket, msghdr& message, int flags);

  private:
    bool enabled_;
    uint32_t skip_ = 0;     // messages to wait for asleep
    uint32_t penalty_ = 0;  // what the last failure set skip_ to
};

}  // namespace casemate::fileserver
