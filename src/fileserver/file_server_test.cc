// The file server against a guest kernel that wants out.
#include "fileserver/file_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "fileserver/connection.h"
#include "fileserver/jail.h"

namespace casemate::fileserver {
namespace {

class FileServerTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/casemate-files-test-XXXXXX";
        top_ = ::mkdtemp(name);
        ASSERT_EQ(::mkdir((top_ + "/root").c_str(), 0755), 0);
        write("secret", "outside");
        write("root/inside", "inside");
        UniqueFd self = MUST(enter_proc_self_fd());
        server_ = std::make_unique<FileServer>(FileServer::Limits{16}, std::move(self));
        root_ = attach(1, 0);
    }
    void TearDown() override {
        server_.reset();
        std::string remove = "rm -rf " + top_;
        (void)!::system(remove.c_str());
    }
    NodeId attach(uint64_t token, uint32_t flags) {
        UniqueFd mount(::open((top_ + "/root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        MUST(server_->add_mount(token, flags, std::move(mount)));
        return MUST(server_->attach(token)).node;
    }
    std::string at(const std::string& name) { return top_ + "/" + name; }
    void write(const std::string& name, const std::string& text) {
        UniqueFd fd(::open(at(name).c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644));
        ASSERT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    }
    static std::string read(int fd) {
        char text[64];
        ssize_t n = ::pread(fd, text, sizeof(text), 0);
        return n < 0 ? "?" : std::string(text, static_cast<size_t>(n));
    }
    int lookup_error(std::string_view path) {
        std::vector<Attributes> found;
        std::string link;
        auto result = server_->lookup({root_, path}, kFlagWantOpen, found, link);
        if (!result.ok()) return result.error().value;
        return result->complete ? 0 : result->error;
    }
    int open_error(std::string_view path, uint32_t flags = O_RDONLY) {
        auto result = server_->open({root_, path}, flags);
        return result.ok() ? 0 : result.error().value;
    }

    std::string top_;
    std::unique_ptr<FileServer> server_;
    NodeId root_ = 0;
};

TEST_F(FileServerTest, OpensRegularFiles) {
    auto entry = server_->open({root_, "inside"}, O_RDONLY);
    ASSERT_TRUE(entry.ok());
    EXPECT_EQ(read(entry->fd.get()), "inside");
    EXPECT_EQ(entry->attributes.size, 6u);
    EXPECT_EQ(::fcntl(entry->fd.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(FileServerTest, NamesAreMadeWhereThePathLeadsNow) {
    auto create = [&](std::string_view path) {
        auto made = server_->create({root_, path}, 0644, ::getuid(), ::getgid());
        return made.ok() ? 0 : made.error().value;
    };
    auto mkdir = [&](std::string_view path) {
        ASSERT_TRUE(server_->make_directory({root_, path}, 0755, ::getuid(), ::getgid()).ok()) << path;
    };
    mkdir("d");
    EXPECT_EQ(create("d/a"), 0);
    ASSERT_TRUE(server_->rename({root_, "d"}, {root_, "e"}, 0, 0).ok());
    EXPECT_EQ(create("d/b"), ENOENT);
    EXPECT_EQ(create("e/b"), 0);
    EXPECT_EQ(::access(at("root/e/b").c_str(), F_OK), 0);
    mkdir("d");
    EXPECT_EQ(create("d/c"), 0);
    ASSERT_TRUE(server_->unlink({root_, "d/c"}, 0).ok());
    ASSERT_TRUE(server_->remove_directory({root_, "d"}).ok());
    mkdir("d");
    EXPECT_EQ(create("d/c"), 0);
    EXPECT_EQ(::access(at("root/d/c").c_str(), F_OK), 0);
    // More directories than are remembered, in turn.
    for (int i = 0; i < 40; ++i) {
        std::string directory = "many" + std::to_string(i % 20);
        if (i < 20) mkdir(directory);
        EXPECT_EQ(create(directory + "/f" + std::to_string(i)), 0) << i;
        EXPECT_EQ(::access(at("root/" + directory + "/f" + std::to_string(i)).c_str(), F_OK), 0) << i;
    }
}

TEST_F(FileServerTest, WhatIsThereIsToldInsteadOfMade) {
    auto told = server_->create({root_, "inside"}, 0600, 0, 0, kFlagExisting);
    ASSERT_TRUE(told.ok());
    EXPECT_FALSE(told->fd);
    EXPECT_EQ(told->value, static_cast<uint64_t>(EEXIST));
    EXPECT_EQ(told->attributes.size, 6u);
    EXPECT_EQ(server_->create({root_, "inside"}, 0600, 0, 0).error().value, EEXIST);
}

TEST_F(FileServerTest, UnknownTokensAndNodesAreRefused) {
    EXPECT_EQ(server_->attach(2).error().value, ENOENT);
    for (NodeId node : {NodeId{0}, NodeId{99}, root_ + 1, root_ + (NodeId{1} << 32), ~NodeId{0}})
        EXPECT_EQ(server_->open({node, "inside"}, O_RDONLY).error().value, ESTALE);
    server_->forget(99);
    server_->forget(0);
}

TEST_F(FileServerTest, DotDotIsNoName) {
    for (const char* path :
         {"..", "../secret", "x/../../secret", ".", "./inside", "/inside", "//", "inside/", "/", "a//b"}) {
        EXPECT_EQ(open_error(path), EINVAL) << path;
        EXPECT_EQ(lookup_error(path), EINVAL) << path;
        EXPECT_EQ(server_->create({root_, path}, 0644, 0, 0).error().value, EINVAL) << path;
        EXPECT_EQ(server_->unlink({root_, path}, 0).error().value, EINVAL) << path;
        EXPECT_EQ(server_->rename({root_, "inside"}, {root_, path}, 0, 0).error().value, EINVAL) << path;
        EXPECT_EQ(server_->link({root_, "inside"}, {root_, path}).error().value, EINVAL) << path;
    }
    EXPECT_EQ(open_error(std::string_view("in\0side", 7)), EINVAL);
    EXPECT_EQ(open_error(std::string(256, 'x')), ENAMETOOLONG);
    EXPECT_EQ(open_error(std::string(5000, 'x')), ENAMETOOLONG);
}

TEST_F(FileServerTest, LinksAreNeverFollowed) {
    ASSERT_EQ(::symlink("../secret", at("root/relative").c_str()), 0);
    ASSERT_EQ(::symlink(at("secret").c_str(), at("root/absolute").c_str()), 0);
    ASSERT_EQ(::symlink("..", at("root/up").c_str()), 0);
    ASSERT_EQ(::symlink("/proc/self/root", at("root/magic").c_str()), 0);
    ASSERT_EQ(::symlink("inside", at("root/within").c_str()), 0);
    for (const char* path : {"relative", "absolute", "within"}) EXPECT_NE(open_error(path), 0) << path;
    for (const char* path : {"up/secret", "magic/etc/passwd"}) {
        EXPECT_EQ(open_error(path), ELOOP) << path;
        for (int error :
             {server_->create({root_, path}, 0644, 0, 0).error().value, server_->unlink({root_, path}, 0).error().value,
              server_->make_directory({root_, path}, 0755, 0, 0, 0).error().value})
            EXPECT_TRUE(error == ELOOP || error == ENOTDIR) << path << " " << error;
    }
    // Created over a dangling link: the link is in the way, nothing appears where it points.
    ASSERT_EQ(::symlink("../made", at("root/dangling").c_str()), 0);
    EXPECT_EQ(server_->create({root_, "dangling"}, 0644, 0, 0).error().value, EEXIST);
    EXPECT_NE(::access(at("made").c_str(), F_OK), 0);
    // Changes go to the link itself, not to what it names.
    Request change;
    change.valid = kSetMode;
    change.mode = 0777;
    EXPECT_EQ(server_->set_attributes({root_, "absolute"}, change).error().value, EOPNOTSUPP);
    change.valid = kSetSize;
    EXPECT_FALSE(server_->set_attributes({root_, "absolute"}, change).ok());
    change.valid = kSetUid;
    change.uid = 1234;
    EXPECT_TRUE(server_->set_attributes({root_, "absolute"}, change).ok());
    struct stat info;
    ASSERT_EQ(::stat(at("secret").c_str(), &info), 0);
    EXPECT_NE(info.st_uid, 1234u);
    EXPECT_EQ(info.st_size, 7);
    EXPECT_EQ(*server_->read_link({root_, "relative"}), "../secret");
}

TEST_F(FileServerTest, SpecialFilesAreNeverOpened) {
    ASSERT_EQ(::mkfifo(at("root/fifo").c_str(), 0644), 0);
    bool device = ::mknod(at("root/null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0;
    UniqueFd bound(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, at("root/socket").c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(bound.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    for (uint32_t flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
        EXPECT_EQ(open_error("fifo", flags), ENXIO);
        EXPECT_EQ(open_error("socket", flags), ENXIO);
        if (device) {
            EXPECT_EQ(open_error("null", flags), ENXIO);
        }
    }
    EXPECT_EQ(open_error("", O_RDONLY), EISDIR);
    // Nor can device nodes be made, but overlayfs's whiteout.
    EXPECT_EQ(server_->make_node({root_, "disk"}, S_IFBLK | 0666, makedev(8, 0), 0, 0).error().value, EPERM);
    EXPECT_EQ(server_->make_node({root_, "mem"}, S_IFCHR | 0666, makedev(1, 1), 0, 0).error().value, EPERM);
    EXPECT_TRUE(server_->make_node({root_, "gone"}, S_IFCHR, 0, 0, 0).ok());
    EXPECT_TRUE(server_->make_node({root_, "pipe"}, S_IFIFO | 0644, 0, 0, 0).ok());
}

TEST_F(FileServerTest, ReadOnlyMountsStayAsTheyAre) {
    NodeId root = attach(2, kMountReadOnly);
    EXPECT_TRUE(server_->open({root, "inside"}, O_RDONLY).ok());
    EXPECT_EQ(server_->open({root, "inside"}, O_RDWR).error().value, EROFS);
    EXPECT_EQ(server_->open({root, "inside"}, O_RDONLY | O_TRUNC).error().value, EROFS);
    EXPECT_EQ(server_->create({root, "x"}, 0644, 0, 0).error().value, EROFS);
    EXPECT_EQ(server_->create_unnamed({root, ""}, 0644, 0, 0).error().value, EROFS);
    EXPECT_EQ(server_->make_directory({root, "x"}, 0755, 0, 0, 0).error().value, EROFS);
    EXPECT_EQ(server_->make_symlink({root, "x"}, "y", 0, 0).error().value, EROFS);
    EXPECT_EQ(server_->unlink({root, "inside"}, 0).error().value, EROFS);
    EXPECT_EQ(server_->remove_directory({root, "inside"}).error().value, EROFS);
    EXPECT_EQ(server_->rename({root, "inside"}, {root, "x"}, 0, 0).error().value, EROFS);
    EXPECT_EQ(server_->link({root, "inside"}, {root, "x"}).error().value, EROFS);
    EXPECT_EQ(server_->set_xattr({root, "inside"}, "user.a", "b", 0).error().value, EROFS);
    EXPECT_EQ(server_->remove_xattr({root, "inside"}, "user.a").error().value, EROFS);
    Request change;
    change.valid = kSetMode;
    EXPECT_EQ(server_->set_attributes({root, "inside"}, change).error().value, EROFS);
    // Not from one mount into another either.
    EXPECT_EQ(server_->link({root, "inside"}, {root_, "x"}).error().value, EXDEV);
    EXPECT_EQ(server_->rename({root, "inside"}, {root_, "x"}, 0, 0).error().value, EROFS);
    EXPECT_EQ(server_->rename({root_, "inside"}, {root, "x"}, 0, 0).error().value, EROFS);
}

TEST_F(FileServerTest, TheNodeTableIsBounded) {
    std::vector<NodeId> nodes;
    while (true) {
        auto entry = server_->get_attributes({root_, "inside"}, kFlagWantAnyNode);
        if (!entry.ok()) {
            EXPECT_EQ(entry.error().value, ENFILE);
            break;
        }
        nodes.push_back(entry->node);
        ASSERT_LE(nodes.size(), 16u);
    }
    for (NodeId node : nodes) {
        server_->forget(node);
        server_->forget(node);  // twice: nothing
    }
    EXPECT_EQ(server_->node_count(), 1u);
    EXPECT_EQ(server_->open({nodes.front(), ""}, O_RDONLY).error().value, ESTALE);
    EXPECT_TRUE(server_->get_attributes({root_, "inside"}, kFlagWantAnyNode).ok());
}

TEST_F(FileServerTest, NewFilesBelongToWhomTheGuestSays) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to give files away";
    auto entry = server_->create({root_, "f"}, 04755, 1000, 1001);
    ASSERT_TRUE(entry.ok());
    EXPECT_EQ(entry->attributes.uid, 1000u);
    EXPECT_EQ(entry->attributes.gid, 1001u);
    EXPECT_EQ(entry->attributes.mode, S_IFREG | 04755u);
    auto directory = server_->make_directory({root_, "d"}, 02750, 5, 6, 0);
    EXPECT_EQ(directory->attributes.mode, S_IFDIR | 02750u);
    EXPECT_EQ(directory->attributes.uid, 5u);
}

// A directory that others swap for a link to the outside while we walk through it.
// Descriptors of new files are kept: what is asked for by a name must reach the file that has it now.
TEST_F(FileServerTest, AttributesReachTheFileThatHasTheName) {
    auto mode_of = [&](const std::string& name) {
        struct stat info;
        return ::lstat(at(name).c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
    };
    auto set_mode = [&](std::string_view name, uint32_t mode, uint16_t flags) {
        Request change;
        change.valid = kSetMode | kSetModificationTime;
        change.mode = mode;
        change.modification_time = 1'000'000'000;
        change.flags = flags;
        return server_->set_attributes({root_, name}, change);
    };
    EXPECT_GE(MUST(server_->create({root_, "new"}, 0644, ::getuid(), ::getgid())).kept, 0);
    ASSERT_TRUE(set_mode("new", 0600, kFlagNoReply).ok());
    EXPECT_EQ(mode_of("root/new"), 0600u);
    auto told = MUST(set_mode("new", 0640, 0));
    EXPECT_EQ(told.attributes.mode & 07777, 0640u);
    EXPECT_EQ(told.attributes.modification_time, 1'000'000'000);

    // Another file under the old name, and the old one elsewhere.
    MUST(server_->link({root_, "new"}, {root_, "second"}));
    MUST(server_->rename({root_, "inside"}, {root_, "new"}, 0, 0));
    ASSERT_TRUE(set_mode("new", 0755, kFlagNoReply).ok());
    EXPECT_EQ(mode_of("root/new"), 0755u);
    EXPECT_EQ(mode_of("root/second"), 0640u);

    MUST(server_->create({root_, "gone"}, 0644, ::getuid(), ::getgid()));
    MUST(server_->unlink({root_, "gone"}, 0));
    EXPECT_EQ(set_mode("gone", 0600, 0).error().value, ENOENT);
    ASSERT_EQ(::symlink("new", at("root/gone").c_str()), 0);
    EXPECT_EQ(set_mode("gone", 0600, 0).error().value, EOPNOTSUPP);

    // More than are kept.
    for (int i = 0; i < 10; ++i)
        MUST(server_->create({root_, "many" + std::to_string(i)}, 0644, ::getuid(), ::getgid()));
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(set_mode("many" + std::to_string(i), 0600u + static_cast<uint32_t>(i), kFlagNoReply).ok());
        EXPECT_EQ(mode_of("root/many" + std::to_string(i)), 0600u + static_cast<uint32_t>(i));
    }

    // Where others may put another file under the name nothing is kept.
    NodeId shared = attach(2, kMountShared);
    auto made = MUST(server_->create({shared, "ours"}, 0644, ::getuid(), ::getgid()));
    EXPECT_TRUE(made.fd);
    EXPECT_LT(made.kept, 0);
}

TEST_F(FileServerTest, SyncsTheDirectoryThatHasTheName) {
    MUST(server_->make_directory({root_, "first"}, 0755, ::getuid(), ::getgid()));
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(server_->sync({root_, "first"}, kFlagThisOnly).ok());
    MUST(server_->rename({root_, "first"}, {root_, "second"}, 0, 0));
    EXPECT_EQ(server_->sync({root_, "first"}, kFlagThisOnly).error().value, ENOENT);
    EXPECT_TRUE(server_->sync({root_, "second"}, kFlagThisOnly).ok());
    MUST(server_->remove_directory({root_, "second"}));
    EXPECT_EQ(server_->sync({root_, "second"}, kFlagThisOnly).error().value, ENOENT);
}

TEST_F(FileServerTest, RenameRacesNeverLeadOut) {
    ASSERT_EQ(::mkdir(at("root/d").c_str(), 0755), 0);
    ASSERT_EQ(::mkdir(at("elsewhere").c_str(), 0755), 0);
    write("root/d/f", "inside");
    write("elsewhere/f", "outside");
    ASSERT_EQ(::symlink("../elsewhere", at("root/link").c_str()), 0);
    std::atomic<bool> stop{false};
    std::thread swapper([&] {
        while (!stop.load())
            ::renameat2(AT_FDCWD, at("root/d").c_str(), AT_FDCWD, at("root/link").c_str(), RENAME_EXCHANGE);
    });
    int opened = 0;
    for (int i = 0; i < 3000; ++i) {
        auto entry = server_->open({root_, "d/f"}, O_RDONLY);
        if (entry.ok()) {
            ++opened;
            ASSERT_EQ(read(entry->fd.get()), "inside");
        }
        std::vector<Attributes> found;
        std::string link;
        auto walked = server_->lookup({root_, "d/f"}, kFlagWantOpen, found, link);
        if (walked.ok() && walked->entry.fd) {
            ASSERT_EQ(read(walked->entry.fd.get()), "inside");
        }
        auto made = server_->create({root_, "d/new"}, 0644, 0, 0);
        if (made.ok()) (void)server_->unlink({root_, "d/new"}, 0);
        ASSERT_NE(::access(at("elsewhere/new").c_str(), F_OK), 0);
    }
    stop.store(true);
    swapper.join();
    EXPECT_GT(opened, 0);
}

TEST_F(FileServerTest, ListsWithAttributesAndBelow) {
    ASSERT_EQ(::mkdir(at("root/d").c_str(), 0755), 0);
    for (int i = 0; i < 1000; ++i) write("root/d/file-with-a-rather-long-name-" + std::to_string(i), "");
    size_t seen = 0, messages = 0;
    uint64_t cookie = 0;
    do {
        std::string data;
        cookie = MUST(server_->list({root_, "d"}, cookie, 0, {}, data, 32768));
        ASSERT_LE(data.size(), 32768u);
        for (size_t at = 0; at < data.size(); ++seen) {
            ListEntry entry;
            std::memcpy(&entry, data.data() + at, sizeof(entry));
            ASSERT_GT(entry.record_size, 0);
            at += entry.record_size;
        }
        ASSERT_LT(++messages, 10u);
    } while (cookie != 0);
    EXPECT_EQ(seen, 1000u);
    EXPECT_EQ(server_->list({root_, "inside"}, 0, 0, {}, top_, 1000).error().value, ENOTDIR);
}

TEST_F(FileServerTest, MalformedMessagesEndTheConnection) {
    Connection connection(*server_, UniqueFd());
    EXPECT_FALSE(connection.handle(""));
    EXPECT_FALSE(connection.handle(std::string(sizeof(Request) - 1, '\0')));
    Request request;
    request.op = static_cast<uint16_t>(Op::kOpen);
    request.path_size = 100;
    std::string bytes(reinterpret_cast<char*>(&request), sizeof(request));
    EXPECT_FALSE(connection.handle(bytes + "short"));
    request.path_size = ~0u;
    request.path2_size = ~0u;
    bytes.assign(reinterpret_cast<char*>(&request), sizeof(request));
    EXPECT_FALSE(connection.handle(bytes));
    request.path_size = request.path2_size = 0;
    request.op = 9999;
    bytes.assign(reinterpret_cast<char*>(&request), sizeof(request));
    EXPECT_FALSE(connection.handle(bytes + "more"));
    ASSERT_TRUE(connection.handle(bytes));
    Reply reply;
    std::memcpy(&reply, connection.reply().data(), sizeof(reply));
    EXPECT_EQ(reply.error, ENOSYS);
}

}  // namespace
}  // namespace casemate::fileserver
