// Netlink: sockets as `ss` asks for them, the generic controller, device events.
#include "netlink.h"

// ---- sockets of others

static std::vector<Answer> inet_sockets(int family, int protocol, unsigned states = ~0u) {
    inet_diag_req_v2 request{};
    request.sdiag_family = family;
    request.sdiag_protocol = protocol;
    request.idiag_states = states;
    return Netlink(NETLINK_SOCK_DIAG).dump(Message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request));
}
static unsigned inode_of(int fd) {
    struct stat info {};
    OK(fstat(fd, &info));
    return info.st_ino;
}
CASE(diag_listener) {
    own_network();
    int fd = tcp_listener("127.0.0.1", 5);
    auto all = inet_sockets(AF_INET, IPPROTO_TCP);
    EXPECT_EQ(all.size(), 1);
    auto body = all[0].as<inet_diag_msg>();
    EXPECT_EQ(body.idiag_family, AF_INET);
    EXPECT_EQ(body.idiag_state, TCP_LISTEN);
    EXPECT_EQ(ntohs(body.id.idiag_sport), local_of(fd).port());
    EXPECT_EQ(body.id.idiag_src[0], htonl(INADDR_LOOPBACK));
    EXPECT_EQ(body.idiag_inode, inode_of(fd));
    EXPECT_EQ(body.idiag_rqueue, 0);
    EXPECT_EQ(body.idiag_wqueue, 5);
    tcp_to("127.0.0.1", local_of(fd).port());
    EXPECT_EQ(inet_sockets(AF_INET, IPPROTO_TCP, 1 << TCP_LISTEN)[0].as<inet_diag_msg>().idiag_rqueue, 1);
    EXPECT_EQ(inet_sockets(AF_INET, IPPROTO_TCP, 1 << TCP_SYN_SENT).size(), 0);
    EXPECT_EQ(inet_sockets(AF_INET6, IPPROTO_TCP).size(), 0);
    EXPECT_EQ(inet_sockets(AF_INET, IPPROTO_UDP).size(), 0);
}
CASE(diag_connection) {
    own_network();
    TcpPair pair("::1");
    write(pair.client, "12345", 5);
    await_input(pair.server);
    bool found = false;
    for (auto& one : inet_sockets(AF_INET6, IPPROTO_TCP, 1 << TCP_ESTABLISHED)) {
        auto body = one.as<inet_diag_msg>();
        if (body.idiag_inode != inode_of(pair.server)) continue;
        found = true;
        EXPECT_EQ(body.idiag_rqueue, 5);
        EXPECT_EQ(ntohs(body.id.idiag_dport), local_of(pair.client).port());
    }
    EXPECT(found);
}
CASE(diag_udp) {
    own_network();
    int fd = bound_to(SOCK_DGRAM, "127.0.0.1");
    auto all = inet_sockets(AF_INET, IPPROTO_UDP);
    EXPECT_EQ(all.size(), 1);
    EXPECT_EQ(all[0].as<inet_diag_msg>().idiag_state, TCP_CLOSE);
    EXPECT_EQ(all[0].as<inet_diag_msg>().idiag_inode, inode_of(fd));
}
CASE(diag_filter_program) {
    own_network();
    int one = tcp_listener(), two = tcp_listener();
    for (int wanted : {one, two}) {
        // sport = PORT
        struct {
            inet_diag_bc_op op, port;
        } program = {{INET_DIAG_BC_S_EQ, sizeof program, sizeof program + 4},
                     {0, 0, (unsigned short)local_of(wanted).port()}};
        inet_diag_req_v2 request{};
        request.sdiag_family = AF_INET;
        request.sdiag_protocol = IPPROTO_TCP;
        request.idiag_states = ~0u;
        auto all = Netlink(NETLINK_SOCK_DIAG)
                       .dump(Message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request)
                                 .attribute(INET_DIAG_REQ_BYTECODE, &program, sizeof program));
        EXPECT_EQ(all.size(), 1);
        EXPECT_EQ(all[0].as<inet_diag_msg>().idiag_inode, inode_of(wanted));
    }
    inet_diag_bc_op wrong = {INET_DIAG_BC_JMP, 0, 0};
    inet_diag_req_v2 request{};
    request.sdiag_family = AF_INET;
    request.sdiag_protocol = IPPROTO_TCP;
    int error = 0;
    Netlink(NETLINK_SOCK_DIAG)
        .dump(Message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request).attribute(INET_DIAG_REQ_BYTECODE, &wrong, sizeof wrong),
              &error);
    EXPECT_EQ(error, EINVAL);
}
CASE(diag_unix) {
    own_network();
    int ends[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    write(ends[0], "abc", 3);
    int named = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path, "\0diag", 5);
    OK(bind(named, (sockaddr*)&name, sizeof(sa_family_t) + 5));
    OK(listen(named, 9));
    unix_diag_req request{};
    request.sdiag_family = AF_UNIX;
    request.udiag_states = ~0u;
    request.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN;
    bool found = false, found_name = false;
    for (auto& one : Netlink(NETLINK_SOCK_DIAG).dump(Message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request))) {
        auto body = one.as<unix_diag_msg>();
        auto attributes = one.attributes(sizeof body);
        if (body.udiag_ino == inode_of(ends[1])) {
            found = true;
            EXPECT_EQ(number_in(attributes[UNIX_DIAG_PEER]), inode_of(ends[0]));
            EXPECT_EQ(number_in(attributes[UNIX_DIAG_RQLEN]), 3);
            EXPECT_EQ(body.udiag_state, TCP_ESTABLISHED);
            EXPECT_EQ(body.udiag_type, SOCK_STREAM);
        }
        if (body.udiag_ino == inode_of(named)) {
            found_name = true;
            EXPECT_EQ(attributes[UNIX_DIAG_NAME], std::string("\0diag", 5));
            EXPECT_EQ(body.udiag_state, TCP_LISTEN);
            EXPECT_EQ(number_in(attributes[UNIX_DIAG_RQLEN].substr(4)), 9);
        }
    }
    EXPECT(found && found_name);
}
CASE(generic_controller) {
    Netlink generic(NETLINK_GENERIC);
    Answer answer =
        generic.ask(Message(GENL_ID_CTRL, 0, genlmsghdr{CTRL_CMD_GETFAMILY, 1}).text(CTRL_ATTR_FAMILY_NAME, "nlctrl"));
    EXPECT_EQ(answer.header.nlmsg_type, GENL_ID_CTRL);
    EXPECT_EQ(generic.change(
                  Message(GENL_ID_CTRL, 0, genlmsghdr{CTRL_CMD_GETFAMILY, 1}).text(CTRL_ATTR_FAMILY_NAME, "nosuch")),
              ENOENT);
    EXPECT_EQ(generic.change(Message(0x3ff, 0, genlmsghdr{1, 1})), ENOENT);
}
CASE(device_events) {
    own_network();
    Netlink events(NETLINK_KOBJECT_UEVENT, 1);
    FAILS(recv(events.fd, scratch(), 4096, MSG_DONTWAIT), EAGAIN);
}
