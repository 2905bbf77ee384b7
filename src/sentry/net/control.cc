#include "sentry/net/control.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/task.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostControl = 20 << 10;  // net.core.optmem_max
constexpr size_t kMostFiles = 253;         // SCM_MAX_FD

}  // namespace

SysResult<SentControl> read_control(Task& task, GuestAddr from, uint64_t size) {
    SentControl control;
    if (size == 0) return control;
    if (size > kMostControl) return Errno(ENOBUFS);
    std::vector<std::byte> bytes(size);
    TRY(task.memory().copy_in(from, bytes.data(), bytes.size()));
    size_t at = 0;
    while (bytes.size() - at >= sizeof(cmsghdr)) {
        cmsghdr header;
        memcpy(&header, bytes.data() + at, sizeof(header));
        if (header.cmsg_len < sizeof(header) || header.cmsg_len > bytes.size() - at) return Errno(EINVAL);
        const std::byte* data = bytes.data() + at + CMSG_LEN(0);
        size_t length = header.cmsg_len - CMSG_LEN(0);
        if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS) {
            size_t count = length / sizeof(int);
            if (control.files.size() + count > kMostFiles) return Errno(EINVAL);
            for (size_t i = 0; i < count; i++) {
                int fd;
                memcpy(&fd, data + i * sizeof(int), sizeof(fd));
                control.files.push_back(TRY(task.files().get(fd, true)));
            }
        } else if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_CREDENTIALS) {
            if (length != sizeof(ucred)) return Errno(EINVAL);
            ucred credentials;
            memcpy(&credentials, data, sizeof(credentials));
            control.credentials = credentials;
        } else {
            control.others.push_back({header.cmsg_level, header.cmsg_type, {data, data + length}});
        }
        size_t step = CMSG_ALIGN(header.cmsg_len);
        if (step >= bytes.size() - at) break;
        at += step;
    }
    return control;
}

SysResult<size_t> write_control(Task& task, ReceivedControl& control, GuestAddr into, uint64_t room,
                                bool close_on_exec) {
    size_t used = 0;
    room = std::min<uint64_t>(room, INT32_MAX);
    auto put = [&](int level, int type, const std::byte* data, size_t size) -> SysResult<void> {
        if (room - used < sizeof(cmsghdr)) {
            control.truncated = true;
            return {};
        }
        size_t length = CMSG_LEN(size);
        if (length > room - used) {
            control.truncated = true;
            length = room - used;
        }
        std::vector<std::byte> bytes(length);
        cmsghdr header{};
        header.cmsg_len = length;
        header.cmsg_level = level;
        header.cmsg_type = type;
        memcpy(bytes.data(), &header, sizeof(header));
        memcpy(bytes.data() + sizeof(header), data, length - sizeof(header));
        TRY(task.memory().copy_out(into + used, bytes.data(), bytes.size()));
        used += std::min<size_t>(CMSG_SPACE(size), room - used);
        return {};
    };
    for (auto& item : control.items) TRY(put(item.level, item.type, item.data.data(), item.data.size()));

    if (control.files.empty()) return used;
    size_t fits = room - used > sizeof(cmsghdr) ? (room - used - sizeof(cmsghdr)) / sizeof(int) : 0;
    if (fits < control.files.size()) control.truncated = true;
    std::vector<int> fds;
    for (size_t i = 0; i < std::min(fits, control.files.size()); i++) {
        auto fd = task.files().insert(control.files[i], close_on_exec, task.limit(RLIMIT_NOFILE));
        if (!fd.ok()) {
            control.truncated = true;
            break;
        }
        fds.push_back(*fd);
    }
    if (fds.empty()) return used;
    auto done = put(SOL_SOCKET, SCM_RIGHTS, reinterpret_cast<const std::byte*>(fds.data()), fds.size() * sizeof(int));
    if (!done.ok()) {
        for (int fd : fds) static_cast<void>(task.files().remove(fd));
        return done.take_error();
    }
    return used;
}

}  // namespace casemate::sentry
