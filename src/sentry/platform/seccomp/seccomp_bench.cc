// What the platform's operations cost here: printed, never asserted. `seccomp_bench` pins itself to one core, then runs
// again on all.
#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "sentry/platform/seccomp/seccomp_platform.h"
#include "sentry/platform/seccomp/test_programs.h"

namespace casemate::sentry::seccomp {
namespace {

double now_us() {
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The median of `rounds` measurements of `operation`, each of which does `per_round` things.
template <typename F>
void report(const char* where, const char* name, int rounds, int per_round, F operation) {
    std::vector<double> times;
    for (int i = 0; i < rounds; ++i) {
        const double start = now_us();
        operation();
        times.push_back((now_us() - start) / per_round);
    }
    std::sort(times.begin(), times.end());
    std::printf("%-10s %-44s %8.2f us (best %.2f)\n", where, name, times[times.size() / 2], times[0]);
}

std::unique_ptr<HostAddressSpace> make_space(SeccompPlatform& platform) {
    auto space = MUST(platform.create_address_space());
    const MapOrder orders[] = {map_order(kCode, 0x1000, PROT_READ | PROT_EXEC, kFileCode),
                               map_order(kData, 0x4000, PROT_READ | PROT_WRITE, kFileData)};
    MUST(space->apply(orders));
    return space;
}

void run(const char* where, SeccompPlatform& platform) {
    auto space = make_space(platform);
    auto thread = MUST(space->create_thread());
    thread->registers().ip = at(prog_getpid_loop);
    thread->resume();
    report(where, "getpid", 50, 1000, [&] {
        for (int i = 0; i < 1000; ++i) thread->complete_syscall(1);
    });
    report(where, "complete_and_stop + resume", 20, 500, [&] {
        for (int i = 0; i < 500; ++i) {
            thread->complete_and_stop(1);
            thread->resume();
        }
    });
    auto trapping = MUST(space->create_thread());
    trapping->registers().ip = at(prog_syscalls);
    trapping->registers().ax = SYS_clone;
    trapping->resume();
    report(where, "syscall with registers (trap)", 20, 500, [&] {
        for (int i = 0; i < 500; ++i) trapping->complete_syscall(SYS_clone);
    });
    const MapOrder pair[] = {map_order(0x10000000, 0x1000, PROT_READ, kFileData),
                             {.kind = MapOrder::Kind::kUnmap, .address = 0x10000000, .size = 0x1000}};
    report(where, "map + unmap in one apply", 20, 500, [&] {
        for (int i = 0; i < 500; ++i) MUST(space->apply(pair));
    });
    std::vector<MapOrder> many;
    for (uint64_t i = 0; i < 25; ++i) many.push_back(map_order(0x20000000 + i * 0x2000, 0x1000, PROT_READ, kFileData));
    report(where, "25 maps in one apply", 20, 50, [&] {
        for (int i = 0; i < 50; ++i) MUST(space->apply(many));
    });
    UniqueFd file(memfd_create("host-file", MFD_CLOEXEC));
    MUST(ftruncate(file.get(), 0x1000) == 0 ? SysResult<void>() : last_errno());
    const MapOrder host = map_order(0x30000000, 0x1000, PROT_READ, 0, file.get());
    report(where, "map of a host file", 20, 200, [&] {
        for (int i = 0; i < 200; ++i) MUST(space->apply({&host, 1}));
    });
    std::vector<std::unique_ptr<AppThread>> threads;
    report(where, "new thread", 20, 1, [&] { threads.push_back(MUST(space->create_thread())); });
    threads.clear();
    report(where, "thread again (parked, in a syscall)", 20, 100, [&] {
        for (int i = 0; i < 100; ++i) {
            thread.reset();
            thread = MUST(space->create_thread());
            thread->registers().ip = at(prog_getpid_loop);
            thread->resume();
        }
    });
}

void run_spaces(const char* where, SeccompPlatform& platform) {
    std::vector<std::unique_ptr<HostAddressSpace>> spaces;
    report(where, "new address space, two maps, a thread", 100, 1, [&] {
        spaces.push_back(make_space(platform));
        auto thread = MUST(spaces.back()->create_thread());
    });
    const auto start = now_us();
    spaces.erase(spaces.begin() + 8, spaces.end());
    std::printf("%-10s %-44s %8.2f us\n", where, "end of an address space, most killed", (now_us() - start) / 92);
    spaces.clear();
    report(where, "reused address space, two maps, thread, end", 100, 1, [&] {
        auto space = make_space(platform);
        auto thread = MUST(space->create_thread());
    });
}

}  // namespace
}  // namespace casemate::sentry::seccomp

int main() {
    using namespace casemate::sentry::seccomp;
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    casemate::UniqueFd memory_file = make_memory_file();
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof(all), &all);
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    for (bool pinned : {true, false}) {
        const char* where = pinned ? "one core" : "both";
        sched_setaffinity(0, sizeof(all), pinned ? &one : &all);
        auto platform = casemate::sentry::seccomp::SeccompPlatform::create(memory_file.get());
        if (!platform.ok()) {
            std::fprintf(stderr, "%s\n", platform.error().message().c_str());
            return 1;
        }
        run(where, **platform);
        run_spaces(where, **platform);
    }
    return 0;
}
