// The control socket of a pod: messages of control.proto with descriptors, both ends.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sandbox/control.pb.h"
#include "sandbox/terminal.h"

namespace casemate::sandbox {

// The standard streams of a process to be, on the host's side.
struct StreamFds {
    bool terminal = false;
    UniqueFd console;  // with a terminal: both ways
    UniqueFd in, out, err;
    std::vector<UniqueFd> passed;  // 3 and up
    TerminalSize size;
};

// One connection. Sending is thread-safe; one thread receives.
class ControlConnection {
  public:
    explicit ControlConnection(UniqueFd socket) : socket_(std::move(socket)) {}

    Result<void> send(const google::protobuf::MessageLite& message, const std::vector<int>& fds = {});
    // False: the other end is gone.
    Result<bool> receive(google::protobuf::MessageLite& message, std::vector<UniqueFd>& fds);
    int fd() const { return socket_.get(); }

  private:
    UniqueFd socket_;
    std::mutex send_mutex_;
};

// The client's side: a request and its first reply. An error of the reply becomes the Error.
class ControlClient {
  public:
    static Result<ControlClient> connect(const std::string& path);
    Result<v1::Reply> call(const v1::Request& request, const std::vector<int>& fds = {});
    // The second reply of Exec and Wait.
    Result<v1::Reply> next_reply();
    Result<void> send(const v1::Request& request);
    int fd() const { return connection_->fd(); }

  private:
    explicit ControlClient(UniqueFd socket) : connection_(std::make_unique<ControlConnection>(std::move(socket))) {}
    std::unique_ptr<ControlConnection> connection_;
};

// Streams as part of a request: appends the descriptors (borrowed) to `fds`.
void describe_streams(const StreamFds& streams, v1::Streams& out, std::vector<int>& fds);
// And back: takes the descriptors out of `fds`.
Result<StreamFds> take_streams(const v1::Streams& streams, std::vector<UniqueFd>& fds);

}  // namespace casemate::sandbox
