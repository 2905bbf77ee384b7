// Host files through a real server on the other end of a socket.
#include <dirent.h>
#include <sys/socket.h>

#include <thread>

#include "fileserver/connection.h"
#include "fileserver/jail.h"
#include "sentry/fs/file_system_checks_test.h"
#include "sentry/fs/host/host_fs.h"
#include "sentry/fs/overlay/overlay.h"

namespace casemate::sentry {
namespace {

class HostTest : public FileSystemTest {
  protected:
    static constexpr uint64_t kToken = 77;

    void SetUp() override {
        char name[] = "/tmp/casemate-host-test-XXXXXX";
        directory_ = ::mkdtemp(name);
        ::umask(0);
        boot_memory();
        int pair[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        // The server's working directory is the test process's, as is the server itself.
        UniqueFd self = MUST(fileserver::enter_proc_self_fd());
        server_ = std::make_unique<fileserver::FileServer>(fileserver::FileServer::Limits{256}, std::move(self));
        thread_ = std::thread([this, fd = pair[1]] {
            fileserver::Connection connection(*server_, UniqueFd(fd));
            fileserver::SpareThread rings;
            (void)connection.serve(rings);
        });
        client_ = std::make_unique<HostFiles>(UniqueFd(pair[0]));
    }
    void attach(uint32_t flags) {
        UniqueFd mount(::open(directory_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        MUST(server_->add_mount(kToken, flags, std::move(mount)));
        files_ = MUST(HostFileSystem::create(*client_, kToken));
    }
    void TearDown() override {
        TaskFixture::TearDown();
        files_.reset();
        client_.reset();
        if (thread_.joinable()) thread_.join();
        server_.reset();
        std::string remove = "rm -rf " + directory_;
        (void)!::system(remove.c_str());
    }
    std::string on_host(const std::string& name) { return directory_ + "/" + name; }
    void host_write(const std::string& name, const std::string& text) {
        FILE* file = ::fopen(on_host(name).c_str(), "w");
        ASSERT_NE(file, nullptr);
        ::fwrite(text.data(), 1, text.size(), file);
        ::fclose(file);
    }
    // With a mount on `directory` of the root.
    std::string directory_;
    std::unique_ptr<fileserver::FileServer> server_;
    std::thread thread_;
    std::unique_ptr<HostFiles> client_;
    Ref<HostFileSystem> files_;
};

TEST_F(HostTest, ExclusiveTreeIsAWritableTree) {
    attach(0);
    boot_root(files_);
    ASSERT_EQ(call(SYS_mkdir, "/w", 0755), 0);
    check_everything();
}

TEST_F(HostTest, SharedTreeIsAWritableTree) {
    attach(fileserver::kMountShared);
    boot_root(files_);
    ASSERT_EQ(call(SYS_mkdir, "/w", 0755), 0);
    check_everything();
}

TEST_F(HostTest, ReadOnlyTreeRefusesEveryChange) {
    host_write("f", "text");
    attach(fileserver::kMountReadOnly);
    boot_root(files_);
    EXPECT_EQ(read_file("/f"), "text");
    EXPECT_EQ(open("/f", O_RDWR), -EROFS);
    EXPECT_EQ(open("/new", O_CREAT | O_WRONLY), -EROFS);
    EXPECT_EQ(call(SYS_mkdir, "/d", 0755), -EROFS);
    EXPECT_EQ(call(SYS_unlink, "/f"), -EROFS);
    EXPECT_EQ(call(SYS_chmod, "/f", 0600), -EROFS);
    EXPECT_EQ(call(SYS_rename, "/f", "/g"), -EROFS);
    EXPECT_EQ(call(SYS_truncate, "/f", 0), -EROFS);
    EXPECT_EQ(call(SYS_setxattr, "/f", "user.x", put("y"), 1, 0), -EROFS);
}

TEST_F(HostTest, ASeenFileIsOpenedWithoutTheServer) {
    ASSERT_EQ(::mkdir(on_host("d").c_str(), 0755), 0);
    for (int i = 0; i < 50; ++i) host_write("d/f" + std::to_string(i), "x");
    attach(0);
    boot_root(files_);
    EXPECT_EQ(read_file("/d/f1"), "x");
    EXPECT_EQ(read_file("/d/f2"), "x");
    uint64_t before = client_->round_trips();
    EXPECT_EQ(read_file("/d/f1"), "x");
    EXPECT_EQ(read_file("/d/f2"), "x");
    struct stat info;
    for (int i = 0; i < 50; ++i) EXPECT_EQ(stat_path("/d/f" + std::to_string(i), info), 0);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(stat_path("/d/none" + std::to_string(i), info), -ENOENT);
    // The directory is listed once; everything else is known.
    EXPECT_LE(client_->round_trips() - before, 1u);
}

TEST_F(HostTest, ATreeIsListedInFewRoundTrips) {
    ASSERT_EQ(::mkdir(on_host("top").c_str(), 0755), 0);
    for (int i = 0; i < 20; ++i) {
        std::string directory = "top/d" + std::to_string(i);
        ASSERT_EQ(::mkdir(on_host(directory).c_str(), 0755), 0);
        for (int j = 0; j < 10; ++j) host_write(directory + "/f" + std::to_string(j), "x");
    }
    attach(0);
    boot_root(files_);
    uint64_t before = client_->round_trips();
    EXPECT_EQ(list("/").size(), 1u);
    EXPECT_EQ(list("/top").size(), 20u);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(list("/top/d" + std::to_string(i)).size(), 10u);
    EXPECT_LE(client_->round_trips() - before, 4u);
}

TEST_F(HostTest, ABigDirectorysFilesAreAskedForTogether) {
    ASSERT_EQ(::mkdir(on_host("big").c_str(), 0755), 0);
    constexpr int kFiles = 600;
    for (int i = 0; i < kFiles; ++i) {
        std::string name = "big/f" + std::to_string(i);
        host_write(name, std::string(static_cast<size_t>(i), 'x'));
        ASSERT_EQ(::chmod(on_host(name).c_str(), 0644), 0);  // whatever the umask
    }
    attach(0);
    boot_root(files_);
    EXPECT_EQ(list("/big").size(), size_t{kFiles});
    // What changes meanwhile is known by its inode.
    ASSERT_EQ(call(SYS_chmod, "/big/f599", 0600), 0);
    ASSERT_EQ(call(SYS_truncate, "/big/f598", 5), 0);
    uint64_t before = client_->round_trips();
    struct stat info;
    for (int i = 0; i < kFiles; ++i) {
        ASSERT_EQ(stat_path("/big/f" + std::to_string(i), info), 0);
        EXPECT_EQ(info.st_size, i == 598 ? 5 : i) << i;
        EXPECT_EQ(info.st_mode & 07777, i == 599 ? 0600u : 0644u) << i;
    }
    EXPECT_LE(client_->round_trips() - before, 60u);
}

TEST_F(HostTest, ADirectoryKnowsItselfAfterItsNamesChanged) {
    attach(0);
    boot_root(files_);
    ASSERT_EQ(call(SYS_mkdir, "/d", 0755), 0);
    struct stat host, info;
    for (const char* name : {"/d/a", "/d/b", "/d/c"}) {
        ASSERT_EQ(call(SYS_mkdir, name, 0755), 0);
        uint64_t before = client_->round_trips();
        ASSERT_EQ(stat_path("/d", info), 0);
        EXPECT_EQ(client_->round_trips(), before);
        ASSERT_EQ(::stat(on_host("d").c_str(), &host), 0);
        EXPECT_EQ(info.st_nlink, host.st_nlink);
        EXPECT_EQ(info.st_mtim.tv_nsec, host.st_mtim.tv_nsec);
    }
    ASSERT_EQ(call(SYS_rmdir, "/d/b"), 0);
    ASSERT_EQ(stat_path("/d", info), 0);
    EXPECT_EQ(info.st_nlink, 4u);
}

TEST_F(HostTest, AFileIsFoundByAnyOfItsNames) {
    attach(0);
    boot_root(files_);
    auto make = [&](const char* name) {
        int64_t fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        ASSERT_GE(fd, 0);
        ASSERT_EQ(call(SYS_close, static_cast<int>(fd)), 0);
    };
    make("/first");
    ASSERT_EQ(call(SYS_link, "/first", "/second"), 0);
    ASSERT_EQ(call(SYS_link, "/first", "/third"), 0);
    // By the name it was made under, by the last one: what is left must lead to it all the same.
    ASSERT_EQ(call(SYS_unlink, "/first"), 0);
    ASSERT_EQ(call(SYS_unlink, "/third"), 0);
    ASSERT_EQ(call(SYS_chmod, "/second", 0640), 0);
    ASSERT_EQ(call(SYS_truncate, "/second", 3), 0);
    struct stat info;
    ASSERT_EQ(stat_path("/second", info), 0);
    EXPECT_EQ(info.st_nlink, 1u);
    EXPECT_EQ(info.st_size, 3);
    EXPECT_EQ(info.st_mode & 07777, 0640u);
    EXPECT_EQ(list("/"), std::set<std::string>{"second"});
    ASSERT_EQ(call(SYS_unlink, "/second"), 0);
    make("/second");
    ASSERT_EQ(stat_path("/second", info), 0);
    EXPECT_EQ(info.st_size, 0);
    client_->flush();
    EXPECT_NE(::access(on_host("first").c_str(), F_OK), 0);
    EXPECT_EQ(::access(on_host("second").c_str(), F_OK), 0);
}

TEST_F(HostTest, SharedChangesAreSeen) {
    host_write("f", "old");
    attach(fileserver::kMountShared);
    boot_root(files_);
    EXPECT_EQ(read_file("/f"), "old");
    host_write("f.new", "newer");
    ::rename(on_host("f.new").c_str(), on_host("f").c_str());
    ::usleep(20'000);
    EXPECT_EQ(read_file("/f"), "newer");
    EXPECT_EQ(open("/late", O_RDONLY), -ENOENT);
    host_write("late", "x");
    EXPECT_EQ(read_file("/late"), "x");
    ::unlink(on_host("late").c_str());
    ::usleep(20'000);
    EXPECT_EQ(open("/late", O_RDONLY), -ENOENT);
}

TEST_F(HostTest, DirectoriesAreSynced) {
    attach(0);
    boot_root(files_);
    ASSERT_EQ(call(SYS_mkdir, "/d", 0755), 0);
    int64_t fd = open("/d", O_RDONLY | O_DIRECTORY);
    ASSERT_GE(fd, 0);
    uint64_t before = client_->round_trips();
    EXPECT_EQ(call(SYS_fsync, static_cast<int>(fd)), 0);
    EXPECT_EQ(call(SYS_fdatasync, static_cast<int>(fd)), 0);
    EXPECT_EQ(client_->round_trips() - before, 2u);
    ASSERT_EQ(call(SYS_rmdir, "/d"), 0);
    EXPECT_EQ(call(SYS_fsync, static_cast<int>(fd)), 0);
}

TEST_F(HostTest, NamesInASharedTreeAreMadeAndRemovedByOneQuestion) {
    ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
    attach(fileserver::kMountShared);
    boot_root(files_);
    constexpr int kFiles = 20;
    auto name = [](int i) { return "/f" + std::to_string(i); };
    uint64_t before = client_->round_trips();
    for (int i = 0; i < kFiles; ++i) {
        int64_t fd = open(name(i), O_WRONLY | O_CREAT | (i % 2 ? O_EXCL : 0), 0644);
        ASSERT_GE(fd, 0) << i;
        ASSERT_EQ(call(SYS_close, static_cast<int>(fd)), 0);
    }
    ASSERT_EQ(call(SYS_mkdir, "/d", 0755), 0);
    ASSERT_EQ(call(SYS_symlink, "target", "/l"), 0);
    EXPECT_EQ(client_->round_trips() - before, kFiles + 2u);
    before = client_->round_trips();
    for (int i = 0; i < kFiles; ++i) ASSERT_EQ(call(SYS_unlink, name(i)), 0) << i;
    EXPECT_EQ(client_->round_trips() - before, uint64_t{kFiles});
    for (int i = 0; i < kFiles; ++i) EXPECT_NE(::access(on_host(name(i)).c_str(), F_OK), 0) << i;
}

TEST_F(HostTest, FilesOfASharedTreeAreLookedAtTogether) {
    constexpr int kFiles = 200;
    ASSERT_EQ(::mkdir(on_host("d").c_str(), 0755), 0);
    for (int i = 0; i < kFiles; ++i) host_write("d/f" + std::to_string(i), std::string(static_cast<size_t>(i), 'x'));
    std::vector<std::string> order;
    DIR* directory = ::opendir(on_host("d").c_str());
    ASSERT_NE(directory, nullptr);
    while (dirent* entry = ::readdir(directory))
        if (entry->d_name[0] == 'f') order.push_back(entry->d_name);
    ::closedir(directory);
    attach(fileserver::kMountShared);
    boot_root(files_);
    struct stat info;
    // What is known is soon old: a slow machine asks more often, but not each time.
    uint64_t fewest = ~uint64_t{0};
    for (int round = 0; round < 50 && fewest > kFiles / 2; ++round) {
        EXPECT_EQ(list("/d").size(), size_t{kFiles});
        uint64_t before = client_->round_trips();
        for (const std::string& name : order) {
            ASSERT_EQ(stat_path("/d/" + name, info), 0) << name;
            EXPECT_EQ(info.st_size, std::stoi(name.substr(1)));
        }
        fewest = std::min(fewest, client_->round_trips() - before);
    }
    EXPECT_LE(fewest, uint64_t{kFiles / 2});
    // What others change or remove is seen, and one's own changes at once.
    EXPECT_EQ(list("/d").size(), size_t{kFiles});
    for (size_t i = 0; i + 1 < order.size(); i += 2) {
        ASSERT_EQ(stat_path("/d/" + order[i], info), 0);
        ASSERT_EQ(call(SYS_chmod, "/d/" + order[i + 1], 0600), 0);
        ASSERT_EQ(stat_path("/d/" + order[i + 1], info), 0);
        EXPECT_EQ(info.st_mode & 07777, 0600u);
        ASSERT_EQ(call(SYS_unlink, "/d/" + order[i + 1]), 0);
        ASSERT_EQ(stat_path("/d/" + order[i + 1], info), -ENOENT);
    }
    ASSERT_EQ(::truncate(on_host("d/" + order[0]).c_str(), 5000), 0);
    ASSERT_EQ(::unlink(on_host("d/" + order[2]).c_str()), 0);
    ::usleep(30'000);
    ASSERT_EQ(stat_path("/d/" + order[0], info), 0);
    EXPECT_EQ(info.st_size, 5000);
    EXPECT_EQ(stat_path("/d/" + order[2], info), -ENOENT);
}

TEST_F(HostTest, OthersNamesInASharedTreeAreRespected) {
    ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
    attach(fileserver::kMountShared);
    boot_root(files_);
    host_write("theirs", "content");
    EXPECT_EQ(open("/theirs", O_WRONLY | O_CREAT | O_EXCL, 0644), -EEXIST);
    EXPECT_EQ(call(SYS_mkdir, "/theirs", 0755), -EEXIST);
    EXPECT_EQ(call(SYS_symlink, "x", "/theirs"), -EEXIST);
    int64_t fd = open("/theirs", O_RDWR | O_CREAT, 0644);
    ASSERT_GE(fd, 0);
    GuestAddr buffer = room(64);
    EXPECT_EQ(call(SYS_read, static_cast<int>(fd), buffer, 64), 7);
    EXPECT_EQ(call(SYS_close, static_cast<int>(fd)), 0);
    ASSERT_EQ(::mkdir(on_host("folder").c_str(), 0755), 0);
    EXPECT_EQ(open("/folder", O_WRONLY | O_CREAT, 0644), -EISDIR);
    ASSERT_EQ(::symlink("theirs", on_host("link").c_str()), 0);
    fd = open("/link", O_RDONLY | O_CREAT, 0644);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(call(SYS_read, static_cast<int>(fd), buffer, 64), 7);
    EXPECT_EQ(call(SYS_close, static_cast<int>(fd)), 0);
    // What was there is gone, or another thing, when it is to be removed.
    for (const char* name : {"/a", "/b", "/c"}) {
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        ASSERT_GE(fd, 0);
        ASSERT_EQ(call(SYS_close, static_cast<int>(fd)), 0);
    }
    ASSERT_EQ(::unlink(on_host("a").c_str()), 0);
    EXPECT_EQ(call(SYS_unlink, "/a"), -ENOENT);
    ASSERT_EQ(::unlink(on_host("b").c_str()), 0);
    ASSERT_EQ(::mkdir(on_host("b").c_str(), 0755), 0);
    EXPECT_EQ(call(SYS_unlink, "/b"), -EISDIR);
    EXPECT_EQ(call(SYS_rmdir, "/b"), 0);
    // An open file keeps being itself while another one of its name is removed.
    fd = open("/c", O_RDWR);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(call(SYS_write, static_cast<int>(fd), put("mine"), 4), 4);
    ASSERT_EQ(::rename(on_host("c").c_str(), on_host("elsewhere").c_str()), 0);
    host_write("c", "another one's");
    EXPECT_EQ(call(SYS_unlink, "/c"), 0);
    EXPECT_NE(::access(on_host("c").c_str(), F_OK), 0);
    struct stat host;
    EXPECT_LT(call(SYS_fchmod, static_cast<int>(fd), 0640), 0);
    ASSERT_EQ(::stat(on_host("elsewhere").c_str(), &host), 0);
    EXPECT_EQ(host.st_size, 4);
    EXPECT_EQ(host.st_mode & 07777, 0644u);
}

TEST_F(HostTest, WhereAFileEndsStandsUntilSomethingChangesIt) {
    host_write("f", "seven b");
    host_write("g", "other");
    attach(0);
    boot_root(files_);
    const int fd = static_cast<int>(open("/f", O_RDWR)), again = static_cast<int>(open("/f", O_RDWR));
    ASSERT_TRUE(fd >= 0 && again >= 0 && fd % 8 != again % 8);
    auto go_to_end = [&](int64_t size) {
        for (int i = 0; i < 3; ++i) EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_END), size);
        EXPECT_EQ(standing(fd), size);
    };
    GuestAddr text = put("0123456789");
    EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_END), 7);
    EXPECT_FALSE(standing(fd));  // once is not often
    go_to_end(7);
    EXPECT_FALSE(standing(again));
    // What changes neither the end nor a position leaves it.
    EXPECT_EQ(call(SYS_pread64, fd, room(8), 4, 0), 4);
    EXPECT_EQ(call(SYS_read, fd, room(8), 4), 0);
    EXPECT_EQ(call(SYS_read, again, room(8), 4), 4);
    EXPECT_EQ(standing(fd), 7);
    EXPECT_EQ(call(SYS_write, fd, text, 1), 1);
    EXPECT_FALSE(standing(fd));
    go_to_end(8);
    EXPECT_EQ(call(SYS_pwrite64, again, text, 2, 8), 2);
    EXPECT_FALSE(standing(fd));
    go_to_end(10);
    EXPECT_EQ(call(SYS_ftruncate, again, 5), 0);
    EXPECT_FALSE(standing(fd));
    go_to_end(5);
    EXPECT_EQ(call(SYS_truncate, "/f", 6), 0);
    EXPECT_FALSE(standing(fd));
    go_to_end(6);
    EXPECT_EQ(call(SYS_fallocate, again, 0, 0, 9), 0);
    EXPECT_FALSE(standing(fd));
    go_to_end(9);
    // The position is the file's, not the descriptor's.
    const int twin = static_cast<int>(call(SYS_dup, fd));
    ASSERT_GE(twin, 0);
    for (auto [offset, whence] : {std::pair{1, SEEK_SET}, {-1, SEEK_CUR}, {-2, SEEK_END}, {0, SEEK_DATA}}) {
        EXPECT_GE(call(SYS_lseek, twin, offset, whence), 0);
        EXPECT_FALSE(standing(fd));
        go_to_end(9);
    }
    // The descriptor comes to mean another file, or none.
    const int other = static_cast<int>(open("/g", O_RDWR));
    EXPECT_EQ(call(SYS_dup2, other, fd), fd);
    EXPECT_FALSE(standing(fd));
    go_to_end(5);
    EXPECT_EQ(call(SYS_close, fd), 0);
    EXPECT_FALSE(standing(fd));
    EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_END), -EBADF);
    EXPECT_EQ(call(SYS_dup2, twin, fd), fd);
    go_to_end(9);
    // Who maps it to write to, or lets the host copy into it, does so unseen.
    ASSERT_GE(call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), 0);
    EXPECT_FALSE(standing(fd));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_END), 9);
    EXPECT_FALSE(standing(fd));
}

