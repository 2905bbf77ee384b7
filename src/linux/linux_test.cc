// The wrappers against the running kernel.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope_exit.h"
#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_message.h"
#include "linux/unix_socket.h"

namespace casemate::linux {
namespace {

class LinuxTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/casemate-linux-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        directory_ = name;
    }
    void TearDown() override { EXPECT_TRUE(remove_tree(directory_).ok()); }
    std::string directory_;
};

TEST_F(LinuxTest, clone3_gives_a_pidfd_to_wait_for) {
    int pidfd = -1;
    struct clone_args args = {};
    args.flags = CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
    args.exit_signal = SIGCHLD;
    pid_t pid = MUST(clone3(args));
    if (pid == 0) ::_exit(7);
    UniqueFd owned(pidfd);
    auto status = wait_pidfd(pidfd, true);
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(**status, (ExitStatus{false, 7}));
}

TEST_F(LinuxTest, kill_and_reap_ends_a_child) {
    pid_t pid = ::fork();
    if (pid == 0)
        for (;;) ::pause();
    UniqueFd pidfd = MUST(pidfd_open(pid));
    EXPECT_FALSE(pidfd_exited(pidfd.get()));
    auto running = wait_pidfd(pidfd.get(), false);
    ASSERT_TRUE(running.ok());
    EXPECT_FALSE(running->has_value());
    EXPECT_GT(MUST(process_start_time(pid)), 0u);
    kill_and_reap(pidfd.get());
    EXPECT_EQ(process_start_time(pid).error().value, ESRCH);
}

TEST_F(LinuxTest, mkdir_p_makes_parents_and_accepts_what_is_there) {
    std::string deep = directory_ + "/a/b//c/";
    ASSERT_TRUE(mkdir_p(deep, 0700).ok());
    ASSERT_TRUE(mkdir_p(deep, 0700).ok());
    ASSERT_TRUE(write_file_atomic(directory_ + "/file", "x", 0600).ok());
    EXPECT_EQ(mkdir_p(directory_ + "/file", 0700).error().value, ENOTDIR);
    EXPECT_EQ(mkdir_p(directory_ + "/file/below", 0700).error().value, ENOTDIR);
}

TEST_F(LinuxTest, mkdir_in_root_stays_in_the_root) {
    ASSERT_TRUE(mkdir_p(directory_ + "/root", 0700).ok());
    ASSERT_EQ(::symlink("/../../outside", (directory_ + "/root/link").c_str()), 0);
    UniqueFd root = MUST(open(directory_ + "/root", O_PATH | O_DIRECTORY));
    ASSERT_TRUE(mkdir_p_in_root(root.get(), "../x/../y", 0700).ok());
    EXPECT_TRUE(path_exists(directory_ + "/root/y"));
    EXPECT_FALSE(path_exists(directory_ + "/y"));
    // The link dangles inside the root: nothing is made outside.
    EXPECT_FALSE(mkdir_p_in_root(root.get(), "link/z", 0700).ok());
    EXPECT_FALSE(path_exists(directory_ + "/outside"));
}

