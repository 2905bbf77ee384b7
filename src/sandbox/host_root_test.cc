#include "sandbox/host_root.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <string>

#include "host/namespaces.h"

namespace casemate::sandbox {
namespace {

std::set<std::string> names_in(int tree, const char* folder) {
    std::set<std::string> names;
    DIR* directory = fdopendir(openat(tree, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory == nullptr) return {"not to be opened"};
    while (dirent* entry = readdir(directory))
        if (std::string_view name = entry->d_name; name != "." && name != "..") names.emplace(name);
    closedir(directory);
    return names;
}

// In a process of its own, which has to move to another mount namespace. 0: as it should be.
template <typename Work>
int in_child(Work work) {
    pid_t pid = fork();
    if (pid == 0) _exit(work());
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

int check_copy() {
    auto copy = clone_host_root();
    if (!copy.ok()) {
        fprintf(stderr, "%s\n", copy.error().message().c_str());
        return 1;
    }
    if (!names_in(copy->get(), "proc").empty()) return 2;
    if (!names_in(copy->get(), "sys").empty()) return 3;
    if (names_in(copy->get(), "dev").contains("kmsg")) return 4;
    if (!names_in(copy->get(), "etc").contains("passwd")) return 5;
    if (openat(copy->get(), "tmp/made-by-a-test", O_WRONLY | O_CREAT | O_CLOEXEC, 0600) >= 0 || errno != EROFS)
        return 6;
    return 0;
}

TEST(HostRootTest, what_the_kernel_shows_of_itself_is_not_in_it) {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    EXPECT_EQ(in_child(check_copy), 0);
}

// Whose mounts are locked: they cannot be taken away, only covered.
TEST(HostRootTest, nor_in_that_of_an_ordinary_user) {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    EXPECT_EQ(in_child([] {
                  host::IdMaps maps;
                  maps.uids = {{0, 33, 1}};
                  maps.gids = {{0, 33, 1}};
                  if (setresgid(33, 33, 33) != 0 || setresuid(33, 33, 33) != 0) return 20;
                  auto entered = host::enter_rootless(maps);
                  if (!entered.ok()) return 21;
                  return check_copy();
              }),
              0);
}

}  // namespace
}  // namespace casemate::sandbox
