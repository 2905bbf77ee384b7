// What the cases of files and names share.
#pragma once

#include <dirent.h>
#include <sys/stat.h>

#include <set>
#include <string>

#include "case.h"

inline int new_file(const char* path = "f", const std::string& content = "") {
    int fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644));
    if (!content.empty()) {
        EXPECT_EQ(write(fd, content.data(), content.size()), content.size());
        OK(lseek(fd, 0, SEEK_SET));
    }
    return fd;
}

inline struct stat stat_of(const char* path) {
    struct stat st;
    OK(lstat(path, &st));
    return st;
}

inline std::string long_name(size_t size) { return std::string(size, 'n'); }

// As another user, in a child: root passes every permission check.
template <typename Body>
inline void as_user(uid_t uid, Body body) {
    if (geteuid() != 0) skip("needs root");
    in_child([&] {
        OK(syscall(SYS_setgroups, 0, nullptr));
        OK(syscall(SYS_setresgid, uid, uid, uid));
        OK(syscall(SYS_setresuid, uid, uid, uid));
        body();
    });
}

inline std::set<std::string> names_in(const char* path) {
    std::set<std::string> names;
    DIR* dir = opendir(path);
    if (!dir) fail("names_in", 0, "opendir: " + errno_name(errno));
    while (dirent* entry = readdir(dir)) EXPECT(names.insert(entry->d_name).second);
    closedir(dir);
    return names;
}
