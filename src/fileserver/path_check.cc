#include "fileserver/path_check.h"

#include "fileserver/protocol.h"

namespace casemate::fileserver {

SysResult<void> check_path(std::string_view path) {
    if (path.size() >= kMaxPathBytes) return Errno(ENAMETOOLONG);
    if (path.empty()) return {};
    size_t begin = 0;
    while (true) {
        size_t end = path.find('/', begin);
        std::string_view name = path.substr(begin, end == std::string_view::npos ? end : end - begin);
        if (name.empty() || name == "." || name == "..") return Errno(EINVAL);
        if (name.size() > kMaxName) return Errno(ENAMETOOLONG);
        if (name.find('\0') != std::string_view::npos) return Errno(EINVAL);
        if (end == std::string_view::npos) return {};
        begin = end + 1;
    }
}

}  // namespace casemate::fileserver
