// The kinds of file systems that mount(2) and the container's mounts can name.
#pragma once

#include <span>
#include <string_view>

#include "base/ref.h"
#include "base/result.h"

namespace casemate::sentry {

class FileSystem;
class Task;

struct FileSystemType {
    const char* name;
    // `source` and `options` as mount(2) got them. EINVAL for options it does not know.
    SysResult<Ref<FileSystem>> (*make)(Task& task, std::string_view source, std::string_view options);
};

// Null for an unknown one (ENODEV). The list is in fs/file_system_types.cc.
const FileSystemType* find_file_system_type(std::string_view name);
std::span<const FileSystemType> file_system_types();

}  // namespace casemate::sentry
