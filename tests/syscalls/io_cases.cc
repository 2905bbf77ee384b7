// Reading and writing, positions and sizes, copies between descriptors.
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "files.h"

// ---- read, write and their vectors

CASE(read_and_end) {
    int fd = new_file("f", "hello");
    char buffer[16];
    EXPECT_EQ(read(fd, buffer, 3), 3);
    EXPECT_EQ(read(fd, buffer, 16), 2);
    EXPECT_EQ(read(fd, buffer, 16), 0);
}
CASE(read_zero_bytes) { EXPECT_EQ(read(new_file("f", "a"), scratch(), 0), 0); }
FAILS_CASE(read_bad_descriptor, read(-1, scratch(), 1), EBADF)
FAILS_CASE(read_bad_pointer, read(new_file("f", "abc"), bad(), 3), EFAULT)
FAILS_CASE(read_directory, read(OK(open(".", O_RDONLY)), scratch(), 10), EISDIR)
FAILS_CASE(write_bad_pointer, write(new_file(), bad(), 3), EFAULT)
FAILS_CASE(write_bad_descriptor, write(999, "a", 1), EBADF)
CASE(read_partly_bad_pointer) {
    int fd = new_file("f", std::string(8192, 'x'));
    char* two = (char*)OK(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mprotect(two + 4096, 4096, PROT_NONE));
    EXPECT_EQ(read(fd, two, 8192), 4096);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 4096);
}
CASE(write_extends_and_reads_back) {
    int fd = new_file();
    std::string big(300000, 'q');
    EXPECT_EQ(write(fd, big.data(), big.size()), big.size());
    EXPECT_EQ(read_all("f"), big);
}
CASE(write_past_end_makes_hole) {
    int fd = new_file();
    OK(lseek(fd, 10000, SEEK_SET));
    EXPECT_EQ(write(fd, "x", 1), 1);
    std::string content = read_all("f");
    EXPECT_EQ(content.size(), 10001);
    EXPECT(content == std::string(10000, '\0') + "x");
}
CASE(pread_does_not_move) {
    int fd = new_file("f", "hello");
    char buffer[8] = {};
    EXPECT_EQ(pread(fd, buffer, 3, 2), 3);
    EXPECT_EQ(std::string(buffer), "llo");
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
}
FAILS_CASE(pread_negative_offset, pread(new_file("f", "a"), scratch(), 1, -1), EINVAL)
CASE(pread_on_pipe) {
    int ends[2];
    OK(pipe(ends));
    FAILS(pread(ends[0], scratch(), 1, 0), ESPIPE);
    FAILS(pwrite(ends[1], scratch(), 1, 0), ESPIPE);
}
CASE(pread_past_end) { EXPECT_EQ(pread(new_file("f", "abc"), scratch(), 10, 100), 0); }
// Read so often that whoever serves it may have it at hand: what changes meanwhile, by whatever way, must show.
CASE(pread_often_sees_each_change) {
    constexpr size_t kSize = 300 << 10;
    std::string expected(kSize, 'a');
    int fd = new_file("f", expected);
    int reader = OK(open("f", O_RDONLY));
    auto check = [&] {
        std::string all(expected.size() + 100, 0);
        for (int file : {reader, fd}) {
            EXPECT_EQ(pread(file, all.data(), all.size(), 0), expected.size());
            EXPECT(all.compare(0, expected.size(), expected) == 0);
            for (size_t offset = 0; offset < expected.size(); offset += 4096) {
                const size_t part = std::min<size_t>(4096, expected.size() - offset);
                EXPECT_EQ(pread(file, all.data(), 4096, off_t(offset)), part);
                EXPECT(all.compare(0, part, expected, offset, part) == 0);
            }
            EXPECT_EQ(pread(file, all.data(), 10, off_t(expected.size())), 0);
        }
    };
    auto put = [&](size_t offset, const std::string& text) {
        EXPECT_EQ(pwrite(fd, text.data(), text.size(), off_t(offset)), text.size());
        if (expected.size() < offset + text.size()) expected.resize(offset + text.size());
        expected.replace(offset, text.size(), text);
    };
    for (int round = 0; round < 3; ++round) check();
    put(5000, "changed");
    check();
    put(expected.size(), std::string(5000, 'b'));  // grows
    check();
    put(expected.size() - 10, std::string(100, 'c'));
    check();
    for (size_t size : {size_t{200001}, size_t{4096}, size_t{0}}) {
        OK(ftruncate(fd, off_t(size)));
        expected.resize(size);
        check();
        put(expected.size(), std::string(400 << 10, 'd'));
        check();
        check();
    }
    OK(truncate("f", 300000));
    expected.resize(300000);
    check();
    put(400000, "behind a hole");
    check();
    auto* map = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8192));
    EXPECT(map != MAP_FAILED);
    memcpy(map + 100, "mapped", 6);
    expected.replace(8292, 6, "mapped");
    check();
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0) {
        expected.replace(4096, 4096, std::string(4096, 0));
        check();
    }
    int source = new_file("g", std::string(20000, 'g'));
    off_t in = 0, out = 1000;
    EXPECT_EQ(copy_file_range(source, &in, fd, &out, 20000, 0), 20000);
    expected.replace(1000, 20000, std::string(20000, 'g'));
    check();
    close(OK(open("f", O_WRONLY | O_TRUNC)));
    expected.clear();
    check();
    OK(unlink("f"));
    put(0, std::string(kSize, 'u'));
    check();
    check();
    // To a place that is only half there.
    char* page = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(munmap(page + 4096, 4096));
    EXPECT_EQ(pread(reader, page + 96, 8000, 0), 4000);
    FAILS(pread(reader, bad(), 100, 0), EFAULT);
}
// One makes it shorter and longer while another reads.
CASE(pread_while_truncated) {
    int fd = new_file("f", std::string(1 << 20, 'x'));
    std::string buffer(64 << 10, 0);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(pread(fd, buffer.data(), buffer.size(), i % 16 << 16), buffer.size());
    pid_t pid = child([&] {
        for (int i = 0; i < 300; ++i) {
            OK(ftruncate(fd, i * 1000));
            OK(ftruncate(fd, 1 << 20));
        }
    });
    int status = 0, rounds = 0;
    while (waitpid(pid, &status, WNOHANG) == 0 || rounds < 10) {
        for (int i = 0; i < 16; ++i) {
            ssize_t n = OK(pread(fd, buffer.data(), buffer.size(), i << 16));
            for (ssize_t at = 0; at < n; at += 1024) EXPECT(buffer[at] == 'x' || buffer[at] == 0);
        }
        ++rounds;
    }
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(ftruncate(fd, 5000));
    EXPECT_EQ(pread(fd, buffer.data(), buffer.size(), 0), 5000);
}
CASE(pwrite_does_not_move) {
    int fd = new_file("f", "hello");
    EXPECT_EQ(pwrite(fd, "LL", 2, 2), 2);
    EXPECT_EQ(read_all("f"), "heLLo");
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
}
CASE(pwrite_on_append_appends) {
    new_file("f", "abc");
    int fd = OK(open("f", O_WRONLY | O_APPEND));
    EXPECT_EQ(pwrite(fd, "d", 1, 0), 1);
    EXPECT_EQ(read_all("f"), "abcd");
}
CASE(readv_scatters) {
    int fd = new_file("f", "abcdef");
    char a[3] = {}, b[8] = {};
    iovec parts[] = {{a, 2}, {nullptr, 0}, {b, 7}};
    EXPECT_EQ(readv(fd, parts, 3), 6);
    EXPECT_EQ(std::string(a), "ab");
    EXPECT_EQ(std::string(b), "cdef");
}
CASE(writev_gathers) {
    int fd = new_file();
    iovec parts[] = {{(void*)"ab", 2}, {(void*)"cde", 3}};
    EXPECT_EQ(writev(fd, parts, 2), 5);
    EXPECT_EQ(read_all("f"), "abcde");
}
CASE(writev_errors) {
    int fd = new_file();
    iovec part{(void*)"a", 1};
    FAILS(writev(fd, &part, -1), EINVAL);
    FAILS(writev(fd, &part, 1025), EINVAL);
    FAILS(writev(fd, (iovec*)bad(), 1), EFAULT);
    FAILS(writev(-1, &part, 1), EBADF);
    iovec negative{scratch(), (size_t)-1};
    FAILS(writev(fd, &negative, 1), EINVAL);
    EXPECT_EQ(writev(fd, &part, 0), 0);
}
CASE(preadv_pwritev) {
    int fd = new_file("f", "0123456789");
    iovec part{(void*)"xy", 2};
    EXPECT_EQ(pwritev(fd, &part, 1, 4), 2);
    char buffer[8] = {};
    iovec in{buffer, 4};
    EXPECT_EQ(preadv(fd, &in, 1, 3), 4);
    EXPECT_EQ(std::string(buffer), "3xy6");
    FAILS(preadv(fd, &in, 1, -5), EINVAL);
}
CASE(preadv2_flags) {
    int fd = new_file("f", "abc");
    char buffer[8];
    iovec in{buffer, 3};
    EXPECT_EQ(preadv2(fd, &in, 1, -1, 0), 3);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
    FAILS(preadv2(fd, &in, 1, 0, 0x40000000), EOPNOTSUPP);
}
CASE(pwritev2_append) {
    int fd = new_file("f", "abc");
    iovec part{(void*)"d", 1};
    EXPECT_EQ(pwritev2(fd, &part, 1, 0, RWF_APPEND), 1);
    EXPECT_EQ(read_all("f"), "abcd");
}

