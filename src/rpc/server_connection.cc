#include "rpc/server_connection.h"

#include <fmt/core.h>

#include <vector>

#include "rpc/server.h"

namespace casemate::rpc {

void ServerConnection::send_response(uint32_t stream, const Status& status, std::string_view payload) {
    std::string bytes = encode_response(status, payload);
    if (bytes.size() > max_response)
        bytes = encode_response(
            Status(Code::kResourceExhausted,
                   fmt::format("the response has {} bytes, more than the limit of {}", bytes.size(), max_response)),
            {});
    switch (connection.send(stream, kResponse, bytes)) {
        case Connection::Sent::kDone:
        case Connection::Sent::kClosed:
            break;
        case Connection::Sent::kQueued:
            waker->wake();
            break;
        case Connection::Sent::kFull:
            connection.abort();
            break;
    }
}

bool ServerConnection::finish(uint32_t stream, const Status& status, std::string_view payload) {
    if (calls.lock()->erase(stream) == 0) return false;
    send_response(stream, status, payload);
    return true;
}

ServerConnection::Deadline ServerConnection::expire() {
    Deadline nearest;
    std::vector<uint32_t> late;
    auto now = std::chrono::steady_clock::now();
    {
        auto locked = calls.lock();
        for (auto it = locked->begin(); it != locked->end();) {
            if (it->second && *it->second <= now) {
                late.push_back(it->first);
                it = locked->erase(it);
                continue;
            }
            if (it->second && (!nearest || *it->second < *nearest)) nearest = it->second;
            ++it;
        }
    }
    for (uint32_t stream : late) send_response(stream, Status(Code::kDeadlineExceeded, "the call timed out"), {});
    return nearest;
}

Responder& Responder::operator=(Responder&& other) noexcept {
    if (this != &other) {
        if (connection_) finish(Status(Code::kInternal, "the call was dropped"), {});
        connection_ = std::move(other.connection_);
        stream_ = other.stream_;
    }
    return *this;
}

Responder::~Responder() {
    if (connection_) finish(Status(Code::kInternal, "the call was dropped"), {});
}

bool Responder::wanted() const { return connection_ && connection_->calls.lock()->count(stream_) != 0; }

bool Responder::finish(const Status& status, std::string_view payload) {
    auto connection = std::move(connection_);
    return connection && connection->finish(stream_, status, payload);
}

}  // namespace casemate::rpc
