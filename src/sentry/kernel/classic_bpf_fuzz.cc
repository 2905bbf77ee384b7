// Programs of classic BPF, and packets for them: what the check lets through ends, and reads nothing beyond its packet.
#include "sentry/kernel/classic_bpf.h"

#include <cstring>
#include <vector>

using namespace casemate::sentry;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    size_t count = std::min<size_t>(data[0], (size - 2) / sizeof(sock_filter));
    std::vector<sock_filter> program(count);
    if (count > 0) memcpy(program.data(), data + 2, count * sizeof(sock_filter));
    std::vector<uint8_t> packet(data + 2 + count * sizeof(sock_filter), data + size);
    if (check_packet_bpf(program).ok()) {
        BpfPacket about{packet};
        about.network_at = data[1] & 1 ? 14 : SIZE_MAX;
        about.link_at = data[1] & 2 ? 0 : SIZE_MAX;
        static_cast<void>(run_packet_bpf(program, about));
    }
    if (check_bpf(program).ok()) {
        seccomp_data call{};
        if (!packet.empty()) memcpy(&call, packet.data(), std::min(packet.size(), sizeof(call)));
        static_cast<void>(run_bpf(program, call));
    }
    return 0;
}
