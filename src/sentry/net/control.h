// Control messages of sendmsg and recvmsg: parsed out of the application's bytes, and built for it.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <vector>

#include "base/result.h"
#include "sentry/kernel/user.h"
#include "sentry/net/passenger.h"

namespace casemate::sentry {

class Task;

// What sendmsg was given; references are taken, nothing is in flight yet.
struct SentControl {
    std::optional<ucred> credentials;  // SCM_CREDENTIALS, unchecked
    std::vector<Ref<File>> files;      // SCM_RIGHTS
    // Of other levels, for the family to judge.
    struct Other {
        int level, type;
        std::vector<std::byte> data;
    };
    std::vector<Other> others;
};

// EINVAL for what is malformed, EBADF for a wrong descriptor in SCM_RIGHTS.
SysResult<SentControl> read_control(Task& task, GuestAddr from, uint64_t size);

// What a receive found for the application.
struct ReceivedControl {
    struct Item {
        int level, type;
        std::vector<std::byte> data;
    };
    std::vector<Item> items;
    std::vector<Ref<File>> files;
    bool truncated = false;  // something was lost: MSG_CTRUNC

    template <typename T>
    void add(int level, int type, const T& value) {
        Item item{level, type, std::vector<std::byte>(sizeof(T))};
        memcpy(item.data.data(), &value, sizeof(T));
        items.push_back(std::move(item));
    }
};

// Writes the messages, with descriptors installed for the files; the bytes used. Sets `truncated` for what had no room.
SysResult<size_t> write_control(Task& task, ReceivedControl& control, GuestAddr into, uint64_t room,
                                bool close_on_exec);

}  // namespace casemate::sentry
