// What a jailed program sees, told by testdata/jail_probe.c. Runs as root or as any user.
#include "host/jail.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>

#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
#include "linux/process.h"

namespace casemate::host {
namespace {

class JailTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/casemate-jail-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        directory_ = name;
        spec_.program = JAIL_PROBE;
        spec_.args = {"probe"};
        pipe_ = MUST(linux::create_pipe());
        spec_.stdout_fd = pipe_.write_end.get();
    }
    void TearDown() override { EXPECT_TRUE(linux::remove_tree(directory_).ok()); }

    // Runs the probe and gives its lines by key ("list /" is a key too).
    std::map<std::string, std::string> probe() {
        std::map<std::string, std::string> facts;
        auto process = spawn_jailed(spec_);
        EXPECT_TRUE(process.ok()) << process.error().message();
        pipe_.write_end.reset();
        if (!process.ok()) return facts;
        std::string text = MUST(linux::read_fd(pipe_.read_end.get()));
        auto status = MUST(linux::wait_pidfd(process->pidfd.get(), true));
        EXPECT_EQ(status->shell_code(), 0);
        for (size_t at = 0; at < text.size();) {
            size_t end = text.find('\n', at);
            std::string line = text.substr(at, end - at);
            size_t key = line.find(' ');
            if (line.starts_with("list ") || line.starts_with("write ")) key = line.find(' ', key + 1);
            facts[line.substr(0, key)] = key == std::string::npos ? "" : line.substr(key + 1);
            at = end + 1;
        }
        return facts;
    }

    std::string directory_;
    linux::Pipe pipe_;
    JailSpec spec_;
};

TEST_F(JailTest, sees_nothing_and_may_do_nothing) {
    sigset_t set = linux::signal_set({SIGUSR1});
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    spec_.fds = {pipe_.read_end.get(), -1, pipe_.write_end.get()};
    spec_.environment = {"A=1"};
    spec_.args = {"probe", "w:/file", "l:/proc"};
    spec_.rlimits = {{RLIMIT_NOFILE, 100, 100}};
    auto facts = probe();
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    EXPECT_EQ(facts["uid"], "65534");
    EXPECT_EQ(facts["gid"], "65534");
    if (::geteuid() == 0) {
        EXPECT_EQ(facts["groups"], "0");
    }
    EXPECT_EQ(facts["pid"], "1");
    EXPECT_EQ(facts["sid"], "1");
    EXPECT_EQ(facts["effective"], "000000000");
    EXPECT_EQ(facts["permitted"], "000000000");
    EXPECT_EQ(facts["bounding"], "0");
    EXPECT_EQ(facts["no_new_privs"], "1");
    EXPECT_EQ(facts["hostname"], "jail");
    EXPECT_EQ(facts["nofile"], "100");
    EXPECT_EQ(facts["blocked_usr1"], "0");
    EXPECT_EQ(facts["fds"], "0 1 2 3 5");
    EXPECT_EQ(facts["env"], "A=1");
    EXPECT_EQ(facts["list /"], "");
    EXPECT_EQ(facts["list /proc"], "!" + std::to_string(ENOENT));
    EXPECT_EQ(facts["write /file"], std::to_string(EROFS));
}

TEST_F(JailTest, has_the_mounts_it_was_given) {
    ASSERT_TRUE(linux::mkdir_p(directory_ + "/source/inner", 0755).ok());
    ASSERT_TRUE(linux::write_file_atomic(directory_ + "/one_file", "x", 0644).ok());
    ::chmod(directory_.c_str(), 0755);
    spec_.tmpfs = {{"/memory", true, 0, 0700}, {"/scratch/deep", false, 1 << 20, 0700}};
    JailBind bind, file;
    bind.source = directory_ + "/source";
    bind.target = "/bound/here";
    file.source = directory_ + "/one_file";
    file.target = "/etc/file";
    spec_.binds = {bind, file};
    spec_.args = {"probe",     "l:/bound/here", "l:/bound", "w:/bound/here/x", "w:/memory/x", "w:/scratch/deep/x",
                  "l:/memory", "w:/etc/file",   "l:/etc"};
    auto facts = probe();
    EXPECT_EQ(facts["list /bound/here"], "inner");
    EXPECT_EQ(facts["write /bound/here/x"], std::to_string(EROFS));
    EXPECT_EQ(facts["write /memory/x"], "0");
    EXPECT_EQ(facts["write /scratch/deep/x"], "0");
    EXPECT_EQ(facts["list /memory"], "x");
    EXPECT_EQ(facts["list /etc"], "file");
    EXPECT_NE(facts["write /etc/file"], "0");
}

TEST_F(JailTest, root_can_be_a_directory) {
    ASSERT_TRUE(linux::mkdir_p(directory_ + "/root/etc", 0755).ok());
    ASSERT_EQ(::symlink("/../../tmp", (directory_ + "/root/link").c_str()), 0);
    spec_.root = directory_ + "/root";
    spec_.tmpfs = {{"/etc", false, 0, 0700}};
    spec_.args = {"probe", "w:/x", "w:/etc/x"};
    auto facts = probe();
    EXPECT_NE(facts["list /"].find("etc"), std::string::npos);
    EXPECT_EQ(facts["write /x"], std::to_string(EROFS));
    EXPECT_EQ(facts["write /etc/x"], "0");
}