// ---- lseek, truncate, fallocate, sync

CASE(lseek_whence) {
    int fd = new_file("f", "0123456789");
    EXPECT_EQ(lseek(fd, 4, SEEK_SET), 4);
    EXPECT_EQ(lseek(fd, 2, SEEK_CUR), 6);
    EXPECT_EQ(lseek(fd, -1, SEEK_END), 9);
    EXPECT_EQ(lseek(fd, 100, SEEK_END), 110);
    FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
    FAILS(lseek(fd, -1000, SEEK_CUR), EINVAL);
    FAILS(lseek(fd, 0, 77), EINVAL);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 110);
}
FAILS_CASE(lseek_bad_descriptor, lseek(-1, 0, SEEK_SET), EBADF)
CASE(lseek_pipe) {
    int ends[2];
    OK(pipe(ends));
    FAILS(lseek(ends[0], 0, SEEK_CUR), ESPIPE);
}
CASE(lseek_data_hole) {
    int fd = new_file("f", "0123456789");
    EXPECT_EQ(lseek(fd, 0, SEEK_DATA), 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_HOLE), 10);
    FAILS(lseek(fd, 10, SEEK_DATA), ENXIO);
    FAILS(lseek(fd, 10, SEEK_HOLE), ENXIO);
}
CASE(lseek_shared_by_dup) {
    int fd = new_file("f", "abc"), other = OK(dup(fd));
    OK(lseek(fd, 2, SEEK_SET));
    EXPECT_EQ(lseek(other, 0, SEEK_CUR), 2);
}
CASE(lseek_shared_over_fork) {
    int fd = new_file("f", "abc");
    in_child([&] { OK(lseek(fd, 2, SEEK_SET)); });
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 2);
}
CASE(ftruncate_shrinks_and_grows) {
    int fd = new_file("f", "hello");
    OK(ftruncate(fd, 2));
    OK(ftruncate(fd, 4));
    EXPECT(read_all("f") == std::string("he\0\0", 4));
}
CASE(truncate_by_path) {
    new_file("f", "hello");
    OK(truncate("f", 3));
    EXPECT_EQ(read_all("f"), "hel");
}
CASE(truncate_errors) {
    int fd = new_file();
    FAILS(ftruncate(fd, -1), EINVAL);
    FAILS(truncate("f", -1), EINVAL);
    FAILS(truncate("nothing", 0), ENOENT);
    FAILS(truncate(".", 0), EISDIR);
    FAILS(ftruncate(-1, 0), EBADF);
    FAILS(ftruncate(OK(open("f", O_RDONLY)), 0), EINVAL);
    FAILS(truncate((char*)bad(), 0), EFAULT);
}
CASE(ftruncate_size_limit) {
    int fd = new_file();
    in_child([&] {
        signal(SIGXFSZ, SIG_IGN);
        struct {
            uint64_t soft, hard;
        } limit{4096, 4096};
        OK(syscall(SYS_setrlimit, 1 /* RLIMIT_FSIZE */, &limit));
        FAILS(ftruncate(fd, 5000), EFBIG);
        EXPECT_EQ(write(fd, scratch(), 5000), 4096);
        FAILS(write(fd, scratch(), 1), EFBIG);
    });
}
CASE(fallocate_extends) {
    int fd = new_file();
    if (fallocate(fd, 0, 0, 10000) != 0 && errno == EOPNOTSUPP) skip("no fallocate here");
    EXPECT_EQ(stat_of("f").st_size, 10000);
}
CASE(fallocate_keep_size) {
    int fd = new_file("f", "abc");
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10000) != 0 && errno == EOPNOTSUPP) skip("no fallocate here");
    EXPECT_EQ(stat_of("f").st_size, 3);
}
CASE(fallocate_punch_hole) {
    int fd = new_file("f", std::string(16384, 'x'));
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) != 0 && errno == EOPNOTSUPP)
        skip("no hole punching here");
    std::string content = read_all("f");
    EXPECT(content == std::string(4096, 'x') + std::string(4096, '\0') + std::string(8192, 'x'));
}
CASE(fallocate_errors) {
    int fd = new_file();
    FAILS(fallocate(fd, 0, -1, 10), EINVAL);
    FAILS(fallocate(fd, 0, 0, 0), EINVAL);
    FAILS(fallocate(-1, 0, 0, 10), EBADF);
    FAILS(fallocate(OK(open("f", O_RDONLY)), 0, 0, 10), EBADF);
    FAILS(fallocate(fd, 0x4000, 0, 10), EOPNOTSUPP);
    int ends[2];
    OK(pipe(ends));
    FAILS(fallocate(ends[1], 0, 0, 10), ESPIPE);
}
CASE(fsync_kinds) {
    int fd = new_file("f", "a");
    OK(fsync(fd));
    OK(fdatasync(fd));
    OK(syncfs(fd));
    OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    FAILS(fsync(-1), EBADF);
    FAILS(fdatasync(-1), EBADF);
}
CASE(fsync_directory) {
    int directory = OK(open(".", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < 40; ++i) {
        int fd = new_file("f", "a");
        OK(fsync(fd));
        OK(fsync(directory));
        OK(fdatasync(directory));
        close(fd);
        OK(unlink("f"));
    }
    OK(fsync(directory));
}
CASE(fsync_pipe) {
    int ends[2];
    OK(pipe(ends));
    FAILS(fsync(ends[0]), EINVAL);
}
CASE(fadvise_kinds) {
    int fd = new_file("f", "a");
    EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED), 0);
    EXPECT_EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
    EXPECT_EQ(posix_fadvise(-1, 0, 0, 0), EBADF);
}
CASE(readahead_kinds) {
    OK(readahead(new_file("f", "a"), 0, 1));
    FAILS(readahead(-1, 0, 1), EBADF);
}

