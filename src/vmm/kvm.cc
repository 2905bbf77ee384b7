#include "vmm/kvm.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cstring>
#include <string>

#include "base/checked.h"

namespace casemate::vmm {

namespace {

SysResult<void> checked(int result) {
    if (result < 0) return last_errno();
    return {};
}

}  // namespace

SysResult<void> KvmVcpu::call(unsigned long request, void* argument) {
    return checked(::ioctl(fd_.get(), request, argument));
}

SysResult<void> KvmVcpu::run() { return checked(::ioctl(fd_.get(), KVM_RUN, 0)); }

DelayedWrites* KvmVcpu::delayed_writes() const {
    constexpr size_t kRingPage = 2;  // what KVM_CHECK_EXTENSION of KVM_CAP_COALESCED_MMIO answers on x86, since ever
    if (run_.size() < (kRingPage + 1) * kPageSize) return nullptr;
    return run_.as<DelayedWrites>(kRingPage * kPageSize);
}

SysResult<void> KvmVcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
    KvmArray<KvmCount, kvm_cpuid_entry2> array(entries.size());
    array.header()->count = static_cast<uint32_t>(entries.size());
    std::memcpy(array.entries(), entries.data(), entries.size_bytes());
    return call(kKvmSetCpuid2, array.header());
}

SysResult<std::vector<kvm_msr_entry>> KvmVcpu::get_msrs(std::span<const uint32_t> indexes) {
    KvmArray<KvmCount, kvm_msr_entry> array(indexes.size());
    std::vector<kvm_msr_entry> values;
    size_t next = 0;
    // KVM stops at the first that it cannot read; that one is left out.
    while (next < indexes.size()) {
        size_t count = indexes.size() - next;
        array.header()->count = static_cast<uint32_t>(count);
        for (size_t i = 0; i < count; ++i) array.entries()[i] = {.index = indexes[next + i]};
        int read = ::ioctl(fd_.get(), kKvmGetMsrs, array.header());
        if (read < 0) return last_errno();
        values.insert(values.end(), array.entries(), array.entries() + read);
        next += static_cast<size_t>(read) + 1;
    }
    return values;
}

SysResult<void> KvmVcpu::set_msrs(std::span<const kvm_msr_entry> msrs, uint32_t* refused) {
    KvmArray<KvmCount, kvm_msr_entry> array(msrs.size());
    array.header()->count = static_cast<uint32_t>(msrs.size());
    std::memcpy(array.entries(), msrs.data(), msrs.size_bytes());
    int set = ::ioctl(fd_.get(), kKvmSetMsrs, array.header());
    if (set < 0) return last_errno();
    if (static_cast<size_t>(set) == msrs.size()) return {};
    if (refused != nullptr) *refused = msrs[static_cast<size_t>(set)].index;
    return Errno(EINVAL);
}

SysResult<uint64_t> KvmVcpu::tsc_offset() {
    uint64_t offset = 0;
    kvm_device_attr attribute = {};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<uint64_t>(&offset);
    TRY(call(KVM_GET_DEVICE_ATTR, &attribute));
    return offset;
}

SysResult<void> KvmVcpu::set_tsc_offset(uint64_t offset) {
    kvm_device_attr attribute = {};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<uint64_t>(&offset);
    return call(KVM_SET_DEVICE_ATTR, &attribute);
}

SysResult<void> KvmVm::call(unsigned long request, void* argument) {
    return checked(::ioctl(fd_.get(), request, argument));
}
SysResult<void> KvmVm::call(unsigned long request, unsigned long argument) {
    return checked(::ioctl(fd_.get(), request, argument));
}

SysResult<void> KvmVm::set_memory(uint32_t slot, uint64_t guest_address, uint64_t size, void* host, uint32_t flags) {
    kvm_userspace_memory_region region = {};
    region.slot = slot;
    region.flags = flags;
    region.guest_phys_addr = guest_address;
    region.memory_size = size;
    region.userspace_addr = reinterpret_cast<uint64_t>(host);
    return call(KVM_SET_USER_MEMORY_REGION, &region);
}

