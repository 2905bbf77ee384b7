// Directories, links, renames.
#include "files.h"

// ---- directories

CASE(mkdir_mode_and_links) {
    OK(mkdir("d", 0750));
    EXPECT_EQ(stat_of("d").st_mode, S_IFDIR | 0750);
    EXPECT(stat_of("d").st_nlink == 2 || stat_of("d").st_nlink == 1);
}
CASE(mkdir_errors) {
    OK(mkdir("d", 0755));
    FAILS(mkdir("d", 0755), EEXIST);
    FAILS(mkdir("no/d", 0755), ENOENT);
    FAILS(mkdir(".", 0755), EEXIST);
    FAILS(mkdir("", 0755), ENOENT);
    new_file();
    FAILS(mkdir("f/d", 0755), ENOTDIR);
    FAILS(mkdir("f", 0755), EEXIST);
    FAILS(mkdir(long_name(256).c_str(), 0755), ENAMETOOLONG);
    FAILS(mkdir((char*)bad(), 0755), EFAULT);
    FAILS(mkdirat(-1, "x", 0755), EBADF);
}
CASE(mkdir_trailing_slash) {
    OK(mkdir("d/", 0755));
    EXPECT(S_ISDIR(stat_of("d").st_mode));
}
CASE(mkdir_through_dangling_link) {
    OK(symlink("nowhere", "l"));
    FAILS(mkdir("l", 0755), EEXIST);
}
CASE(mkdir_setgid_inherits) {
    OK(mkdir("d", 0755));
    OK(chmod("d", 02755));
    OK(mkdir("d/e", 0755));
    EXPECT(stat_of("d/e").st_mode & S_ISGID);
}
CASE(rmdir_errors) {
    OK(mkdir("d", 0755));
    new_file("d/f");
    FAILS(rmdir("d"), ENOTEMPTY);
    FAILS(rmdir("d/f"), ENOTDIR);
    FAILS(rmdir("nothing"), ENOENT);
    FAILS(rmdir("d/."), EINVAL);
    FAILS(rmdir("d/.."), ENOTEMPTY);
    OK(unlink("d/f"));
    OK(rmdir("d"));
    FAILS(stat("d", (struct stat*)scratch()), ENOENT);
}
CASE(rmdir_root_busy) { FAILS_ANY(rmdir("/"), EBUSY, ENOTEMPTY); }
CASE(unlinkat_removedir) {
    OK(mkdir("d", 0755));
    FAILS(unlinkat(AT_FDCWD, "d", 0), EISDIR);
    FAILS(unlinkat(AT_FDCWD, "d", 0x40000), EINVAL);
    OK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
}
CASE(unlink_keeps_open_file) {
    int fd = new_file("f", "abc");
    OK(unlink("f"));
    struct stat st;
    OK(fstat(fd, &st));
    EXPECT_EQ(st.st_nlink, 0);
    EXPECT_EQ(read_all_fd(fd), "abc");
}
CASE(unlink_errors) {
    FAILS(unlink("nothing"), ENOENT);
    OK(mkdir("d", 0755));
    FAILS(unlink("d"), EISDIR);
    new_file();
    FAILS(unlink("f/"), ENOTDIR);
    FAILS(unlink("f/x"), ENOTDIR);
    FAILS(unlink(""), ENOENT);
    FAILS(unlink((char*)bad()), EFAULT);
}
CASE(unlink_removes_link_not_target) {
    new_file();
    OK(symlink("f", "l"));
    OK(unlink("l"));
    OK(access("f", F_OK));
}
CASE(unlink_sticky_directory) {
    OK(mkdir("d", 0777));
    OK(chmod("d", 01777));
    new_file("d/f");
    chmod(".", 0755);
    as_user(12345, [] { FAILS(unlink("d/f"), EPERM); });
}
CASE(getdents_lists_all) {
    new_file("a");
    OK(mkdir("d", 0755));
    auto names = names_in(".");
    EXPECT_EQ(names.size(), 4);
    EXPECT(names.count(".") && names.count("..") && names.count("a") && names.count("d"));
}
CASE(getdents_types) {
    new_file("a");
    OK(mkdir("d", 0755));
    OK(symlink("a", "l"));
    OK(mkfifo("p", 0600));
    DIR* dir = opendir(".");
    while (dirent* entry = readdir(dir)) {
        std::string name = entry->d_name;
        if (entry->d_type == DT_UNKNOWN) continue;
        if (name == "a") EXPECT_EQ(entry->d_type, DT_REG);
        if (name == "d" || name == "." || name == "..") EXPECT_EQ(entry->d_type, DT_DIR);
        if (name == "l") EXPECT_EQ(entry->d_type, DT_LNK);
        if (name == "p") EXPECT_EQ(entry->d_type, DT_FIFO);
        if (name == "a") EXPECT_EQ(entry->d_ino, stat_of("a").st_ino);
    }
}
CASE(getdents_many) {
    for (int i = 0; i < 500; ++i) close(new_file(("file-" + std::to_string(i)).c_str()));
    EXPECT_EQ(names_in(".").size(), 502);
}
CASE(getdents_errors) {
    int dir = OK(open(".", O_RDONLY | O_DIRECTORY));
    FAILS(syscall(SYS_getdents64, dir, scratch(), 1), EINVAL);
    FAILS(syscall(SYS_getdents64, dir, bad(), 4096), EFAULT);
    FAILS(syscall(SYS_getdents64, -1, scratch(), 4096), EBADF);
    FAILS(syscall(SYS_getdents64, new_file(), scratch(), 4096), ENOTDIR);
}
CASE(getdents_old_call) {
    int dir = OK(open(".", O_RDONLY | O_DIRECTORY));
    EXPECT(syscall(SYS_getdents, dir, scratch(), 4096) > 0);
    EXPECT_EQ(syscall(SYS_getdents, dir, scratch(), 4096), 0);
}
CASE(getdents_rewind) {
    DIR* dir = opendir(".");
    int before = 0, after = 0;
    while (readdir(dir)) ++before;
    new_file("new");
    rewinddir(dir);
    while (readdir(dir)) ++after;
    EXPECT_EQ(after, before + 1);
}
CASE(getdents_of_removed_directory) {
    OK(mkdir("d", 0755));
    int dir = OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(rmdir("d"));
    FAILS(syscall(SYS_getdents64, dir, scratch(), 4096), ENOENT);
}
CASE(getdents_while_removing) {
    for (int i = 0; i < 300; ++i) close(new_file(("file-" + std::to_string(i)).c_str()));
    DIR* dir = opendir(".");
    int removed = 0;
    while (dirent* entry = readdir(dir))
        if (entry->d_name[0] == 'f') removed += unlink(entry->d_name) == 0;
    EXPECT_EQ(removed, 300);
}
CASE(chdir_and_getcwd) {
    char before[PATH_MAX], after[PATH_MAX];
    OK(syscall(SYS_getcwd, before, sizeof before));
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(syscall(SYS_getcwd, after, sizeof after));
    EXPECT_EQ(std::string(after), std::string(before) + "/d");
    int up = OK(open("..", O_RDONLY));
    OK(fchdir(up));
    OK(syscall(SYS_getcwd, after, sizeof after));
    EXPECT_EQ(std::string(after), std::string(before));
}
CASE(getcwd_errors) {
    FAILS(syscall(SYS_getcwd, scratch(), 2), ERANGE);
    FAILS(syscall(SYS_getcwd, bad(), 4096), EFAULT);
}
CASE(getcwd_length) {
    char buffer[PATH_MAX];
    long length = OK(syscall(SYS_getcwd, buffer, sizeof buffer));
    EXPECT_EQ(length, strlen(buffer) + 1);
}
CASE(getcwd_of_removed) {
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    FAILS(syscall(SYS_getcwd, scratch(), 4096), ENOENT);
    FAILS(open("x", O_CREAT | O_RDWR, 0600), ENOENT);
}
CASE(chdir_errors) {
    new_file();
    FAILS(chdir("f"), ENOTDIR);
    FAILS(chdir("nothing"), ENOENT);
    FAILS(chdir((char*)bad()), EFAULT);
    FAILS(fchdir(-1), EBADF);
    FAILS(fchdir(new_file("g")), ENOTDIR);
}
CASE(chroot_confines) {
    if (geteuid() != 0) skip("needs root");
    OK(mkdir("d", 0755));
    new_file("d/f", "inside");
    in_child([] {
        OK(chroot("d"));
        OK(chdir("/"));
        EXPECT_EQ(read_all("/f"), "inside");
        EXPECT_EQ(read_all("/../../f"), "inside");
    });
    FAILS(chroot("nothing"), ENOENT);
}