// ---- copying between descriptors

CASE(sendfile_file_to_file) {
    int in = new_file("in", "0123456789"), out = new_file("out");
    off_t offset = 3;
    EXPECT_EQ(sendfile(out, in, &offset, 4), 4);
    EXPECT_EQ(offset, 7);
    EXPECT_EQ(lseek(in, 0, SEEK_CUR), 0);
    EXPECT_EQ(sendfile(out, in, nullptr, 100), 10);
    EXPECT_EQ(read_all("out"), "34560123456789");
}
CASE(sendfile_to_pipe) {
    int in = new_file("in", "hello"), ends[2];
    OK(pipe(ends));
    EXPECT_EQ(sendfile(ends[1], in, nullptr, 100), 5);
    EXPECT_EQ(read(ends[0], scratch(), 100), 5);
}
CASE(sendfile_errors) {
    int in = new_file("in", "hello"), out = new_file("out");
    FAILS(sendfile(-1, in, nullptr, 1), EBADF);
    FAILS(sendfile(out, -1, nullptr, 1), EBADF);
    FAILS(sendfile(OK(open("out", O_RDONLY)), in, nullptr, 1), EBADF);
    FAILS(sendfile(OK(open("out", O_WRONLY | O_APPEND)), in, nullptr, 1), EINVAL);
    FAILS(sendfile(out, in, (off_t*)bad(), 1), EFAULT);
    off_t negative = -1;
    FAILS(sendfile(out, in, &negative, 1), EINVAL);
}
CASE(copy_file_range_copies) {
    int in = new_file("in", "0123456789"), out = new_file("out");
    loff_t from = 2, to = 1;
    EXPECT_EQ(copy_file_range(in, &from, out, &to, 5, 0), 5);
    EXPECT_EQ(from, 7);
    EXPECT_EQ(to, 6);
    EXPECT(read_all("out") == std::string("\0", 1) + "23456");
    EXPECT_EQ(copy_file_range(in, nullptr, out, nullptr, 100, 0), 10);
}
CASE(copy_file_range_errors) {
    int in = new_file("in", "0123456789"), out = new_file("out");
    loff_t a = 0, b = 3;
    FAILS(copy_file_range(in, &a, in, &b, 5, 0), EINVAL);
    FAILS(copy_file_range(in, nullptr, out, nullptr, 5, 1), EINVAL);
    FAILS(copy_file_range(-1, nullptr, out, nullptr, 5, 0), EBADF);
    FAILS(copy_file_range(in, nullptr, OK(open("out", O_RDONLY)), nullptr, 5, 0), EBADF);
    FAILS(copy_file_range(in, nullptr, OK(open("out", O_WRONLY | O_APPEND)), nullptr, 5, 0), EBADF);
    FAILS(copy_file_range(OK(open(".", O_RDONLY)), nullptr, out, nullptr, 5, 0), EISDIR);
}
