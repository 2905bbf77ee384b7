// Vma: one stretch of an address space with one backing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/ref.h"
#include "sentry/kernel/user.h"
#include "sentry/mm/mappable.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

enum class Backing : uint8_t {
    kReserved,  // anonymous without access (PROT_NONE), or a stack not touched so far: nothing behind it yet, nothing
                // mapped in the host process
    kMemory,    // a range of the memory file that this Vma owns: private memory
    kShared,    // MAP_SHARED of a Mappable: the object's pages themselves
    kFile,      // MAP_PRIVATE of a Mappable, never writable so far: the object's pages, read-only
    kHostPrivate,  // MAP_PRIVATE of a Mappable, writable: the host copies pages on write; only the stub has them
    kBorrowed,     // private memory of a forked child whose parent is held: MAP_PRIVATE over the parent's range
};

struct Vma {
    GuestAddr start = 0;
    GuestAddr end = 0;
    int protection = 0;
    int max_protection = 7;
    Backing backing = Backing::kReserved;
    bool shared = false;
    bool locked = false;
    bool dont_fork = false;
    bool wipe_on_fork = false;
    bool grows_down = false;
    bool thunks = false;         // ours: where patched call sites jump to (address_space_sites.cc)
    bool stack = false;          // anonymous, of which mostly little is used: backed in pieces, when touched
    uint64_t memory_offset = 0;  // kMemory: of `start` in the memory file; kBorrowed: the parent's
    Ref<Mappable> object;        // null: anonymous
    uint64_t object_offset = 0;  // of `start`
    Ref<File> file;
    std::shared_ptr<const std::string> name;  // null: none; shared by the pieces of one mapping

    uint64_t size() const { return end - start; }
    bool contains(GuestAddr address) const { return address >= start && address < end; }

    // Cuts off what lies from `at` (inside) on and returns it.
    Vma split(GuestAddr at) {
        Vma tail = *this;
        uint64_t delta = at - start;
        tail.start = at;
        tail.memory_offset += delta;
        tail.object_offset += delta;
        end = at;
        return tail;
    }
};

}  // namespace casemate::sentry
