// The loader: from an opened executable to an address space that is ready to run.
//
// ELF64 for x86-64 (static, position-independent, dynamic through its interpreter) and scripts (#!). Every byte of the
// files is hostile: sizes and addresses are checked before they are used, and nothing is allocated by what a file says
// beyond small bounds.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/address_space.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

// argv or envp: NUL-terminated strings, one after another.
class StringList {
  public:
    void append(std::string_view one) {
        bytes_ += one;
        bytes_ += '\0';
        ++count_;
    }
    void prepend(std::string_view one) {
        bytes_.insert(0, std::string(one) + '\0');
        ++count_;
    }
    void remove_first() {
        if (count_ == 0) return;
        bytes_.erase(0, bytes_.find('\0') + 1);
        --count_;
    }
    size_t count() const { return count_; }
    const std::string& bytes() const { return bytes_; }

  private:
    std::string bytes_;
    size_t count_ = 0;
};

struct LoadRequest {
    Ref<File> file;    // as open_executable() gives it
    std::string path;  // what the caller named: AT_EXECFN, and a script's argument
    StringList arguments, environment;
    bool close_on_exec = false;  // the descriptor of fexecve goes: a script could not be read by its interpreter
    std::vector<uint64_t> extra_auxv;
};

struct LoadedProgram {
    Ref<AddressSpace> memory;
    GuestAddr entry = 0, stack = 0;
    Ref<Credentials> credentials;  // after set-user-ID bits and file capabilities
    bool secure = false;           // AT_SECURE
    std::string name;              // comm
};

// ENOEXEC: no known format. E2BIG, ENOMEM, EACCES, ELIBBAD, EINVAL, ELOOP as Linux.
SysResult<LoadedProgram> load(Task& task, LoadRequest request);

// Limits of argument strings.
constexpr size_t kMaxStringLength = 131072;  // MAX_ARG_STRLEN, with the NUL
uint64_t argument_limit(uint64_t stack_limit);

}  // namespace casemate::sentry
