// What a path in a request must look like.
#pragma once

#include <string_view>

#include "base/result.h"

namespace casemate::fileserver {

// Components that are names, separated by single slashes; "" is the node itself. EINVAL (".", ".." and NUL too),
// ENAMETOOLONG.
SysResult<void> check_path(std::string_view path);

}  // namespace casemate::fileserver
