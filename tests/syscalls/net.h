// What the cases about sockets share: a network namespace of one's own with the loopback up (so that the machine's own
// interfaces and ports do not count), addresses, and short forms of the socket calls.
#pragma once

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <vector>

#include "case.h"

// The case goes on in a new network namespace whose loopback is up.
inline void own_network(bool up = true) {
    if (unshare(CLONE_NEWNET) != 0) skip("needs a network namespace of its own: " + errno_name(errno));
    if (!up) return;
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    ifreq request{};
    strcpy(request.ifr_name, "lo");
    OK(ioctl(fd, SIOCGIFFLAGS, &request));
    request.ifr_flags |= IFF_UP;
    OK(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

// An IPv4 or IPv6 address with its port.
struct Endpoint {
    sockaddr_storage storage{};
    socklen_t size = 0;
    Endpoint() : size(sizeof storage) {}
    Endpoint(const char* address, int port) {
        if (strchr(address, ':')) {
            auto* six = (sockaddr_in6*)&storage;
            six->sin6_family = AF_INET6;
            six->sin6_port = htons(port);
            inet_pton(AF_INET6, address, &six->sin6_addr);
            size = sizeof *six;
        } else {
            auto* four = (sockaddr_in*)&storage;
            four->sin_family = AF_INET;
            four->sin_port = htons(port);
            inet_pton(AF_INET, address, &four->sin_addr);
            size = sizeof *four;
        }
    }
    sockaddr* get() { return (sockaddr*)&storage; }
    int family() const { return storage.ss_family; }
    int port() const {
        return ntohs(family() == AF_INET6 ? ((sockaddr_in6*)&storage)->sin6_port : ((sockaddr_in*)&storage)->sin_port);
    }
    std::string text() const {
        char buffer[64] = {};
        if (family() == AF_INET6)
            inet_ntop(AF_INET6, &((sockaddr_in6*)&storage)->sin6_addr, buffer, sizeof buffer);
        else
            inet_ntop(AF_INET, &((sockaddr_in*)&storage)->sin_addr, buffer, sizeof buffer);
        return buffer;
    }
};

inline Endpoint local_of(int fd) {
    Endpoint end;
    OK(getsockname(fd, end.get(), &end.size));
    return end;
}
inline Endpoint peer_of(int fd) {
    Endpoint end;
    OK(getpeername(fd, end.get(), &end.size));
    return end;
}
inline int family_of(const char* address) { return strchr(address, ':') ? AF_INET6 : AF_INET; }
inline int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }
inline int get(int fd, int level, int name) {
    int value = -12345;
    socklen_t size = sizeof value;
    OK(getsockopt(fd, level, name, &value, &size));
    return value;
}
inline int bound_to(int type, const char* address, int port = 0, int flags = 0) {
    int fd = OK(socket(family_of(address), type | flags, 0));
    Endpoint end(address, port);
    OK(bind(fd, end.get(), end.size));
    return fd;
}
inline int tcp_listener(const char* address = "127.0.0.1", int backlog = 8) {
    int fd = bound_to(SOCK_STREAM, address);
    OK(listen(fd, backlog));
    return fd;
}
inline int connect_to(int fd, const char* address, int port) {
    Endpoint end(address, port);
    return connect(fd, end.get(), end.size);
}
inline int tcp_to(const char* address, int port) {
    int fd = OK(socket(family_of(address), SOCK_STREAM, 0));
    OK(connect_to(fd, address, port));
    return fd;
}
// Both ends of a TCP connection over the loopback.
struct TcpPair {
    int listener, client, server;
    explicit TcpPair(const char* address = "127.0.0.1") {
        listener = tcp_listener(address);
        client = tcp_to(address, local_of(listener).port());
        server = OK(accept(listener, nullptr, nullptr));
    }
};
inline short ready(int fd, short events = POLLIN | POLLOUT | POLLRDHUP | POLLPRI, int timeout = 0) {
    pollfd watch{fd, events, 0};
    OK(poll(&watch, 1, timeout));
    return watch.revents;
}
// Waits until there is something to read.
inline void await_input(int fd, short events = POLLIN) { EXPECT(ready(fd, events, 10000) != 0); }
inline ssize_t send_to(int fd, const std::string& text, const char* address, int port, int flags = 0) {
    Endpoint end(address, port);
    return sendto(fd, text.data(), text.size(), flags, end.get(), end.size);
}
inline std::string receive(int fd, int flags = 0, size_t room = 65536) {
    std::string text(room, 0);
    text.resize(OK(recv(fd, text.data(), room, flags)));
    return text;
}

// One message with its control data.
struct Received {
    std::string text;
    Endpoint from;
    int flags = 0;
    struct Item {
        int level, type;
        std::string data;
    };
    std::vector<Item> control;
    const Item* find(int level, int type) const {
        for (auto& item : control)
            if (item.level == level && item.type == type) return &item;
        return nullptr;
    }
    template <typename T>
    T value(int level, int type) const {
        const Item* item = find(level, type);
        if (!item || item->data.size() < sizeof(T))
            fail("control", 0, "no control message " + std::to_string(level) + "/" + std::to_string(type));
        T result;
        memcpy(&result, item->data.data(), sizeof result);
        return result;
    }
};
inline Received receive_message(int fd, int flags = 0, size_t room = 65536, size_t control_room = 1024) {
    Received result;
    std::string text(room, 0);
    std::vector<long> control(control_room / sizeof(long) + 1);
    iovec part{text.data(), room};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_name = &result.from.storage;
    message.msg_namelen = sizeof result.from.storage;
    message.msg_control = control.data();
    message.msg_controllen = control_room;
    ssize_t size = OK(recvmsg(fd, &message, flags));
    result.text = text.substr(0, size);
    result.from.size = message.msg_namelen;
    result.flags = message.msg_flags;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        result.control.push_back({header->cmsg_level, header->cmsg_type,
                                  std::string((char*)CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0))});
    return result;
}
// sendmsg with one control message.
inline ssize_t send_with(int fd, const std::string& text, Endpoint* to, int level, int type, const void* data,
                         size_t size) {
    std::vector<long> control(CMSG_SPACE(size) / sizeof(long) + 1);
    iovec part{(void*)text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (to) {
        message.msg_name = to->get();
        message.msg_namelen = to->size;
    }
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(header), data, size);
    return sendmsg(fd, &message, 0);
}
