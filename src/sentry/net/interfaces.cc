#include "sentry/net/interfaces.h"

#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/task.h"

namespace casemate::sentry {
namespace {

constexpr char kLoopback[] = "lo";

sockaddr ipv4(uint32_t address) {
    sockaddr_in value{};
    value.sin_family = AF_INET;
    value.sin_addr.s_addr = htonl(address);
    sockaddr result;
    memcpy(&result, &value, sizeof(result));
    return result;
}

SysResult<int64_t> list_interfaces(Task& task, uint64_t argument) {
    auto config = TRY(task.read(UserPtr<ifconf>(argument)));
    // SAFETY: the union holds a guest address, kept as a number.
    auto into = reinterpret_cast<uint64_t>(config.ifc_buf);
    if (into == 0) {
        config.ifc_len = sizeof(ifreq);
    } else if (config.ifc_len >= static_cast<int>(sizeof(ifreq))) {
        ifreq one{};
        memcpy(one.ifr_name, kLoopback, sizeof(kLoopback));
        one.ifr_addr = ipv4(INADDR_LOOPBACK);
        TRY(task.write(UserPtr<ifreq>(into), one));
        config.ifc_len = sizeof(ifreq);
    } else {
        config.ifc_len = 0;
    }
    TRY(task.write(UserPtr<ifconf>(argument), config));
    return 0;
}

}  // namespace

SysResult<int64_t> interface_ioctl(Task& task, uint64_t command, uint64_t argument) {
    switch (command) {
        case SIOCGIFCONF:
            return list_interfaces(task, argument);
        case SIOCGIFNAME:
        case SIOCGIFINDEX:
        case SIOCGIFFLAGS:
        case SIOCGIFADDR:
        case SIOCGIFNETMASK:
        case SIOCGIFBRDADDR:
        case SIOCGIFDSTADDR:
        case SIOCGIFMTU:
        case SIOCGIFMETRIC:
        case SIOCGIFHWADDR:
        case SIOCGIFTXQLEN:
        case SIOCGIFMAP:
            break;
        case SIOCSIFFLAGS:
        case SIOCSIFADDR:
        case SIOCSIFNETMASK:
        case SIOCSIFMTU:
        case SIOCSIFNAME:
        case SIOCADDRT:
        case SIOCDELRT:
            return Errno(EPERM);
        default:
            return Errno(ENOTTY);
    }
    auto request = TRY(task.read(UserPtr<ifreq>(argument)));
    request.ifr_name[IFNAMSIZ - 1] = 0;
    if (command == SIOCGIFNAME) {
        if (request.ifr_ifindex != 1) return Errno(ENODEV);
        memcpy(request.ifr_name, kLoopback, sizeof(kLoopback));
        TRY(task.write(UserPtr<ifreq>(argument), request));
        return 0;
    }
    if (strcmp(request.ifr_name, kLoopback) != 0) return Errno(ENODEV);
    memset(&request.ifr_ifru, 0, sizeof(request.ifr_ifru));
    switch (command) {
        case SIOCGIFINDEX:
            request.ifr_ifindex = 1;
            break;
        case SIOCGIFFLAGS:
            request.ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING;
            break;
        case SIOCGIFADDR:
        case SIOCGIFDSTADDR:
            request.ifr_addr = ipv4(INADDR_LOOPBACK);
            break;
        case SIOCGIFNETMASK:
            request.ifr_netmask = ipv4(0xff000000);
            break;
        case SIOCGIFBRDADDR:
            request.ifr_broadaddr = ipv4(0);
            break;
        case SIOCGIFMTU:
            request.ifr_mtu = 65536;
            break;
        case SIOCGIFHWADDR:
            request.ifr_hwaddr.sa_family = ARPHRD_LOOPBACK;
            break;
        case SIOCGIFTXQLEN:
            request.ifr_qlen = 1000;
            break;
        default:
            break;
    }
    TRY(task.write(UserPtr<ifreq>(argument), request));
    return 0;
}

}  // namespace casemate::sentry
