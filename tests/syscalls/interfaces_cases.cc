// Interfaces as ioctls and files show them, and the settings below /proc/sys/net.
#include <net/if_arp.h>
#include <net/route.h>

#include "net.h"

static ifreq named(const char* name = "lo") {
    ifreq request{};
    strcpy(request.ifr_name, name);
    return request;
}
static int any_socket() { return OK(socket(AF_INET, SOCK_DGRAM, 0)); }
static std::string text_of(const sockaddr& address) {
    char buffer[64] = {};
    inet_ntop(AF_INET, &((const sockaddr_in&)address).sin_addr, buffer, sizeof buffer);
    return buffer;
}
static sockaddr address_of(const char* text) {
    sockaddr_in value{};
    value.sin_family = AF_INET;
    inet_pton(AF_INET, text, &value.sin_addr);
    return (sockaddr&)value;
}
static int change(unsigned long command, ifreq request) { return ioctl(any_socket(), command, &request); }
static ifreq asked(unsigned long command, const char* name = "lo") {
    ifreq request = named(name);
    OK(ioctl(any_socket(), command, &request));
    return request;
}

CASE(index_and_name) {
    EXPECT_EQ(asked(SIOCGIFINDEX).ifr_ifindex, 1);
    ifreq request{};
    request.ifr_ifindex = 1;
    OK(ioctl(any_socket(), SIOCGIFNAME, &request));
    EXPECT_EQ(std::string(request.ifr_name), "lo");
    request.ifr_ifindex = 9999;
    FAILS(ioctl(any_socket(), SIOCGIFNAME, &request), ENODEV);
}
CASE(flags) { own_network(), EXPECT_EQ(asked(SIOCGIFFLAGS).ifr_flags, IFF_UP | IFF_LOOPBACK | IFF_RUNNING); }
CASE(flags_when_down) { own_network(false), EXPECT_EQ(asked(SIOCGIFFLAGS).ifr_flags, IFF_LOOPBACK); }
CASE(address) { own_network(), EXPECT_EQ(text_of(asked(SIOCGIFADDR).ifr_addr), "127.0.0.1"); }
CASE(netmask) { own_network(), EXPECT_EQ(text_of(asked(SIOCGIFNETMASK).ifr_netmask), "255.0.0.0"); }
CASE(broadcast) { own_network(), EXPECT_EQ(text_of(asked(SIOCGIFBRDADDR).ifr_broadaddr), "0.0.0.0"); }
CASE(destination) { own_network(), EXPECT_EQ(text_of(asked(SIOCGIFDSTADDR).ifr_dstaddr), "127.0.0.1"); }
CASE(mtu) { own_network(), EXPECT_EQ(asked(SIOCGIFMTU).ifr_mtu, 65536); }
CASE(metric) { EXPECT_EQ(asked(SIOCGIFMETRIC).ifr_metric, 0); }
CASE(hardware_address) { EXPECT_EQ(asked(SIOCGIFHWADDR).ifr_hwaddr.sa_family, ARPHRD_LOOPBACK); }
CASE(queue_length) { own_network(), EXPECT_EQ(asked(SIOCGIFTXQLEN).ifr_qlen, 1000); }
CASE(no_address_when_down) {
    own_network(false);
    ifreq request = named();
    FAILS(ioctl(any_socket(), SIOCGIFADDR, &request), EADDRNOTAVAIL);
}
CASE(unknown_interface) {
    for (unsigned long command : {SIOCGIFINDEX, SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFMTU, SIOCGIFHWADDR}) {
        ifreq request = named("nosuch");
        FAILS(ioctl(any_socket(), command, &request), ENODEV);
        FAILS(ioctl(any_socket(), command, bad()), EFAULT);
    }
}
CASE(list) {
    own_network();
    ifreq entries[4]{};
    ifconf list{sizeof entries, {(char*)entries}};
    OK(ioctl(any_socket(), SIOCGIFCONF, &list));
    EXPECT_EQ(list.ifc_len, sizeof(ifreq));
    EXPECT_EQ(std::string(entries[0].ifr_name), "lo");
    EXPECT_EQ(text_of(entries[0].ifr_addr), "127.0.0.1");
    ifconf size{0, {nullptr}};
    OK(ioctl(any_socket(), SIOCGIFCONF, &size));
    EXPECT_EQ(size.ifc_len, sizeof(ifreq));
    list.ifc_len = 10;
    OK(ioctl(any_socket(), SIOCGIFCONF, &list));
    EXPECT_EQ(list.ifc_len, 0);
}
CASE(change_mtu) {
    own_network();
    ifreq request = named();
    request.ifr_mtu = 1400;
    OK(change(SIOCSIFMTU, request));
    EXPECT_EQ(asked(SIOCGIFMTU).ifr_mtu, 1400);
    request.ifr_mtu = -1;
    FAILS(change(SIOCSIFMTU, request), EINVAL);
}
CASE(change_queue_length) {
    own_network();
    ifreq request = named();
    request.ifr_qlen = 7;
    OK(change(SIOCSIFTXQLEN, request));
    EXPECT_EQ(asked(SIOCGIFTXQLEN).ifr_qlen, 7);
    request.ifr_qlen = -1;
    FAILS(change(SIOCSIFTXQLEN, request), EINVAL);
}
CASE(change_address) {
    own_network();
    ifreq request = named();
    request.ifr_addr = address_of("10.1.1.1");
    OK(change(SIOCSIFADDR, request));
    EXPECT_EQ(text_of(asked(SIOCGIFADDR).ifr_addr), "10.1.1.1");
    EXPECT_EQ(text_of(asked(SIOCGIFNETMASK).ifr_netmask), "255.0.0.0");
    request.ifr_addr = address_of("255.255.255.0");
    OK(change(SIOCSIFNETMASK, request));
    EXPECT_EQ(text_of(asked(SIOCGIFNETMASK).ifr_netmask), "255.255.255.0");
    request.ifr_addr = address_of("255.0.255.0");
    FAILS(change(SIOCSIFNETMASK, request), EINVAL);
    request.ifr_addr.sa_family = AF_INET6;
    FAILS(change(SIOCSIFADDR, request), EINVAL);
}
CASE(alias) {
    own_network();
    ifreq request = named("lo:1");
    FAILS(ioctl(any_socket(), SIOCGIFADDR, &request), EADDRNOTAVAIL);
    request = named("lo:1");
    request.ifr_addr = address_of("10.2.2.2");
    OK(change(SIOCSIFADDR, request));
    EXPECT_EQ(text_of(asked(SIOCGIFADDR, "lo:1").ifr_addr), "10.2.2.2");
    EXPECT_EQ(text_of(asked(SIOCGIFADDR).ifr_addr), "127.0.0.1");
    request = named("lo:1");
    OK(change(SIOCSIFFLAGS, request));  // down: it is gone
    FAILS(ioctl(any_socket(), SIOCGIFADDR, &request), EADDRNOTAVAIL);
}
CASE(routes_by_ioctl) {
    own_network();
    rtentry route{};
    route.rt_dst = address_of("10.5.0.0");
    route.rt_genmask = address_of("255.255.0.0");
    route.rt_flags = RTF_UP;
    route.rt_dev = (char*)"lo";
    OK(ioctl(any_socket(), SIOCADDRT, &route));
    FAILS(ioctl(any_socket(), SIOCADDRT, &route), EEXIST);
    EXPECT(read_all("/proc/net/route").find("lo\t0000050A\t00000000\t0001\t0\t0\t0\t0000FFFF") != std::string::npos);
    OK(ioctl(any_socket(), SIOCDELRT, &route));
    FAILS(ioctl(any_socket(), SIOCDELRT, &route), ESRCH);
    route.rt_dev = (char*)"nosuch";
    FAILS(ioctl(any_socket(), SIOCADDRT, &route), ENODEV);
}
CASE(changes_need_the_capability) {
    own_network();
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        for (unsigned long command : {SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFFLAGS, SIOCADDRT, SIOCDELRT})
            FAILS(change(command, named()), EPERM);
    });
}
CASE(other_families_see_links_only) {
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ifreq request = named();
    OK(ioctl(fd, SIOCGIFINDEX, &request));
    OK(ioctl(fd, SIOCGIFFLAGS, &request));
}

