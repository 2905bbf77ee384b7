#include "sentry/boot/confine.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

namespace casemate::sentry {
namespace {

TEST(Confine, TheListIsShortAndFits) {
    auto filter = sentry_filter();
    RecordProperty("syscalls", static_cast<int>(filter.allowed_count()));
    std::printf("the sentry may make %zu host syscalls\n", filter.allowed_count());
    EXPECT_LE(filter.allowed_count(), 60u);
    EXPECT_TRUE(filter.build().ok());
}

TEST(Confine, HostNetworkAddsOnlyWhatSocketsNeed) {
    auto narrow = sentry_filter(), wide = sentry_filter(true);
    std::printf("with host sockets %zu\n", wide.allowed_count());
    EXPECT_EQ(wide.allowed_count() - narrow.allowed_count(), 8u);
    EXPECT_TRUE(wide.build().ok());
}

TEST(Confine, WithoutHostNetworkNoSocketIsDirected) {
    for (int call : {SYS_socket, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_setsockopt,
                     SYS_getsockopt, SYS_getsockname, SYS_getpeername, SYS_sendto, SYS_recvfrom})
        EXPECT_FALSE(sentry_filter().lists(call)) << call;
    for (int call : {SYS_socket, SYS_socketpair, SYS_accept, SYS_openat2, SYS_execve, SYS_sendto, SYS_recvfrom})
        EXPECT_FALSE(sentry_filter(true).lists(call)) << call;
}

}  // namespace
}  // namespace casemate::sentry
