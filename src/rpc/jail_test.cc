// The server in a jail like the sentry's: a seccomp filter that kills on anything but the promised syscalls.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "rpc/client.h"
#include "rpc/server.h"

namespace casemate::rpc {
namespace {

using namespace std::chrono_literals;

// What server.h promises, and what malloc and the end of the process need.
constexpr int kAllowed[] = {SYS_poll,  SYS_recvmsg, SYS_sendmsg, SYS_read,   SYS_write,  SYS_close,     SYS_shutdown,
                            SYS_futex, SYS_brk,     SYS_mmap,    SYS_munmap, SYS_mremap, SYS_exit_group};

bool close_jail() {
    std::vector<sock_filter> program;
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    for (int number : kAllowed) {
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
        program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0;
}

TEST(RpcJail, ServerNeedsOnlyThePromisedSyscalls) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizers make syscalls of their own";
#endif
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::close(fds[0]);
        Server* to_stop = nullptr;
        Server::Options options;
        options.on_disconnect = [&](size_t) { to_stop->stop(); };
        auto server = MUST(Server::create(std::move(options)));
        to_stop = server.get();
        std::vector<Responder> kept;
        server->handle("jail", "Echo", [](Call call) { call.responder.respond(call.payload); });
        server->handle("jail", "Keep", [&](Call call) { kept.push_back(std::move(call.responder)); });
        server->add_connection(UniqueFd(fds[1]));
        if (!close_jail()) ::_exit(77);
        ::_exit(server->run().ok() ? 0 : 1);
    }
    ::close(fds[1]);
    auto client = MUST(Client::create(UniqueFd(fds[0])));
    std::string large(3 << 20, 'x');
    EXPECT_EQ(client->call("jail", "Echo", large, {.timeout = 20s}).payload, large);
    EXPECT_EQ(client->call("jail", "Keep", "", {.timeout = 20ms}).status.code, Code::kDeadlineExceeded);
    EXPECT_EQ(client->call("jail", "NoSuch", "", {.timeout = 20s}).status.code, Code::kUnimplemented);
    client.reset();
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "seccomp filters are not available here";
    EXPECT_FALSE(WIFSIGNALED(status)) << "killed by signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace casemate::rpc
