// What a monitor that was taken over can reach: nothing. tests/vmm/intruder.cc is that monitor.
#include "vmm/jail.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "linux/event_fds.h"
#include "vmm/confine.h"

namespace casemate::vmm {
namespace {

class JailTest : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    }
    // The intruder's end, with this order.
    linux::ExitStatus intrude(const std::string& order) {
        auto pipe = MUST(linux::create_pipe(O_CLOEXEC));
        EXPECT_EQ(::write(pipe.write_end.get(), order.data(), order.size()), static_cast<ssize_t>(order.size()));
        MonitorOptions options;
        options.serial_input = pipe.read_end.get();
        auto process = spawn_monitor(VMM_INTRUDER, options);
        if (!process.ok()) {
            ADD_FAILURE() << process.error().message();
            return {};
        }
        // The intruder reads its order from what a monitor has as the serial port's input.
        return **linux::wait_pidfd(process->pidfd.get(), true);
    }
};

TEST_F(JailTest, ShowsNothingOfTheHost) {
    linux::ExitStatus end = intrude("jail");
    EXPECT_FALSE(end.signaled) << end.value;
    EXPECT_EQ(end.value, 0) << "the number of the step in tests/vmm/intruder.cc";
}

TEST_F(JailTest, SystemCallsThatReachOutKillTheMonitor) {
    for (const char* thread : {"main ", "vcpu "}) {
        for (int number : {SYS_open,
                           SYS_openat,
                           SYS_openat2,
                           SYS_execve,
                           SYS_execveat,
                           SYS_clone,
                           SYS_clone3,
                           SYS_fork,
                           SYS_socket,
                           SYS_connect,
                           SYS_bind,
                           SYS_ptrace,
                           SYS_process_vm_readv,
                           SYS_kill,
                           SYS_unshare,
                           SYS_setns,
                           SYS_mount,
                           SYS_bpf,
                           SYS_io_uring_setup,
                           SYS_pidfd_getfd,
                           SYS_keyctl,
                           SYS_init_module,
                           SYS_userfaultfd,
                           SYS_memfd_create,
                           SYS_prctl,
                           SYS_setuid}) {
            linux::ExitStatus end = intrude(thread + std::to_string(number));
            EXPECT_TRUE(end.signaled && end.value == SIGSYS) << thread << "system call " << number << ": " << end.value;
        }
    }
    EXPECT_TRUE(intrude("main " + std::to_string(SYS_ioctl)).signaled) << "an ioctl that is not KVM's";
    EXPECT_TRUE(intrude("vcpu " + std::to_string(SYS_recvmsg)).signaled);
}

// It is the first process of its namespace, which its own SIGABRT does not end: the list does.
TEST_F(JailTest, ABugEndsTheMonitor) {
    for (const char* order : {"main bug", "vcpu bug"}) EXPECT_TRUE(intrude(order).signaled) << order;
}

// What a well-behaved Linux guest does not make them do.
TEST_F(JailTest, RareWorkIsOnTheLists) {
    for (const char* order : {"main work", "vcpu work"}) {
        linux::ExitStatus end = intrude(order);
        EXPECT_TRUE(!end.signaled && end.value == 0) << order << ": " << end.value;
    }
}

TEST(Confine, ListsAreShort) {
    EXPECT_LT(system_calls_of(ThreadKind::kMain).allowed_count(), 40u);
    EXPECT_LT(system_calls_of(ThreadKind::kVcpu).allowed_count(), 25u);
}

}  // namespace
}  // namespace casemate::vmm
