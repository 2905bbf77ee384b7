// Netlink messages for the cases about it: made, sent, and taken apart.
#pragma once

#include <ifaddrs.h>
#include <linux/fib_rules.h>
#include <linux/genetlink.h>
#include <linux/inet_diag.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/un.h>

#include <map>

#include "net.h"

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

// A message being made.
struct Message {
    std::vector<char> bytes;
    template <typename T>
    Message(int type, int flags, const T& body, int sequence = 7) {
        nlmsghdr header{0, (unsigned short)type, (unsigned short)(flags | NLM_F_REQUEST), (unsigned)sequence, 0};
        add(&header, sizeof header);
        add(&body, sizeof body);
    }
    void add(const void* data, size_t size) {
        size_t at = bytes.size();
        bytes.resize(at + NLMSG_ALIGN(size));
        memcpy(bytes.data() + at, data, size);
        ((nlmsghdr*)bytes.data())->nlmsg_len = bytes.size();
    }
    Message& attribute(int type, const void* data, size_t size) {
        nlattr header{(unsigned short)(sizeof header + size), (unsigned short)type};
        add(&header, sizeof header);
        if (size) add(data, size);
        return *this;
    }
    Message& number(int type, unsigned value) { return attribute(type, &value, sizeof value); }
    Message& text(int type, const char* value) { return attribute(type, value, strlen(value) + 1); }
    Message& address(int type, const char* value) {
        char raw[16];
        inet_pton(family_of(value), value, raw);
        return attribute(type, raw, strchr(value, ':') ? 16 : 4);
    }
};

// One message that came.
struct Answer {
    nlmsghdr header{};
    std::string body;  // behind the header
    template <typename T>
    T as() const {
        T value{};
        memcpy(&value, body.data(), std::min(body.size(), sizeof value));
        return value;
    }
    std::map<int, std::string> attributes(size_t behind) const {
        std::map<int, std::string> found;
        size_t at = NLMSG_ALIGN(behind);
        while (at + sizeof(nlattr) <= body.size()) {
            auto* attribute = (nlattr*)(body.data() + at);
            if (attribute->nla_len < sizeof(nlattr)) break;
            found[attribute->nla_type & NLA_TYPE_MASK] = body.substr(at + 4, attribute->nla_len - 4);
            at += NLA_ALIGN(attribute->nla_len);
        }
        return found;
    }
    int error() const { return -as<nlmsgerr>().error; }
};
inline unsigned number_in(const std::string& bytes) {
    unsigned value = 0;
    memcpy(&value, bytes.data(), std::min<size_t>(bytes.size(), 4));
    return value;
}
inline std::string address_in(const std::string& bytes) {
    char buffer[64] = {};
    inet_ntop(bytes.size() == 16 ? AF_INET6 : AF_INET, bytes.data(), buffer, sizeof buffer);
    return buffer;
}

struct Netlink {
    int fd;
    explicit Netlink(int protocol = NETLINK_ROUTE, unsigned groups = 0) {
        fd = OK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
        sockaddr_nl address{};
        address.nl_family = AF_NETLINK;
        address.nl_groups = groups;
        OK(bind(fd, (sockaddr*)&address, sizeof address));
    }
    int set(int option, int value) { return setsockopt(fd, SOL_NETLINK, option, &value, sizeof value); }
    void post(const Message& message) {
        EXPECT_EQ(send(fd, message.bytes.data(), message.bytes.size(), 0), message.bytes.size());
    }
    std::vector<Answer> receive(int flags = 0) {
        std::vector<char> buffer(65536);
        ssize_t size = OK(recv(fd, buffer.data(), buffer.size(), flags));
        std::vector<Answer> answers;
        for (auto* header = (nlmsghdr*)buffer.data(); NLMSG_OK(header, (unsigned)size);
             header = NLMSG_NEXT(header, size))
            answers.push_back({*header, std::string((char*)NLMSG_DATA(header), header->nlmsg_len - NLMSG_HDRLEN)});
        return answers;
    }
    // The first answer.
    Answer ask(const Message& message) {
        post(message);
        auto answers = receive();
        EXPECT(!answers.empty());
        return answers[0];
    }
    // What ends a request with an acknowledgement.
    int change(Message message) {
        ((nlmsghdr*)message.bytes.data())->nlmsg_flags |= NLM_F_ACK;
        post(message);
        for (;;)
            for (const Answer& answer : receive())
                if (answer.header.nlmsg_type == NLMSG_ERROR) return answer.error();
    }
    // All of a dump; `error`: what it ended with.
    std::vector<Answer> dump(const Message& message, int* error = nullptr) {
        post(message);
        std::vector<Answer> all;
        for (;;)
            for (const Answer& answer : receive()) {
                if (answer.header.nlmsg_type == NLMSG_DONE || answer.header.nlmsg_type == NLMSG_ERROR) {
                    int status = answer.as<int>();
                    if (error)
                        *error = -status;
                    else
                        EXPECT_EQ(status, 0);
                    return all;
                }
                EXPECT(answer.header.nlmsg_flags & NLM_F_MULTI);
                all.push_back(answer);
            }
    }
};
