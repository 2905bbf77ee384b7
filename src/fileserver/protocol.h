// The messages between a guest kernel (the sentry) and casemate-files, over a SOCK_SEQPACKET Unix socket: one request,
// one reply, descriptors by SCM_RIGHTS.
//
// The server trusts nothing in a request. The client trusts the server with files, not with its memory: sizes in
// replies are checked too. Requests name files FUSE-like by a node (a directory or file that the server holds open with
// O_PATH) and a relative path of any number of components under it, so that one round trip walks a whole path.
#pragma once

#include <cstddef>
#include <cstdint>

namespace casemate::fileserver {

constexpr uint32_t kProtocolVersion = 1;
constexpr size_t kMaxMessage = 128 * 1024;  // bytes of one request or reply
constexpr size_t kMaxPathBytes = 4096;      // of a path under a node
constexpr size_t kMaxName = 255;
constexpr size_t kMaxXattrValue = 65536;

// Messages of the sandbox host to the server on the control socket (SOCK_SEQPACKET, descriptor 3): a detached mount
// (open_tree with OPEN_TREE_CLONE) comes along; the answer is one byte, 0 or an errno. The socket to the guest kernel
// is descriptor 4.
struct ControlMount {
    uint64_t token = 0;  // what the guest kernel attaches by; chosen by the host, any value
    uint32_t flags = 0;  // kMount*
    uint32_t reserved = 0;
};
constexpr uint32_t kMountReadOnly = 1;
// Others may change the tree while the guest has it: the client must not trust its caches for long.
constexpr uint32_t kMountShared = 2;

using NodeId = uint64_t;  // 0: none

enum class Op : uint16_t {
    kAttach = 1,  // value: token -> node of the root, attributes, value: kMount* flags
    kLookup,  // path: walked as far as it exists; data: an Attributes for each component found, then the text of the
              // symlink if the last one found is one and more components follow (count tells how many were found)
    kOpen,    // open_flags: access mode, O_DIRECT, O_TRUNC -> descriptor, attributes. Regular files only
    kCreate,  // mode, uid, gid -> descriptor (read and write), attributes. Fails with EEXIST, or, with kFlagExisting,
              // tells the attributes of what is there: value EEXIST, no descriptor
    kMakeDirectory,
    kMakeNode,  // mode, device
    kSymlink,   // data: the target
    kLink,      // path: the file; path2: the new name
    kUnlink,    // kFlagKeepNode: reply has a node for the file, which lives on
    kRemoveDirectory,
    kRename,    // path to path2; value: RENAME_*
    kReadLink,  // -> data
    kList,      // value: cookie, 0 first -> data: ListEntry records; value: next cookie, 0 at the end. With
                // kFlagPrefetch data holds names of directories beside this one that are asked for next, each with NUL
    kGetAttributes,
    kSetAttributes,  // valid says which
    kStatfs,         // -> data: struct statfs
    kGetXattr,       // data: name -> data: value
    kSetXattr,       // path2: name; data: value; value: XATTR_CREATE, XATTR_REPLACE
    kRemoveXattr,    // data: name
    kListXattrs,     // -> data: names, each with NUL
    kSync,           // syncfs; with kFlagThisOnly fsync of the file or directory named
    kForget,         // data: NodeIds
    kCreateUnnamed,  // O_TMPFILE -> descriptor, node, attributes; kLink with path empty names it
    kAttributesOf,   // path: a directory; data: names in it, each with NUL -> data: an Attributes each, zeros if absent
};

constexpr uint16_t kFlagWantNode = 1;     // a node for the last component, if it is a directory
constexpr uint16_t kFlagWantAnyNode = 2;  // a node for it whatever it is
constexpr uint16_t kFlagWantOpen = 4;     // kLookup: also open the last component read-only, if a regular file
constexpr uint16_t kFlagKeepNode = 8;     // kUnlink, kRename (of the replaced file)
constexpr uint16_t kFlagAttributes = 16;  // kList: attributes of every entry, however many there are
constexpr uint16_t kFlagPrefetch = 32;    // kList: small directories below may come along
constexpr uint16_t kFlagNoReply = 64;     // kSetAttributes, kUnlink, kForget: nobody waits
constexpr uint16_t kFlagThisOnly = 512;   // kSync
constexpr uint16_t kFlagExisting = 256;   // kCreate
constexpr uint16_t kFlagParent = 128;     // what makes or removes a name: also the directory's attributes, afterwards

// Times are seconds and nanoseconds since the epoch.
struct Attributes {
    uint64_t inode = 0, device = 0;  // identify the file within the server
    uint64_t size = 0, blocks = 0, special_device = 0;
    int64_t access_time = 0, modification_time = 0, change_time = 0, birth_time = 0;
    uint32_t access_nsec = 0, modification_nsec = 0, change_nsec = 0, birth_nsec = 0;
    uint32_t mode = 0, links = 0, uid = 0, gid = 0;
    uint32_t block_size = 0, reserved = 0;
};

constexpr uint32_t kSetMode = 1, kSetUid = 2, kSetGid = 4, kSetSize = 8, kSetAccessTime = 16, kSetModificationTime = 32,
                   kSetAccessNow = 64, kSetModificationNow = 128;

struct Request {
    uint16_t op = 0;
    uint16_t flags = 0;
    uint32_t tag = 0;  // comes back in the reply
    NodeId node = 0, node2 = 0;
    uint32_t path_size = 0, path2_size = 0, data_size = 0;  // bytes behind this header, in this order
    uint32_t open_flags = 0;
    uint32_t mode = 0, uid = 0, gid = 0, valid = 0;
    uint64_t device = 0, value = 0;
    int64_t size = 0;
    int64_t access_time = 0, modification_time = 0;
    uint32_t access_nsec = 0, modification_nsec = 0;
};

struct Reply {
    uint32_t tag = 0;
    int32_t error = 0;  // errno; 0: fine
    NodeId node = 0;
    uint64_t value = 0;
    uint32_t count = 0;
    uint32_t data_size = 0;         // bytes behind this header
    Attributes attributes, parent;  // `parent`: inode 0 if not known
};

// kList's data: records, each padded to 8 bytes. A section begins the listing of a directory below the one asked for
// (its name is the path from there); sections are whole or not there.
struct ListEntry {
    uint16_t record_size = 0;  // of this header, the attributes if any, the name and padding
    uint8_t name_size = 0;     // of kSection: paths fit too, or the section is left out
    uint8_t type = 0;          // DT_*
    uint8_t kind = 0;          // kPlain, kWithAttributes, kSection, kSiblingSection
    uint8_t reserved[3] = {};
    uint64_t inode = 0;
    static constexpr uint8_t kPlain = 0, kWithAttributes = 1, kSection = 2;
    static constexpr uint8_t kSiblingSection = 3;  // as kSection, its name is the path from the parent
};

}  // namespace casemate::fileserver
