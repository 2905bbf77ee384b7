// Stands in for a monitor that was taken over: started in the monitor's jail instead of casemate-vmm, it tries what an
// intruder would. src/vmm/jail_test.cc runs it. usage: (behind casemate-vmm's words) nothing; descriptor 3, a monitor's
// serial input, says what:
//   "jail"      looks for anything of the host's; status 0 if there is nothing, else the number of the step
//   "main N", "vcpu N"   takes the thread's seccomp list, then makes system call N with arguments of no use
//   "main bug", "vcpu bug"   the same, then fails a CHECK, as a bug would
//   "main work", "vcpu work" the same, then does what such a thread may have to do and a well-behaved Linux guest does
//                            not make it do: a heap that grows and shrinks, a reset in the middle of a disk's work,
//                            a look at guest memory whose file was cut, a word in the log
// With the word "lists" it prints the entries of both lists, one a line: thread, number, request of an ioctl.
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <malloc.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/log.h"
#include "linux/event_fds.h"
#include "linux/file.h"
#include "virtio/block.h"
#include "virtio/fake_driver.h"
#include "vmm/confine.h"
#include "vmm/memory.h"

namespace {

int look_around() {
    if (getuid() != 65534 || geteuid() != 65534 || getgid() != 65534 || getgroups(0, nullptr) > 1) return 10;
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    if (syscall(SYS_capget, &header, data) != 0) return 11;
    for (const auto& half : data)
        if ((half.effective | half.permitted | half.inheritable) != 0) return 12;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 13;
    // Files: an empty root that cannot be written, and no way out of it.
    for (const char* path : {"/etc/passwd", "/proc/self/status", "/dev/kvm", "/dev/null", "/sys", "/../etc", "/tmp"})
        if (open(path, O_RDONLY) >= 0) return 20;
    if (open("/file", O_WRONLY | O_CREAT, 0600) >= 0) return 21;
    if (DIR* root = opendir("/"); root != nullptr) {
        while (dirent* entry = readdir(root))
            if (entry->d_name[0] != '.') return 22;
    }
    if (mknod("/disk", S_IFBLK | 0600, makedev(8, 0)) == 0) return 23;
    if (mount("none", "/", "tmpfs", 0, nullptr) == 0 || chroot("/") == 0) return 24;
    // Processes: we are the first of our own namespace.
    if (getpid() != 1 || kill(2, 0) == 0 || getppid() != 0) return 30;
    if (ptrace(PTRACE_ATTACH, 2, nullptr, nullptr) == 0) return 31;
    // The network: only a loopback, which is down; abstract sockets are of the network namespace.
    int inet = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(22);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (inet >= 0 && connect(inet, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) return 40;
    ifreq request = {};
    for (int index = 1; index < 10; ++index) {
        request.ifr_ifindex = index;
        if (ioctl(inet, SIOCGIFNAME, &request) == 0 && strcmp(request.ifr_name, "lo") != 0) return 41;
    }
    if (socket(AF_PACKET, SOCK_RAW, 0) >= 0) return 42;
    return 0;
}

// Enough of a machine for a disk: the driver of the unit tests.
void work(casemate::vmm::ThreadKind kind) {
    using namespace casemate;
    using namespace casemate::virtio;
    FakeMachine machine;
    UniqueFd file = MUST(linux::create_memfd("disk"));
    MUST(linux::write_all(file.get(), std::string(1 << 20, 'x')));
    auto disk = MUST(BlockDevice::create(machine.loop(), std::move(file), "disk", {}));
    FakeDriver driver(machine, *disk);
    UniqueFd cut = MUST(linux::create_memfd("memory"));
    vmm::MemoryOptions options;
    options.size = 32 << 20;
    options.file = MUST(linux::duplicate_fd(cut.get()));
    vmm::Memory memory = MUST(vmm::Memory::create(std::move(options)));
    if (ftruncate(cut.get(), 0) != 0) _exit(6);
    MUST(vmm::confine_thread(kind));
    for (int round = 0; round < 100; ++round) {
        if (!driver.start()) _exit(5);
        machine.forget_allocations();
        for (int i = 0; i < 32; ++i) {
            struct {
                uint32_t type = 0, reserved = 0;
                uint64_t sector = 0;
            } header;
            uint64_t data = 0x100000 + static_cast<uint64_t>(i) * 4096;
            driver.queue(0).add({{machine.put(header), 16}, {data, 4096, true}, {0x80000, 1, true}});
        }
        std::lock_guard lock(disk->mutex());
        disk->notify(0);
        disk->reset();
    }
    // Small blocks until the heap has grown, and blocks that are mapped.
    std::vector<std::string> blocks;
    for (int i = 0; i < 1000; ++i) blocks.emplace_back(1000, 'x');
    for (int i = 0; i < 4; ++i) blocks.emplace_back(1 << 20, 'x');
    blocks.clear();
    malloc_trim(0);
    char byte = 1;
    std::memcpy(&byte, memory.at(0x1000, 1), 1);
    if (byte != 0) _exit(7);
    log::error("this process has taken the list of a {}", kind == vmm::ThreadKind::kVcpu ? "vCPU" : "monitor");
}

void print_lists() {
    for (auto kind : {casemate::vmm::ThreadKind::kMain, casemate::vmm::ThreadKind::kVcpu})
        for (const auto& entry : casemate::vmm::system_calls_of(kind).allowed())
            printf("%s %d %llx\n", kind == casemate::vmm::ThreadKind::kVcpu ? "vcpu" : "main", entry.syscall,
                   static_cast<unsigned long long>(entry.request));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "lists") == 0) return print_lists(), 0;
    char order[64] = {};
    if (read(3, order, sizeof order - 1) <= 0) return 2;
    if (strcmp(order, "jail") == 0) return look_around();
    bool vcpu = strncmp(order, "vcpu ", 5) == 0;
    auto kind = vcpu ? casemate::vmm::ThreadKind::kVcpu : casemate::vmm::ThreadKind::kMain;
    // As in a monitor: whoever traces its calls goes by the names of threads.
    prctl(PR_SET_NAME, vcpu ? "vcpu 0" : "casemate-vmm", 0, 0, 0);
    if (strcmp(order + 5, "work") == 0) {
        work(kind);
        _exit(0);
    }
    if (!casemate::vmm::confine_thread(kind).ok()) return 3;
    CHECK(strcmp(order + 5, "bug") != 0);
    syscall(atoi(order + 5), -1, -1, -1, -1, -1, -1);
    _exit(0);
}
