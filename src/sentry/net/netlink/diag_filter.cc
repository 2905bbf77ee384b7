#include "sentry/net/netlink/diag_filter.h"

#include <linux/inet_diag.h>
#include <sys/socket.h>

#include <cstring>

namespace casemate::sentry {
namespace {

template <typename T>
T at(std::span<const std::byte> program, size_t offset) {
    T value;
    memcpy(&value, program.data() + offset, sizeof(value));
    return value;
}

// Bytes of an operation with its operands; 0: unknown, or it does not fit.
size_t size_of(std::span<const std::byte> program, size_t offset) {
    size_t rest = program.size() - offset;
    if (rest < sizeof(inet_diag_bc_op)) return 0;
    size_t size = sizeof(inet_diag_bc_op);
    switch (at<inet_diag_bc_op>(program, offset).code) {
        case INET_DIAG_BC_NOP:
        case INET_DIAG_BC_JMP:
        case INET_DIAG_BC_AUTO:
            break;
        case INET_DIAG_BC_S_GE:
        case INET_DIAG_BC_S_LE:
        case INET_DIAG_BC_D_GE:
        case INET_DIAG_BC_D_LE:
        case INET_DIAG_BC_S_EQ:
        case INET_DIAG_BC_D_EQ:
        case INET_DIAG_BC_DEV_COND:
            size += sizeof(uint32_t);
            break;
        case INET_DIAG_BC_S_COND:
        case INET_DIAG_BC_D_COND: {
            size += sizeof(inet_diag_hostcond);
            if (rest < size) return 0;
            auto condition = at<inet_diag_hostcond>(program, offset + sizeof(inet_diag_bc_op));
            size_t bytes = condition.family == AF_INET ? 4 : condition.family == AF_INET6 ? 16 : 0;
            if (condition.family != AF_UNSPEC && bytes == 0) return 0;
            if (condition.prefix_len > bytes * 8) return 0;
            size += bytes;
            break;
        }
        default:
            return 0;
    }
    return rest < size ? 0 : size;
}

bool host_fits(std::span<const std::byte> program, size_t offset, bool v6, const InetEndpoint& endpoint) {
    auto condition = at<inet_diag_hostcond>(program, offset);
    if (condition.port != -1 && condition.port != endpoint.port) return false;
    if (condition.prefix_len == 0) return true;
    if (condition.family == AF_INET6 && !v6) return false;
    InetAddress wanted = InetAddress::v4(0);
    size_t skip = condition.family == AF_INET ? 12 : 0;
    memcpy(wanted.bytes.data() + skip, program.data() + offset + sizeof(condition), 16 - skip);
    if (condition.family == AF_INET && !endpoint.address.is_v4()) return false;
    unsigned bits = static_cast<unsigned>(skip) * 8 + condition.prefix_len;
    for (unsigned i = 0; i < 16 && i * 8 < bits; i++) {
        unsigned keep = std::min(bits - i * 8, 8u);
        if ((wanted.bytes[i] ^ endpoint.address.bytes[i]) >> (8 - keep)) return false;
    }
    return true;
}

}  // namespace

SysResult<DiagFilter> DiagFilter::create(std::span<const std::byte> program) {
    if (program.empty() || program.size() % 4 != 0) return Errno(EINVAL);
    // Where operations begin when each one holds: the jumps of those that fail must go to such places as well.
    std::vector<bool> begins(program.size() + 8, false);
    size_t offset = 0;
    while (offset < program.size()) {
        size_t size = size_of(program, offset);
        auto op = at<inet_diag_bc_op>(program, std::min(offset, program.size() - sizeof(inet_diag_bc_op)));
        size_t rest = program.size() - offset;
        if (size == 0 || op.yes < size || op.yes > rest + 4 || op.yes % 4 != 0) return Errno(EINVAL);
        if (op.code != INET_DIAG_BC_NOP && (op.no < size || op.no > rest + 4 || op.no % 4 != 0)) return Errno(EINVAL);
        begins[offset] = true;
        offset += op.yes;
    }
    begins[program.size()] = begins[program.size() + 4] = true;
    for (offset = 0; offset < program.size();) {
        auto op = at<inet_diag_bc_op>(program, offset);
        if (op.code != INET_DIAG_BC_NOP && !begins[offset + op.no]) return Errno(EINVAL);
        offset += op.yes;
    }
    DiagFilter filter;
    filter.program_.assign(program.begin(), program.end());
    return filter;
}

bool DiagFilter::passes(const Subject& subject) const {
    std::span<const std::byte> program(program_);
    size_t offset = 0;
    while (offset < program.size()) {
        auto op = at<inet_diag_bc_op>(program, offset);
        size_t operand = offset + sizeof(op);
        // A port lies in the second operation's `no`.
        auto port = [&] { return at<inet_diag_bc_op>(program, operand).no; };
        bool yes = true;
        switch (op.code) {
            case INET_DIAG_BC_NOP:
                break;
            case INET_DIAG_BC_JMP:
                yes = false;
                break;
            case INET_DIAG_BC_S_EQ:
                yes = subject.local.port == port();
                break;
            case INET_DIAG_BC_S_GE:
                yes = subject.local.port >= port();
                break;
            case INET_DIAG_BC_S_LE:
                yes = subject.local.port <= port();
                break;
            case INET_DIAG_BC_D_EQ:
                yes = subject.peer.port == port();
                break;
            case INET_DIAG_BC_D_GE:
                yes = subject.peer.port >= port();
                break;
            case INET_DIAG_BC_D_LE:
                yes = subject.peer.port <= port();
                break;
            case INET_DIAG_BC_AUTO:
                yes = !subject.chose_port;
                break;
            case INET_DIAG_BC_S_COND:
                yes = host_fits(program, operand, subject.v6, subject.local);
                break;
            case INET_DIAG_BC_D_COND:
                yes = host_fits(program, operand, subject.v6, subject.peer);
                break;
            case INET_DIAG_BC_DEV_COND:
                yes = at<int>(program, operand) == subject.device;
                break;
            default:
                return false;
        }
        offset += yes ? op.yes : op.no;
    }
    return offset == program.size();
}

}  // namespace casemate::sentry
