// Internet sockets: names and ports, TCP's life, UDP, both families, groups and broadcasts, errors, control messages.
#include <time.h>
// (needs timespec)
#include <linux/errqueue.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/epoll.h>

#include "net.h"

static int bind_error(int fd, const char* address, int port) {
    Endpoint end(address, port);
    return bind(fd, end.get(), end.size) == 0 ? 0 : errno;
}
static int fresh(int family, int type) { return OK(socket(family, type, 0)); }

// ---- making sockets

CASE(kinds) {
    for (int family : {AF_INET, AF_INET6}) {
        close(OK(socket(family, SOCK_STREAM, IPPROTO_TCP)));
        close(OK(socket(family, SOCK_DGRAM, IPPROTO_UDP)));
        close(OK(socket(family, SOCK_DGRAM, IPPROTO_UDPLITE)));
        FAILS(socket(family, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
        FAILS(socket(family, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
        FAILS(socket(family, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
        FAILS(socket(family, SOCK_RDM, 0), ESOCKTNOSUPPORT);
        FAILS(socket(family, 99, 0), EINVAL);
        FAILS(socket(family, SOCK_RAW, 0), EPROTONOSUPPORT);
        FAILS(socket(family, SOCK_STREAM, 300), EINVAL);
        FAILS(socket(family, SOCK_STREAM, -1), EINVAL);
    }
    FAILS(socketpair(AF_INET, SOCK_STREAM, 0, (int*)scratch()), EOPNOTSUPP);
}
CASE(flags) {
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK);
    struct stat info {};
    OK(fstat(fd, &info));
    EXPECT(S_ISSOCK(info.st_mode));
    FAILS(lseek(fd, 0, SEEK_SET), ESPIPE);
    FAILS(pread(fd, scratch(), 1, 0), ESPIPE);
}

// ---- bind

CASE(bind_errors) {
    own_network();
    int fd = fresh(AF_INET, SOCK_DGRAM);
    sockaddr_in short_one{};
    short_one.sin_family = AF_INET;
    FAILS(bind(fd, (sockaddr*)&short_one, 8), EINVAL);
    FAILS(bind(fd, (sockaddr*)&short_one, -1), EINVAL);
    FAILS(bind(fd, (sockaddr*)bad(), sizeof short_one), EFAULT);
    short_one.sin_family = AF_INET6;
    FAILS(bind(fd, (sockaddr*)&short_one, sizeof short_one), EAFNOSUPPORT);
    EXPECT_EQ(bind_error(fd, "8.8.8.8", 0), EADDRNOTAVAIL);
    EXPECT_EQ(bind_error(fresh(AF_INET6, SOCK_DGRAM), "2001:db8::1", 0), EADDRNOTAVAIL);
    EXPECT_EQ(bind_error(fd, "127.0.0.1", 0), 0);
    EXPECT_EQ(bind_error(fd, "127.0.0.1", 0), EINVAL);
}
CASE(bind_unspecified_family) {
    int fd = fresh(AF_INET, SOCK_DGRAM);
    sockaddr_in any{};
    OK(bind(fd, (sockaddr*)&any, sizeof any));
    EXPECT(local_of(fd).port() != 0);
    int other = fresh(AF_INET, SOCK_DGRAM);
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    FAILS(bind(other, (sockaddr*)&any, sizeof any), EAFNOSUPPORT);
}
CASE(bind_privileged_port) {
    own_network();
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", 80), EACCES);
        EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", 1024), 0);
    });
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", 80), 0);
}
CASE(bind_conflicts) {
    own_network();
    int port = local_of(bound_to(SOCK_DGRAM, "127.0.0.1")).port();
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_DGRAM), "127.0.0.1", port), EADDRINUSE);
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_DGRAM), "0.0.0.0", port), EADDRINUSE);
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_DGRAM), "127.0.0.2", port), 0);
    EXPECT_EQ(bind_error(fresh(AF_INET6, SOCK_DGRAM), "::", port), EADDRINUSE);
    EXPECT_EQ(bind_error(fresh(AF_INET6, SOCK_DGRAM), "::1", port), 0);
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", port), 0);
    int only = fresh(AF_INET6, SOCK_DGRAM);
    OK(set(only, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    EXPECT_EQ(bind_error(only, "::", port), EADDRINUSE);  // ::1 is there
    int mapped = fresh(AF_INET6, SOCK_DGRAM);
    EXPECT_EQ(bind_error(mapped, "::ffff:127.0.0.1", port), EADDRINUSE);
    EXPECT_EQ(bind_error(mapped, "::ffff:127.0.0.3", port), 0);
}
CASE(bind_reuse_address) {
    own_network();
    int one = fresh(AF_INET, SOCK_DGRAM), two = fresh(AF_INET, SOCK_DGRAM), three = fresh(AF_INET, SOCK_DGRAM);
    OK(set(one, SOL_SOCKET, SO_REUSEADDR, 1));
    OK(set(two, SOL_SOCKET, SO_REUSEADDR, 1));
    EXPECT_EQ(bind_error(one, "127.0.0.1", 5000), 0);
    EXPECT_EQ(bind_error(three, "127.0.0.1", 5000), EADDRINUSE);
    EXPECT_EQ(bind_error(two, "127.0.0.1", 5000), 0);
    // The later one gets what comes.
    send_to(three, "x", "127.0.0.1", 5000);
    await_input(two);
    FAILS(recv(one, scratch(), 1, MSG_DONTWAIT), EAGAIN);
}
CASE(bind_reuse_with_listener) {
    own_network();
    int listener = fresh(AF_INET, SOCK_STREAM), other = fresh(AF_INET, SOCK_STREAM);
    OK(set(listener, SOL_SOCKET, SO_REUSEADDR, 1));
    OK(set(other, SOL_SOCKET, SO_REUSEADDR, 1));
    EXPECT_EQ(bind_error(listener, "127.0.0.1", 5000), 0);
    EXPECT_EQ(bind_error(other, "127.0.0.1", 5000), 0);
    OK(listen(listener, 1));
    FAILS(listen(other, 1), EADDRINUSE);
    int third = fresh(AF_INET, SOCK_STREAM);
    OK(set(third, SOL_SOCKET, SO_REUSEADDR, 1));
    EXPECT_EQ(bind_error(third, "127.0.0.1", 5000), EADDRINUSE);
}
CASE(bind_time_wait) {
    own_network();
    for (bool reuse : {false, true}) {
        int port;
        {
            int listener = fresh(AF_INET, SOCK_STREAM);
            OK(set(listener, SOL_SOCKET, SO_REUSEADDR, 1));
            EXPECT_EQ(bind_error(listener, "127.0.0.1", 0), 0);
            OK(listen(listener, 1));
            port = local_of(listener).port();
            int client = tcp_to("127.0.0.1", port);
            int server = OK(accept(listener, nullptr, nullptr));
            close(server);  // first: it is the one that waits
            EXPECT_EQ(read(client, scratch(), 1), 0);
            close(client);
            close(listener);
        }
        int again = fresh(AF_INET, SOCK_STREAM);
        OK(set(again, SOL_SOCKET, SO_REUSEADDR, reuse));
        EXPECT_EQ(bind_error(again, "127.0.0.1", port), reuse ? 0 : EADDRINUSE);
    }
}
CASE(bind_after_reset_is_free) {
    own_network();
    TcpPair pair;
    int port = local_of(pair.listener).port();
    linger now{1, 0};
    OK(setsockopt(pair.server, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(pair.server);
    close(pair.client);
    close(pair.listener);
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", port), 0);
}
CASE(bind_reuse_port) {
    own_network();
    int fds[4];
    for (int& fd : fds) {
        fd = fresh(AF_INET, SOCK_DGRAM);
        OK(set(fd, SOL_SOCKET, SO_REUSEPORT, 1));
        EXPECT_EQ(bind_error(fd, "127.0.0.1", 5000), 0);
    }
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_DGRAM), "127.0.0.1", 5000), EADDRINUSE);
    // Different senders are spread, one sender stays with one.
    int hit = 0;
    for (int i = 0; i < 64; i++) {
        int sender = bound_to(SOCK_DGRAM, "127.0.0.1");
        send_to(sender, "a", "127.0.0.1", 5000);
        send_to(sender, "b", "127.0.0.1", 5000);
        int got = 0;
        for (int& fd : fds) {
            if (!(ready(fd) & POLLIN)) continue;
            got++;
            EXPECT_EQ(receive(fd), "a");
            EXPECT_EQ(receive(fd), "b");
            hit |= 1 << (&fd - fds);
        }
        EXPECT_EQ(got, 1);
        close(sender);
    }
    EXPECT_EQ(hit, 15);
}
CASE(bind_reuse_port_of_another_user) {
    own_network();
    int fd = fresh(AF_INET, SOCK_DGRAM);
    OK(set(fd, SOL_SOCKET, SO_REUSEPORT, 1));
    EXPECT_EQ(bind_error(fd, "127.0.0.1", 5000), 0);
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        int other = fresh(AF_INET, SOCK_DGRAM);
        OK(set(other, SOL_SOCKET, SO_REUSEPORT, 1));
        EXPECT_EQ(bind_error(other, "127.0.0.1", 5000), EADDRINUSE);
    });
}
CASE(listeners_share_a_port) {
    own_network();
    int fds[3];
    for (int& fd : fds) {
        fd = fresh(AF_INET, SOCK_STREAM);
        OK(set(fd, SOL_SOCKET, SO_REUSEPORT, 1));
        EXPECT_EQ(bind_error(fd, "127.0.0.1", 5000), 0);
        OK(listen(fd, 64));
    }
    for (int i = 0; i < 60; i++) tcp_to("127.0.0.1", 5000);
    int total = 0;
    for (int fd : fds) {
        OK(fcntl(fd, F_SETFL, O_NONBLOCK));
        int got = 0;
        while (accept(fd, nullptr, nullptr) >= 0) got++;
        EXPECT(got > 0);
        total += got;
    }
    EXPECT_EQ(total, 60);
}
CASE(bind_freebind) {
    own_network();
    int fd = fresh(AF_INET, SOCK_STREAM);
    OK(set(fd, IPPROTO_IP, IP_FREEBIND, 1));
    EXPECT_EQ(bind_error(fd, "203.0.113.1", 0), 0);
    EXPECT_EQ(local_of(fd).text(), "203.0.113.1");
}
CASE(ephemeral_ports) {
    own_network();
    for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
        int port = local_of(bound_to(type, "127.0.0.1")).port();
        EXPECT(port >= 32768 && port <= 60999);
    }
    int fd = fresh(AF_INET, SOCK_STREAM);
    EXPECT_EQ(local_of(fd).port(), 0);
    OK(listen(fd, 1));
    EXPECT(local_of(fd).port() != 0);
    EXPECT_EQ(local_of(fd).text(), "0.0.0.0");
}
CASE(any_loopback_address) {
    own_network();
    int fd = bound_to(SOCK_DGRAM, "127.7.8.9");
    int sender = fresh(AF_INET, SOCK_DGRAM);
    send_to(sender, "hi", "127.7.8.9", local_of(fd).port());
    Received got = receive_message(fd);
    EXPECT_EQ(got.text, "hi");
    EXPECT_EQ(got.from.text(), "127.0.0.1");
}

