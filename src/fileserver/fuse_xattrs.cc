// FuseDirectory: extended attributes. Names are passed as they are (a mapping would hide security.capability from the
// host's kernel, which then keeps it over writes: CVE-2021-20263); only user.* and security.capability are the guest's.
#include <sys/xattr.h>

#include <string_view>

#include "fileserver/fuse_directory.h"

namespace casemate::fileserver {

namespace {

constexpr size_t kMaxValue = 65536;
constexpr size_t kOldSetXattrBytes = 8;  // of fuse_setxattr_in: the longer form was not negotiated

bool allowed(std::string_view name) {
    return (name.starts_with("user.") && name.size() > 5) || name == "security.capability";
}

SysResult<uint32_t> reply_value(virtio::ChainBuffer& out, uint32_t wanted, std::string_view value) {
    if (wanted == 0) {
        fuse_getxattr_out size{};
        size.size = static_cast<uint32_t>(value.size());
        return reply_with(out, size);
    }
    if (value.size() > wanted || value.size() > out.remaining()) return Errno(ERANGE);
    return static_cast<uint32_t>(out.write(value.data(), value.size()));
}

}  // namespace

SysResult<uint32_t> FuseDirectory::get_xattr(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_getxattr_in>(in));
    std::vector<std::string> names = TRY(take_strings(in, 1));
    if (!allowed(names[0])) return Errno(EOPNOTSUPP);
    int fd = TRY(node_fd(header.nodeid));
    std::string value(kMaxValue, 0);
    ssize_t size = ::getxattr(self_path(fd).c_str(), names[0].c_str(), value.data(), value.size());
    if (size < 0) return last_errno();
    value.resize(static_cast<size_t>(size));
    return reply_value(out, arguments.size, value);
}

SysResult<uint32_t> FuseDirectory::set_xattr(const fuse_in_header& header, Buffer& in) {
    struct Old {
        uint32_t size, flags;
    };
    static_assert(sizeof(Old) == kOldSetXattrBytes);
    Old arguments = TRY(take_arguments<Old>(in));
    if (arguments.size > kMaxValue) return Errno(E2BIG);
    if (in.remaining() < arguments.size || in.remaining() - arguments.size > 256) return Errno(EINVAL);
    std::string name(in.remaining() - arguments.size, 0), value(arguments.size, 0);
    in.read(name.data(), name.size());
    in.read(value.data(), value.size());
    if (name.empty() || name.back() != '\0' || name.find('\0') != name.size() - 1) return Errno(EINVAL);
    name.pop_back();
    if (!allowed(name)) return Errno(EOPNOTSUPP);
    TRY(check_writable());
    int fd = TRY(node_fd(header.nodeid));
    if (::setxattr(self_path(fd).c_str(), name.c_str(), value.data(), value.size(),
                   static_cast<int>(arguments.flags)) != 0)
        return last_errno();
    return 0;
}

SysResult<uint32_t> FuseDirectory::list_xattrs(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_getxattr_in>(in));
    int fd = TRY(node_fd(header.nodeid));
    std::string all(kMaxValue, 0);
    ssize_t size = ::listxattr(self_path(fd).c_str(), all.data(), all.size());
    if (size < 0) return last_errno();
    std::string names;
    for (size_t at = 0; at < static_cast<size_t>(size);) {
        std::string_view name(all.data() + at);
        if (allowed(name)) names.append(name).push_back('\0');
        at += name.size() + 1;
    }
    return reply_value(out, arguments.size, names);
}

SysResult<uint32_t> FuseDirectory::remove_xattr(const fuse_in_header& header, Buffer& in) {
    std::vector<std::string> names = TRY(take_strings(in, 1));
    if (!allowed(names[0])) return Errno(EOPNOTSUPP);
    TRY(check_writable());
    int fd = TRY(node_fd(header.nodeid));
    if (::removexattr(self_path(fd).c_str(), names[0].c_str()) != 0) return last_errno();
    return 0;
}

}  // namespace casemate::fileserver
