// FileServer::list: directories with attributes in few messages.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <deque>

#include "fileserver/file_server.h"
#include "fileserver/host_calls.h"
#include "fileserver/path_check.h"

namespace casemate::fileserver {

namespace {

// Attributes cost a statx each: of big directories only the first ones get them unless all are asked for.
constexpr size_t kEagerAttributes = 128;
// What comes along with a prefetching list.
constexpr size_t kPrefetchedDirectories = 128;

struct HostEntry {  // struct linux_dirent64
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char type;
    char name[];
};

bool append_record(std::string& into, size_t room, uint8_t kind, uint8_t type, uint64_t inode, std::string_view name,
                   const Attributes* attributes) {
    size_t size = sizeof(ListEntry) + (attributes != nullptr ? sizeof(Attributes) : 0) + name.size();
    size = (size + 7) & ~size_t{7};
    if (into.size() + size > room) return false;
    ListEntry entry;
    entry.record_size = static_cast<uint16_t>(size);
    entry.name_size = static_cast<uint8_t>(name.size());
    entry.type = type;
    entry.kind = kind;
    entry.inode = inode;
    size_t at = into.size();
    into.resize(at + size);
    std::memcpy(into.data() + at, &entry, sizeof(entry));
    at += sizeof(entry);
    if (attributes != nullptr) {
        std::memcpy(into.data() + at, attributes, sizeof(*attributes));
        at += sizeof(*attributes);
    }
    std::memcpy(into.data() + at, name.data(), name.size());
    return true;
}

}  // namespace

SysResult<void> FileServer::append_listing(int directory, uint64_t& cookie, uint16_t flags, std::string& into,
                                           size_t room, bool& complete) {
    alignas(HostEntry) char buffer[16384];
    size_t listed = 0;
    complete = false;
    while (true) {
        long n = ::syscall(SYS_getdents64, directory, buffer, sizeof(buffer));
        if (n < 0) return last_errno();
        if (n == 0) {
            complete = true;
            return {};
        }
        for (long at = 0; at < n;) {
            const auto* host = reinterpret_cast<const HostEntry*>(buffer + at);
            at += host->size;
            std::string_view name(host->name);
            if (name != "." && name != ".." && name.size() <= kMaxName) {
                Attributes attributes;
                bool with = false;
                if ((flags & kFlagAttributes) || listed < kEagerAttributes ||
                    ((flags & kFlagPrefetch) && host->type == DT_DIR)) {
                    auto read = read_attributes_at(directory, host->name);
                    with = read.ok();
                    if (with) attributes = *read;
                }
                uint8_t type = with ? static_cast<uint8_t>((attributes.mode & S_IFMT) >> 12) : host->type;
                uint64_t inode = with ? attributes.inode : host->inode;
                if (!append_record(into, room, with ? ListEntry::kWithAttributes : ListEntry::kPlain, type, inode, name,
                                   with ? &attributes : nullptr))
                    return {};
                listed++;
            }
            cookie = static_cast<uint64_t>(host->offset);
        }
    }
}

SysResult<uint64_t> FileServer::list(Target target, uint64_t cookie, uint16_t flags, std::string_view siblings,
                                     std::string& into, size_t room) {
    UniqueFd fd = TRY(resolve(target));
    Attributes attributes = TRY(read_attributes(fd.get()));
    if (!S_ISDIR(attributes.mode)) return Errno(ENOTDIR);
    UniqueFd directory = TRY(reopen(fd.get(), attributes.mode, O_RDONLY | O_DIRECTORY));
    if (cookie != 0 && ::lseek(directory.get(), static_cast<off_t>(cookie), SEEK_SET) < 0) return last_errno();
    bool first = cookie == 0, complete = false;
    const size_t start = into.size();
    TRY(append_listing(directory.get(), cookie, flags, into, room, complete));
    if (!complete) return cookie;
    if (!(flags & kFlagPrefetch) || !first) return uint64_t{0};

    // Depth first in the order of the listing, as tree walks go, as long as whole directories fit.
    struct Ahead {
        std::string path;
        bool sibling;  // from the target's parent, else from the target
    };
    std::deque<Ahead> queue;
    auto enqueue = [&](std::string_view section, const std::string& prefix, bool sibling) {
        size_t place = 0;
        for (size_t at = 0; at < section.size();) {
            ListEntry entry;
            std::memcpy(&entry, section.data() + at, sizeof(entry));
            if (entry.kind == ListEntry::kWithAttributes && entry.type == DT_DIR) {
                std::string path = prefix;
                if (!path.empty()) path += '/';
                path.append(section.data() + at + sizeof(entry) + sizeof(Attributes), entry.name_size);
                if (path.size() <= kMaxName && queue.size() < 4096)
                    queue.insert(queue.begin() + static_cast<ptrdiff_t>(place++), Ahead{std::move(path), sibling});
            }
            at += entry.record_size;
        }
    };
    enqueue(std::string_view(into).substr(start), {}, false);
    Place beside;
    if (!siblings.empty() && !target.path.empty()) {
        beside = TRY(place(target, false));
        while (!siblings.empty() && queue.size() < 4096) {
            std::string_view name = siblings.substr(0, siblings.find('\0'));
            siblings.remove_prefix(std::min(name.size() + 1, siblings.size()));
            if (name.find('/') == std::string_view::npos && check_path(name).ok() && !name.empty())
                queue.push_back(Ahead{std::string(name), true});
        }
    }
    for (size_t done = 0; !queue.empty() && done < kPrefetchedDirectories; ++done) {
        Ahead ahead = std::move(queue.front());
        queue.pop_front();
        auto opened = open_beneath(ahead.sibling ? beside.parent : directory.get(), ahead.path,
                                   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK);
        if (!opened.ok()) continue;
        size_t before = into.size();
        uint64_t ignored = 0;
        uint8_t kind = ahead.sibling ? ListEntry::kSiblingSection : ListEntry::kSection;
        if (!append_record(into, room, kind, DT_DIR, 0, ahead.path, nullptr)) break;
        size_t begin = into.size();
        auto listed = append_listing(opened->get(), ignored, flags, into, room, complete);
        if (!listed.ok() || !complete) {
            into.resize(before);
            if (listed.ok()) break;
            continue;
        }
        enqueue(std::string_view(into).substr(begin), ahead.path, ahead.sibling);
    }
    return uint64_t{0};
}

}  // namespace casemate::fileserver
