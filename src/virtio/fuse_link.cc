#include "virtio/fuse_link.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <climits>
#include <utility>

#include "base/log.h"
#include "virtio/io_parts.h"

namespace casemate::virtio {

void FuseLink::attach(DeviceLoop& loop, std::mutex& owner, Done done, std::function<void()> room) {
    done_ = std::move(done);
    room_ = std::move(room);
    watch_ = std::make_unique<FdWatch>(loop, owner, [this](uint32_t events) { ready(events); });
    watch_->set_fd(socket_.get());
    scratch_.resize(64 << 10);
}

void FuseLink::watch() {
    if (watch_ == nullptr) return;
    watch_->want(broken_ ? 0u : (EPOLLIN | (unsent_.empty() ? 0u : static_cast<uint32_t>(EPOLLOUT))));
}

void FuseLink::ready(uint32_t events) {
    bool was_full = full();
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) flush();
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) receive();
    watch();
    if (was_full && !full()) room_();
}

void FuseLink::send(const fuse_in_header& header, uint64_t unique, uint32_t room, ChainBuffer* in,
                    std::string_view copied) {
    request_.header = header;
    request_.header.unique = unique;
    request_.room = room;
    request_.reserved = 0;
    unsent_.clear();
    if (std::exchange(forget_wanted_, false)) {
        forget_ = {};
        forget_.header.len = sizeof(forget_.header);
        forget_.header.opcode = kFuseLinkForgetAll;
        unsent_.push_back({&forget_, sizeof(forget_)});
    }
    unsent_.push_back({&request_, sizeof(request_)});
    if (in != nullptr) {
        in->take(in->remaining(), unsent_);
    } else if (!copied.empty()) {
        copied_ = copied;
        unsent_.push_back({copied_.data(), copied_.size()});
    }
    flush();
    watch();
}

void FuseLink::flush() {
    while (!unsent_.empty()) {
        msghdr message{};
        message.msg_iov = unsent_.data();
        message.msg_iovlen = std::min<size_t>(unsent_.size(), IOV_MAX);
        ssize_t put = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (put < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) give_up("hung up");
            return;
        }
        advance_parts(unsent_, static_cast<size_t>(put));
    }
}

void FuseLink::start(uint16_t slot, const fuse_in_header& header, ChainBuffer& in, ChainBuffer& out) {
    if (broken_ || in.remaining() > kFuseLinkMaxArguments) return done_(slot, EIO, 0);
    uint64_t unique = next_unique_++;
    uint32_t room = static_cast<uint32_t>(out.remaining());
    pending_.emplace(unique, Pending{slot, &out, room});
    send(header, unique, room, &in, {});
}

void FuseLink::tell(const fuse_in_header& header, ChainBuffer& in) {
    if (broken_ || in.remaining() > kFuseLinkMaxArguments) return;
    std::string copy(in.remaining(), 0);
    in.read(copy.data(), copy.size());
    send(header, 0, 0, nullptr, copy);
}

bool FuseLink::receive_header() {
    ssize_t got = ::recv(socket_.get(), reinterpret_cast<char*>(&reply_) + reply_bytes_, sizeof(reply_) - reply_bytes_,
                         MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0) {
        give_up("hung up");
        return false;
    }
    reply_bytes_ += static_cast<size_t>(got);
    if (reply_bytes_ < sizeof(reply_)) return true;
    auto found = pending_.find(reply_.unique);
    size_t body = reply_.len - sizeof(reply_);
    bool good = reply_.len >= sizeof(reply_) && reply_.error <= 0 && reply_.error > -4096 &&
                body <= kFuseLinkMaxState && (reply_.error == 0 || body == 0) &&
                (found == pending_.end() || body <= found->second.room);
    if (!good) {
        give_up("sent a reply that cannot be");
        return false;
    }
    body_left_ = body;
    body_.clear();
    if (found != pending_.end() && body > 0) {
        if (found->second.out != nullptr) {
            found->second.out->take(body, body_);
        } else {
            state_.resize(body);
            body_.push_back({state_.data(), body});
        }
    }
    if (body_left_ == 0) finish_reply();
    return true;
}