TEST_F(LinuxTest, read_file_has_a_limit) {
    std::string path = directory_ + "/file";
    ASSERT_TRUE(write_file_atomic(path, std::string(10'000, 'x'), 0600, Durability::kSynced).ok());
    EXPECT_EQ(read_file(path)->size(), 10'000u);
    EXPECT_EQ(read_file(path, 10'000)->size(), 10'000u);
    EXPECT_EQ(read_file(path, 9'999).error().value, EFBIG);
    EXPECT_EQ(read_file(directory_ + "/none").error().value, ENOENT);
    EXPECT_FALSE(read_file("/proc/self/status")->empty());
}

TEST_F(LinuxTest, atomic_write_replaces_and_leaves_no_temporary_file) {
    std::string path = directory_ + "/file";
    ASSERT_TRUE(write_file_atomic(path, "one", 0640).ok());
    ASSERT_TRUE(write_file_atomic(path, "two", 0640).ok());
    EXPECT_EQ(*read_file(path), "two");
    ASSERT_EQ(::unlink(path.c_str()), 0);
    EXPECT_EQ(::rmdir(directory_.c_str()), 0);  // empty
    ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
}

TEST_F(LinuxTest, lock_excludes_a_second_holder) {
    std::string path = directory_ + "/lock";
    {
        FileLock held = MUST(FileLock::acquire(path, true));
        EXPECT_EQ(FileLock::acquire(path, false).error().value, EWOULDBLOCK);
    }
    EXPECT_TRUE(FileLock::acquire(path, false).ok());
}

TEST_F(LinuxTest, remove_tree_does_not_follow_links) {
    ASSERT_TRUE(mkdir_p(directory_ + "/tree/deep/er", 0700).ok());
    ASSERT_TRUE(mkdir_p(directory_ + "/kept", 0700).ok());
    ASSERT_TRUE(write_file_atomic(directory_ + "/kept/file", "x", 0600).ok());
    ASSERT_EQ(::symlink("../../kept", (directory_ + "/tree/deep/link").c_str()), 0);
    ASSERT_TRUE(remove_tree(directory_ + "/tree").ok());
    EXPECT_FALSE(path_exists(directory_ + "/tree"));
    EXPECT_TRUE(path_exists(directory_ + "/kept/file"));
    EXPECT_TRUE(remove_tree(directory_ + "/tree").ok());
}

TEST_F(LinuxTest, descriptors_travel_and_are_limited) {
    SocketPair pair = MUST(create_socket_pair());
    Pipe pipe = MUST(create_pipe());
    ASSERT_TRUE(send_message(pair.first.get(), "hello", {pipe.read_end.get(), pipe.write_end.get()}).ok());
    std::byte bytes[16];
    auto received = receive_message(pair.second.get(), bytes, 2);
    ASSERT_TRUE(received.ok());
    EXPECT_EQ(received->size, 5u);
    ASSERT_EQ(received->fds.size(), 2u);
    EXPECT_EQ(::fcntl(received->fds[0].get(), F_GETFD), FD_CLOEXEC);

    // One too many: refused, and nothing stays open.
    ASSERT_TRUE(send_message(pair.first.get(), "hello", {pipe.read_end.get(), pipe.write_end.get()}).ok());
    int next_free = ::dup(0);
    ::close(next_free);
    EXPECT_EQ(receive_message(pair.second.get(), bytes, 1).error().value, EMSGSIZE);
    int still_free = ::dup(0);
    ::close(still_free);
    EXPECT_EQ(next_free, still_free);

    pair.first.reset();
    received = receive_message(pair.second.get(), bytes, 0);
    ASSERT_TRUE(received.ok());
    EXPECT_EQ(received->size, 0u);
}

TEST_F(LinuxTest, unix_sockets_take_long_paths) {
    std::string directory = directory_ + "/" + std::string(120, 'd');
    ASSERT_TRUE(mkdir_p(directory, 0700).ok());
    std::string path = directory + "/socket";
    UniqueFd listener = MUST(listen_unix(path));
    struct stat st;
    ASSERT_EQ(::stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0600u);
    EXPECT_EQ(listen_unix(path).error().value, EADDRINUSE);
    UniqueFd client = MUST(connect_unix(path));
    UniqueFd server = MUST(accept_unix(listener.get()));
    EXPECT_EQ(MUST(peer_credentials(server.get())).pid, ::getpid());
}

TEST_F(LinuxTest, huge_tmpfile_is_usable_after_its_mount_is_gone) {
    auto file = create_huge_tmpfile();
    if (!file.ok() && file.error().value == EPERM) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
    ASSERT_TRUE(file.ok());
    ASSERT_EQ(::ftruncate(file->get(), 4 << 20), 0);
    EXPECT_EQ(::pwrite(file->get(), "x", 1, 2 << 20), 1);
}

TEST_F(LinuxTest, a_refused_mount_option_is_named) {
    auto mount = create_mount("tmpfs", {{"size", "many"}}, 0);
    if (!mount.ok() && mount.error().code() == EPERM) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
    ASSERT_FALSE(mount.ok());
    EXPECT_NE(mount.error().message().find("size=many"), std::string::npos) << mount.error().message();
}

TEST_F(LinuxTest, detached_mount_serves_openat) {
    ASSERT_TRUE(write_file_atomic(directory_ + "/file", "seen", 0600).ok());
    auto mount = clone_mount(AT_FDCWD, directory_, true);
    if (!mount.ok() && mount.error().value == EPERM) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
    ASSERT_TRUE(mount.ok());
    ASSERT_TRUE(set_mount_attributes(mount->get(), "", true, MOUNT_ATTR_RDONLY, 0).ok());
    EXPECT_EQ(*read_file_at(mount->get(), "file"), "seen");
    EXPECT_EQ(open_at(mount->get(), "file", O_WRONLY).error().value, EROFS);
    // Its root is the end of the way up.
    EXPECT_EQ(*read_file_at(mount->get(), "../../../file"), "seen");
}

}  // namespace
}  // namespace casemate::linux
