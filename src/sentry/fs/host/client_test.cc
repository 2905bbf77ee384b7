// The way to the file server through shared memory. In a process of its own each: the filter that rings stays for good.
#include "sentry/fs/host/client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "fileserver/connection.h"
#include "fileserver/jail.h"
#include "linux/seccomp_fd.h"

namespace casemate::sentry {
namespace {

using fileserver::Op;
using fileserver::Request;

constexpr uint64_t kToken = 5;

UniqueFd listen_for_rings() {
    const sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, fileserver::kRingCall, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return MUST(linux::install_seccomp_filter(
        program, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV));
}

// Runs `body` with a client and the attached node, a server on the other end; in a child.
void with_server(const std::string& directory, const std::function<bool(HostFiles&, fileserver::NodeId)>& body) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::umask(0);
        int pair[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) ::_exit(2);
        fileserver::FileServer server(fileserver::FileServer::Limits{256}, MUST(fileserver::enter_proc_self_fd()));
        MUST(server.add_mount(kToken, 0, UniqueFd(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC))));
        std::thread thread([&] {
            fileserver::Connection connection(server, UniqueFd(pair[1]));
            fileserver::SpareThread rings;
            if (!connection.serve(rings).ok()) ::_exit(3);
        });
        bool good;
        {
            HostFiles client{UniqueFd(pair[0])};
            MUST(client.prepare_sharing());
            MUST(client.share(listen_for_rings()));
            Request attach;
            attach.op = static_cast<uint16_t>(Op::kAttach);
            attach.value = kToken;
            auto root = MUST(client.call(attach));
            good = body(client, root.reply.node);
        }
        thread.join();
        ::_exit(good ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

struct Directory {
    Directory() {
        char text[] = "/tmp/casemate-client-test-XXXXXX";
        name = ::mkdtemp(text);
    }
    ~Directory() { (void)!::system(("rm -rf " + name).c_str()); }
    std::string name;
};

Request request_of(Op op, fileserver::NodeId node) {
    Request request;
    request.op = static_cast<uint16_t>(op);
    request.node = node;
    return request;
}

SysResult<HostFiles::Answer> create(HostFiles& client, fileserver::NodeId node, const std::string& name) {
    Request request = request_of(Op::kCreate, node);
    request.mode = 0600;
    request.uid = ::getuid();
    request.gid = ::getgid();
    return client.call(request, name);
}

TEST(SharedHostFiles, RequestsDescriptorsErrorsAndPostsInOrder) {
    Directory directory;
    with_server(directory.name, [](HostFiles& client, fileserver::NodeId root) {
        auto made = create(client, root, "file");
        if (!made.ok() || !made->fd || ::write(made->fd.get(), "text", 4) != 4) return false;
        if (create(client, root, "file").error() != Errno(EEXIST)) return false;
        for (uint32_t mode = 0; mode < 0700; ++mode) {
            Request change = request_of(Op::kSetAttributes, root);
            change.valid = fileserver::kSetMode;
            change.mode = mode;
            uint64_t number = client.post(change, "file");
            if (mode % 64 != 0) continue;
            Request look = request_of(Op::kGetAttributes, root);
            auto seen = client.call(look, "file");
            if (!seen.ok() || (seen->reply.attributes.mode & 07777) != mode || client.done() < number) return false;
        }
        // More than the ring of posts holds, nobody asking in between.
        std::string value(3000, 'v');
        for (int i = 0; i < 100; ++i) {
            Request change = request_of(Op::kSetXattr, root);
            client.post(change, "file", "user.name", value + std::to_string(i));
        }
        Request look = request_of(Op::kGetXattr, root);
        auto seen = client.call(look, "file", {}, "user.name");
        return seen.ok() ? seen->data == value + "99" : seen.error() == Errno(EOPNOTSUPP);
    });
}

TEST(SharedHostFiles, PostsAreWorkedOffWithoutAnyQuestion) {
    Directory directory;
    with_server(directory.name, [&](HostFiles& client, fileserver::NodeId root) {
        if (!create(client, root, "file").ok()) return false;
        for (uint32_t mode : {0640u, 0604u, 0444u}) {
            Request change = request_of(Op::kSetAttributes, root);
            change.valid = fileserver::kSetMode;
            change.mode = mode;
            client.post(change, "file");
            struct stat info {};
            for (int waited = 0; waited < 5000 && (info.st_mode & 07777) != mode; ++waited) {
                ::usleep(2000);
                ::stat((directory.name + "/file").c_str(), &info);
            }
            if ((info.st_mode & 07777) != mode) return false;
            ::usleep(20'000);  // it may sleep by now
        }
        return true;
    });
}

TEST(SharedHostFiles, ManyThreadsGetTheirOwnAnswers) {
    Directory directory;
    with_server(directory.name, [](HostFiles& client, fileserver::NodeId root) {
        std::atomic<bool> good{true};
        std::vector<std::thread> threads;
        for (int t = 0; t < 12; ++t)
            threads.emplace_back([&, t] {
                for (int i = 0; i < 100 && good; ++i) {
                    std::string name = std::to_string(t) + "-" + std::to_string(i);
                    auto made = create(client, root, name);
                    struct stat info;
                    if (!made.ok() || !made->fd || ::fstat(made->fd.get(), &info) != 0 ||
                        info.st_ino != made->reply.attributes.inode)
                        good = false;
                }
            });
        for (auto& thread : threads) thread.join();
        return good.load();
    });
}

TEST(SharedHostFiles, AServerThatIsGoneAnswersEio) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        int pair[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) ::_exit(2);
        HostFiles client{UniqueFd(pair[0])};
        MUST(client.prepare_sharing());
        MUST(client.share(listen_for_rings()));
        ::close(pair[1]);  // and with it the message that holds the listener
        Request attach = request_of(Op::kAttach, 0);
        ::_exit(client.call(attach).error() == Errno(EIO) ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace casemate::sentry