TEST_F(JailTest, mount_points_do_not_leave_a_given_root_through_links) {
    ASSERT_TRUE(linux::mkdir_p(directory_ + "/root", 0755).ok());
    ASSERT_EQ(::symlink("/../../../../../../../proc", (directory_ + "/root/link").c_str()), 0);
    spec_.root = directory_ + "/root";
    spec_.tmpfs = {{"/link", false, 0, 0700}};
    auto process = spawn_jailed(spec_);
    ASSERT_FALSE(process.ok());
    EXPECT_NE(process.error().message().find("making the mount point (/link): No such file"), std::string::npos)
        << process.error().message();
}

TEST_F(JailTest, memory_file_comes_behind_the_other_descriptors) {
    spec_.fds = {pipe_.write_end.get()};
    spec_.memory_file = true;
    spec_.args = {"probe", "m:4"};
    auto facts = probe();
    EXPECT_EQ(facts["fds"], "0 1 2 3 4");
    // Truncated and mapped writable and executable; one touch brought a whole huge page; no name is left.
    EXPECT_EQ(facts["memory"], "0 0 4096 0");
}

TEST_F(JailTest, file_server_keeps_only_its_capabilities) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    spec_.namespaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    spec_.uid = spec_.gid = 0;
    spec_.capabilities = kFileServerCapabilities;
    auto facts = probe();
    char wanted[32];
    std::snprintf(wanted, sizeof wanted, "%llx", static_cast<unsigned long long>(kFileServerCapabilities.bits()));
    EXPECT_EQ(facts["uid"], "0");
    EXPECT_EQ(facts["bounding"], wanted);
    EXPECT_EQ(std::stoull(facts["effective"], nullptr, 16), kFileServerCapabilities.bits());
    EXPECT_EQ(std::stoull(facts["permitted"], nullptr, 16), kFileServerCapabilities.bits());
    EXPECT_EQ(facts["list /"], "");
}

TEST_F(JailTest, failures_name_the_step) {
    spec_.program = directory_ + "/missing";
    auto process = spawn_jailed(spec_);
    ASSERT_FALSE(process.ok());
    EXPECT_EQ(process.error().code(), ENOENT);
    EXPECT_NE(process.error().message().find("/missing"), std::string::npos);

    ASSERT_TRUE(linux::write_file_atomic(spec_.program, "no program", 0755).ok());
    process = spawn_jailed(spec_);
    ASSERT_FALSE(process.ok());
    EXPECT_EQ(process.error().code(), ENOEXEC);
    EXPECT_NE(process.error().message().find("executing the program"), std::string::npos);

    spec_.program = JAIL_PROBE;
    spec_.rlimits = {{RLIMIT_NOFILE, 10, 5}};
    process = spawn_jailed(spec_);
    ASSERT_FALSE(process.ok());
    EXPECT_NE(process.error().message().find("setting resource limits"), std::string::npos);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // no child is left
}

TEST_F(JailTest, program_needs_no_path_and_ends_with_its_starter) {
    UniqueFd program = MUST(linux::open(JAIL_PROBE, O_RDONLY));
    spec_.program_fd = program.get();
    spec_.program.clear();
    spec_.args = {"probe", "exit", "9"};
    auto process = spawn_jailed(spec_);
    ASSERT_TRUE(process.ok()) << process.error().message();
    EXPECT_EQ((*MUST(linux::wait_pidfd(process->pidfd.get(), true))).shell_code(), 9);

    // A starter that is killed takes the jail along.
    spec_.args = {"probe", "sleep"};
    linux::Pipe ready = MUST(linux::create_pipe());
    pid_t starter = ::fork();
    if (starter == 0) {
        auto jailed = spawn_jailed(spec_);
        pid_t pid = jailed.ok() ? jailed->pid : -1;
        (void)!::write(ready.write_end.get(), &pid, sizeof pid);
        for (;;) ::pause();
    }
    pid_t jailed = -1;
    ASSERT_EQ(::read(ready.read_end.get(), &jailed, sizeof jailed), static_cast<ssize_t>(sizeof jailed));
    ASSERT_GT(jailed, 0);
    UniqueFd pidfd = MUST(linux::pidfd_open(jailed));
    ::kill(starter, SIGKILL);
    ::waitpid(starter, nullptr, 0);
    for (int i = 0; i < 200 && !linux::pidfd_exited(pidfd.get()); i++) ::usleep(10'000);
    EXPECT_TRUE(linux::pidfd_exited(pidfd.get()));
}

TEST_F(JailTest, start_that_is_not_finished_leaves_no_child) {
    spec_.args = {"probe", "sleep"};
    {
        auto start = begin_jailed(spec_);
        ASSERT_TRUE(start.ok());
    }
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

}  // namespace
}  // namespace casemate::host
