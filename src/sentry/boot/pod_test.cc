// Whole programs in a pod: static and dynamic executables through loader, platform, memory and tasks.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>

#include "sentry/boot/test_pod.h"

namespace casemate::sentry {
namespace {

// Compiles `source`; the path of the program. Empty if this machine has no compiler.
std::string compile(const std::string& name, const std::string& source, const std::string& flags) {
    std::string directory = ::testing::TempDir() + "casemate_pod";
    if (std::system(("mkdir -p " + directory).c_str()) != 0) return "";
    std::string path = directory + "/" + name;
    std::ofstream(path + ".c") << source;
    std::string command = "cc -O1 -o " + path + " " + path + ".c " + flags + " >/dev/null 2>&1";
    return std::system(command.c_str()) == 0 ? path : "";
}

struct Outcome {
    int status = 0;
    std::string output;
};

Outcome run(TestPod& pod, const std::string& program, const std::vector<std::string>& libraries = {}) {
    int fds[2];
    CHECK(::pipe2(fds, O_CLOEXEC) == 0);
    UniqueFd read_end(fds[0]), write_end(fds[1]);
    UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    Ref<Task> task = pod.create_process({null.get(), write_end.get(), write_end.get()});
    write_end.reset();
    pod.copy_in(*task, program, "/program");
    for (const std::string& library : libraries) pod.copy_in(*task, library, library);
    auto started =
        pod.start(*task, {"/program", "one", "two"}, {"A=B", ::getenv("POD_ENV") ? ::getenv("POD_ENV") : "B=C"});
    EXPECT_TRUE(started.ok()) << strerrorname_np(errno_of(started.error()));
    if (!started.ok()) {
        TaskBuilder::discard_process(*task);
        return {};
    }
    task.reset();
    Outcome result;
    result.status = pod.wait();
    char buffer[4096];
    ::fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
    ssize_t got;
    while ((got = ::read(read_end.get(), buffer, sizeof(buffer))) > 0)
        result.output.append(buffer, static_cast<size_t>(got));
    return result;
}

constexpr const char* kHello = R"(
#include <stdio.h>
#include <unistd.h>
int main(int argc, char** argv) {
    char text[100];
    int n = snprintf(text, sizeof text, "hello %d %s pid %d\n", argc, argv[1], getpid());
    write(1, text, n);
    return 7;
}
)";

TEST(PodTest, StaticProgramRuns) {
    std::string program = compile("hello_static", kHello, "-static");
    if (program.empty()) GTEST_SKIP() << "no C compiler";
    TestPod pod;
    Outcome result = run(pod, program);
    EXPECT_EQ(result.output, "hello 3 one pid 1\n");
    EXPECT_EQ(result.status, 7 << 8);
}

TEST(PodTest, DynamicProgramRuns) {
    std::string program = compile("hello_dynamic", kHello, "");
    if (program.empty()) GTEST_SKIP() << "no C compiler";
    TestPod pod;
    Outcome result = run(pod, program, {"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"});
    EXPECT_EQ(result.output, "hello 3 one pid 1\n");
    EXPECT_EQ(result.status, 7 << 8);
}

// By hand: POD_PROGRAM runs with POD_FILES (colon-separated) at their places.
TEST(PodTest, DISABLED_Program) {
    if (::getenv("POD_PROGRAM") == nullptr) GTEST_SKIP();
    TestPod pod;
    std::vector<std::string> files;
    std::string list = ::getenv("POD_FILES") != nullptr ? ::getenv("POD_FILES") : "";
    for (size_t at = 0; at < list.size();) {
        size_t end = std::min(list.find(':', at), list.size());
        files.push_back(list.substr(at, end - at));
        at = end + 1;
    }
    Outcome result = run(pod, ::getenv("POD_PROGRAM"), files);
    printf("%s\nstatus %#x\n", result.output.c_str(), result.status);
}

}  // namespace
}  // namespace casemate::sentry