// ---- files

CASE(file_dev) {
    own_network();
    std::string text = read_all("/proc/net/dev");
    EXPECT(text.find("    lo:       0       0    0    0    0     0          0         0        0") !=
           std::string::npos);
}
CASE(file_if_inet6) {
    own_network();
    EXPECT_EQ(read_all("/proc/net/if_inet6"), "00000000000000000000000000000001 01 80 10 80       lo\n");
}
CASE(file_igmp) {
    own_network();
    ip_mreqn request{};
    inet_pton(AF_INET, "239.1.2.3", &request.imr_multiaddr);
    request.imr_ifindex = 1;
    int fd = any_socket();
    OK(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request));
    std::string text = read_all("/proc/net/igmp");
    EXPECT(text.find("1\tlo        :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n") != std::string::npos);
    close(fd);
    EXPECT(read_all("/proc/net/igmp").find("030201EF") == std::string::npos);
}
CASE(file_raw) {
    own_network();
    int fd = OK(socket(AF_INET, SOCK_RAW, 253));
    EXPECT(read_all("/proc/net/raw").find("00000000:00FD 00000000:0000 07") != std::string::npos);
    close(fd);
    EXPECT(read_all("/proc/net/raw").find("00FD") == std::string::npos);
}
CASE(file_udp_and_tcp) {
    own_network();
    int tcp = tcp_listener(), udp = bound_to(SOCK_DGRAM, "127.0.0.1");
    char wanted[64];
    snprintf(wanted, sizeof wanted, "0100007F:%04X 00000000:0000 0A", local_of(tcp).port());
    EXPECT(read_all("/proc/net/tcp").find(wanted) != std::string::npos);
    snprintf(wanted, sizeof wanted, "0100007F:%04X 00000000:0000 07", local_of(udp).port());
    EXPECT(read_all("/proc/net/udp").find(wanted) != std::string::npos);
}
CASE(file_sockstat) {
    own_network();
    int fd = bound_to(SOCK_DGRAM, "127.0.0.1");
    EXPECT(read_all("/proc/net/sockstat").find("UDP: inuse 1 ") != std::string::npos);
    close(fd);
}

