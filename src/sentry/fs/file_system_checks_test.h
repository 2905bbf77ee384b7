// The same checks for every writable file system: what programs take for granted of a directory tree.
#pragma once

#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <set>

#include "sentry/kernel/task_fixture_test.h"

namespace casemate::sentry {

class FileSystemTest : public TaskFixture {
  protected:
    int64_t open(const std::string& path, int flags, uint32_t mode = 0644) {
        return call(SYS_openat, AT_FDCWD, path, flags, mode);
    }
    int64_t write_file(const std::string& path, const std::string& text) {
        int64_t fd = open(path, O_CREAT | O_TRUNC | O_WRONLY);
        if (fd < 0) return fd;
        int64_t n = call(SYS_write, fd, put(text), text.size());
        call(SYS_close, fd);
        return n;
    }
    std::string read_file(const std::string& path) {
        int64_t fd = open(path, O_RDONLY);
        if (fd < 0) return "error " + std::to_string(-fd);
        std::string text;
        GuestAddr buffer = room(65536);
        while (true) {
            int64_t n = call(SYS_read, fd, buffer, 65536);
            if (n <= 0) break;
            text += take(buffer, static_cast<size_t>(n));
        }
        call(SYS_close, fd);
        return text;
    }
    int64_t stat_path(const std::string& path, struct stat& out, int flags = 0) {
        GuestAddr at = room(sizeof(out));
        int64_t result = call(SYS_newfstatat, AT_FDCWD, path, at, flags);
        if (result == 0) MUST(task_->memory().copy_in(at, &out, sizeof(out)));
        return result;
    }
    std::set<std::string> list(const std::string& path) {
        std::set<std::string> names;
        int64_t fd = open(path, O_RDONLY | O_DIRECTORY);
        if (fd < 0) return {"error " + std::to_string(-fd)};
        GuestAddr buffer = room(1024);
        while (true) {
            int64_t n = call(SYS_getdents64, fd, buffer, 1024);
            if (n < 0) names.insert("error " + std::to_string(-n));
            if (n <= 0) break;
            std::string bytes = take(buffer, static_cast<size_t>(n));
            for (size_t at = 0; at < bytes.size();) {
                uint16_t size;
                std::memcpy(&size, bytes.data() + at + 16, 2);
                std::string name(bytes.data() + at + 19);
                if (name != "." && name != "..") names.insert(name);
                at += size;
            }
        }
        call(SYS_close, fd);
        return names;
    }
    using Names = std::set<std::string>;

