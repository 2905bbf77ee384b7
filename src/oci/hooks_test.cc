#include "oci/hooks.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "base/unique_fd.h"

namespace casemate::oci {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class HooksTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/casemate-hooks-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        directory_ = name;
    }
    void TearDown() override {
        fs::remove_all(directory_);
        // No hook is left behind, as child or as zombie.
        EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
        EXPECT_EQ(errno, ECHILD);
    }

    static Hook shell(const std::string& script) {
        Hook hook;
        hook.path = "/bin/sh";
        hook.args = {"sh", "-c", script};
        return hook;
    }
    std::string file(const std::string& name) const { return directory_ / name; }
    std::string content(const std::string& name) const {
        std::ostringstream text;
        text << std::ifstream(directory_ / name).rdbuf();
        return text.str();
    }

    fs::path directory_;
};

TEST_F(HooksTest, StateIsOnStandardInput) {
    std::string state(300'000, 'x');
    ASSERT_TRUE(run_hook(shell("/bin/cat > " + file("out")), state).ok());
    EXPECT_EQ(content("out"), state);
    ASSERT_TRUE(run_hook(shell("/bin/cat /dev/stdin > " + file("again")), "{}").ok());
    EXPECT_EQ(content("again"), "{}");
    // One that does not read it blocks nobody.
    EXPECT_TRUE(run_hook(shell("exit 0"), state).ok());
}

TEST_F(HooksTest, ArgumentsAndEnvironmentAsGiven) {
    Hook hook = shell("printf '%s|' \"$0\" \"$@\" > " + file("args") + "; /usr/bin/env > " + file("env"));
    hook.args.insert(hook.args.end(), {"zero", "", "a b"});
    hook.env = {"ONE=1", "TWO="};
    setenv("CASEMATE_LEAK", "1", 1);
    ASSERT_TRUE(run_hook(hook, "").ok());
    EXPECT_EQ(content("args"), "zero||a b|");
    EXPECT_THAT(content("env"), testing::AllOf(HasSubstr("ONE=1\n"), HasSubstr("TWO=\n")));
    EXPECT_THAT(content("env"), testing::Not(HasSubstr("HOME=")));
    EXPECT_THAT(content("env"), testing::Not(HasSubstr("CASEMATE_LEAK")));
    hook = Hook();
    hook.path = "/bin/true";
    EXPECT_TRUE(run_hook(hook, "").ok());
}

TEST_F(HooksTest, NoOtherDescriptorsAreInherited) {
    int leaked = open("/dev/null", O_RDONLY);  // without O_CLOEXEC
    ASSERT_TRUE(run_hook(shell("/bin/ls -1 /proc/self/fd > " + file("fds")), "").ok());
    close(leaked);
    // 0, 1, 2 and the one that ls itself opened.
    EXPECT_EQ(content("fds"), "0\n1\n2\n3\n");
}

TEST_F(HooksTest, FailuresSayWhatHappened) {
    EXPECT_EQ(run_hook(shell("echo out; echo oops >&2; exit 3"), "").error().message(),
              "exited with status 3, saying: out oops");
    EXPECT_EQ(run_hook(shell("kill -9 $$"), "").error().message(), "was killed by signal 9");
    Hook hook;
    hook.path = "/no/such/hook";
    EXPECT_EQ(run_hook(hook, "").error().message(), "execute: No such file or directory");
    EXPECT_EQ(run_hook(hook, "").error().code(), ENOENT);
    hook.path = "/etc/passwd";
    EXPECT_EQ(run_hook(hook, "").error().message(), "execute: Permission denied");
}

TEST_F(HooksTest, EndlessOutputIsTakenAndCut) {
    auto error =
        run_hook(shell("/bin/head -c 3000000 /dev/zero | /usr/bin/tr '\\0' 'y'; echo end; exit 1"), "").error();
    EXPECT_LT(error.message().size(), 2200u);
    EXPECT_TRUE(error.message().ends_with("yend"));
}

TEST_F(HooksTest, TimeoutKillsTheHookAndItsChildren) {
    Hook hook = shell("/bin/sleep 100 & echo $! > " + file("pid") + "; /bin/sleep 100");
    hook.timeout = 1;
    auto done = run_hook(hook, "");
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().code(), ETIMEDOUT);
    EXPECT_EQ(done.error().message(), "was killed, having run longer than 1 s");
    int child = std::stoi(content("pid"));
    for (int tries = 0; tries < 100 && kill(child, 0) == 0; tries++) {
        // Killed; its new parent may take a moment to reap it.
        std::ifstream status("/proc/" + std::to_string(child) + "/stat");
        std::string line;
        std::getline(status, line);
        if (line.find(") Z ") != std::string::npos) return;
        usleep(20'000);
    }
    EXPECT_NE(kill(child, 0), 0);
}

TEST_F(HooksTest, DaemonThatKeepsTheOutputOpenIsNotWaitedFor) {
    Hook hook = shell("/bin/sleep 3 & exit 0");
    hook.timeout = 2;
    EXPECT_TRUE(run_hook(hook, "").ok());
}

TEST_F(HooksTest, SignalsAreReset) {
    signal(SIGUSR1, SIG_IGN);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    EXPECT_EQ(run_hook(shell("kill -USR1 $$"), "").error().message(), "was killed by signal 10");
    EXPECT_EQ(run_hook(shell("kill -USR2 $$"), "").error().message(), "was killed by signal 12");
    sigprocmask(SIG_SETMASK, &before, nullptr);
    signal(SIGUSR1, SIG_DFL);
}

TEST_F(HooksTest, WorkingDirectory) {
    UniqueFd directory(open(directory_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    HookPlace place;
    place.working_directory = directory.get();
    ASSERT_TRUE(run_hook(shell("pwd > here"), "", place).ok());
    EXPECT_EQ(content("here"), directory_.string() + "\n");
}

TEST_F(HooksTest, RunsInTheGivenNamespaces) {
    if (geteuid() != 0) GTEST_SKIP() << "joining namespaces needs root";
    // A process in new uts and pid namespaces, whose descriptors are borrowed.
    int ready[2];
    ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
    pid_t holder = fork();
    if (holder == 0) {
        bool made = unshare(CLONE_NEWUTS | CLONE_NEWPID) == 0 && sethostname("inside", 6) == 0;
        pid_t first = made ? fork() : -1;
        if (first == 0) {
            pause();
            _exit(0);
        }
        char good = first > 0 ? 'y' : 'n';
        if (write(ready[1], &good, 1) != 1) _exit(1);
        pause();
        _exit(0);
    }
    char good = 'n';
    ASSERT_EQ(read(ready[0], &good, 1), 1);
    if (good == 'y') {
        std::string proc = "/proc/" + std::to_string(holder) + "/ns/";
        UniqueFd uts(open((proc + "uts").c_str(), O_RDONLY | O_CLOEXEC));
        UniqueFd pid(open((proc + "pid_for_children").c_str(), O_RDONLY | O_CLOEXEC));
        HookPlace place;
        place.namespaces = {uts.get(), pid.get()};
        EXPECT_TRUE(run_hook(shell("/bin/hostname > " + file("name") + "; echo $$ > " + file("pid")), "", place).ok());
        EXPECT_EQ(content("name"), "inside\n");
        EXPECT_LT(std::stoi(content("pid")), 100);
        EXPECT_EQ(run_hook(shell("exit 9"), "", place).error().message(), "exited with status 9");
        Hook slow = shell("/bin/sleep 100");
        slow.timeout = 1;
        EXPECT_EQ(run_hook(slow, "", place).error().code(), ETIMEDOUT);
    }
    // The first process of the pid namespace has the holder for a parent and ends by the kernel's hand.
    std::ifstream children("/proc/" + std::to_string(holder) + "/task/" + std::to_string(holder) + "/children");
    pid_t first = 0;
    if (children >> first) kill(first, SIGKILL);
    kill(holder, SIGKILL);
    waitpid(holder, nullptr, 0);
    close(ready[0]);
    close(ready[1]);
    if (good != 'y') GTEST_SKIP() << "namespaces cannot be made here";
}

TEST_F(HooksTest, OrderAndFatality) {
    Hooks hooks;
    std::string out = file("out");
    hooks.create_runtime = {shell("echo 1 >> " + out), shell("exit 1"), shell("echo 3 >> " + out)};
    hooks.poststop = hooks.create_runtime;
    auto fatal = run_hooks(HookKind::kCreateRuntime, hooks, "{}");
    ASSERT_FALSE(fatal.ok());
    EXPECT_EQ(fatal.error().message(), "hook createRuntime[1] (/bin/sh): exited with status 1");
    EXPECT_EQ(content("out"), "1\n");
    log::set_sink(-1, log::Format::kText, log::Level::kWarning);
    EXPECT_TRUE(run_hooks(HookKind::kPoststop, hooks, "{}").ok());
    log::set_sink(2, log::Format::kText, log::Level::kWarning);
    EXPECT_EQ(content("out"), "1\n1\n3\n");
    EXPECT_TRUE(run_hooks(HookKind::kPrestart, hooks, "{}").ok());
}

TEST(HookKinds, Semantics) {
    EXPECT_TRUE(hook_failure_is_fatal(HookKind::kStartContainer));
    EXPECT_FALSE(hook_failure_is_fatal(HookKind::kPoststart));
    EXPECT_TRUE(hook_runs_in_container(HookKind::kCreateContainer));
    EXPECT_FALSE(hook_runs_in_container(HookKind::kCreateRuntime));
    EXPECT_EQ(hook_names().size(), 6u);
}

}  // namespace
}  // namespace casemate::oci