bool FuseLink::receive_body() {
    ssize_t got;
    if (body_.empty()) {
        got = ::recv(socket_.get(), scratch_.data(), std::min(scratch_.size(), body_left_), MSG_DONTWAIT);
    } else {
        msghdr message{};
        message.msg_iov = body_.data();
        message.msg_iovlen = std::min<size_t>(body_.size(), IOV_MAX);
        got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0) {
        give_up("hung up");
        return false;
    }
    if (!body_.empty()) advance_parts(body_, static_cast<size_t>(got));
    body_left_ -= static_cast<size_t>(got);
    if (body_left_ == 0) finish_reply();
    return true;
}

void FuseLink::finish_reply() {
    reply_bytes_ = 0;
    auto found = pending_.find(reply_.unique);
    if (found == pending_.end()) return;  // of a guest that is gone
    Pending pending = found->second;
    pending_.erase(found);
    if (pending.out == nullptr) {
        state_done_ = true;
        state_error_ = -reply_.error;
        return;
    }
    done_(pending.slot, -reply_.error, static_cast<uint32_t>(reply_.len - sizeof(reply_)));
}

// Bounded: a server that floods the monitor must not keep it from its other devices, nor drain() from its limit.
void FuseLink::receive() {
    for (int i = 0; i < kReadsPerTurn && !broken_ && (body_left_ > 0 ? receive_body() : receive_header()); ++i) {
    }
}

bool FuseLink::wait_for(short events, std::chrono::steady_clock::time_point start) {
    auto spent = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
    if (spent.count() >= kPatience) return false;
    pollfd poll_fd{socket_.get(), events, 0};
    int ready = ::poll(&poll_fd, 1, kPatience - static_cast<int>(spent.count()));
    return ready > 0 || (ready < 0 && errno == EINTR);
}

void FuseLink::give_up(const char* why) {
    if (std::exchange(broken_, true)) return;
    log::error("virtio fs: the file server {}; its files answer with an error from now on", why);
    unsent_.clear();
    body_.clear();
    body_left_ = 0;
    state_done_ = true;
    state_error_ = EIO;
    std::unordered_map<uint64_t, Pending> lost;
    lost.swap(pending_);
    for (const auto& [unique, pending] : lost)
        if (pending.out != nullptr) done_(pending.slot, EIO, 0);
    watch();
}

void FuseLink::drain() {
    auto start = std::chrono::steady_clock::now();
    while (!broken_ && (!pending_.empty() || !unsent_.empty())) {
        if (!wait_for(static_cast<short>(POLLIN | (unsent_.empty() ? 0 : POLLOUT)), start))
            return give_up("did not answer in time");
        flush();
        receive();
    }
    watch();
}

void FuseLink::forget_all() {
    // A vCPU's thread comes here, which may not use sockets: the server is told with the next message. What is half
    // sent lies in memory of a guest that goes away, so the rest is copied; what is half received is thrown away.
    if (!unsent_.empty()) {
        std::string rest;
        for (const iovec& part : unsent_) rest.append(static_cast<const char*>(part.iov_base), part.iov_len);
        copied_ = std::move(rest);
        unsent_.assign(1, {copied_.data(), copied_.size()});
    }
    pending_.clear();
    body_.clear();
    forget_wanted_ = true;
}

SysResult<std::string> FuseLink::ask(uint32_t opcode, std::string_view arguments) {
    drain();
    if (broken_) return Errno(EIO);
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + arguments.size());
    header.opcode = opcode;
    state_.clear();
    state_done_ = false;
    uint64_t unique = next_unique_++;
    pending_.emplace(unique, Pending{0, nullptr, kFuseLinkMaxState});
    send(header, unique, kFuseLinkMaxState, nullptr, arguments);
    drain();
    if (!state_done_ || state_error_ != 0) return Errno(state_error_ != 0 ? state_error_ : EIO);
    return std::move(state_);
}

void FuseLink::save(StateWriter& writer) {
    auto state = ask(kFuseLinkSave, {});
    writer.number(static_cast<uint8_t>(state.ok()));
    if (state.ok()) writer.text(*state);
}

SysResult<void> FuseLink::restore(StateReader& reader) {
    if (TRY(reader.number<uint8_t>()) == 0) return {};  // nothing was known: what the guest names is stale
    std::string_view state = TRY(reader.text());
    if (state.size() > kFuseLinkMaxState) return Errno(EBADMSG);
    (void)TRY(ask(kFuseLinkRestore, state));
    return {};
}

}  // namespace casemate::virtio
