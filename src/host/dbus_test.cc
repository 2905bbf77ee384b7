// The D-Bus client against the reference daemon, where it is installed, and the scope's names.
#include "host/dbus.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/systemd_scope.h"
#include "linux/file.h"
#include "linux/path.h"

namespace casemate::host {
namespace {

TEST(Dbus, messages_survive_the_wire_and_garbage_is_refused) {
    DbusMessage message;
    message.type = DbusMessage::kError;
    message.serial = 7;
    message.reply_to = 3;
    message.error_name = "a.b.C";
    message.signature = "s";
    DbusWriter body;
    body.string("words");
    message.body = body.bytes();
    std::string bytes = encode_dbus_message(message);
    auto decoded = decode_dbus_message(bytes);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(decoded->reply_to, 3u);
    EXPECT_EQ(decoded->error_name, "a.b.C");
    EXPECT_EQ(*DbusReader(decoded->body).string(), "words");
    // Whatever byte is wrong, nothing is read past the end.
    for (size_t i = 0; i < bytes.size(); i++) {
        for (int flip : {1, 0x80, 0xff}) {
            std::string wrong = bytes;
            wrong[i] = static_cast<char>(wrong[i] ^ flip);
            auto result = decode_dbus_message(wrong);
            if (result.ok()) (void)DbusReader(result->body).string();
        }
        EXPECT_FALSE(decode_dbus_message(std::string_view(bytes).substr(0, i)).ok());
    }
}

TEST(Dbus, talks_to_the_reference_daemon) {
    if (::getpwuid(::geteuid()) == nullptr) GTEST_SKIP() << "the daemon wants a user with a name";
    char name[] = "/tmp/casemate-dbus-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    std::string directory = name, socket = directory + "/bus";
    ASSERT_TRUE(linux::write_file_atomic(
                    directory + "/config",
                    "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" "
                    "\"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\"><busconfig><type>session</type>"
                    "<listen>unix:path=" +
                        socket +
                        "</listen><policy context=\"default\"><allow send_destination=\"*\"/><allow "
                        "receive_sender=\"*\"/><allow own=\"*\"/>"
                        "</policy></busconfig>",
                    0644)
                    .ok());
    std::string option = "--config-file=" + directory + "/config";
    char program[] = "dbus-daemon", no_fork[] = "--nofork";
    char* argv[] = {program, option.data(), no_fork, nullptr};
    pid_t daemon;
    if (::posix_spawnp(&daemon, program, nullptr, nullptr, argv, environ) != 0) {
        (void)linux::remove_tree(directory);
        GTEST_SKIP() << "dbus-daemon is not installed";
    }
    for (int i = 0; i < 500 && !linux::path_exists(socket); i++) ::usleep(10'000);

    auto connection = DbusConnection::connect(socket, true);
    EXPECT_TRUE(connection.ok()) << connection.error().message();
    if (connection.ok()) {
        const char* bus = "org.freedesktop.DBus";
        // An error reply, with a body as complicated as StartTransientUnit's: the daemon checks it before routing.
        DbusWriter body;
        body.string("x.scope");
        body.string("replace");
        size_t properties = body.begin_array(8);
        body.begin_struct();
        body.string("Delegate");
        body.variant("b");
        body.boolean(true);
        body.begin_struct();
        body.string("PIDs");
        body.variant("au");
        size_t pids = body.begin_array(4);
        body.u32(1);
        body.end_array(pids);
        body.end_array(properties);
        body.end_array(body.begin_array(8));
        auto reply =
            connection->call("org.nobody.here", "/x", "org.nobody.Manager", "Start", "ssa(sv)a(sa(sv))", body.bytes());
        ASSERT_FALSE(reply.ok());
        EXPECT_TRUE(reply.error().message().starts_with("org.freedesktop.DBus.Error.ServiceUnknown"))
            << reply.error().message();

        DbusWriter match;
        match.string("type='signal',member='NameOwnerChanged'");
        EXPECT_TRUE(connection->call(bus, "/org/freedesktop/DBus", bus, "AddMatch", "s", match.bytes()).ok());
        DbusWriter request;
        request.string("dev.casemate.Test");
        request.u32(0);
        EXPECT_TRUE(connection->call(bus, "/org/freedesktop/DBus", bus, "RequestName", "su", request.bytes()).ok());
        auto signal = connection->wait_signal("NameOwnerChanged");
        ASSERT_TRUE(signal.ok()) << signal.error().message();
        EXPECT_EQ(*DbusReader(signal->body).string(), "dev.casemate.Test");
    }
    ::kill(daemon, SIGKILL);
    ::waitpid(daemon, nullptr, 0);
    EXPECT_TRUE(linux::remove_tree(directory).ok());
}

TEST(SystemdScope, names_are_expanded_and_checked) {
    EXPECT_EQ(*expand_slice("system.slice"), "/system.slice");
    EXPECT_EQ(*expand_slice("a-b-c.slice"), "/a.slice/a-b.slice/a-b-c.slice");
    EXPECT_EQ(*expand_slice("-.slice"), "");
    for (const char* bad : {"a--b.slice", "-a.slice", "a-.slice", ".slice", "a", "a/b.slice"})
        EXPECT_FALSE(expand_slice(bad).ok()) << bad;
    auto scope = SystemdScope::parse("kubepods-burstable.slice:cri-containerd:abc", "id", false);
    ASSERT_TRUE(scope.ok());
    EXPECT_EQ(scope->unit(), "cri-containerd-abc.scope");
    EXPECT_EQ(scope->slice(), "kubepods-burstable.slice");
    scope = SystemdScope::parse("", "id", false);
    EXPECT_EQ(scope->unit(), "casemate-id.scope");
    EXPECT_EQ(scope->slice(), "system.slice");
    EXPECT_FALSE(SystemdScope::parse("/a/b", "id", false).ok());
    EXPECT_FALSE(SystemdScope::parse("a.slice:b:c:d", "id", false).ok());
    EXPECT_FALSE(SystemdScope::parse("a.slice:b:../c", "id", false).ok());
}

}  // namespace
}  // namespace casemate::host
