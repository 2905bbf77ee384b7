// HostFiles: the sentry's end of the socket to casemate-files: one request at a time, answered in order.
//
// The sentry cannot open host files; every descriptor of one came through here. The server is trusted with the files'
// content but its replies are checked for shape all the same. When it is gone, everything answers EIO.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fileserver/protocol.h"
#include "fileserver/receiver.h"

namespace casemate::sentry {

class HostFiles {
  public:
    // `socket`: connected SOCK_SEQPACKET.
    explicit HostFiles(UniqueFd socket);

    struct Answer {
        fileserver::Reply reply;
        UniqueFd fd;
        std::string data;
        uint64_t number = 0;  // in the order of requests
    };
    // The server's errno, or EIO if it is gone. `request` gets its sizes and tag here.
    SysResult<Answer> call(fileserver::Request& request, std::string_view path = {}, std::string_view path2 = {},
                           std::string_view data = {});
    // Sends without waiting; returns a number that done() reaches when the server has worked it off for certain.
    uint64_t post(fileserver::Request& request, std::string_view path = {}, std::string_view path2 = {},
                  std::string_view data = {});
    uint64_t done() const { return done_.load(std::memory_order_acquire); }
    // Told to the server with one of the next requests.
    void forget(fileserver::NodeId node);

    uint64_t round_trips() const { return round_trips_.load(std::memory_order_relaxed); }

  private:
    SysResult<void> send_locked(fileserver::Request& request, std::string_view path, std::string_view path2,
                                std::string_view data);
    void send_forgets_locked();

    std::mutex mutex_;
    UniqueFd socket_;  // guarded by mutex_, as all below
    fileserver::Receiver receiver_;
    std::vector<char> buffer_;
    std::vector<fileserver::NodeId> forgets_;
    uint64_t sent_ = 0;
    std::atomic<uint64_t> done_{0}, round_trips_{0};
};

}  // namespace casemate::sentry
