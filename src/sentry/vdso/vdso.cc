#include "sentry/vdso/vdso.h"

#include <cpuid.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <string_view>

extern "C" {
extern const char casemate_vdso_begin[], casemate_vdso_end[];
}

namespace casemate::sentry {

// As at the end of image.asm.
struct Vdso::Parameters {
    char mark[16];
    uint64_t clock_gettime, gettimeofday, time, clock_getres;
    std::atomic<uint32_t> cpus;  // 0: not told here
    uint32_t unused;
};

namespace {

constexpr std::string_view kMark = "casemate vdso 01";

bool has_rdpid() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (c & (1U << 22)) != 0;
}

}  // namespace

std::unique_ptr<Vdso> Vdso::create(const HostClocks& clocks, MemoryFile& memory, unsigned cpus) {
    if (clocks.clock_gettime == 0) return nullptr;
    const std::string_view bytes(casemate_vdso_begin, static_cast<size_t>(casemate_vdso_end - casemate_vdso_begin));
    const size_t mark = bytes.find(kMark);
    CHECK(mark != bytes.npos && mark + sizeof(Parameters) <= bytes.size());
    auto image = SharedMemory::create(memory, bytes.size());
    if (!image.ok()) return nullptr;
    auto piece = (*image)->backing(0, bytes.size(), true);
    CHECK(piece.ok() && piece->size >= bytes.size());
    std::byte* const at = memory.at(piece->offset, piece->size);
    std::memcpy(at, bytes.data(), bytes.size());
    // SAFETY: the linker script keeps the parameters' section aligned, and the image owns the range.
    auto* const parameters = reinterpret_cast<Parameters*>(at + mark);
    parameters->clock_gettime = clocks.clock_gettime;
    parameters->gettimeofday = clocks.gettimeofday;
    parameters->time = clocks.time;
    parameters->clock_getres = clocks.clock_getres;
    parameters->cpus.store(has_rdpid() ? cpus : 0);
    return std::unique_ptr<Vdso>(new Vdso(std::move(*image), parameters));
}

void Vdso::stop_telling_cpu() { parameters_->cpus.store(0); }

}  // namespace casemate::sentry