SysResult<KvmVcpu> KvmVm::create_vcpu(uint32_t id, size_t run_size) {
    UniqueFd fd(::ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)));
    if (!fd) return last_errno();
    UniqueMap run = TRY(UniqueMap::create(run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
    return KvmVcpu(std::move(fd), std::move(run));
}

SysResult<void> KvmVm::add_irqfd(int eventfd, uint32_t gsi) {
    kvm_irqfd irqfd = {};
    irqfd.fd = static_cast<uint32_t>(eventfd);
    irqfd.gsi = gsi;
    return call(KVM_IRQFD, &irqfd);
}

SysResult<void> KvmVm::add_ioeventfd(int eventfd, uint64_t address, uint32_t value) {
    kvm_ioeventfd event = {};
    event.datamatch = value;
    event.addr = address;
    event.len = 4;
    event.fd = eventfd;
    event.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
    return call(KVM_IOEVENTFD, &event);
}

SysResult<void> KvmVm::delay_port_writes(uint16_t first, uint32_t count) {
    kvm_coalesced_mmio_zone zone = {};
    zone.addr = first;
    zone.size = count;
    zone.pio = 1;
    return call(KVM_REGISTER_COALESCED_MMIO, &zone);
}

SysResult<void> KvmVm::delay_register_writes(uint64_t address, uint32_t size) {
    kvm_coalesced_mmio_zone zone = {};
    zone.addr = address;
    zone.size = size;
    return call(KVM_REGISTER_COALESCED_MMIO, &zone);
}

Result<UniqueFd> Kvm::open_device() {
    UniqueFd fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!fd) return sys_error("open /dev/kvm");
    return fd;
}

Result<Kvm> Kvm::create(UniqueFd fd) {
    Kvm kvm;
    kvm.fd_ = std::move(fd);
    int version = ::ioctl(kvm.fd_.get(), KVM_GET_API_VERSION, 0);
    if (version < 0) return sys_error("KVM_GET_API_VERSION (is this /dev/kvm?)");
    if (version != KVM_API_VERSION)
        return Error("KVM's interface has version " + std::to_string(version) + "; 12 is wanted", ENOSYS);
    int size = ::ioctl(kvm.fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < 0 || static_cast<size_t>(size) < sizeof(kvm_run)) return sys_error("KVM_GET_VCPU_MMAP_SIZE", EINVAL);
    kvm.run_size_ = static_cast<size_t>(size);
    // All others that are used have been there longer than this one (Linux 4.13).
    if (kvm.check_extension(KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return Error("this KVM is too old: it lacks KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)", ENOSYS);
    return kvm;
}

Result<KvmVm> Kvm::create_vm() {
    // A signal may interrupt the long way to a new machine.
    for (int attempt = 0; attempt < 16; ++attempt) {
        UniqueFd fd(::ioctl(fd_.get(), KVM_CREATE_VM, 0));
        if (fd) return KvmVm(std::move(fd));
        if (errno != EINTR) break;
    }
    return sys_error("KVM_CREATE_VM");
}

int Kvm::check_extension(int capability) const { return ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability); }

SysResult<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
    for (size_t capacity = 128; capacity <= 1024; capacity *= 2) {
        KvmArray<KvmCount, kvm_cpuid_entry2> array(capacity);
        array.header()->count = static_cast<uint32_t>(capacity);
        if (::ioctl(fd_.get(), kKvmGetSupportedCpuid, array.header()) == 0)
            return std::vector<kvm_cpuid_entry2>(array.entries(), array.entries() + array.header()->count);
        if (errno != E2BIG) return last_errno();
    }
    return Errno(E2BIG);
}

SysResult<std::vector<uint32_t>> Kvm::msr_indexes() const {
    for (size_t capacity = 256; capacity <= 4096; capacity *= 2) {
        KvmArray<uint32_t, uint32_t> array(capacity);
        *array.header() = static_cast<uint32_t>(capacity);
        if (::ioctl(fd_.get(), kKvmGetMsrIndexList, array.header()) == 0)
            return std::vector<uint32_t>(array.entries(), array.entries() + *array.header());
        if (errno != E2BIG) return last_errno();
    }
    return Errno(E2BIG);
}

}  // namespace casemate::vmm
