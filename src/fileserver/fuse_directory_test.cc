#include "fileserver/fuse_directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

namespace casemate::fileserver {
namespace {

class FuseDirectoryTest : public testing::Test {
  protected:
    FuseDirectoryTest() {
        char name[] = "/tmp/casemate-fuse-test-XXXXXX";
        top = std::string(::mkdtemp(name)) + "/share";
        std::filesystem::create_directory(top);
        old_umask = ::umask(0);
        make({});
    }
    ~FuseDirectoryTest() override {
        ::umask(old_umask);
        std::filesystem::remove_all(std::filesystem::path(top).parent_path());
    }
    void make(FuseDirectory::Options options) {
        options.self_fd_prefix = "/proc/self/fd/";
        server = MUST(FuseDirectory::create(UniqueFd(::open(top.c_str(), O_PATH | O_CLOEXEC)),
                                            UniqueFd(::open("/proc/self/fd", O_PATH | O_CLOEXEC)), options));
    }
    // Body of the reply, or the errno in `error`.
    std::string call(uint32_t opcode, uint64_t node, std::string body, size_t room = 1 << 17) {
        fuse_in_header header{};
        header.opcode = opcode;
        header.nodeid = node;
        header.uid = ::getuid();
        header.gid = ::getgid();
        std::string reply(room, 0);
        virtio::ChainBuffer in(body.data(), body.size()), out(reply.data(), reply.size());
        auto served = server->serve(header, in, out);
        error = served.ok() ? 0 : served.error().value;
        reply.resize(served.ok() ? *served : 0);
        return reply;
    }
    template <typename T>
    static std::string bytes(const T& value) {
        return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    static std::string name(const std::string& text) { return text + std::string(1, '\0'); }
    template <typename T>
    static T as(const std::string& reply, size_t at = 0) {
        T value{};
        if (reply.size() >= at + sizeof(value)) std::memcpy(&value, reply.data() + at, sizeof(value));
        return value;
    }
    uint64_t look_up(uint64_t parent, const std::string& text) {
        return as<fuse_entry_out>(call(FUSE_LOOKUP, parent, name(text))).nodeid;
    }
    uint64_t open(uint64_t node, int flags, uint32_t opcode = FUSE_OPEN) {
        fuse_open_in arguments{};
        arguments.flags = static_cast<uint32_t>(flags);
        return as<fuse_open_out>(call(opcode, node, bytes(arguments))).fh;
    }
    uint64_t create(const std::string& text, uint64_t* node = nullptr, uint32_t mode = 0644) {
        fuse_create_in arguments{};
        arguments.flags = O_RDWR;
        arguments.mode = S_IFREG | mode;
        std::string reply = call(FUSE_CREATE, 1, bytes(arguments) + name(text));
        if (node != nullptr) *node = as<fuse_entry_out>(reply).nodeid;
        return as<fuse_open_out>(reply, sizeof(fuse_entry_out)).fh;
    }
    std::string read(uint64_t fh, uint64_t offset, uint32_t size, uint32_t opcode = FUSE_READ) {
        fuse_read_in arguments{};
        arguments.fh = fh;
        arguments.offset = offset;
        arguments.size = size;
        return call(opcode, 0, bytes(arguments));
    }
    uint32_t write(uint64_t fh, uint64_t offset, const std::string& data) {
        fuse_write_in arguments{};
        arguments.fh = fh;
        arguments.offset = offset;
        arguments.size = static_cast<uint32_t>(data.size());
        return as<fuse_write_out>(call(FUSE_WRITE, 0, bytes(arguments) + data)).size;
    }
    std::string on_host(const std::string& path) {
        std::ifstream file(top + "/" + path);
        return std::string(std::istreambuf_iterator<char>(file), {});
    }
    void put(const std::string& path, const std::string& text) { std::ofstream(top + "/" + path) << text; }
    void forget(uint64_t node, uint64_t count) {
        fuse_forget_in arguments{count};
        call(FUSE_FORGET, node, bytes(arguments));
    }

    std::string top;
    mode_t old_umask;
    std::unique_ptr<FuseDirectory> server;
    int error = 0;
};

TEST_F(FuseDirectoryTest, Initialises) {
    fuse_init_in arguments{};
    arguments.major = 7;
    arguments.minor = 38;
    arguments.flags = ~0u;
    auto reply = as<fuse_init_out>(call(FUSE_INIT, 0, bytes(arguments)));
    EXPECT_EQ(reply.major, 7u);
    EXPECT_EQ(reply.max_write, 1u << 20);
    EXPECT_FALSE(reply.flags & (FUSE_POSIX_LOCKS | FUSE_WRITEBACK_CACHE | FUSE_HANDLE_KILLPRIV));
    arguments.major = 8;
    EXPECT_EQ(as<fuse_init_out>(call(FUSE_INIT, 0, bytes(arguments))).major, 7u);
    arguments.major = 6;
    call(FUSE_INIT, 0, bytes(arguments));
    EXPECT_EQ(error, EPROTO);
    call(FUSE_INIT, 0, "short");
    EXPECT_EQ(error, EINVAL);
}

TEST_F(FuseDirectoryTest, ReadsAndWritesFiles) {
    uint64_t node = 0;
    uint64_t fh = create("file", &node, 0640);
    EXPECT_EQ(write(fh, 0, "hello world"), 11u);
    EXPECT_EQ(on_host("file"), "hello world");
    EXPECT_EQ(read(fh, 6, 100), "world");
    EXPECT_EQ(read(fh, 100, 100), "");
    auto attributes = as<fuse_attr_out>(call(FUSE_GETATTR, node, bytes(fuse_getattr_in{})));
    EXPECT_EQ(attributes.attr.size, 11u);
    EXPECT_EQ(attributes.attr.mode, S_IFREG | 0640u);
    fuse_release_in release{};
    release.fh = fh;
    call(FUSE_RELEASE, node, bytes(release));
    EXPECT_EQ(error, 0);
    read(fh, 0, 1);
    EXPECT_EQ(error, EBADF);
    fh = open(node, O_RDONLY);
    write(fh, 0, "x");
    EXPECT_EQ(error, EBADF);
    open(look_up(1, "missing"), O_RDONLY);
    EXPECT_NE(error, 0);
}

TEST_F(FuseDirectoryTest, NamesAreSingleComponents) {
    std::ofstream(std::filesystem::path(top).parent_path() / "secret") << "x";
    std::filesystem::create_directory(top + "/dir");
    put("dir/below", "x");
    for (const char* text : {"..", ".", "", "dir/below", "/etc", "../secret", "dir/"}) {
        look_up(1, text);
        EXPECT_NE(error, 0) << text;
        create(text);
        EXPECT_NE(error, 0) << text;
        call(FUSE_UNLINK, 1, name(text));
        EXPECT_NE(error, 0) << text;
        call(FUSE_RENAME, 1, bytes(fuse_rename_in{1}) + name("dir") + name(text));
        EXPECT_NE(error, 0) << text;
    }
    look_up(1, std::string(256, 'x'));
    EXPECT_EQ(error, ENAMETOOLONG);
    call(FUSE_LOOKUP, 1, "no end");
    EXPECT_EQ(error, EINVAL);
    EXPECT_TRUE(std::filesystem::exists(top + "/dir/below"));
}

TEST_F(FuseDirectoryTest, LinksLeadNowhere) {
    std::ofstream(std::filesystem::path(top).parent_path() / "secret") << "x";
    call(FUSE_SYMLINK, 1, name("out") + name("../secret"));
    ASSERT_EQ(error, 0);
    uint64_t node = look_up(1, "out");
    EXPECT_EQ(call(FUSE_READLINK, node, ""), "../secret");
    open(node, O_RDONLY);
    EXPECT_EQ(error, ELOOP);
    look_up(node, "x");
    EXPECT_NE(error, 0);
    call(FUSE_SYMLINK, 1, name("up") + name(".."));
    look_up(look_up(1, "up"), "secret");
    EXPECT_NE(error, 0);
}

// A device node is never made, and what is neither file nor directory is never opened.
TEST_F(FuseDirectoryTest, Cve2020_35517_DeviceNodes) {
    fuse_mknod_in arguments{};
    arguments.mode = S_IFCHR | 0666;
    arguments.rdev = 1 << 8 | 3;
    call(FUSE_MKNOD, 1, bytes(arguments) + name("null"));
    EXPECT_EQ(error, EPERM);
    arguments.mode = S_IFBLK | 0666;
    call(FUSE_MKNOD, 1, bytes(arguments) + name("disk"));
    EXPECT_EQ(error, EPERM);
    arguments.mode = S_IFIFO | 0666;
    arguments.rdev = 0;
    call(FUSE_MKNOD, 1, bytes(arguments) + name("pipe"));
    ASSERT_EQ(error, 0);
    open(look_up(1, "pipe"), O_RDONLY);
    EXPECT_EQ(error, ENXIO);
    // Not by CREATE of a name that is there, either.
    create("pipe");
    EXPECT_EQ(error, ENXIO);
    if (::mknod((top + "/device").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0) {
        open(look_up(1, "device"), O_RDWR);
        EXPECT_EQ(error, ENXIO);
    }
}

// A file with the set-group bit, made in a directory of another group by one who is not in it.
TEST_F(FuseDirectoryTest, Cve2022_0358_SetGroupBitInAForeignDirectory) {
    if (::getuid() != 0) GTEST_SKIP() << "needs the right to give files away";
    std::filesystem::create_directory(top + "/dir");
    ASSERT_EQ(::chown((top + "/dir").c_str(), 0, 1234), 0);
    ASSERT_EQ(::chmod((top + "/dir").c_str(), 02777), 0);
    fuse_in_header header{};
    header.opcode = FUSE_MKNOD;
    header.nodeid = look_up(1, "dir");
    header.uid = header.gid = 1000;
    fuse_mknod_in arguments{};
    arguments.mode = S_IFREG | 02755;
    std::string body = bytes(arguments) + name("file"), reply(256, 0);
    virtio::ChainBuffer in(body.data(), body.size()), out(reply.data(), reply.size());
    ASSERT_TRUE(server->serve(header, in, out).ok());
    struct stat info;
    ASSERT_EQ(::stat((top + "/dir/file").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0755u);
    EXPECT_EQ(info.st_uid, 1000u);
    EXPECT_EQ(info.st_gid, 1234u);
}

// Attributes that the host's kernel gives a meaning to are not the guest's to map or set.
TEST_F(FuseDirectoryTest, Cve2021_20263_AttributesAreNotMapped) {
    uint64_t node = 0;
    create("file", &node);
    auto set = [&](const std::string& attribute, const std::string& value) {
        uint32_t head[2] = {static_cast<uint32_t>(value.size()), 0};
        call(FUSE_SETXATTR, node, std::string(reinterpret_cast<char*>(head), 8) + name(attribute) + value);
        return error;
    };
    for (const char* attribute : {"trusted.x", "security.selinux", "system.posix_acl_access", "user.", "", "x"})
        EXPECT_EQ(set(attribute, "v"), EOPNOTSUPP) << attribute;
    if (set("user.color", "blue") == EOPNOTSUPP) GTEST_SKIP() << "/tmp has no user.* attributes";
    EXPECT_EQ(call(FUSE_GETXATTR, node, bytes(fuse_getxattr_in{100, 0}) + name("user.color")), "blue");
    EXPECT_EQ(as<fuse_getxattr_out>(call(FUSE_GETXATTR, node, bytes(fuse_getxattr_in{0, 0}) + name("user.color"))).size,
              4u);
    call(FUSE_GETXATTR, node, bytes(fuse_getxattr_in{3, 0}) + name("user.color"));
    EXPECT_EQ(error, ERANGE);
    EXPECT_EQ(call(FUSE_LISTXATTR, node, bytes(fuse_getxattr_in{100, 0})), name("user.color"));
    call(FUSE_REMOVEXATTR, node, name("user.color"));
    EXPECT_EQ(error, 0);
}

// However many files the guest looks up and opens, the host's table of files does not fill.
TEST_F(FuseDirectoryTest, Cve2020_10717_NodesAndHandlesAreBounded) {
    FuseDirectory::Options options;
    options.max_nodes = 4;
    options.max_handles = 3;
    make(options);
    for (int i = 0; i < 8; ++i) put("file" + std::to_string(i), "x");
    std::vector<uint64_t> nodes;
    for (int i = 0; i < 4; ++i) nodes.push_back(look_up(1, "file" + std::to_string(i)));
    EXPECT_EQ(error, 0);
    look_up(1, "file5");
    EXPECT_EQ(error, ENFILE);
    EXPECT_EQ(look_up(1, "file0"), nodes[0]);  // known already
    for (int i = 0; i < 3; ++i) open(nodes[0], O_RDONLY);
    EXPECT_EQ(error, 0);
    open(nodes[0], O_RDONLY);
    EXPECT_EQ(error, ENFILE);
    forget(nodes[1], 1);
    look_up(1, "file5");
    EXPECT_EQ(error, 0);
}

// The guest's count of lookups may be anything: files that are open stay open, and no other node is hit.
TEST_F(FuseDirectoryTest, ForgettingMoreThanWasLookedUp) {
    uint64_t node = 0;
    uint64_t fh = create("file", &node);
    forget(node, ~uint64_t{0});
    forget(node, 1);
    forget(1, ~uint64_t{0});
    forget(12345, 7);
    EXPECT_EQ(server->node_count(), 0u);
    EXPECT_EQ(write(fh, 0, "still open"), 10u);
    call(FUSE_GETATTR, node, bytes(fuse_getattr_in{}));
    EXPECT_EQ(error, ESTALE);
    EXPECT_NE(look_up(1, "file"), node);
    // A count in the message that its bytes do not have.
    fuse_batch_forget_in batch{1000, 0};
    fuse_forget_one one{look_up(1, "file"), 100};
    call(FUSE_BATCH_FORGET, 0, bytes(batch) + bytes(one));
    EXPECT_EQ(server->node_count(), 0u);
}

TEST_F(FuseDirectoryTest, MakesRemovesAndMoves) {
    uint64_t dir = as<fuse_entry_out>(call(FUSE_MKDIR, 1, bytes(fuse_mkdir_in{0755, 0}) + name("dir"))).nodeid;
    ASSERT_NE(dir, 0u);
    create("a");
    call(FUSE_RENAME, 1, bytes(fuse_rename_in{dir}) + name("a") + name("b"));
    EXPECT_EQ(error, 0);
    uint64_t node = look_up(dir, "b");
    call(FUSE_LINK, 1, bytes(fuse_link_in{node}) + name("hard"));
    EXPECT_EQ(error, 0);
    EXPECT_EQ(look_up(1, "hard"), node);
    fuse_rename2_in rename{1, 1 /* RENAME_NOREPLACE */, 0};
    call(FUSE_RENAME2, dir, bytes(rename) + name("b") + name("hard"));
    EXPECT_EQ(error, EEXIST);
    rename.flags = 4;  // RENAME_WHITEOUT
    call(FUSE_RENAME2, dir, bytes(rename) + name("b") + name("c"));
    EXPECT_EQ(error, EINVAL);
    call(FUSE_RMDIR, 1, name("dir"));
    EXPECT_EQ(error, ENOTEMPTY);
    call(FUSE_UNLINK, dir, name("b"));
    call(FUSE_RMDIR, 1, name("dir"));
    EXPECT_EQ(error, 0);
}

TEST_F(FuseDirectoryTest, SetsAttributes) {
    uint64_t node = 0;
    create("file", &node);
    fuse_setattr_in change{};
    change.valid = FATTR_MODE | FATTR_SIZE | FATTR_MTIME;
    change.mode = 0600;
    change.size = 5000;
    change.mtime = 1'000'000'000;
    auto reply = as<fuse_attr_out>(call(FUSE_SETATTR, node, bytes(change)));
    EXPECT_EQ(reply.attr.mode, S_IFREG | 0600u);
    EXPECT_EQ(reply.attr.size, 5000u);
    EXPECT_EQ(reply.attr.mtime, 1'000'000'000u);
    change.valid = FATTR_SIZE;
    change.size = ~uint64_t{0};
    call(FUSE_SETATTR, node, bytes(change));
    EXPECT_EQ(error, EINVAL);
    change.valid = FATTR_MTIME;
    change.mtimensec = 2'000'000'000;
    call(FUSE_SETATTR, node, bytes(change));
    EXPECT_EQ(error, EINVAL);
}

TEST_F(FuseDirectoryTest, SetIdsEndWhenWhoMayNotKeepThemWrites) {
    uint64_t node = 0, fh = create("file", &node);
    auto mode = [&] { return std::filesystem::status(top + "/file").permissions(); };
    auto with = [&](unsigned bits) { EXPECT_EQ(::chmod((top + "/file").c_str(), bits), 0); };
    fuse_write_in write{};
    write.fh = fh;
    write.size = 1;
    with(06755);
    if (::geteuid() == 0) {  // who has CAP_FSETID keeps them, and says so
        call(FUSE_WRITE, node, bytes(write) + "x");
        EXPECT_EQ(static_cast<unsigned>(mode()), 06755u);
    }
    write.write_flags = FUSE_WRITE_KILL_SUIDGID;
    call(FUSE_WRITE, node, bytes(write) + "x");
    EXPECT_EQ(error, 0);
    EXPECT_EQ(static_cast<unsigned>(mode()), 0755u);
    with(06745);  // of a group that may not execute it, the bit means something else
    call(FUSE_WRITE, node, bytes(write) + "x");
    if (::geteuid() == 0) {
        EXPECT_EQ(static_cast<unsigned>(mode()), 02745u);
    }
    with(04755);
    fuse_setattr_in change{};
    change.valid = FATTR_SIZE | FATTR_KILL_SUIDGID;
    call(FUSE_SETATTR, node, bytes(change));
    EXPECT_EQ(static_cast<unsigned>(mode()), 0755u);
    with(04755);
    fuse_open_in opening{};
    opening.flags = O_WRONLY | O_TRUNC;
    opening.open_flags = FUSE_OPEN_KILL_SUIDGID;
    call(FUSE_OPEN, node, bytes(opening));
    EXPECT_EQ(error, 0);
    EXPECT_EQ(static_cast<unsigned>(mode()), 0755u);
}

TEST_F(FuseDirectoryTest, ListsDirectories) {
    std::set<std::string> expected;
    for (int i = 0; i < 300; ++i) {
        put("file" + std::to_string(i), "x");
        expected.insert("file" + std::to_string(i));
    }
    for (bool plus : {false, true}) {
        uint64_t fh = open(1, 0, FUSE_OPENDIR);
        ASSERT_EQ(error, 0);
        std::set<std::string> seen;
        uint64_t offset = 0;
        while (true) {
            std::string reply = read(fh, offset, 4096, plus ? FUSE_READDIRPLUS : FUSE_READDIR);
            ASSERT_EQ(error, 0);
            if (reply.empty()) break;
            for (size_t at = 0; at < reply.size();) {
                auto entry = as<fuse_dirent>(reply, at + (plus ? sizeof(fuse_entry_out) : 0));
                size_t header = plus ? sizeof(fuse_direntplus) : sizeof(fuse_dirent);
                std::string text = reply.substr(at + header, entry.namelen);
                if (text != "." && text != "..") {
                    seen.insert(text);
                    if (plus) {
                        EXPECT_NE(as<fuse_entry_out>(reply, at).nodeid, 0u);
                    }
                }
                offset = entry.off;
                at += (header + entry.namelen + 7) & ~size_t{7};
            }
        }
        EXPECT_EQ(seen, expected);
        EXPECT_EQ(server->node_count(), plus ? 300u : 0u);
        read(fh, 0, 100, FUSE_READ);  // a directory is no file
        EXPECT_EQ(error, EBADF);
    }
}

TEST_F(FuseDirectoryTest, ReadOnlyRefusesEveryChange) {
    put("file", "content");
    FuseDirectory::Options options;
    options.read_only = true;
    make(options);
    uint64_t node = look_up(1, "file");
    create("new");
    EXPECT_EQ(error, EROFS);
    for (int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) {
        open(node, flags);
        EXPECT_EQ(error, EROFS);
    }
    fuse_setattr_in change{};
    change.valid = FATTR_MODE;
    call(FUSE_SETATTR, node, bytes(change));
    EXPECT_EQ(error, EROFS);
    call(FUSE_UNLINK, 1, name("file"));
    EXPECT_EQ(error, EROFS);
    call(FUSE_MKDIR, 1, bytes(fuse_mkdir_in{}) + name("dir"));
    EXPECT_EQ(error, EROFS);
    EXPECT_EQ(read(open(node, O_RDONLY), 0, 100), "content");
}

TEST_F(FuseDirectoryTest, RepliesThatDoNotFitChangeNothing) {
    put("file", "x");
    call(FUSE_LOOKUP, 1, name("file"), 10);
    EXPECT_EQ(error, EIO);
    EXPECT_EQ(server->node_count(), 0u);
    fuse_create_in arguments{};
    arguments.flags = O_RDWR;
    call(FUSE_CREATE, 1, bytes(arguments) + name("new"), 100);
    EXPECT_EQ(error, EIO);
    EXPECT_FALSE(std::filesystem::exists(top + "/new"));
}

TEST_F(FuseDirectoryTest, GoesOnAfterASnapshot) {
    std::filesystem::create_directories(top + "/a/b");
    uint64_t a = look_up(1, "a"), b = look_up(a, "b"), file = 0;
    uint64_t fh = create("file", &file);
    write(fh, 0, "before");
    uint64_t doomed = 0;
    uint64_t doomed_fh = create("doomed", &doomed);
    std::filesystem::remove(top + "/doomed");
    virtio::StateWriter writer;
    server->save(writer);
    std::string state = writer.take();
    make({});
    virtio::StateReader reader(state);
    ASSERT_TRUE(server->restore(reader).ok());
    EXPECT_TRUE(reader.at_end());
    EXPECT_EQ(read(fh, 0, 100), "before");
    EXPECT_EQ(write(fh, 6, " and after"), 10u);
    EXPECT_EQ(on_host("file"), "before and after");
    EXPECT_EQ(look_up(a, "b"), b);
    read(doomed_fh, 0, 1);
    EXPECT_EQ(error, ESTALE);
    EXPECT_NE(look_up(1, "a"), 0u);
    for (size_t cut = 0; cut < state.size(); cut += 3) {
        virtio::StateReader part(std::string_view(state).substr(0, cut));
        EXPECT_FALSE(server->restore(part).ok());
    }
}

}  // namespace
}  // namespace casemate::fileserver
