#include "host/namespaces.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "linux/mount_fd.h"

namespace casemate::host {
namespace {

using oci::NamespaceType;

TEST(Namespaces, paths_are_checked_for_their_type) {
    EXPECT_TRUE(open_namespace(NamespaceType::kNetwork, "/proc/self/ns/net").ok());
    auto wrong = open_namespace(NamespaceType::kNetwork, "/proc/self/ns/uts");
    ASSERT_FALSE(wrong.ok());
    EXPECT_EQ(wrong.error().message(), "/proc/self/ns/uts is a namespace of type uts, must be network");
    wrong = open_namespace(NamespaceType::kNetwork, "/dev/null");
    ASSERT_FALSE(wrong.ok());
    EXPECT_EQ(wrong.error().message(), "/dev/null is not a namespace, must be one of type network");
    EXPECT_EQ(open_namespace(NamespaceType::kPid, "/nowhere").error().code(), ENOENT);
    for (auto type : {NamespaceType::kPid, NamespaceType::kMount, NamespaceType::kIpc, NamespaceType::kUser,
                      NamespaceType::kCgroup, NamespaceType::kTime})
        EXPECT_TRUE(open_process_namespace(type, 0).ok()) << namespace_name(type);
}

TEST(Namespaces, a_user_namespace_without_processes_keeps_its_maps) {
    IdMaps maps;
    maps.uids = {{0, ::geteuid(), 1}};
    maps.gids = {{0, ::getegid(), 1}};
    auto made = create_user_namespace(maps);
    ASSERT_TRUE(made.ok()) << made.error().message();
    UniqueFd own = MUST(open_process_namespace(NamespaceType::kUser, 0));
    EXPECT_FALSE(is_same_namespace(made->get(), own.get()));
    EXPECT_TRUE(is_same_namespace(own.get(), own.get()));
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    // Who joins it is root there.
    pid_t child = ::fork();
    if (child == 0) {
        if (!join_namespaces({{NamespaceType::kUser, made->get()}}).ok()) ::_exit(1);
        ::_exit(::geteuid() == 0 ? 0 : 2);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
}

TEST(Namespaces, work_runs_in_another_network_namespace) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    // A namespace of a child that waits.
    int pipes[2];
    ASSERT_EQ(::pipe(pipes), 0);
    pid_t child = ::fork();
    if (child == 0) {
        char ready = ::unshare(CLONE_NEWNET) == 0 ? 'y' : 'n';
        (void)!::write(pipes[1], &ready, 1);
        for (;;) ::pause();
    }
    char ready = 0;
    ASSERT_EQ(::read(pipes[0], &ready, 1), 1);
    UniqueFd theirs = MUST(open_process_namespace(NamespaceType::kNetwork, child));
    UniqueFd ours = MUST(open_process_namespace(NamespaceType::kNetwork, 0));
    bool inside = false;
    auto ran = run_in_namespace({NamespaceType::kNetwork, theirs.get()}, [&]() -> Result<void> {
        UniqueFd here = TRY(open_namespace(NamespaceType::kNetwork, "/proc/thread-self/ns/net"));
        inside = is_same_namespace(here.get(), theirs.get());
        return Error("from inside", 77);
    });
    EXPECT_TRUE(inside);
    EXPECT_EQ(ran.error().code(), 77);
    UniqueFd after = MUST(open_process_namespace(NamespaceType::kNetwork, 0));
    EXPECT_TRUE(is_same_namespace(after.get(), ours.get()));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(pipes[0]);
    ::close(pipes[1]);
}

TEST(Namespaces, a_process_becomes_root_of_its_own) {
    pid_t child = ::fork();
    if (child == 0) {
        auto entered = enter_rootless(rootless_id_maps());
        if (!entered.ok()) {
            std::printf("%s\n", entered.error().message().c_str());
            ::_exit(1);
        }
        if (::geteuid() != 0 || ::getegid() != 0) ::_exit(2);
        ::_exit(linux::create_huge_tmpfile().ok() ? 0 : 3);  // may mount
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Namespaces, subordinate_ids_are_parsed) {
    auto ranges = parse_subordinate_ids(
        "root:1:2\nana:100000:65536\n1000:300000:10\nana:x:1\nana:5:0\nana:4294967290:10\nbad\nana:7", "ana", 1000);
    ASSERT_EQ(ranges.size(), 2u);
    EXPECT_EQ(ranges[0].inside, 1u);
    EXPECT_EQ(ranges[0].outside, 100000u);
    EXPECT_EQ(ranges[1].inside, 65537u);
    EXPECT_EQ(ranges[1].count, 10u);
    EXPECT_TRUE(parse_subordinate_ids("", "", 0).empty());
}

TEST(IdMap, mapped_ids_are_found) {
    EXPECT_TRUE(is_id_mapped("/proc/self/uid_map", ::getuid()));
    EXPECT_FALSE(is_id_mapped("/proc/self/none", 0));
}

}  // namespace
}  // namespace casemate::host
