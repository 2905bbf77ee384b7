// The KVM ioctls, typed: what takes which structure on which kind of descriptor, and an errno instead of -1.
//
// Nothing here is guest-controlled but what KVM reports in kvm_run, which vcpu.cc reads. Documentation/virt/kvm/api.rst
// of the kernel is the specification.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/unique_map.h"

namespace casemate::vmm {

// The structures of KVM that end in an array, without it. Our own, and so the requests that carry them: in C++ the
// kernel's headers give the empty array a size (kvm_cpuid2 has 12 bytes instead of 8), and every request a wrong
// number.
struct KvmCount {
    uint32_t count = 0;
    uint32_t padding = 0;
};
constexpr unsigned long kKvmGetMsrIndexList = _IOWR(KVMIO, 0x02, uint32_t);
constexpr unsigned long kKvmGetSupportedCpuid = _IOWR(KVMIO, 0x05, KvmCount);
constexpr unsigned long kKvmGetMsrs = _IOWR(KVMIO, 0x88, KvmCount);
constexpr unsigned long kKvmSetMsrs = _IOW(KVMIO, 0x89, KvmCount);
constexpr unsigned long kKvmSetCpuid2 = _IOW(KVMIO, 0x90, KvmCount);
constexpr unsigned long kKvmGetCpuid2 = _IOWR(KVMIO, 0x91, KvmCount);
constexpr size_t kXsaveSize = 4096;
constexpr unsigned long kKvmGetXsave = _IOR(KVMIO, 0xa4, char[kXsaveSize]);
constexpr unsigned long kKvmSetXsave = _IOW(KVMIO, 0xa5, char[kXsaveSize]);
constexpr unsigned long kKvmGetXsave2 = _IOR(KVMIO, 0xcf, char[kXsaveSize]);

template <typename Header, typename Entry>
class KvmArray {
  public:
    explicit KvmArray(size_t capacity) : words_((sizeof(Header) + capacity * sizeof(Entry) + 7) / 8) {}
    Header* header() { return reinterpret_cast<Header*>(words_.data()); }
    const Header* header() const { return reinterpret_cast<const Header*>(words_.data()); }
    Entry* entries() { return reinterpret_cast<Entry*>(header() + 1); }
    const Entry* entries() const { return reinterpret_cast<const Entry*>(header() + 1); }
    size_t capacity() const { return (words_.size() * 8 - sizeof(Header)) / sizeof(Entry); }

  private:
    std::vector<uint64_t> words_;
};

// KVM's kvm_coalesced_mmio_ring, whose header has another layout in C++.
struct DelayedWrites {
    static constexpr uint32_t kCapacity = (4096 - 8) / sizeof(kvm_coalesced_mmio);

    uint32_t first, last;  // ours, KVM's
    kvm_coalesced_mmio writes[kCapacity];
};
static_assert(offsetof(DelayedWrites, writes) == 8 && sizeof(DelayedWrites) <= 4096);

// The vCPU's side of KVM.
class KvmVcpu {
  public:
    KvmVcpu() = default;
    KvmVcpu(UniqueFd fd, UniqueMap run) : fd_(std::move(fd)), run_(std::move(run)) {}

    int fd() const { return fd_.get(); }
    // Shared with KVM; what the guest did is in here.
    kvm_run* state() const { return run_.as<kvm_run>(); }

    // Where KVM keeps the writes of KvmVm::delay_*_writes(), of all vCPUs alike; nullptr if this KVM has no such
    // place.
    DelayedWrites* delayed_writes() const;

    // EINTR and EAGAIN are ordinary: a signal, or immediate_exit.
    SysResult<void> run();

    SysResult<void> set_cpuid(std::span<const kvm_cpuid_entry2> entries);
    SysResult<std::vector<kvm_msr_entry>> get_msrs(std::span<const uint32_t> indexes);
    // Sets them one after the other; EINVAL with the first that KVM refuses in `refused`.
    SysResult<void> set_msrs(std::span<const kvm_msr_entry> msrs, uint32_t* refused = nullptr);

    template <typename T>
    SysResult<T> get(unsigned long request) {
        T value = {};
        TRY(call(request, &value));
        return value;
    }
    template <typename T>
    SysResult<void> set(unsigned long request, const T& value) {
        return call(request, const_cast<T*>(&value));
    }
    // ioctl(2) with the request's own structure.
    SysResult<void> call(unsigned long request, void* argument);

    // The difference of the guest's TSC to the host's (KVM_VCPU_TSC_OFFSET, Linux 5.16).
    SysResult<uint64_t> tsc_offset();
    SysResult<void> set_tsc_offset(uint64_t offset);

  private:
    UniqueFd fd_;
    UniqueMap run_;
};

class KvmVm {
  public:
    KvmVm() = default;
    explicit KvmVm(UniqueFd fd) : fd_(std::move(fd)) {}

    int fd() const { return fd_.get(); }

    SysResult<void> set_memory(uint32_t slot, uint64_t guest_address, uint64_t size, void* host, uint32_t flags = 0);
    SysResult<KvmVcpu> create_vcpu(uint32_t id, size_t run_size);
    // `eventfd` raises the interrupt `gsi` in the in-kernel interrupt controllers, without a thread of ours. Borrowed.
    SysResult<void> add_irqfd(int eventfd, uint32_t gsi);
    // A write of `value` (32 bits) at the guest's `address` signals `eventfd` and does not come to us.
    SysResult<void> add_ioeventfd(int eventfd, uint64_t address, uint32_t value);
    // Writes to these ports are kept by KVM until the next exit: for registers whose effect shows at the next access
    // only.
    SysResult<void> delay_port_writes(uint16_t first, uint32_t count);
    // The same for a register in memory.
    SysResult<void> delay_register_writes(uint64_t address, uint32_t size);
    SysResult<void> call(unsigned long request, void* argument);
    SysResult<void> call(unsigned long request, unsigned long argument = 0);

  private:
    UniqueFd fd_;
};

// /dev/kvm.
class Kvm {
  public:
    Kvm() = default;
    // Takes an open /dev/kvm; refuses one that lacks what the monitor stands on, with its name.
    static Result<Kvm> create(UniqueFd fd);
    static Result<UniqueFd> open_device();

    Result<KvmVm> create_vm();
    int check_extension(int capability) const;
    size_t run_size() const { return run_size_; }
    SysResult<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
    SysResult<std::vector<uint32_t>> msr_indexes() const;

  private:
    UniqueFd fd_;
    size_t run_size_ = 0;
};

}  // namespace casemate::vmm
