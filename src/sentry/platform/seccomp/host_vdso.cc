#include "sentry/platform/seccomp/host_vdso.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace casemate::sentry::seccomp {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMaxSize = STUB_CLOCK_SIZE;

// The kernel lets nobody ask for a dump of its special mappings; of any other the call changes a flag only.
bool is_special(uint64_t page) {
    return madvise(reinterpret_cast<void*>(page), kPage, MADV_DODUMP) != 0 && errno == EINVAL;
}

const char* own_image() { return reinterpret_cast<const char*>(getauxval(AT_SYSINFO_EHDR)); }

}  // namespace

bool take_host_vdso_aside(SpawnOrder& order) {
    order.clock_image = 0;
    order.moves[0].size = 0;
    const uint64_t image = getauxval(AT_SYSINFO_EHDR);
    if (image == 0) return true;
    // Data and code are neighbours that find each other by distance.
    uint64_t low = image;
    uint64_t high = image + kPage;
    while (image - low < kMaxSize && is_special(low - kPage)) low -= kPage;
    while (high - image < kMaxSize && is_special(high)) high += kPage;
    if (high - low > kMaxSize) return true;
    void* aside = mmap(nullptr, high - low, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (aside == MAP_FAILED) return false;
    const uint64_t base = reinterpret_cast<uint64_t>(aside);
    if (base + (high - low) > STUB_BLOCK_BASE) return true;
    // Special mappings move as a whole or not at all, so the size that works is the mapping's.
    size_t count = 0;
    uint64_t size = 0;
    for (uint64_t at = low; at < high; at += size) {
        if (count == kMaxMoves) return false;
        const uint64_t to = base + (at - low);
        bool moved = false;
        for (size = kPage; at + size <= high && !moved; size += moved ? 0 : kPage) {
            moved = mremap(reinterpret_cast<void*>(at), size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
                           reinterpret_cast<void*>(to)) != MAP_FAILED;
        }
        if (!moved) return at == low;  // sealed: the host's policy
        order.moves[count++] = {.from = to, .size = size, .to = STUB_CLOCK + (at - low)};
    }
    order.moves[count].size = 0;
    order.clock_image = STUB_CLOCK + (image - low);
    return true;
}

HostClocks find_host_clocks(uint64_t image) {
    HostClocks clocks;
    const char* const own = own_image();
    if (image == 0 || own == nullptr) return clocks;
    // SAFETY: an ELF file that the host kernel mapped for us.
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(own);
    const auto* segments = reinterpret_cast<const Elf64_Phdr*>(own + header->e_phoff);
    uint64_t bias = 0;  // of addresses in the file to offsets from its beginning
    const Elf64_Dyn* dynamic = nullptr;
    for (int i = 0; i < header->e_phnum; ++i) {
        if (segments[i].p_type == PT_LOAD) bias = segments[i].p_offset - segments[i].p_vaddr;
        if (segments[i].p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const Elf64_Dyn*>(own + segments[i].p_offset);
    }
    const Elf64_Sym* symbols = nullptr;
    const char* strings = nullptr;
    for (; dynamic != nullptr && dynamic->d_tag != DT_NULL; ++dynamic) {
        if (dynamic->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const Elf64_Sym*>(own + bias + dynamic->d_un.d_ptr);
        if (dynamic->d_tag == DT_STRTAB) strings = own + bias + dynamic->d_un.d_ptr;
    }
    if (symbols == nullptr || strings == nullptr) return clocks;
    // The table of symbols ends where that of their names begins: so every linker lays them out.
    for (const Elf64_Sym* symbol = symbols; reinterpret_cast<const char*>(symbol + 1) <= strings; ++symbol) {
        if (symbol->st_shndx == SHN_UNDEF) continue;
        const std::string_view name = strings + symbol->st_name;
        const uint64_t address = image + bias + symbol->st_value;
        if (name == "__vdso_clock_gettime") clocks.clock_gettime = address;
        if (name == "__vdso_gettimeofday") clocks.gettimeofday = address;
        if (name == "__vdso_time") clocks.time = address;
        if (name == "__vdso_clock_getres") clocks.clock_getres = address;
    }
    return clocks;
}

}  // namespace casemate::sentry::seccomp