// ---- TCP

CASE(tcp_echo) {
    for (const char* address : {"127.0.0.1", "::1"}) {
        TcpPair pair(address);
        EXPECT_EQ(write(pair.client, "ping", 4), 4);
        EXPECT_EQ(receive(pair.server), "ping");
        EXPECT_EQ(write(pair.server, "pong!", 5), 5);
        EXPECT_EQ(receive(pair.client), "pong!");
        EXPECT_EQ(peer_of(pair.client).port(), local_of(pair.server).port());
        EXPECT_EQ(peer_of(pair.server).port(), local_of(pair.client).port());
        EXPECT_EQ(local_of(pair.server).text(), address);
    }
}
CASE(tcp_connect_errors) {
    own_network();
    int fd = fresh(AF_INET, SOCK_STREAM);
    FAILS(connect_to(fd, "127.0.0.1", 9), ECONNREFUSED);
    FAILS(connect_to(fd, "8.8.8.8", 9), ENETUNREACH);
    FAILS(connect_to(fresh(AF_INET6, SOCK_STREAM), "2001:db8::1", 9), ENETUNREACH);
    FAILS(connect_to(fresh(AF_INET6, SOCK_STREAM), "::1", 9), ECONNREFUSED);
    FAILS(connect_to(fd, "::1", 9), EAFNOSUPPORT);
    FAILS(connect_to(fd, "255.255.255.255", 9), ENETUNREACH);
    FAILS(connect_to(fd, "224.0.0.1", 9), ENETUNREACH);
    Endpoint end("127.0.0.1", 9);
    FAILS(connect(fd, end.get(), 8), EINVAL);
    FAILS(connect(fd, end.get(), 1), EINVAL);
    TcpPair pair;
    FAILS(connect_to(pair.client, "127.0.0.1", 9), EISCONN);
    FAILS(connect_to(pair.listener, "127.0.0.1", 9), EISCONN);
}
CASE(tcp_connect_any_is_loopback) {
    own_network();
    int listener = tcp_listener();
    int fd = tcp_to("0.0.0.0", local_of(listener).port());
    EXPECT_EQ(peer_of(fd).text(), "127.0.0.1");
    int six = tcp_listener("::1");
    EXPECT_EQ(peer_of(tcp_to("::", local_of(six).port())).text(), "::1");
}
CASE(tcp_nonblocking_connect) {
    own_network();
    int listener = tcp_listener();
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    FAILS(connect_to(fd, "127.0.0.1", local_of(listener).port()), EINPROGRESS);
    EXPECT(ready(fd, POLLOUT, 5000) & POLLOUT);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_ERROR), 0);
    OK(connect_to(fd, "127.0.0.1", local_of(listener).port()));
    FAILS(connect_to(fd, "127.0.0.1", local_of(listener).port()), EISCONN);
    int refused = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    FAILS(connect_to(refused, "127.0.0.1", 9), EINPROGRESS);
    EXPECT(ready(refused, POLLOUT, 5000) & POLLERR);
    EXPECT_EQ(get(refused, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    EXPECT_EQ(get(refused, SOL_SOCKET, SO_ERROR), 0);
}
CASE(tcp_before_it_is_connected) {
    int fd = fresh(AF_INET, SOCK_STREAM);
    EXPECT_EQ(ready(fd), POLLOUT | POLLHUP);
    FAILS(recv(fd, scratch(), 1, 0), ENOTCONN);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(shutdown(fd, SHUT_RDWR), ENOTCONN);
    Endpoint end;
    FAILS(getpeername(fd, end.get(), &end.size), ENOTCONN);
    FAILS(accept(fd, nullptr, nullptr), EINVAL);
}
CASE(tcp_listener_has_no_data) {
    int fd = tcp_listener();
    FAILS(recv(fd, scratch(), 1, 0), ENOTCONN);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    EXPECT_EQ(ready(fd), 0);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    OK(fcntl(fd, F_SETFL, O_NONBLOCK));
    FAILS(accept(fd, nullptr, nullptr), EAGAIN);
    FAILS(accept4(fd, nullptr, nullptr, 0x1234), EINVAL);
}
CASE(tcp_accept_names_the_peer) {
    int listener = tcp_listener();
    int client = tcp_to("127.0.0.1", local_of(listener).port());
    EXPECT_EQ(ready(listener), POLLIN);
    Endpoint peer;
    int server = OK(accept4(listener, peer.get(), &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    EXPECT_EQ(peer.size, sizeof(sockaddr_in));
    EXPECT_EQ(peer.port(), local_of(client).port());
    EXPECT_EQ(fcntl(server, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EXPECT_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
    FAILS(recv(server, scratch(), 1, 0), EAGAIN);
}
CASE(tcp_end_of_stream) {
    TcpPair pair;
    write(pair.client, "last", 4);
    OK(shutdown(pair.client, SHUT_WR));
    FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    EXPECT_EQ(recv(pair.server, scratch(), 100, MSG_WAITALL), 4);
    EXPECT_EQ(recv(pair.server, scratch(), 100, 0), 0);
    EXPECT_EQ(ready(pair.server), POLLIN | POLLOUT | POLLRDHUP);
    write(pair.server, "still", 5);
    EXPECT_EQ(receive(pair.client), "still");
    OK(shutdown(pair.server, SHUT_WR));
    EXPECT_EQ(recv(pair.client, scratch(), 100, 0), 0);
    EXPECT(ready(pair.client, POLLIN, 1000) & POLLHUP);
}
CASE(tcp_reset) {
    TcpPair pair;
    linger now{1, 0};
    OK(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(pair.client);
    EXPECT(ready(pair.server, POLLIN, 5000) & POLLERR);
    FAILS(recv(pair.server, scratch(), 1, 0), ECONNRESET);
    EXPECT_EQ(recv(pair.server, scratch(), 1, 0), 0);
    FAILS(send(pair.server, "x", 1, MSG_NOSIGNAL), EPIPE);
}
CASE(tcp_close_with_unread_data_resets) {
    TcpPair pair;
    write(pair.client, "unread", 6);
    await_input(pair.server);
    close(pair.server);
    EXPECT(ready(pair.client, POLLIN, 5000) & POLLERR);
    FAILS(recv(pair.client, scratch(), 1, 0), ECONNRESET);
}
CASE(tcp_broken_pipe) {
    TcpPair pair;
    close(pair.server);
    EXPECT_EQ(recv(pair.client, scratch(), 1, 0), 0);
    EXPECT_EQ(send(pair.client, "x", 1, MSG_NOSIGNAL), 1);  // answered by a reset
    for (int i = 0; i < 500 && !(ready(pair.client) & POLLERR); i++) sleep_ms(10);
    FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    pid_t pid = child([&] { write(pair.client, "x", 1); });
    EXPECT_SIGNAL(pid, SIGPIPE);
}
CASE(tcp_shutdown_of_a_listener) {
    int listener = tcp_listener();
    int port = local_of(listener).port();
    OK(shutdown(listener, SHUT_RD));
    FAILS(accept(listener, nullptr, nullptr), EINVAL);
    FAILS(connect_to(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", port), ECONNREFUSED);
}
CASE(tcp_peek_and_wait) {
    TcpPair pair;
    write(pair.client, "abcdef", 6);
    await_input(pair.server);
    EXPECT_EQ(receive(pair.server, MSG_PEEK, 3), "abc");
    EXPECT_EQ(receive(pair.server, 0, 3), "abc");
    int available = 0;
    OK(ioctl(pair.server, FIONREAD, &available));
    EXPECT_EQ(available, 3);
    EXPECT_EQ(recv(pair.server, nullptr, 2, MSG_TRUNC), 2);  // thrown away
    EXPECT_EQ(receive(pair.server), "f");
    FAILS(recv(pair.server, scratch(), 1, MSG_DONTWAIT), EAGAIN);
}
CASE(tcp_low_water) {
    TcpPair pair;
    OK(set(pair.server, SOL_SOCKET, SO_RCVLOWAT, 5));
    timeval soon{0, 50000};
    OK(setsockopt(pair.server, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon));
    write(pair.client, "abc", 3);
    EXPECT_EQ(recv(pair.server, scratch(), 100, 0), 3);
    FAILS(recv(pair.server, scratch(), 100, 0), EAGAIN);
}
CASE(tcp_disconnect) {
    own_network();
    TcpPair pair;
    sockaddr none{};
    OK(connect(pair.client, &none, sizeof none));
    FAILS(recv(pair.server, scratch(), 1, 0), ECONNRESET);
    Endpoint end;
    FAILS(getpeername(pair.client, end.get(), &end.size), ENOTCONN);
    OK(connect_to(pair.client, "127.0.0.1", local_of(pair.listener).port()));
}
CASE(tcp_address_given_to_send_is_ignored) {
    TcpPair pair;
    EXPECT_EQ(send_to(pair.client, "abc", "8.8.8.8", 9), 3);
    Received got = receive_message(pair.server);
    EXPECT_EQ(got.text, "abc");
    EXPECT_EQ(got.from.size, 0);
}
CASE(tcp_large_transfer) {
    TcpPair pair;
    constexpr size_t kSize = 8 << 20;
    pid_t writer = child([&] {
        std::string data(kSize, 0);
        for (size_t i = 0; i < kSize; i++) data[i] = (char)(i * 7 + i / 4096);
        for (size_t at = 0; at < kSize;) at += OK(write(pair.client, data.data() + at, kSize - at));
    });
    size_t at = 0;
    while (at < kSize) {
        ssize_t size = OK(read(pair.server, scratch(), 1 << 18));
        EXPECT(size > 0);
        for (ssize_t i = 0; i < size; i++, at++)
            if (scratch()[i] != (char)(at * 7 + at / 4096)) fail("transfer", 0, "wrong byte at " + std::to_string(at));
    }
    EXPECT_EXIT(writer, 0);
}
CASE(tcp_full_buffers) {
    TcpPair pair;
    OK(fcntl(pair.client, F_SETFL, O_NONBLOCK));
    size_t total = 0;
    for (;;) {
        ssize_t size = write(pair.client, scratch(), 1 << 16);
        if (size < 0) break;
        total += size;
    }
    EXPECT_EQ(errno, EAGAIN);
    EXPECT(total > 100000);
    EXPECT(!(ready(pair.client) & POLLOUT));
    while (total > 0) total -= OK(read(pair.server, scratch(), 1 << 18));
    EXPECT(ready(pair.client, POLLOUT, 5000) & POLLOUT);
}
CASE(tcp_backlog_holds_connections) {
    int listener = tcp_listener("127.0.0.1", 4);
    for (int i = 0; i < 5; i++) tcp_to("127.0.0.1", local_of(listener).port());
    for (int i = 0; i < 5; i++) OK(accept(listener, nullptr, nullptr));
}

// ---- urgent data

CASE(urgent_byte) {
    TcpPair pair;
    EXPECT_EQ(send(pair.client, "ab!", 3, MSG_OOB), 3);
    EXPECT(ready(pair.server, POLLPRI, 5000) & POLLPRI);
    EXPECT_EQ(send(pair.client, "cd", 2, 0), 2);
    for (int i = 0, size = 0; i < 500 && size < 4; i++) OK(ioctl(pair.server, FIONREAD, &size)), sleep_ms(2);
    int at_mark = -1;
    OK(ioctl(pair.server, SIOCATMARK, &at_mark));
    EXPECT_EQ(at_mark, 0);
    EXPECT_EQ(receive(pair.server, MSG_OOB), "!");
    FAILS(recv(pair.server, scratch(), 1, MSG_OOB), EINVAL);
    EXPECT_EQ(receive(pair.server), "ab");  // up to the mark
    OK(ioctl(pair.server, SIOCATMARK, &at_mark));
    EXPECT_EQ(at_mark, 1);
    EXPECT_EQ(receive(pair.server), "cd");
    OK(ioctl(pair.server, SIOCATMARK, &at_mark));
    EXPECT_EQ(at_mark, 0);
}
CASE(urgent_inline) {
    TcpPair pair;
    OK(set(pair.server, SOL_SOCKET, SO_OOBINLINE, 1));
    send(pair.client, "ab", 2, 0);
    send(pair.client, "!", 1, MSG_OOB);
    send(pair.client, "c", 1, 0);
    for (int i = 0, size = 0; i < 500 && size < 4; i++) OK(ioctl(pair.server, FIONREAD, &size)), sleep_ms(2);
    FAILS(recv(pair.server, scratch(), 1, MSG_OOB), EINVAL);
    EXPECT_EQ(receive(pair.server), "ab");
    int at_mark = -1;
    OK(ioctl(pair.server, SIOCATMARK, &at_mark));
    EXPECT_EQ(at_mark, 1);
    EXPECT_EQ(receive(pair.server), "!c");
}
CASE(urgent_peek) {
    TcpPair pair;
    send(pair.client, "!", 1, MSG_OOB);
    EXPECT(ready(pair.server, POLLPRI, 5000) & POLLPRI);
    EXPECT_EQ(receive(pair.server, MSG_OOB | MSG_PEEK), "!");
    EXPECT_EQ(receive(pair.server, MSG_OOB), "!");
    EXPECT(!(ready(pair.server, POLLPRI) & POLLPRI));
}
// The owner of a socket hears of an urgent byte, with and without O_ASYNC.
CASE(urgent_signal) {
    sigset_t urgent;
    sigemptyset(&urgent);
    sigaddset(&urgent, SIGURG);
    OK(sigprocmask(SIG_BLOCK, &urgent, nullptr));
    timespec patience{5, 0}, at_once{0, 0};
    {
        TcpPair pair;
        send(pair.client, "!", 1, MSG_OOB);
        EXPECT(ready(pair.server, POLLPRI, 5000) & POLLPRI);
        FAILS(sigtimedwait(&urgent, nullptr, &at_once), EAGAIN);  // nobody is told
        OK(fcntl(pair.server, F_SETOWN, getpid()));
        EXPECT_EQ(fcntl(pair.server, F_GETOWN), getpid());
        send(pair.client, "data", 4, 0);
        send(pair.client, "?", 1, MSG_OOB);
        EXPECT_EQ(sigtimedwait(&urgent, nullptr, &patience), SIGURG);
        EXPECT_EQ(receive(pair.server, MSG_OOB), "?");
        FAILS(sigtimedwait(&urgent, nullptr, &at_once), EAGAIN);
    }
    FAILS(sigtimedwait(&urgent, nullptr, &at_once), EAGAIN);  // closing is nothing urgent
    TcpPair pair;
    int me = getpid(), owner = 0;
    OK(ioctl(pair.server, SIOCSPGRP, &me));
    OK(ioctl(pair.server, FIOGETOWN, &owner));
    EXPECT_EQ(owner, me);
    send(pair.client, "!", 1, MSG_OOB);
    EXPECT_EQ(sigtimedwait(&urgent, nullptr, &patience), SIGURG);
    OK(fcntl(pair.server, F_SETOWN, 0));
    send(pair.client, "!", 1, MSG_OOB);
    EXPECT(ready(pair.server, POLLPRI, 5000) & POLLPRI);
    FAILS(sigtimedwait(&urgent, nullptr, &at_once), EAGAIN);
}
CASE(fast_open_connects) {
    int listener = tcp_listener("127.0.0.1", 4), client = fresh(AF_INET, SOCK_STREAM);
    Endpoint where = local_of(listener);
    FAILS(send(client, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL), EINVAL);
    EXPECT_EQ(sendto(client, "hello", 5, MSG_FASTOPEN, where.get(), where.size), 5);
    int server = static_cast<int>(OK(accept(listener, nullptr, nullptr)));
    EXPECT_EQ(receive(server), "hello");
    FAILS(sendto(client, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, where.get(), where.size), EISCONN);
    close(server);
    close(listener);
    FAILS(sendto(fresh(AF_INET, SOCK_STREAM), "x", 1, MSG_FASTOPEN, where.get(), where.size), ECONNREFUSED);
}
CASE(urgent_none) {
    TcpPair pair;
    FAILS(recv(pair.server, scratch(), 1, MSG_OOB), EINVAL);
    int at_mark = -1;
    OK(ioctl(pair.server, SIOCATMARK, &at_mark));
    EXPECT_EQ(at_mark, 0);
    int udp = fresh(AF_INET, SOCK_DGRAM);
    FAILS(send(udp, "x", 1, MSG_OOB), EOPNOTSUPP);
    FAILS(ioctl(udp, SIOCATMARK, &at_mark), ENOTTY);
}

// ---- both families

CASE(mapped_addresses) {
    own_network();
    int listener = tcp_listener("::");
    int client = tcp_to("127.0.0.1", local_of(listener).port());
    Endpoint peer;
    int server = OK(accept(listener, peer.get(), &peer.size));
    EXPECT_EQ(peer.text(), "::ffff:127.0.0.1");
    EXPECT_EQ(local_of(server).text(), "::ffff:127.0.0.1");
    EXPECT_EQ(peer_of(client).text(), "127.0.0.1");
    int four = tcp_listener("127.0.0.1");
    int six = tcp_to("::ffff:127.0.0.1", local_of(four).port());
    EXPECT_EQ(peer_of(six).text(), "::ffff:127.0.0.1");
    EXPECT_EQ(peer_of(OK(accept(four, nullptr, nullptr))).text(), "127.0.0.1");
}
CASE(v6only_takes_no_mapped) {
    own_network();
    int fd = fresh(AF_INET6, SOCK_STREAM);
    OK(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    EXPECT_EQ(bind_error(fd, "::ffff:127.0.0.1", 0), EINVAL);
    EXPECT_EQ(bind_error(fd, "::", 0), 0);
    OK(listen(fd, 1));
    FAILS(connect_to(fresh(AF_INET, SOCK_STREAM), "127.0.0.1", local_of(fd).port()), ECONNREFUSED);
    int client = fresh(AF_INET6, SOCK_STREAM);
    OK(set(client, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    FAILS(connect_to(client, "::ffff:127.0.0.1", 9), ENETUNREACH);
    // IPv4 has the port for itself.
    EXPECT_EQ(bind_error(fresh(AF_INET, SOCK_STREAM), "0.0.0.0", local_of(fd).port()), 0);
}
CASE(udp_mapped) {
    own_network();
    int six = bound_to(SOCK_DGRAM, "::");
    int four = bound_to(SOCK_DGRAM, "127.0.0.1");
    send_to(four, "4to6", "127.0.0.1", local_of(six).port());
    Received got = receive_message(six);
    EXPECT_EQ(got.from.text(), "::ffff:127.0.0.1");
    EXPECT_EQ(send_to(six, "6to4", "::ffff:127.0.0.1", local_of(four).port()), 4);
    EXPECT_EQ(receive_message(four).from.text(), "127.0.0.1");
    Endpoint plain("127.0.0.1", local_of(four).port());
    EXPECT_EQ(sendto(six, "x", 1, 0, plain.get(), plain.size), 1);
}
