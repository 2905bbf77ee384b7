#include "virtio/rng.h"

#include <sys/random.h>

#include <algorithm>

namespace casemate::virtio {

void RngDevice::on_notify(uint16_t index) {
    Queue& requests = queue(index);
    requests.disable_notifications();
    for (int i = 0; i < kRequestsPerTurn; ++i) {
        while (!pop(index, chain_)) {
            if (!working() || !requests.enable_notifications()) return publish(index);
        }
        uint32_t written = 0;
        char bytes[4096];
        while (chain_.writable.remaining() > 0 && written < kMaxRequestBytes) {
            size_t part = std::min({sizeof(bytes), chain_.writable.remaining(), kMaxRequestBytes - written});
            ssize_t got = ::getrandom(bytes, part, 0);
            if (got <= 0) break;
            written += static_cast<uint32_t>(chain_.writable.write(bytes, static_cast<size_t>(got)));
        }
        requests.push(chain_, written);
    }
    publish(index);
    notify_again(index);
}

}  // namespace casemate::virtio