// ---- links and renames

CASE(link_shares_inode) {
    new_file("f", "abc");
    OK(link("f", "g"));
    EXPECT_EQ(stat_of("f").st_ino, stat_of("g").st_ino);
    EXPECT_EQ(stat_of("f").st_nlink, 2);
    OK(unlink("f"));
    EXPECT_EQ(stat_of("g").st_nlink, 1);
    EXPECT_EQ(read_all("g"), "abc");
}
CASE(link_errors) {
    new_file();
    new_file("g");
    OK(mkdir("d", 0755));
    FAILS(link("f", "g"), EEXIST);
    FAILS(link("nothing", "h"), ENOENT);
    FAILS(link("d", "h"), EPERM);
    FAILS(link("f", "no/h"), ENOENT);
    FAILS(link("f", "/dev/casemate-h"), EXDEV);
    FAILS(linkat(AT_FDCWD, "f", AT_FDCWD, "h", 0x20000), EINVAL);
    FAILS(link((char*)bad(), "h"), EFAULT);
}
CASE(link_does_not_follow) {
    new_file();
    OK(symlink("f", "l"));
    OK(link("l", "m"));
    EXPECT(S_ISLNK(stat_of("m").st_mode));
    OK(linkat(AT_FDCWD, "l", AT_FDCWD, "n", AT_SYMLINK_FOLLOW));
    EXPECT(S_ISREG(stat_of("n").st_mode));
}
CASE(symlink_and_readlink) {
    OK(symlink("some/where", "l"));
    char buffer[64] = {};
    EXPECT_EQ(readlink("l", buffer, sizeof buffer), 10);
    EXPECT_EQ(std::string(buffer), "some/where");
    char small[4];
    EXPECT_EQ(readlink("l", small, 4), 4);
    EXPECT_EQ(stat_of("l").st_size, 10);
}
CASE(symlink_errors) {
    new_file();
    FAILS(symlink("x", "f"), EEXIST);
    FAILS(symlink("", "l"), ENOENT);
    FAILS(symlink("x", "no/l"), ENOENT);
    FAILS(symlink(std::string(PATH_MAX, 'a').c_str(), "l"), ENAMETOOLONG);
    FAILS(symlink((char*)bad(), "l"), EFAULT);
    FAILS(symlinkat("x", -1, "l"), EBADF);
}
CASE(readlink_errors) {
    new_file();
    char buffer[8];
    FAILS(readlink("f", buffer, 8), EINVAL);
    FAILS(readlink("nothing", buffer, 8), ENOENT);
    OK(symlink("x", "l"));
    FAILS(readlink("l", (char*)bad(), 8), EFAULT);
    FAILS(syscall(SYS_readlink, "l", buffer, 0), EINVAL);
    FAILS(syscall(SYS_readlink, "l", buffer, -1), EINVAL);
}
CASE(symlink_to_directory_with_slash) {
    OK(mkdir("d", 0755));
    OK(symlink("d", "l"));
    struct stat st;
    OK(lstat("l/", &st));
    EXPECT(S_ISDIR(st.st_mode));
}
CASE(symlink_relative_to_its_directory) {
    OK(mkdir("d", 0755));
    new_file("d/f", "near");
    OK(symlink("f", "d/l"));
    EXPECT_EQ(read_all("d/l"), "near");
}
CASE(rename_replaces) {
    new_file("a", "A");
    new_file("b", "B");
    ino_t ino = stat_of("a").st_ino;
    OK(rename("a", "b"));
    EXPECT_EQ(read_all("b"), "A");
    EXPECT_EQ(stat_of("b").st_ino, ino);
    FAILS(access("a", F_OK), ENOENT);
}
CASE(rename_keeps_open_files) {
    int fd = new_file("a", "A");
    int victim = new_file("b", "B");
    OK(rename("a", "b"));
    EXPECT_EQ(read_all_fd(victim), "B");
    EXPECT_EQ(read_all_fd(fd), "A");
}
CASE(rename_same_inode_is_nothing) {
    new_file("a");
    OK(link("a", "b"));
    OK(rename("a", "b"));
    OK(access("a", F_OK));
    OK(access("b", F_OK));
}
CASE(rename_directory_over_empty) {
    OK(mkdir("a", 0755));
    new_file("a/f");
    OK(mkdir("b", 0755));
    OK(rename("a", "b"));
    OK(access("b/f", F_OK));
}
CASE(rename_errors) {
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    new_file("b/f");
    new_file("f");
    FAILS_ANY(rename("a", "b"), ENOTEMPTY, EEXIST);
    FAILS(rename("f", "a"), EISDIR);
    FAILS(rename("a", "f"), ENOTDIR);
    FAILS(rename("nothing", "x"), ENOENT);
    FAILS(rename("a", "a/sub"), EINVAL);
    FAILS(rename("f", "no/x"), ENOENT);
    FAILS_ANY(rename("a/.", "x"), EBUSY, EINVAL);
    FAILS_ANY(rename("f", "b/.."), EBUSY, EINVAL, EISDIR);
    FAILS(rename("f", "/proc/x"), EXDEV);
    FAILS(rename((char*)bad(), "x"), EFAULT);
    FAILS(renameat(-1, "f", AT_FDCWD, "x"), EBADF);
}
CASE(rename_into_ancestor) {
    OK(mkdir("a", 0755));
    OK(mkdir("a/b", 0755));
    FAILS_ANY(rename("a/b", "a"), ENOTEMPTY, EEXIST);
    OK(rename("a/b", "b"));
}
CASE(rename_directory_updates_dot_dot) {
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    OK(mkdir("a/d", 0755));
    OK(rename("a/d", "b/d"));
    struct stat st;
    OK(stat("b/d/..", &st));
    EXPECT_EQ(st.st_ino, stat_of("b").st_ino);
}
CASE(rename_cwd_follows) {
    OK(mkdir("a", 0755));
    OK(chdir("a"));
    OK(rename("../a", "../z"));
    char cwd[PATH_MAX] = {};
    OK(syscall(SYS_getcwd, cwd, sizeof cwd));
    EXPECT_EQ(std::string(cwd).substr(strlen(cwd) - 2), "/z");
}
CASE(renameat2_noreplace) {
    new_file("a");
    new_file("b");
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
}
CASE(renameat2_exchange) {
    new_file("a", "A");
    OK(mkdir("d", 0755));
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE));
    EXPECT_EQ(read_all("d"), "A");
    EXPECT(S_ISDIR(stat_of("a").st_mode));
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
}
CASE(renameat2_flags) {
    new_file("a");
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", 0x100), EINVAL);
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE | RENAME_EXCHANGE), EINVAL);
}
