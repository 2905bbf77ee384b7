// Unix sockets: stream, datagram, seqpacket; names, credentials, passed descriptors, shutdown, readiness, options.
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <cstddef>
#include <vector>

#include "case.h"

struct Pair {
    explicit Pair(int type = SOCK_STREAM) { OK(socketpair(AF_UNIX, type, 0, ends)); }
    int ends[2];
    int a() const { return ends[0]; }
    int b() const { return ends[1]; }
};
struct Name {
    sockaddr_un address{};
    socklen_t size;
    explicit Name(const std::string& path) {
        address.sun_family = AF_UNIX;
        memcpy(address.sun_path, path.data(), path.size());
        size = offsetof(sockaddr_un, sun_path) + path.size() + (path[0] ? 1 : 0);
    }
    sockaddr* get() { return (sockaddr*)&address; }
};
static int bound(const std::string& path, int type = SOCK_STREAM) {
    int fd = OK(socket(AF_UNIX, type, 0));
    Name name(path);
    OK(bind(fd, name.get(), name.size));
    return fd;
}
static int listener(const std::string& path, int type = SOCK_STREAM, int backlog = 5) {
    int fd = bound(path, type);
    OK(listen(fd, backlog));
    return fd;
}
static int connected(const std::string& path, int type = SOCK_STREAM) {
    int fd = OK(socket(AF_UNIX, type, 0));
    Name name(path);
    OK(connect(fd, name.get(), name.size));
    return fd;
}
static short ready(int fd) {
    pollfd watch{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    OK(poll(&watch, 1, 0));
    return watch.revents;
}
static int option(int fd, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    OK(getsockopt(fd, SOL_SOCKET, name, &value, &size));
    return value;
}
static ssize_t send_fds(int socket, const std::vector<int>& fds, const char* text = "x") {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 300)] = {};
    iovec part{(void*)text, strlen(text)};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    return sendmsg(socket, &message, 0);
}
static std::vector<int> receive_fds(int socket, int flags = 0, size_t room = 300, int* message_flags = nullptr) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 300)] = {};
    char text[64];
    iovec part{text, sizeof text};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = room ? CMSG_SPACE(sizeof(int) * room) : 0;
    OK(recvmsg(socket, &message, flags));
    if (message_flags) *message_flags = message.msg_flags;
    std::vector<int> fds;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            fds.resize((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds.data(), CMSG_DATA(header), fds.size() * sizeof(int));
        }
    return fds;
}

// ---- pairs

