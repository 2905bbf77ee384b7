// What execve does to credentials: set-user-ID and set-group-ID bits, file capabilities, ambient ones, the special role
// of root (capabilities(7), "Transformation of capabilities during execve").
#pragma once

#include "base/result.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

struct ExecCredentials {
    Ref<Credentials> credentials;
    bool secure = false;  // AT_SECURE: privileges were gained
};
SysResult<ExecCredentials> credentials_for_exec(Task& task, File& file);

// securebits(7)
constexpr uint32_t kSecureNoRoot = 1 << 0, kSecureNoSetuidFixup = 1 << 2, kSecureKeepCaps = 1 << 4,
                   kSecureNoAmbientRaise = 1 << 6;

}  // namespace casemate::sentry
