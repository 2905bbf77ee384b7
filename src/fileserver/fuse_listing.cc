// FuseDirectory: READDIR and READDIRPLUS.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "fileserver/fuse_directory.h"

namespace casemate::fileserver {

namespace {

struct HostEntry {  // struct linux_dirent64
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char type;
    char name[];
};

constexpr size_t kMaxListing = 1 << 16;

}  // namespace

SysResult<uint32_t> FuseDirectory::list(Buffer& in, Buffer& out, bool with_entries) {
    auto arguments = TRY(take_arguments<fuse_read_in>(in));
    Handle* directory = TRY(handle(arguments.fh, true));
    int fd = directory->fd.get();
    if (::lseek(fd, static_cast<off_t>(arguments.offset), SEEK_SET) < 0) return last_errno();
    size_t room = std::min<size_t>({arguments.size, out.remaining(), kMaxListing});
    std::string reply;
    alignas(HostEntry) char buffer[16384];
    size_t header = with_entries ? sizeof(fuse_direntplus) : sizeof(fuse_dirent);
    while (true) {
        long got = ::syscall(SYS_getdents64, fd, buffer, sizeof(buffer));
        if (got < 0) {
            if (!reply.empty()) break;
            return last_errno();
        }
        if (got == 0) break;
        bool full = false;
        for (long at = 0; at < got;) {
            const auto* entry = reinterpret_cast<const HostEntry*>(buffer + at);
            at += entry->size;
            std::string name(entry->name);
            size_t size = (header + name.size() + 7) & ~size_t{7};
            if (reply.size() + size > room) {
                full = true;
                break;
            }
            fuse_direntplus record{};
            record.dirent.ino = entry->inode;
            record.dirent.off = static_cast<uint64_t>(entry->offset);
            record.dirent.namelen = static_cast<uint32_t>(name.size());
            record.dirent.type = entry->type;
            if (name == "..") record.dirent.ino = 1;  // what is above the directory is nobody's business
            if (with_entries && name != "." && name != "..") {
                // Node 0 if it cannot be looked up: removed meanwhile, or too many nodes.
                auto found = enter(fd, name);
                if (found.ok()) {
                    record.entry_out = *found;
                    record.dirent.ino = found->attr.ino;
                    record.dirent.type = (found->attr.mode & S_IFMT) >> 12;
                }
            }
            size_t start = reply.size();
            reply.resize(start + size);
            if (with_entries)
                std::memcpy(reply.data() + start, &record, sizeof(record));
            else
                std::memcpy(reply.data() + start, &record.dirent, sizeof(record.dirent));
            std::memcpy(reply.data() + start + header, name.data(), name.size());
        }
        if (full) break;
    }
    return static_cast<uint32_t>(out.write(reply.data(), reply.size()));
}

}  // namespace casemate::fileserver
