// Connection: the socket between one guest kernel and a FileServer: receives requests, checks their shape, calls,
// replies. A malformed request ends the connection: our own client never sends one.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fileserver/file_server.h"
#include "fileserver/receiver.h"

namespace casemate::fileserver {

class Connection {
  public:
    // `socket`: SOCK_SEQPACKET.
    Connection(FileServer& server, UniqueFd socket);

    // Serves until the other end goes away (fine) or breaks the protocol (EPROTO).
    SysResult<void> serve();
    // One request, given as bytes, answered into reply() and reply_fd(): for serve() and the fuzzer. False: malformed.
    bool handle(std::string_view message);
    std::string_view reply() const { return reply_; }

  private:
    struct Parsed {
        Request request;
        std::string_view path, path2, data;
    };
    bool parse(std::string_view message, Parsed& parsed) const;
    SysResult<void> dispatch(const Parsed& parsed);
    void fill(FileServer::Entry entry);
    SysResult<void> send();

    FileServer& server_;
    UniqueFd socket_;
    Receiver receiver_;
    std::vector<char> buffer_;
    std::string reply_;  // header and data
    Reply header_;
    UniqueFd reply_fd_;
    std::vector<Attributes> found_;
};

}  // namespace casemate::fileserver
