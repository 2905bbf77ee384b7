// The beginning of connections: by us, or by a finished handshake.
#include "sentry/net/stack/connection.h"

namespace casemate::sentry::stack {

Connection::Connection(Ref<Stack> stack, const Tuple& tuple, uint32_t link, Ref<SocketWaiters> waiters)
    : stack_(std::move(stack)), tuple_(tuple), link_(link), waiters_(std::move(waiters)) {
    initial_send_ = stack_->initial_sequence(tuple);
    uint16_t ports[2] = {tuple.local.port, tuple.peer.port};
    timestamp_offset_ = static_cast<uint32_t>(stack_->keyed_hash(ports, sizeof(ports), initial_send_));
}

Connection::Connection(Ref<Stack> stack, const Tuple& tuple, uint32_t link, const Agreement& agreement)
    : stack_(std::move(stack)), tuple_(tuple), link_(link) {
    agree_locked(agreement);
    send_una_ = send_next_ = send_max_ = 1;
    set_state(TcpState::kEstablished);
    ready_ = EPOLLOUT | EPOLLWRNORM;
}

Connection::~Connection() {
    if (receive_buffer_ > kFirstReceiveBuffer && tuning.receive_buffer == 0)
        stack_->extra_memory.fetch_sub(receive_buffer_ - kFirstReceiveBuffer, std::memory_order_relaxed);
}

void Connection::list() {
    Locked locked(*this);
    listed_ = true;
}

SysResult<void> Stack::connect(const Ref<Connection>& connection) {
    auto way = route(connection->tuple().peer.address, connection->tuple().local.address, 0);
    if (!way.ok()) return way.take_error();
    if (!add_connection(*connection)) return Errno(EADDRNOTAVAIL);
    counters_.tcp_active_opens.fetch_add(1, std::memory_order_relaxed);
    connection->connect();
    return {};
}

void Connection::connect() {
    Locked locked(*this);
    listed_ = true;
    if (uint32_t chosen = tuning.receive_buffer.load(); chosen != 0) receive_buffer_ = std::max<size_t>(chosen, 2304);
    set_state(TcpState::kSynSent);
    static_cast<void>(egress_locked());
    timed_at_ = stack_->now();
    send_syn_locked();
    arm_retransmission_locked(true);
}

}  // namespace casemate::sentry::stack
