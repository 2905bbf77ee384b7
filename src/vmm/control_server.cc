#include "vmm/control_server.h"

#include <array>

#include "linux/unix_message.h"
#include "linux/unix_socket.h"
#include "vmm/snapshot.h"

namespace casemate::vmm {

namespace {

constexpr size_t kMaxClients = 8;
constexpr size_t kMaxMessage = 1024;

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::create(int listener, Machine& machine, linux::EventLoop& loop) {
    std::unique_ptr<ControlServer> server(new ControlServer(listener, machine, loop));
    auto watched = loop.watch(listener, EPOLLIN, [raw = server.get()](uint32_t) { raw->accept_client(); });
    if (!watched.ok()) return sys_error("watch the control socket", watched.error().value);
    return server;
}

ControlServer::~ControlServer() {
    loop_.remove(listener_);
    for (auto& [fd, client] : clients_) loop_.remove(fd);
}

void ControlServer::accept_client() {
    auto accepted = linux::accept_unix(listener_, true);
    // One too many is closed at once: its request fails, it may come again.
    if (!accepted.ok() || clients_.size() >= kMaxClients) return;
    int fd = accepted->get();
    if (loop_.watch(fd, EPOLLIN, [this, fd](uint32_t) { serve(fd); }).ok()) clients_[fd] = accepted.take_value();
}

void ControlServer::serve(int client) {
    std::array<char, kMaxMessage> bytes;
    auto message = linux::receive_message(client, std::as_writable_bytes(std::span(bytes)), 2, MSG_DONTWAIT);
    if (!message.ok() && (message.error().value == EAGAIN || message.error().value == EINTR)) return;
    if (!message.ok() || message->size == 0) {
        loop_.remove(client);
        clients_.erase(client);
        return;
    }
    auto done = carry_out({bytes.data(), message->size}, std::move(message->fds));
    std::string answer = done.ok() ? "ok" + (done->empty() ? "" : " " + *done) : "error " + done.error().message();
    (void)linux::send_message(client, std::string_view(answer).substr(0, kMaxMessage));
}

Result<std::string> ControlServer::carry_out(std::string_view request, std::vector<UniqueFd> fds) {
    if (request == "pause") {
        TRY(machine_.pause());
    } else if (request == "resume") {
        TRY(machine_.resume());
    } else if (request == "stop") {
        machine_.stop();
    } else if (request == "status") {
        return std::string(machine_.paused() ? "paused" : "running");
    } else if (request == "snapshot") {
        if (fds.size() != 2) return Error("a snapshot needs two files, for the state and for the memory", EINVAL);
        TRY(save_snapshot(machine_, fds[0].get(), fds[1].get()));
    } else {
        return Error("the monitor knows pause, resume, stop, status and snapshot", EINVAL);
    }
    return std::string();
}

Result<std::string> control_monitor(const std::string& path, std::string_view request, std::initializer_list<int> fds) {
    auto socket = linux::connect_unix(path, SOCK_SEQPACKET);
    if (!socket.ok()) return sys_error("connect to the monitor at " + path, socket.error().value);
    if (auto sent = linux::send_message(socket->get(), request, fds); !sent.ok())
        return sys_error("send to the monitor at " + path, sent.error().value);
    std::array<char, kMaxMessage> bytes;
    auto message = linux::receive_message(socket->get(), std::as_writable_bytes(std::span(bytes)), 0);
    if (!message.ok() || message->size == 0)
        return Error("the monitor at " + path + " ended before it answered", EPIPE);
    std::string_view answer(bytes.data(), message->size);
    if (answer == "ok") return std::string();
    if (answer.starts_with("ok ")) return std::string(answer.substr(3));
    answer.remove_prefix(std::min(answer.find(' ') + 1, answer.size()));
    return Error(std::string(answer), EIO);
}

}  // namespace casemate::vmm
