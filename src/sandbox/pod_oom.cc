// Out-of-memory kills in the containers that joined a pod. Their supervisors watch the containers' own cgroups, where
// nothing of the guest lives: the host's kernel is made to say it there too (host/oom_echo.h), and before the container
// ends, since who hears of the end looks at the count of kills then.
//
// A guest may tell of as many kills as it likes: one thread per container tells the host, once a second at most.
#include <algorithm>
#include <chrono>
#include <thread>

#include "base/log.h"
#include "host/oom_echo.h"
#include "sandbox/pod_cgroup.h"
#include "sandbox/pod_private.h"

namespace casemate::sandbox {

void Pod::hear_of_oom_locked(const std::shared_ptr<Container>& container) {
    ++container->oom_kills;
    if (container->anchor == nullptr || container->oom_watched || container->ended) return;
    container->oom_watched = true;
    in_background([this, container] {
        while (true) {
            echo_oom(container);
            std::this_thread::sleep_for(std::chrono::seconds(1));
            std::lock_guard lock(mutex_);
            if (container->oom_echoed < container->oom_kills && !container->ended) continue;
            container->oom_watched = false;
            return;
        }
    });
}

void Pod::echo_oom(const std::shared_ptr<Container>& container) {
    std::lock_guard one_at_a_time(oom_mutex_);
    std::unique_ptr<host::Cgroup> cgroup;
    {
        std::lock_guard lock(mutex_);
        if (container->oom_echoed >= container->oom_kills || container->ended) return;
        container->oom_echoed = container->oom_kills;
        cgroup = open_cgroup(container->record);
    }
    if (cgroup == nullptr) return;
    auto done = host::echo_oom(*cgroup);
    if (!done.ok()) log::warning("container {}: {}", container->id, done.error().message());
}

void Pod::container_ended_after_oom(const std::shared_ptr<Container>& container, int exit_code) {
    in_background([this, container, exit_code] {
        // The event may still be on its way.
        guest::GetStatsRequest request;
        request.set_container_id(container->id);
        auto stats = engine_->guest().get_stats(request);
        if (stats.ok()) {
            std::lock_guard lock(mutex_);
            container->oom_kills = std::max<uint64_t>(container->oom_kills, stats->memory().oom_kills());
        }
        echo_oom(container);
        loop_->post([this, container, exit_code] { container_ended(container, exit_code); });
    });
}

}  // namespace casemate::sandbox