    // In the empty directory "/w".
    void check_everything() {
        check_content();
        check_names();
        check_links();
        check_rename();
        check_attributes();
        check_unlinked();
    }
    void check_content() {
        ASSERT_EQ(write_file("/w/a", "hello"), 5);
        EXPECT_EQ(read_file("/w/a"), "hello");
        EXPECT_EQ(open("/w/a", O_CREAT | O_EXCL | O_WRONLY), -EEXIST);
        EXPECT_EQ(open("/w/missing", O_RDONLY), -ENOENT);
        EXPECT_EQ(open("/w/a/b", O_RDONLY), -ENOTDIR);
        EXPECT_EQ(open("/w/a/", O_RDONLY), -ENOTDIR);
        EXPECT_EQ(open("/w", O_WRONLY), -EISDIR);
        int64_t fd = open("/w/a", O_RDWR | O_APPEND);
        ASSERT_GE(fd, 0);
        EXPECT_EQ(call(SYS_write, fd, put(" world"), 6), 6);
        EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_CUR), 11);
        EXPECT_EQ(call(SYS_pwrite64, fd, put("!"), 1, 0), 1);  // O_APPEND wins
        EXPECT_EQ(call(SYS_ftruncate, fd, 8), 0);
        EXPECT_EQ(read_file("/w/a"), "hello wo");
        EXPECT_EQ(call(SYS_ftruncate, fd, 100'000), 0);
        std::string long_text = read_file("/w/a");
        EXPECT_EQ(long_text.size(), 100'000u);
        EXPECT_EQ(std::count(long_text.begin(), long_text.end(), '\0'), 100'000 - 8);
        call(SYS_close, fd);
        // Scattered writes of odd sizes against a model.
        fd = open("/w/b", O_CREAT | O_RDWR);
        std::string model(300'000, '\0');
        uint32_t seed = 12345;
        size_t end = 0;
        for (int i = 0; i < 200; ++i) {
            seed = seed * 1664525 + 1013904223;
            size_t offset = seed % 290'000, size = 1 + (seed >> 8) % 9'000;
            std::string bytes(size, static_cast<char>('a' + i % 26));
            ASSERT_EQ(call(SYS_pwrite64, fd, put(bytes), size, offset), static_cast<int64_t>(size));
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<ptrdiff_t>(offset));
            end = std::max(end, offset + size);
        }
        model.resize(end);
        EXPECT_EQ(read_file("/w/b"), model);
        call(SYS_close, fd);
        EXPECT_EQ(call(SYS_unlink, "/w/a"), 0);
        EXPECT_EQ(call(SYS_unlink, "/w/b"), 0);
    }
    void check_names() {
        EXPECT_EQ(call(SYS_mkdir, "/w/d", 0755), 0);
        EXPECT_EQ(call(SYS_mkdir, "/w/d", 0755), -EEXIST);
        EXPECT_EQ(call(SYS_mkdir, "/w/d/e/", 0755), 0);
        EXPECT_EQ(call(SYS_rmdir, "/w/d"), -ENOTEMPTY);
        EXPECT_EQ(call(SYS_rmdir, "/w/d/."), -EINVAL);
        EXPECT_EQ(call(SYS_rmdir, "/w/d/e/.."), -ENOTEMPTY);
        EXPECT_EQ(call(SYS_unlink, "/w/d/e"), -EISDIR);
        EXPECT_EQ(list("/w/d"), Names{"e"});
        for (int i = 0; i < 300; ++i) ASSERT_EQ(write_file("/w/d/file" + std::to_string(i), "x"), 1);
        EXPECT_EQ(list("/w/d").size(), 301u);
        for (int i = 0; i < 300; ++i) ASSERT_EQ(call(SYS_unlink, "/w/d/file" + std::to_string(i)), 0);
        EXPECT_EQ(list("/w/d"), Names{"e"});
        EXPECT_EQ(call(SYS_mkdir, "/w/d/" + std::string(256, 'x'), 0755), -ENAMETOOLONG);
        EXPECT_EQ(call(SYS_mkdir, "/w/d/" + std::string(255, 'x'), 0755), 0);
        EXPECT_EQ(call(SYS_rmdir, "/w/d/" + std::string(255, 'x')), 0);
        EXPECT_EQ(call(SYS_rmdir, "/w/d/e"), 0);
        EXPECT_EQ(call(SYS_rmdir, "/w/d"), 0);
        struct stat info;
        EXPECT_EQ(stat_path("/w/d", info), -ENOENT);
        // Created in a removed directory through its descriptor: no.
        EXPECT_EQ(call(SYS_mkdir, "/w/gone", 0755), 0);
        int64_t fd = open("/w/gone", O_RDONLY | O_DIRECTORY);
        EXPECT_EQ(call(SYS_rmdir, "/w/gone"), 0);
        EXPECT_EQ(call(SYS_openat, fd, "x", O_CREAT | O_WRONLY, 0644), -ENOENT);
        call(SYS_close, fd);
    }
    void check_links() {
        ASSERT_EQ(write_file("/w/f", "one"), 3);
        EXPECT_EQ(call(SYS_link, "/w/f", "/w/g"), 0);
        struct stat info, other;
        EXPECT_EQ(stat_path("/w/f", info), 0);
        EXPECT_EQ(stat_path("/w/g", other), 0);
        EXPECT_EQ(info.st_nlink, 2u);
        EXPECT_EQ(info.st_ino, other.st_ino);
        EXPECT_EQ(call(SYS_unlink, "/w/f"), 0);
        EXPECT_EQ(read_file("/w/g"), "one");
        EXPECT_EQ(stat_path("/w/g", other), 0);
        EXPECT_EQ(other.st_nlink, 1u);
        EXPECT_EQ(call(SYS_symlink, "g", "/w/s"), 0);
        EXPECT_EQ(read_file("/w/s"), "one");
        GuestAddr text = room(64);
        EXPECT_EQ(call(SYS_readlink, "/w/s", text, 64), 1);
        EXPECT_EQ(take(text, 1), "g");
        EXPECT_EQ(stat_path("/w/s", info, AT_SYMLINK_NOFOLLOW), 0);
        EXPECT_TRUE(S_ISLNK(info.st_mode));
        EXPECT_EQ(open("/w/s", O_RDONLY | O_NOFOLLOW), -ELOOP);
        EXPECT_EQ(open("/w/s", O_CREAT | O_EXCL | O_WRONLY), -EEXIST);
        // A dangling link is created through.
        EXPECT_EQ(call(SYS_symlink, "/w/new", "/w/dangling"), 0);
        EXPECT_EQ(write_file("/w/dangling", "made"), 4);
        EXPECT_EQ(read_file("/w/new"), "made");
        EXPECT_EQ(call(SYS_symlink, "loop", "/w/loop"), 0);
        EXPECT_EQ(open("/w/loop", O_RDONLY), -ELOOP);
        EXPECT_EQ(call(SYS_link, "/w", "/w/hard"), -EPERM);
        for (const char* name : {"/w/g", "/w/s", "/w/new", "/w/dangling", "/w/loop"})
            EXPECT_EQ(call(SYS_unlink, name), 0);
        EXPECT_EQ(list("/w"), Names{});
    }
    void check_rename() {
        ASSERT_EQ(write_file("/w/a", "A"), 1);
        ASSERT_EQ(write_file("/w/b", "B"), 1);
        ASSERT_EQ(call(SYS_mkdir, "/w/d", 0755), 0);
        ASSERT_EQ(call(SYS_mkdir, "/w/d/inner", 0755), 0);
        EXPECT_EQ(call(SYS_rename, "/w/a", "/w/c"), 0);
        EXPECT_EQ(open("/w/a", O_RDONLY), -ENOENT);
        EXPECT_EQ(read_file("/w/c"), "A");
        EXPECT_EQ(call(SYS_renameat2, AT_FDCWD, "/w/c", AT_FDCWD, "/w/b", 1), -EEXIST);
        EXPECT_EQ(call(SYS_renameat2, AT_FDCWD, "/w/c", AT_FDCWD, "/w/b", 2), 0);
        EXPECT_EQ(read_file("/w/c"), "B");
        EXPECT_EQ(read_file("/w/b"), "A");
        EXPECT_EQ(call(SYS_rename, "/w/c", "/w/b"), 0);
        EXPECT_EQ(read_file("/w/b"), "B");
        EXPECT_EQ(call(SYS_rename, "/w/b", "/w/d/b"), 0);
        EXPECT_EQ(read_file("/w/d/b"), "B");
        EXPECT_EQ(call(SYS_rename, "/w/d", "/w/d/inner/x"), -EINVAL);
        EXPECT_EQ(call(SYS_rename, "/w/d/inner", "/w/d/b"), -ENOTDIR);
        EXPECT_EQ(call(SYS_rename, "/w/d/b", "/w/d/inner"), -EISDIR);
        EXPECT_EQ(call(SYS_rename, "/w/d", "/w/e"), 0);
        EXPECT_EQ(read_file("/w/e/b"), "B");
        EXPECT_EQ(call(SYS_mkdir, "/w/target", 0755), 0);
        EXPECT_EQ(call(SYS_rename, "/w/e", "/w/target"), 0);
        EXPECT_EQ(read_file("/w/target/b"), "B");
        EXPECT_EQ(list("/w"), Names{"target"});
        EXPECT_EQ(list("/w/target"), (Names{"b", "inner"}));
        EXPECT_EQ(call(SYS_mkdir, "/w/full", 0755), 0);
        EXPECT_EQ(call(SYS_rename, "/w/full", "/w/target"), -ENOTEMPTY);
        for (const char* name : {"/w/target/inner", "/w/full"}) EXPECT_EQ(call(SYS_rmdir, name), 0);
        EXPECT_EQ(call(SYS_unlink, "/w/target/b"), 0);
        EXPECT_EQ(call(SYS_rmdir, "/w/target"), 0);
    }
    void check_attributes() {
        ASSERT_EQ(write_file("/w/f", "x"), 1);
        struct stat info;
        EXPECT_EQ(stat_path("/w/f", info), 0);
        EXPECT_EQ(info.st_mode, S_IFREG | 0644u);
        EXPECT_EQ(info.st_size, 1);
        EXPECT_EQ(call(SYS_chmod, "/w/f", 04751), 0);
        EXPECT_EQ(stat_path("/w/f", info), 0);
        EXPECT_EQ(info.st_mode, S_IFREG | 04751u);
        EXPECT_EQ(call(SYS_chown, "/w/f", 12, 34), 0);
        EXPECT_EQ(stat_path("/w/f", info), 0);
        EXPECT_EQ(info.st_uid, 12u);
        EXPECT_EQ(info.st_gid, 34u);
        EXPECT_EQ(info.st_mode, S_IFREG | 0751u);  // chown takes set-user-id away
        timespec times[2] = {{1000, 1}, {2000, 2}};
        GuestAddr at = room(sizeof(times));
        MUST(task_->memory().copy_out(at, times, sizeof(times)));
        EXPECT_EQ(call(SYS_utimensat, AT_FDCWD, "/w/f", at, 0), 0);
        EXPECT_EQ(stat_path("/w/f", info), 0);
        EXPECT_EQ(info.st_atim.tv_sec, 1000);
        EXPECT_EQ(info.st_mtim.tv_sec, 2000);
        EXPECT_EQ(info.st_mtim.tv_nsec, 2);
        int64_t fd = open("/w/f", O_RDWR);
        EXPECT_EQ(call(SYS_fchmod, fd, 0600), 0);
        EXPECT_EQ(call(SYS_write, fd, put("longer"), 6), 6);
        EXPECT_EQ(call(SYS_fstat, fd, at = room(sizeof(info))), 0);
        MUST(task_->memory().copy_in(at, &info, sizeof(info)));
        EXPECT_EQ(info.st_mode, S_IFREG | 0600u);
        EXPECT_EQ(info.st_size, 6);
        EXPECT_GT(info.st_mtim.tv_sec, 2000);
        call(SYS_close, fd);
        EXPECT_EQ(call(SYS_setxattr, "/w/f", "user.color", put("blue"), 4, 0), 0);
        GuestAddr value = room(64);
        EXPECT_EQ(call(SYS_getxattr, "/w/f", "user.color", value, 64), 4);
        EXPECT_EQ(take(value, 4), "blue");
        EXPECT_EQ(call(SYS_setxattr, "/w/f", "user.color", put("red"), 3, 1), -EEXIST);
        EXPECT_EQ(call(SYS_listxattr, "/w/f", value, 64), 11);
        EXPECT_EQ(call(SYS_removexattr, "/w/f", "user.color"), 0);
        EXPECT_EQ(call(SYS_getxattr, "/w/f", "user.color", value, 64), -ENODATA);
        EXPECT_EQ(call(SYS_unlink, "/w/f"), 0);
    }
    void check_unlinked() {
        ASSERT_EQ(write_file("/w/f", "alive"), 5);
        int64_t fd = open("/w/f", O_RDWR);
        EXPECT_EQ(call(SYS_unlink, "/w/f"), 0);
        struct stat info;
        GuestAddr at = room(sizeof(info));
        EXPECT_EQ(call(SYS_fstat, fd, at), 0);
        MUST(task_->memory().copy_in(at, &info, sizeof(info)));
        EXPECT_EQ(info.st_nlink, 0u);
        EXPECT_EQ(call(SYS_fchmod, fd, 0640), 0);
        EXPECT_EQ(call(SYS_pwrite64, fd, put("still "), 6, 0), 6);
        GuestAddr buffer = room(64);
        EXPECT_EQ(call(SYS_pread64, fd, buffer, 64, 0), 6);
        EXPECT_EQ(take(buffer, 6), "still ");
        // A new file of the name is another one.
        ASSERT_EQ(write_file("/w/f", "new"), 3);
        EXPECT_EQ(call(SYS_pread64, fd, buffer, 64, 0), 6);
        EXPECT_EQ(read_file("/w/f"), "new");
        call(SYS_close, fd);
        EXPECT_EQ(call(SYS_unlink, "/w/f"), 0);
        // O_TMPFILE and its name given later.
        fd = open("/w", O_TMPFILE | O_RDWR, 0600);
        ASSERT_GE(fd, 0);
        EXPECT_EQ(call(SYS_write, fd, put("tmp"), 3), 3);
        EXPECT_EQ(call(SYS_linkat, fd, "", AT_FDCWD, "/w/named", AT_EMPTY_PATH), 0);
        EXPECT_EQ(read_file("/w/named"), "tmp");
        call(SYS_close, fd);
        EXPECT_EQ(call(SYS_unlink, "/w/named"), 0);
        EXPECT_EQ(list("/w"), Names{});
    }
};

}  // namespace casemate::sentry
