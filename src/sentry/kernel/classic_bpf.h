// Classic BPF: an accumulator, an index register, 16 words of scratch memory, jumps forward only. As seccomp(2) takes
// it, it loads 32-bit words of a seccomp_data; as a socket's filter, what a packet consists of.
//
// A program comes from the application: check_bpf() decides as the kernel's bpf_check_classic and seccomp_check_filter
// do; what passed ends within its length, and run_bpf() needs no checks of its own.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"

namespace casemate::sentry {

// EINVAL for whatever the kernel refuses: length 0 or past BPF_MAXINSNS, unknown operations, jumps out of the program,
// division by a constant 0, shifts by 32 or more, scratch memory that is read before it is written, loads beyond
// seccomp_data or not on a word, a way that does not end in a return.
SysResult<void> check_bpf(std::span<const sock_filter> program);

// The 32-bit value returned for `data`. A division by an index register of 0 returns 0.
uint32_t run_bpf(std::span<const sock_filter> program, const seccomp_data& data);

// The value returned if it follows from the number and the architecture alone; nothing once anything else is loaded.
std::optional<uint32_t> run_bpf_by_number(std::span<const sock_filter> program, uint32_t number, uint32_t architecture);

// A packet, as a socket's filter sees it.
struct BpfPacket {
    std::span<const uint8_t> bytes;  // from where the socket's kind begins: the link's header, the network's...
    size_t network_at = 0;           // in bytes; SIZE_MAX: no such header there
    size_t link_at = SIZE_MAX;
    uint16_t protocol = 0;  // ETH_P_*, host order
    uint8_t type = 0;       // PACKET_*
    int link = 0;
    uint16_t hardware_type = 1;  // ARPHRD_*
};
// The same of a socket's filter, which may do all that classic BPF can.
SysResult<void> check_packet_bpf(std::span<const sock_filter> program);
// How many bytes of the packet are taken; 0: none of it. A load beyond its end returns 0.
uint32_t run_packet_bpf(std::span<const sock_filter> program, const BpfPacket& packet);

}  // namespace casemate::sentry
