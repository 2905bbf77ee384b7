#include "sandbox/control.h"

#include <fmt/core.h>
#include <sys/socket.h>

#include <cstring>

#include "linux/unix_message.h"
#include "linux/unix_socket.h"

namespace casemate::sandbox {

namespace {

constexpr uint32_t kMaxMessage = 32 << 20;

uint32_t add_fd(std::vector<int>& fds, const UniqueFd& fd) {
    if (!fd) return 0;
    fds.push_back(fd.get());
    return static_cast<uint32_t>(fds.size());
}

Result<UniqueFd> take_fd(std::vector<UniqueFd>& fds, uint32_t number_plus_1) {
    if (number_plus_1 == 0) return UniqueFd();
    if (number_plus_1 > fds.size() || !fds[number_plus_1 - 1])
        return Error(fmt::format("the request names descriptor {} but does not bring it", number_plus_1 - 1), EINVAL);
    return std::move(fds[number_plus_1 - 1]);
}

}  // namespace

Result<void> ControlConnection::send(const google::protobuf::MessageLite& message, const std::vector<int>& fds) {
    std::string bytes(4, 0);
    if (!message.AppendToString(&bytes)) return Error("a control message is incomplete", EINVAL);
    uint32_t size = static_cast<uint32_t>(bytes.size() - 4);
    memcpy(bytes.data(), &size, 4);
    std::lock_guard lock(send_mutex_);
    auto sent = linux::send_message(socket_.get(), std::as_bytes(std::span(bytes.data(), bytes.size())), fds);
    if (!sent.ok()) return sys_error("send to the control socket", sent.error().value);
    return {};
}

Result<bool> ControlConnection::receive(google::protobuf::MessageLite& message, std::vector<UniqueFd>& fds) {
    uint32_t size = 0;
    auto head = std::as_writable_bytes(std::span(&size, 1));
    auto first = linux::receive_message(socket_.get(), head, linux::kMaxMessageFds);
    if (!first.ok()) return sys_error("receive from the control socket", first.error().value);
    if (first->size == 0) return false;
    fds = std::move(first->fds);
    if (first->size < sizeof size) {
        auto rest = linux::receive_exactly(socket_.get(), head.subspan(first->size), 0);
        if (!rest.ok()) return sys_error("receive from the control socket", rest.error().value);
    }
    if (size > kMaxMessage) return Error(fmt::format("a control message of {} bytes is too long", size), EMSGSIZE);
    std::string bytes(size, 0);
    if (size != 0) {
        auto body = linux::receive_exactly(socket_.get(), std::as_writable_bytes(std::span(bytes.data(), size)), 0);
        if (!body.ok()) return sys_error("receive from the control socket", body.error().value);
    }
    if (!message.ParseFromString(bytes)) return Error("a control message is malformed", EBADMSG);
    return true;
}

Result<ControlClient> ControlClient::connect(const std::string& path) {
    auto socket = linux::connect_unix(path);
    if (!socket.ok()) return sys_error("connect to the sandbox at " + path, socket.error().value);
    auto peer = linux::peer_credentials(socket->get());
    if (!peer.ok() || peer->uid != geteuid()) return Error(path + " is served by another user: it is not used", EPERM);
    return ControlClient(std::move(*socket));
}

Result<v1::Reply> ControlClient::call(const v1::Request& request, const std::vector<int>& fds) {
    TRY(connection_->send(request, fds));
    return next_reply();
}

Result<void> ControlClient::send(const v1::Request& request) { return connection_->send(request); }

Result<v1::Reply> ControlClient::next_reply() {
    v1::Reply reply;
    std::vector<UniqueFd> fds;
    bool open = TRY(connection_->receive(reply, fds));
    if (!open) return Error("the sandbox has ended", EPIPE);
    if (!reply.error().empty()) return Error(reply.error(), reply.error_code());
    return reply;
}

void describe_streams(const StreamFds& streams, v1::Streams& out, std::vector<int>& fds) {
    out.set_terminal(streams.terminal);
    out.set_console(add_fd(fds, streams.console));
    out.set_standard_input(add_fd(fds, streams.in));
    out.set_standard_output(add_fd(fds, streams.out));
    out.set_standard_error(add_fd(fds, streams.err));
    for (const UniqueFd& fd : streams.passed) out.add_passed(add_fd(fds, fd));
    out.set_rows(streams.size.rows);
    out.set_columns(streams.size.columns);
}

Result<StreamFds> take_streams(const v1::Streams& in, std::vector<UniqueFd>& fds) {
    StreamFds streams;
    streams.terminal = in.terminal();
    streams.console = TRY(take_fd(fds, in.console()));
    streams.in = TRY(take_fd(fds, in.standard_input()));
    streams.out = TRY(take_fd(fds, in.standard_output()));
    streams.err = TRY(take_fd(fds, in.standard_error()));
    for (uint32_t number : in.passed()) streams.passed.push_back(TRY(take_fd(fds, number)));
    streams.size = {in.rows(), in.columns()};
    return streams;
}

}  // namespace casemate::sandbox
