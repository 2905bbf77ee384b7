// Connection: the socket between one guest kernel and a FileServer: receives requests, checks their shape, calls,
// replies. A malformed request ends the connection: our own client never sends one.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fileserver/file_server.h"
#include "fileserver/receiver.h"
#include "fileserver/spare_thread.h"

namespace casemate::fileserver {

class Connection {
  public:
    // `socket`: SOCK_SEQPACKET.
    Connection(FileServer& server, UniqueFd socket);

    // Serves until the other end goes away (fine) or breaks the protocol (EPROTO). Requests come over the socket, or,
    // after a first message of kHello, through shared memory (shared_area.h), with the help of `rings`.
    SysResult<void> serve(SpareThread& rings);
    // One request, given as bytes, answered into reply(), with a descriptor or without. False: malformed.
    bool handle(std::string_view message);
    std::string_view reply() const { return reply_; }
    bool has_descriptor() const { return reply_fd_ || kept_fd_ >= 0; }
    // The reply's tag with its descriptor.
    SysResult<void> send_descriptor(int socket);
    void forget(NodeId node) { server_.forget(node); }

  private:
    struct Parsed {
        Request request;
        std::string_view path, path2, data;
    };
    bool parse(std::string_view message, Parsed& parsed) const;
    SysResult<void> dispatch(const Parsed& parsed);
    void fill(FileServer::Entry entry);
    SysResult<void> send();
    SysResult<void> send_with_descriptor(int socket, const void* bytes, size_t size);

    FileServer& server_;
    UniqueFd socket_;
    Receiver receiver_;
    std::vector<char> buffer_;
    std::string reply_;  // header and data
    Reply header_;
    UniqueFd reply_fd_;
    int kept_fd_ = -1;  // the same, the server's
    std::vector<Attributes> found_;
};

}  // namespace casemate::fileserver