CASE(pair_both_ways) {
    Pair p;
    EXPECT_EQ(write(p.a(), "to b", 4), 4);
    EXPECT_EQ(write(p.b(), "to a!", 5), 5);
    char buffer[16] = {};
    EXPECT_EQ(read(p.b(), buffer, 16), 4);
    EXPECT_EQ(read(p.a(), buffer, 16), 5);
    EXPECT_EQ(std::string(buffer), "to a!");
}
CASE(pair_flags) {
    int ends[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
    EXPECT_EQ(fcntl(ends[0], F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(ends[1], F_GETFL), O_RDWR | O_NONBLOCK);
    FAILS(read(ends[0], scratch(), 1), EAGAIN);
}
CASE(pair_errors) {
    int ends[2];
    FAILS(socketpair(AF_UNIX, 77, 0, ends), EINVAL);
    FAILS(socketpair(AF_UNIX, SOCK_RDM, 0, ends), ESOCKTNOSUPPORT);
    FAILS(socketpair(AF_UNIX, SOCK_STREAM, 77, ends), EPROTONOSUPPORT);
    FAILS(socketpair(AF_UNIX, SOCK_STREAM, 0, (int*)bad()), EFAULT);
    FAILS_ANY(socketpair(77, SOCK_STREAM, 0, ends), EAFNOSUPPORT);
    FAILS_ANY(socket(77, SOCK_STREAM, 0), EAFNOSUPPORT);
}
CASE(stream_merges_writes) {
    Pair p;
    write(p.a(), "ab", 2);
    write(p.a(), "cd", 2);
    EXPECT_EQ(read(p.b(), scratch(), 16), 4);
}
CASE(datagram_keeps_borders) {
    Pair p(SOCK_DGRAM);
    write(p.a(), "ab", 2);
    write(p.a(), "cde", 3);
    EXPECT_EQ(read(p.b(), scratch(), 16), 2);
    EXPECT_EQ(read(p.b(), scratch(), 2), 2);
    EXPECT_EQ(recv(p.b(), scratch(), 1, MSG_DONTWAIT) == -1 ? errno : 0, EAGAIN);
}
CASE(datagram_empty) {
    Pair p(SOCK_DGRAM);
    EXPECT_EQ(send(p.a(), "", 0, 0), 0);
    EXPECT_EQ(ready(p.b()) & POLLIN, POLLIN);
    EXPECT_EQ(recv(p.b(), scratch(), 16, 0), 0);
}
CASE(seqpacket_keeps_borders_and_ends) {
    Pair p(SOCK_SEQPACKET);
    write(p.a(), "ab", 2);
    write(p.a(), "cde", 3);
    EXPECT_EQ(read(p.b(), scratch(), 16), 2);
    EXPECT_EQ(read(p.b(), scratch(), 16), 3);
    close(p.a());
    EXPECT_EQ(read(p.b(), scratch(), 16), 0);
}
CASE(message_truncated_flag) {
    Pair p(SOCK_DGRAM);
    write(p.a(), "abcdef", 6);
    char buffer[4];
    iovec part{buffer, 4};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    EXPECT_EQ(recvmsg(p.b(), &message, 0), 4);
    EXPECT_EQ(message.msg_flags & MSG_TRUNC, MSG_TRUNC);
    write(p.a(), "abcdef", 6);
    EXPECT_EQ(recv(p.b(), buffer, 4, MSG_TRUNC), 6);
}
CASE(peek_does_not_take) {
    Pair p;
    write(p.a(), "abc", 3);
    EXPECT_EQ(recv(p.b(), scratch(), 2, MSG_PEEK), 2);
    EXPECT_EQ(recv(p.b(), scratch(), 16, 0), 3);
}
CASE(waitall_fills) {
    Pair p;
    pid_t pid = child([&] {
        write(p.a(), "ab", 2);
        sleep_ms(20);
        write(p.a(), "cd", 2);
    });
    EXPECT_EQ(recv(p.b(), scratch(), 4, MSG_WAITALL), 4);
    EXPECT_EXIT(pid, 0);
}
CASE(dontwait_flag) {
    Pair p;
    FAILS(recv(p.a(), scratch(), 1, MSG_DONTWAIT), EAGAIN);
}
CASE(end_of_file_and_broken_pipe) {
    Pair p;
    signal(SIGPIPE, SIG_IGN);
    write(p.a(), "x", 1);
    close(p.a());
    EXPECT_EQ(read(p.b(), scratch(), 10), 1);
    EXPECT_EQ(read(p.b(), scratch(), 10), 0);
    FAILS(write(p.b(), "x", 1), EPIPE);
}
CASE(sigpipe_and_nosignal) {
    Pair p;
    close(p.a());
    EXPECT_SIGNAL(child([&] { write(p.b(), "x", 1); }), SIGPIPE);
    FAILS(send(p.b(), "x", 1, MSG_NOSIGNAL), EPIPE);
}
CASE(reset_when_data_unread) {
    Pair p;
    write(p.b(), "unread", 6);
    close(p.a());
    FAILS(read(p.b(), scratch(), 1), ECONNRESET);
}
CASE(shutdown_write) {
    Pair p;
    signal(SIGPIPE, SIG_IGN);
    OK(shutdown(p.a(), SHUT_WR));
    EXPECT_EQ(read(p.b(), scratch(), 1), 0);
    FAILS(write(p.a(), "x", 1), EPIPE);
    EXPECT_EQ(write(p.b(), "x", 1), 1);
    EXPECT_EQ(read(p.a(), scratch(), 1), 1);
}
CASE(shutdown_read) {
    Pair p;
    signal(SIGPIPE, SIG_IGN);
    OK(shutdown(p.a(), SHUT_RD));
    EXPECT_EQ(read(p.a(), scratch(), 1), 0);
    FAILS(write(p.b(), "x", 1), EPIPE);
    FAILS(shutdown(p.a(), 77), EINVAL);
}
CASE(readiness) {
    Pair p;
    EXPECT_EQ(ready(p.a()), POLLOUT);
    write(p.b(), "x", 1);
    EXPECT_EQ(ready(p.a()), POLLIN | POLLOUT);
    read(p.a(), scratch(), 1);
    shutdown(p.b(), SHUT_WR);
    EXPECT_EQ(ready(p.a()), POLLIN | POLLOUT | POLLRDHUP);
    close(p.b());
    EXPECT_EQ(ready(p.a()), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}
CASE(full_buffer) {
    Pair p;
    OK(fcntl(p.a(), F_SETFL, O_NONBLOCK));
    size_t total = 0;
    for (ssize_t n; (n = write(p.a(), scratch(), 4096)) > 0;) total += n;
    EXPECT_EQ(errno, EAGAIN);
    EXPECT(total >= 4096);
    EXPECT_EQ(ready(p.a()) & POLLOUT, 0);
    size_t drained = 0;
    while (drained < total) drained += OK(read(p.b(), scratch(), 65536));
    EXPECT_EQ(drained, total);
    EXPECT_EQ(ready(p.a()) & POLLOUT, POLLOUT);
}
CASE(large_transfer) {
    Pair p;
    std::string data(2 << 20, 0);
    for (size_t i = 0; i < data.size(); ++i) data[i] = char(i * 13);
    pid_t pid = child([&] {
        close(p.b());
        EXPECT_EQ(write(p.a(), data.data(), data.size()), data.size());
    });
    close(p.a());
    EXPECT(read_all_fd(p.b()) == data);
    EXPECT_EXIT(pid, 0);
}
CASE(writev_readv) {
    Pair p;
    iovec out[] = {{(void*)"ab", 2}, {(void*)"cd", 2}};
    EXPECT_EQ(writev(p.a(), out, 2), 4);
    char a[2], b[4];
    iovec in[] = {{a, 1}, {b, 4}};
    EXPECT_EQ(readv(p.b(), in, 2), 4);
}
CASE(datagram_too_large) {
    Pair p(SOCK_DGRAM);
    int small = 2048;
    OK(setsockopt(p.a(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small));
    FAILS(send(p.a(), scratch(), 1 << 20, 0), EMSGSIZE);
}
CASE(fionread) {
    Pair p;
    int count = -1;
    write(p.a(), "abcde", 5);
    OK(ioctl(p.b(), FIONREAD, &count));
    EXPECT_EQ(count, 5);
    FAILS(lseek(p.a(), 0, SEEK_SET), ESPIPE);
}
CASE(sendmmsg_recvmmsg) {
    Pair p(SOCK_DGRAM);
    iovec parts[2] = {{(void*)"ab", 2}, {(void*)"cde", 3}};
    mmsghdr out[2] = {};
    for (int i = 0; i < 2; ++i) {
        out[i].msg_hdr.msg_iov = &parts[i];
        out[i].msg_hdr.msg_iovlen = 1;
    }
    EXPECT_EQ(sendmmsg(p.a(), out, 2, 0), 2);
    EXPECT_EQ(out[1].msg_len, 3);
    iovec rooms[3] = {{scratch(), 10}, {scratch() + 10, 10}, {scratch() + 20, 10}};
    mmsghdr in[3] = {};
    for (int i = 0; i < 3; ++i) {
        in[i].msg_hdr.msg_iov = &rooms[i];
        in[i].msg_hdr.msg_iovlen = 1;
    }
    EXPECT_EQ(recvmmsg(p.b(), in, 3, MSG_DONTWAIT, nullptr), 2);
    EXPECT_EQ(in[0].msg_len, 2);
}

// ---- names, listening

CASE(stream_connect_accept) {
    int server = listener("s");
    int client = connected("s");
    int peer = OK(accept4(server, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(fcntl(peer, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(write(client, "hi", 2), 2);
    EXPECT_EQ(read(peer, scratch(), 10), 2);
    struct stat st;
    OK(lstat("s", &st));
    EXPECT(S_ISSOCK(st.st_mode));
}
CASE(accept_waits) {
    int server = listener("s");
    pid_t pid = child([&] {
        int peer = OK(accept(server, nullptr, nullptr));
        EXPECT_EQ(write(peer, "welcome", 7), 7);
    });
    EXPECT(reaches_state(pid, "S"));
    int client = connected("s");
    EXPECT_EQ(read(client, scratch(), 16), 7);
    EXPECT_EXIT(pid, 0);
}
CASE(names_of_ends) {
    int server = listener("s"), client = connected("s");
    sockaddr_un name{};
    socklen_t size = sizeof name;
    int peer = OK(accept(server, (sockaddr*)&name, &size));
    EXPECT_EQ(size, sizeof(sa_family_t));
    size = sizeof name;
    OK(getsockname(server, (sockaddr*)&name, &size));
    EXPECT_EQ(std::string(name.sun_path), "s");
    EXPECT_EQ(size, offsetof(sockaddr_un, sun_path) + 2);
    size = sizeof name;
    memset(&name, 0, sizeof name);
    OK(getpeername(client, (sockaddr*)&name, &size));
    EXPECT_EQ(std::string(name.sun_path), "s");
    size = sizeof name;
    OK(getsockname(peer, (sockaddr*)&name, &size));
    EXPECT_EQ(std::string(name.sun_path), "s");
    size = 1;
    OK(getsockname(server, (sockaddr*)&name, &size));
    EXPECT_EQ(size, offsetof(sockaddr_un, sun_path) + 2);
    FAILS(getpeername(server, (sockaddr*)&name, &size), ENOTCONN);
}
CASE(bind_errors) {
    bound("s");
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    Name name("s");
    FAILS(bind(fd, name.get(), name.size), EADDRINUSE);
    Name missing("no/s");
    FAILS(bind(fd, missing.get(), missing.size), ENOENT);
    FAILS(bind(fd, name.get(), 1), EINVAL);
    FAILS(bind(fd, (sockaddr*)bad(), 10), EFAULT);
    FAILS(bind(fd, name.get(), sizeof(sockaddr_un) + 1), EINVAL);
    Name other("t");
    OK(bind(fd, other.get(), other.size));
    Name third("u");
    FAILS(bind(fd, third.get(), third.size), EINVAL);
    FAILS(bind(OK(open("/", O_RDONLY)), name.get(), name.size), ENOTSOCK);
    FAILS(bind(-1, name.get(), name.size), EBADF);
}
CASE(connect_errors) {
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    Name missing("none"), plain("f"), unheard("s");
    FAILS(connect(fd, missing.get(), missing.size), ENOENT);
    write_file("f", "");
    FAILS(connect(fd, plain.get(), plain.size), ECONNREFUSED);
    bound("s");
    FAILS(connect(fd, unheard.get(), unheard.size), ECONNREFUSED);
    listener("l");
    Name name("l");
    OK(connect(fd, name.get(), name.size));
    FAILS(connect(fd, name.get(), name.size), EISCONN);
    FAILS(connect(OK(socket(AF_UNIX, SOCK_DGRAM, 0)), name.get(), name.size), EPROTOTYPE);
}
CASE(connect_permission) {
    if (geteuid() != 0) skip("needs root");
    chmod(".", 0755);
    listener("s");
    OK(chmod("s", 0600));
    in_child([] {
        OK(syscall(SYS_setresuid, 12345, 12345, 12345));
        int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
        Name name("s");
        FAILS(connect(fd, name.get(), name.size), EACCES);
    });
}
CASE(listener_closed_refuses) {
    int server = listener("s");
    close(server);
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    Name name("s");
    FAILS(connect(fd, name.get(), name.size), ECONNREFUSED);
}
CASE(backlog_full) {
    listener("s", SOCK_STREAM, 0);
    Name name("s");
    for (int i = 0;; ++i) {
        int fd = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
        if (connect(fd, name.get(), name.size) == 0) {
            EXPECT(i < 10);
            continue;
        }
        EXPECT_EQ(errno, EAGAIN);
        break;
    }
}
CASE(accept_errors) {
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    FAILS(accept(fd, nullptr, nullptr), EINVAL);
    FAILS(listen(fd, 5), EINVAL);
    int server = listener("s");
    OK(fcntl(server, F_SETFL, O_NONBLOCK));
    FAILS(accept(server, nullptr, nullptr), EAGAIN);
    FAILS(accept4(server, nullptr, nullptr, 0x7), EINVAL);
    FAILS(accept(OK(socket(AF_UNIX, SOCK_DGRAM, 0)), nullptr, nullptr), EOPNOTSUPP);
    FAILS(listen(OK(socket(AF_UNIX, SOCK_DGRAM, 0)), 1), EOPNOTSUPP);
    FAILS(accept(OK(open("/", O_RDONLY)), nullptr, nullptr), ENOTSOCK);
}
CASE(listener_ready) {
    int server = listener("s");
    EXPECT_EQ(ready(server), 0);
    int client = connected("s");
    EXPECT_EQ(ready(server), POLLIN);
    (void)client;
}
CASE(data_before_accept) {
    int server = listener("s");
    int client = connected("s");
    EXPECT_EQ(write(client, "early", 5), 5);
    close(client);
    EXPECT_EQ(read_all_fd(OK(accept(server, nullptr, nullptr))), "early");
}
CASE(abstract_name) {
    std::string path = std::string("\0casemate-", 10) + std::to_string(getpid());
    int server = listener(path);
    int client = connected(path);
    sockaddr_un name{};
    socklen_t size = sizeof name;
    OK(getpeername(client, (sockaddr*)&name, &size));
    EXPECT_EQ(size, offsetof(sockaddr_un, sun_path) + path.size());
    close(server);
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    Name gone(path);
    FAILS(connect(fd, gone.get(), gone.size), ECONNREFUSED);
}
CASE(autobind) {
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    OK(bind(fd, (sockaddr*)&name, sizeof(sa_family_t)));
    socklen_t size = sizeof name;
    OK(getsockname(fd, (sockaddr*)&name, &size));
    EXPECT_EQ(size, sizeof(sa_family_t) + 6);
    EXPECT_EQ(name.sun_path[0], 0);
}
CASE(datagram_to_name) {
    int server = bound("s", SOCK_DGRAM), client = bound("c", SOCK_DGRAM);
    Name to("s");
    EXPECT_EQ(sendto(client, "hello", 5, 0, to.get(), to.size), 5);
    sockaddr_un from{};
    socklen_t size = sizeof from;
    EXPECT_EQ(recvfrom(server, scratch(), 16, 0, (sockaddr*)&from, &size), 5);
    EXPECT_EQ(std::string(from.sun_path), "c");
    FAILS(sendto(client, "x", 1, 0, nullptr, 0), ENOTCONN);
    Name missing("none");
    FAILS(sendto(client, "x", 1, 0, missing.get(), missing.size), ENOENT);
}
CASE(datagram_connected_only_from_peer) {
    int server = bound("s", SOCK_DGRAM), client = bound("c", SOCK_DGRAM), other = bound("o", SOCK_DGRAM);
    Name to_client("c"), to_server("s");
    OK(connect(server, to_client.get(), to_client.size));
    FAILS(sendto(other, "x", 1, 0, to_server.get(), to_server.size), EPERM);
    EXPECT_EQ(sendto(client, "x", 1, 0, to_server.get(), to_server.size), 1);
}
CASE(stream_sendto_errors) {
    Pair p;
    Name name("s");
    FAILS_ANY(sendto(p.a(), "x", 1, 0, name.get(), name.size), EISCONN, EOPNOTSUPP);
    FAILS(send(OK(socket(AF_UNIX, SOCK_STREAM, 0)), "x", 1, MSG_NOSIGNAL), ENOTCONN);
    FAILS(recv(OK(socket(AF_UNIX, SOCK_STREAM, 0)), scratch(), 1, 0), EINVAL);
}
CASE(name_after_rename_and_unlink) {
    int server = listener("s");
    OK(rename("s", "t"));
    int client = connected("t");
    OK(unlink("t"));
    EXPECT_EQ(write(client, "x", 1), 1);
    EXPECT_EQ(read(OK(accept(server, nullptr, nullptr)), scratch(), 1), 1);
}
CASE(open_socket_file) {
    bound("s");
    FAILS(open("s", O_RDWR), ENXIO);
}

// ---- credentials, descriptors

CASE(peer_credentials) {
    Pair p;
    ucred credentials{};
    socklen_t size = sizeof credentials;
    OK(getsockopt(p.a(), SOL_SOCKET, SO_PEERCRED, &credentials, &size));
    EXPECT_EQ(credentials.pid, getpid());
    EXPECT_EQ(credentials.uid, geteuid());
}
CASE(peer_credentials_of_connector) {
    int server = listener("s");
    pid_t pid = child([] {
        int fd = connected("s");
        read(fd, scratch(), 1);
    });
    int peer = OK(accept(server, nullptr, nullptr));
    ucred credentials{};
    socklen_t size = sizeof credentials;
    OK(getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &credentials, &size));
    EXPECT_EQ(credentials.pid, pid);
    write(peer, "x", 1);
    EXPECT_EXIT(pid, 0);
}
CASE(scm_credentials) {
    Pair p(SOCK_DGRAM);
    int on = 1;
    OK(setsockopt(p.b(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    EXPECT_EQ(send(p.a(), "x", 1, 0), 1);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    iovec part{scratch(), 10};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    EXPECT_EQ(recvmsg(p.b(), &message, 0), 1);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    EXPECT(header && header->cmsg_type == SCM_CREDENTIALS);
    EXPECT_EQ(((ucred*)CMSG_DATA(header))->pid, getpid());
}
CASE(rights_pass_file) {
    Pair p;
    write_file("f", "passed");
    int fd = OK(open("f", O_RDONLY));
    EXPECT_EQ(send_fds(p.a(), {fd}), 1);
    close(fd);
    auto fds = receive_fds(p.b());
    EXPECT_EQ(fds.size(), 1);
    EXPECT_EQ(read_all_fd(fds[0]), "passed");
}
CASE(rights_between_processes) {
    Pair p;
    pid_t pid = child([&] {
        int ends[2];
        OK(pipe(ends));
        EXPECT_EQ(send_fds(p.a(), {ends[0]}), 1);
        EXPECT_EQ(write(ends[1], "through", 7), 7);
    });
    auto fds = receive_fds(p.b());
    EXPECT_EQ(fds.size(), 1);
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(read_all_fd(fds[0]), "through");
}
CASE(rights_several) {
    Pair p(SOCK_SEQPACKET);
    std::vector<int> out;
    for (int i = 0; i < 20; ++i) out.push_back(OK(open("/", O_RDONLY)));
    EXPECT_EQ(send_fds(p.a(), out), 1);
    EXPECT_EQ(receive_fds(p.b()).size(), 20);
}
CASE(rights_cloexec) {
    Pair p;
    send_fds(p.a(), {0});
    auto fds = receive_fds(p.b(), MSG_CMSG_CLOEXEC);
    EXPECT_EQ(fcntl(fds.at(0), F_GETFD), FD_CLOEXEC);
}
CASE(rights_no_room) {
    Pair p;
    send_fds(p.a(), {0, 1, 2});
    int flags = 0;
    EXPECT_EQ(receive_fds(p.b(), 0, 0, &flags).size(), 0);
    EXPECT_EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
}
CASE(rights_shared_offset) {
    Pair p;
    write_file("f", "0123456789");
    int fd = OK(open("f", O_RDONLY));
    send_fds(p.a(), {fd});
    auto fds = receive_fds(p.b());
    OK(lseek(fd, 5, SEEK_SET));
    EXPECT_EQ(lseek(fds.at(0), 0, SEEK_CUR), 5);
}
CASE(rights_errors) {
    Pair p;
    FAILS(send_fds(p.a(), {500}), EBADF);
    std::vector<int> many(254, 0);
    FAILS(send_fds(p.a(), many), EINVAL);
}
CASE(rights_stop_stream_merging) {
    Pair p;
    write(p.a(), "ab", 2);
    send_fds(p.a(), {0}, "cd");
    write(p.a(), "ef", 2);
    EXPECT(read(p.b(), scratch(), 16) <= 4);
}
CASE(rights_cycle_freed) {
    for (int i = 0; i < 50; ++i) {
        Pair p;
        EXPECT_EQ(send_fds(p.a(), {p.a(), p.b()}), 1);
        close(p.a());
        close(p.b());
    }
}

// ---- options

CASE(options_read) {
    int fd = OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    EXPECT_EQ(option(fd, SO_TYPE), SOCK_SEQPACKET);
    EXPECT_EQ(option(fd, SO_DOMAIN), AF_UNIX);
    EXPECT_EQ(option(fd, SO_PROTOCOL), 0);
    EXPECT_EQ(option(fd, SO_ERROR), 0);
    EXPECT_EQ(option(fd, SO_ACCEPTCONN), 0);
    EXPECT(option(fd, SO_SNDBUF) > 0);
    EXPECT_EQ(option(listener("s"), SO_ACCEPTCONN), 1);
}
CASE(options_receive_timeout) {
    Pair p;
    timeval soon{0, 20000};
    OK(setsockopt(p.a(), SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon));
    FAILS(read(p.a(), scratch(), 1), EAGAIN);
    timeval now{};
    socklen_t size = sizeof now;
    OK(getsockopt(p.a(), SOL_SOCKET, SO_RCVTIMEO, &now, &size));
    EXPECT_EQ(now.tv_sec, 0);
    EXPECT(now.tv_usec >= 20000);
}
CASE(options_errors) {
    Pair p;
    int value = 1;
    socklen_t size = sizeof value;
    FAILS(setsockopt(p.a(), SOL_SOCKET, 7777, &value, sizeof value), ENOPROTOOPT);
    FAILS(getsockopt(p.a(), SOL_SOCKET, 7777, &value, &size), ENOPROTOOPT);
    FAILS(setsockopt(p.a(), SOL_SOCKET, SO_PASSCRED, &value, 1), EINVAL);
    FAILS(setsockopt(p.a(), SOL_SOCKET, SO_PASSCRED, bad(), 4), EFAULT);
    FAILS(getsockopt(OK(open("/", O_RDONLY)), SOL_SOCKET, SO_TYPE, &value, &size), ENOTSOCK);
}
CASE(recv_interrupted) {
    Pair p;
    pid_t pid = child([&] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        OK(sigaction(SIGUSR1, &action, nullptr));
        FAILS(recv(p.a(), scratch(), 1, 0), EINTR);
    });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    OK(kill(pid, SIGUSR1));
    EXPECT_EXIT(pid, 0);
}
CASE(sendmsg_errors) {
    Pair p;
    msghdr message{};
    FAILS(sendmsg(p.a(), (msghdr*)bad(), 0), EFAULT);
    iovec part{bad(), 10};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    FAILS(sendmsg(p.a(), &message, 0), EFAULT);
    message.msg_iovlen = 5000;
    FAILS(sendmsg(p.a(), &message, 0), EMSGSIZE);
    FAILS(sendmsg(-1, &message, 0), EBADF);
}
CASE(socket_stat_and_name) {
    Pair p;
    struct stat st;
    OK(fstat(p.a(), &st));
    EXPECT(S_ISSOCK(st.st_mode));
    char buffer[64] = {};
    OK(readlink(("/proc/self/fd/" + std::to_string(p.a())).c_str(), buffer, 63));
    EXPECT_EQ(std::string(buffer), "socket:[" + std::to_string(st.st_ino) + "]");
}
