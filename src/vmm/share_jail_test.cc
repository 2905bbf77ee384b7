// What a server of a shared directory that was taken over can reach: that directory. tests/vmm/share_intruder.cc is
// that server.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "fileserver/jail.h"
#include "linux/process.h"
#include "linux/unix_socket.h"
#include "vmm/share.h"

namespace casemate::vmm {
namespace {

class ShareJailTest : public testing::Test {
  protected:
    ShareJailTest() {
        char name[] = "/tmp/casemate-share-jail-XXXXXX";
        top = ::mkdtemp(name);
        std::ofstream(top + "/inside") << "text";
        std::filesystem::create_symlink("/etc/passwd", top + "/link-to-passwd");
        std::filesystem::create_symlink("/", top + "/link-to-root");
    }
    ~ShareJailTest() override { std::filesystem::remove_all(top); }
    void SetUp() override {
        if (::geteuid() == 0) {
            ASSERT_EQ(::mknod((top + "/device").c_str(), S_IFCHR | 0666, makedev(1, 5)), 0);
        }
    }
    linux::ExitStatus intrude(const std::string& order) {
        auto pair = MUST(linux::create_socket_pair(SOCK_STREAM));
        EXPECT_EQ(::send(pair.first.get(), order.data(), order.size(), 0), static_cast<ssize_t>(order.size()));
        auto process = spawn_share(VMM_SHARE_INTRUDER, pair.second.get(), top, false);
        if (!process.ok()) {
            ADD_FAILURE() << process.error().message();
            return {};
        }
        return **linux::wait_pidfd(process->pidfd.get(), true);
    }

    std::string top;
};

// Kata's monitor ran its file server without a jail, and a guest's root made links on the host.
TEST_F(ShareJailTest, Cve2026_47243_ShowsOnlyTheDirectory) {
    linux::ExitStatus end = intrude("jail");
    EXPECT_FALSE(end.signaled) << end.value;
    EXPECT_EQ(end.value, 0) << "the number of the step in tests/vmm/share_intruder.cc";
}

TEST_F(ShareJailTest, SystemCallsThatReachOutKillIt) {
    for (int number : {SYS_open,        SYS_execve,      SYS_execveat,
                       SYS_clone,       SYS_clone3,      SYS_fork,
                       SYS_socket,      SYS_connect,     SYS_bind,
                       SYS_ptrace,      SYS_kill,        SYS_unshare,
                       SYS_setns,       SYS_mount,       SYS_open_by_handle_at,
                       SYS_move_mount,  SYS_open_tree,   SYS_fsopen,
                       SYS_umount2,     SYS_chroot,      SYS_pivot_root,
                       SYS_bpf,         SYS_recvmsg,     SYS_pidfd_getfd,
                       SYS_ioctl,       SYS_truncate,    SYS_io_uring_setup,
                       SYS_init_module, SYS_userfaultfd, SYS_memfd_create,
                       SYS_prctl,       SYS_setuid,      SYS_process_vm_readv,
                       SYS_keyctl,      SYS_fchdir,      SYS_capset}) {
        linux::ExitStatus end = intrude("call " + std::to_string(number));
        EXPECT_TRUE(end.signaled && end.value == SIGSYS) << "system call " << number << ": " << end.value;
    }
}

// What a monitor does not make it do: tests/vmm/lists counts it as well.
TEST_F(ShareJailTest, RareWorkIsOnTheList) {
    linux::ExitStatus end = intrude("work");
    EXPECT_TRUE(!end.signaled && end.value == 0) << end.value;
}

TEST_F(ShareJailTest, WhatIsNoDirectoryIsRefused) {
    auto pair = MUST(linux::create_socket_pair(SOCK_STREAM));
    EXPECT_FALSE(spawn_share(VMM_SHARE_INTRUDER, pair.second.get(), top + "/inside", false).ok());
    EXPECT_FALSE(spawn_share(VMM_SHARE_INTRUDER, pair.second.get(), top + "/none", false).ok());
}

TEST(ShareFilter, IsShort) { EXPECT_LT(fileserver::share_system_calls().size(), 40u); }

}  // namespace
}  // namespace casemate::vmm
