#include "virtio/fuse_link.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <span>
#include <utility>

#include "base/log.h"
#include "linux/unix_message.h"
#include "virtio/io_parts.h"

namespace casemate::virtio {

void FuseLink::attach(DeviceLoop& loop, std::mutex& owner, Done done, std::function<void()> room) {
    done_ = std::move(done);
    room_ = std::move(room);
    watch_ = std::make_unique<FdWatch>(loop, owner, [this](uint32_t events) { ready(events); });
    watch_->set_fd(socket_.get());
    scratch_.resize(64 << 10);
    buffer_.resize(kBufferSize);
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

SysResult<void> FuseLink::share_memory(int file, std::vector<SharedMemory> parts) {
    FuseLinkRequest hello{};
    hello.header.len = sizeof(hello.header);
    hello.header.opcode = kFuseLinkMemory;
    TRY(linux::send_message(socket_.get(), std::as_bytes(std::span(&hello, 1)), std::span(&file, file >= 0 ? 1 : 0)));
    shared_ = std::move(parts);
    return {};
}

void FuseLink::begin(const fuse_in_header& header, uint64_t unique, uint32_t room, uint32_t segments) {
    request_.header = header;
    request_.header.unique = unique;
    request_.room = room;
    request_.segments = segments;
    unsent_.clear();
    if (std::exchange(forget_wanted_, false)) {
        forget_ = {};
        forget_.header.len = sizeof(forget_.header);
        forget_.header.opcode = kFuseLinkForgetAll;
        unsent_.push_back({&forget_, sizeof(forget_)});
    }
    unsent_.push_back({&request_, sizeof(request_)});
}

void FuseLink::append_copy(std::string_view bytes) {
    if (bytes.empty()) return;
    copied_ = bytes;
    unsent_.push_back({copied_.data(), copied_.size()});
}

// Where the data lies in the shared file; false if a part of it does not, or if it lies in too many pieces.
bool FuseLink::find_segments(const std::vector<iovec>& data) {
    segments_.clear();
    for (const iovec& piece : data) {
        // As numbers: the parts are different mappings.
        auto at = reinterpret_cast<uintptr_t>(piece.iov_base);
        auto part = std::find_if(shared_.begin(), shared_.end(), [&](const SharedMemory& shared) {
            auto begin = reinterpret_cast<uintptr_t>(shared.host);
            return at >= begin && at - begin < shared.size && piece.iov_len <= shared.size - (at - begin);
        });
        if (part == shared_.end()) return false;
        uint64_t offset = part->file_offset + (at - reinterpret_cast<uintptr_t>(part->host));
        if (!segments_.empty() && segments_.back().offset + segments_.back().length == offset)
            segments_.back().length += piece.iov_len;
        else
            segments_.push_back({offset, piece.iov_len});
    }
    return segments_.size() <= kFuseLinkMaxSegments;
}

// The arguments are copied, once; the data stays where it is if the server sees it there.
void FuseLink::append_write(ChainBuffer& in) {
    in.read(&write_, sizeof(write_));
    data_.clear();
    in.take(in.remaining(), data_);
    unsent_.push_back({&write_, sizeof(write_)});
    if (find_segments(data_)) {
        request_.segments = static_cast<uint32_t>(segments_.size());
        unsent_.push_back({segments_.data(), segments_.size() * sizeof(segments_[0])});
    } else {
        unsent_.insert(unsent_.end(), data_.begin(), data_.end());
    }
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
    begin(header, unique, room);
    if (!shared_.empty() && header.opcode == FUSE_WRITE && in.remaining() >= sizeof(fuse_write_in) + kSmallWrite)
        append_write(in);
    else
        in.take(in.remaining(), unsent_);
    flush();
    watch();
}

void FuseLink::tell(const fuse_in_header& header, ChainBuffer& in) {
    if (broken_ || in.remaining() > kFuseLinkMaxArguments) return;
    std::string copy(in.remaining(), 0);
    in.read(copy.data(), copy.size());
    begin(header, 0, 0);
    append_copy(copy);
    flush();
    watch();
}

// The header at the front of the buffer. False if it cannot be.
bool FuseLink::begin_reply() {
    std::memcpy(&reply_, buffer_.data() + buffer_begin_, sizeof(reply_));
    buffer_begin_ += sizeof(reply_);
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
    body_wanted_ = found != pending_.end();  // else of a guest that is gone
    return true;
}

// As much as came: whole replies, the beginning of one's body, and at last a part of a header that stays.
void FuseLink::take_buffered() {
    while (!broken_) {
        size_t part = std::min(body_left_, buffer_end_ - buffer_begin_);
        if (part > 0) {
            const char* bytes = buffer_.data() + buffer_begin_;
            auto found = pending_.find(reply_.unique);
            if (body_wanted_ && found->second.out != nullptr)
                found->second.out->write(bytes, part);
            else if (body_wanted_)
                state_.append(bytes, part);
            buffer_begin_ += part;
            body_left_ -= part;
            if (body_left_ == 0) finish_reply();
            continue;
        }
        if (body_left_ > 0) break;
        if (buffer_end_ - buffer_begin_ < sizeof(reply_)) break;
        if (begin_reply() && body_left_ == 0) finish_reply();
    }
    std::memmove(buffer_.data(), buffer_.data() + buffer_begin_, buffer_end_ - buffer_begin_);
    buffer_end_ -= std::exchange(buffer_begin_, 0);
}

// False if there is no more at the moment.
bool FuseLink::receive_into_buffer() {
    size_t room = buffer_.size() - buffer_end_;
    ssize_t got = ::recv(socket_.get(), buffer_.data() + buffer_end_, room, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0) {
        give_up("hung up");
        return false;
    }
    buffer_end_ += static_cast<size_t>(got);
    take_buffered();
    return body_left_ > 0 || static_cast<size_t>(got) == room;
}

// The rest of a large body, to where it belongs. The buffer is empty.
bool FuseLink::receive_body() {
    if (body_.empty() && body_wanted_) {
        Pending& pending = pending_.find(reply_.unique)->second;
        if (pending.out != nullptr) {
            pending.out->take(body_left_, body_);
        } else {
            size_t have = state_.size();
            state_.resize(have + body_left_);
            body_.push_back({state_.data() + have, body_left_});
        }
    }
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
    if (!std::exchange(body_wanted_, false)) return;
    auto found = pending_.find(reply_.unique);
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
    for (int i = 0; i < kReadsPerTurn && !broken_ && (body_left_ > 0 ? receive_body() : receive_into_buffer()); ++i) {
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
    body_wanted_ = false;
    body_left_ = buffer_begin_ = buffer_end_ = 0;
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
    body_wanted_ = false;
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
    begin(header, unique, kFuseLinkMaxState);
    append_copy(arguments);
    flush();
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