TEST_F(HostTest, WhereAFileOfASharedTreeEndsIsAskedEachTime) {
    host_write("f", "seven b");
    attach(fileserver::kMountShared);
    boot_root(files_);
    const int fd = static_cast<int>(open("/f", O_RDONLY));
    ASSERT_GE(fd, 0);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_END), 7);
    EXPECT_FALSE(standing(fd));
    host_write("f", "longer than that");
    EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_END), 16);
}

TEST_F(HostTest, OverlayIsAWritableTree) {
    attach(fileserver::kMountReadOnly);
    Ref<TmpfsFileSystem> upper = TmpfsFileSystem::create(*memory_, TmpfsOptions{.mode = 0755});
    Ref<Inode> upper_root = MUST(upper->root());
    Ref<Inode> lower_root = MUST(files_->root());
    boot_root(MUST(OverlayFileSystem::create(upper_root, {lower_root})));
    ASSERT_EQ(call(SYS_mkdir, "/w", 0755), 0);
    check_everything();
}

TEST_F(HostTest, OverlayCopiesUpAndCovers) {
    ASSERT_EQ(::mkdir(on_host("d").c_str(), 0755), 0);
    ASSERT_EQ(::mkdir(on_host("d/sub").c_str(), 0755), 0);
    host_write("d/f", "lower");
    host_write("d/g", "lower g");
    host_write("d/sub/x", "lower x");
    ASSERT_EQ(::link(on_host("d/g").c_str(), on_host("d/g2").c_str()), 0);
    attach(fileserver::kMountReadOnly);
    Ref<TmpfsFileSystem> upper = TmpfsFileSystem::create(*memory_, TmpfsOptions{.mode = 0755});
    Ref<Inode> upper_root = MUST(upper->root());
    Ref<Inode> lower_root = MUST(files_->root());
    boot_root(MUST(OverlayFileSystem::create(upper_root, {lower_root})));
    EXPECT_EQ(read_file("/d/f"), "lower");
    struct stat before, after;
    EXPECT_EQ(stat_path("/d/f", before), 0);
    int64_t reader = open("/d/f", O_RDONLY);
    int64_t fd = open("/d/f", O_WRONLY | O_APPEND);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(call(SYS_write, fd, put("+up"), 3), 3);
    call(SYS_close, fd);
    EXPECT_EQ(read_file("/d/f"), "lower+up");
    EXPECT_EQ(stat_path("/d/f", after), 0);
    EXPECT_EQ(before.st_ino, after.st_ino);
    GuestAddr buffer = room(64);
    EXPECT_EQ(call(SYS_read, reader, buffer, 64), 5);  // opened before: the lower file, as on Linux
    EXPECT_EQ(list("/d"), (Names{"f", "g", "g2", "sub"}));
    EXPECT_EQ(call(SYS_unlink, "/d/f"), 0);
    EXPECT_EQ(list("/d"), (Names{"g", "g2", "sub"}));
    EXPECT_EQ(open("/d/f", O_RDONLY), -ENOENT);
    EXPECT_EQ(write_file("/d/f", "again"), 5);
    EXPECT_EQ(read_file("/d/f"), "again");
    // Both names of a file show its copy.
    EXPECT_EQ(call(SYS_truncate, "/d/g", 5), 0);
    EXPECT_EQ(read_file("/d/g2"), "lower");
    EXPECT_EQ(call(SYS_unlink, "/d/g2"), 0);
    EXPECT_EQ(read_file("/d/g"), "lower");
    EXPECT_EQ(call(SYS_rename, "/d/g", "/d/h"), 0);
    EXPECT_EQ(list("/d"), (Names{"f", "h", "sub"}));
    // A directory from below: not renamed, but emptied, removed and made anew.
    EXPECT_EQ(call(SYS_rename, "/d/sub", "/d/moved"), -EXDEV);
    EXPECT_EQ(call(SYS_rmdir, "/d/sub"), -ENOTEMPTY);
    EXPECT_EQ(call(SYS_unlink, "/d/sub/x"), 0);
    EXPECT_EQ(call(SYS_rmdir, "/d/sub"), 0);
    EXPECT_EQ(call(SYS_mkdir, "/d/sub", 0755), 0);
    EXPECT_EQ(list("/d/sub"), Names{});
    EXPECT_EQ(call(SYS_rename, "/d/sub", "/d/moved"), 0);
    EXPECT_EQ(list("/d"), (Names{"f", "h", "moved"}));
    // Nothing of it reached the host.
    EXPECT_EQ(::access(on_host("d/sub/x").c_str(), F_OK), 0);
    EXPECT_EQ(::access(on_host("d/moved").c_str(), F_OK), -1);
}

TEST_F(HostTest, DeepTreesAreWalkedAndRemoved) {
    attach(0);
    boot_root(files_);
    // Deeper than one request's path may be long.
    std::string name(200, 'n');
    ASSERT_EQ(call(SYS_chdir, "/"), 0);
    for (int i = 0; i < 40; ++i) {
        ASSERT_EQ(call(SYS_mkdir, name, 0755), 0) << i;
        ASSERT_EQ(call(SYS_chdir, name), 0) << i;
    }
    ASSERT_EQ(write_file("f", "deep"), 4);
    EXPECT_EQ(read_file("f"), "deep");
    EXPECT_EQ(call(SYS_unlink, "f"), 0);
    for (int i = 0; i < 40; ++i) {
        ASSERT_EQ(call(SYS_chdir, ".."), 0) << i;
        ASSERT_EQ(call(SYS_rmdir, name), 0) << i;
    }
}

}  // namespace
}  // namespace casemate::sentry