// ---- settings

CASE(setting_port_range) {
    own_network();
    EXPECT_EQ(read_all("/proc/sys/net/ipv4/ip_local_port_range"), "32768\t60999\n");
    write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003");
    EXPECT_EQ(read_all("/proc/sys/net/ipv4/ip_local_port_range"), "40000\t40003\n");
    int port = local_of(bound_to(SOCK_DGRAM, "127.0.0.1")).port();
    EXPECT(port >= 40000 && port <= 40003);
    int fd = OK(open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY));
    FAILS(write(fd, "5 4", 3), EINVAL);
}
CASE(setting_unprivileged_ports) {
    own_network();
    EXPECT_EQ(read_all("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "1024\n");
    write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80");
    in_child([] {
        OK(setresuid(65534, 65534, 65534));
        close(bound_to(SOCK_STREAM, "127.0.0.1", 80));
        Endpoint below("127.0.0.1", 79);
        FAILS(bind(OK(socket(AF_INET, SOCK_STREAM, 0)), below.get(), below.size), EACCES);
    });
}
CASE(setting_backlog) {
    own_network();
    EXPECT_EQ(read_all("/proc/sys/net/core/somaxconn"), "4096\n");
    write_file("/proc/sys/net/core/somaxconn", "3");
    int fd = tcp_listener("127.0.0.1", 100);
    tcp_info info{};
    socklen_t size = sizeof info;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    EXPECT_EQ(info.tcpi_sacked, 3);
}
CASE(settings_are_of_the_namespace) {
    own_network();
    write_file("/proc/sys/net/ipv4/tcp_fin_timeout", "33");
    EXPECT_EQ(read_all("/proc/sys/net/ipv4/tcp_fin_timeout"), "33\n");
    own_network();
    EXPECT_EQ(read_all("/proc/sys/net/ipv4/tcp_fin_timeout"), "60\n");
}
