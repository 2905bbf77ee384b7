// Namespaces of the host by path and by descriptor: those that config.json names (the network namespace of a pod above
// all), user namespaces for id-mapped mounts, and the one that a caller without root works in.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "host/id_map.h"
#include "oci/spec.h"

namespace casemate::host {

// CLONE_NEW* of a type, and its name in config.json ("network").
int clone_flag(oci::NamespaceType type);
const char* namespace_name(oci::NamespaceType type);

// Opens linux.namespaces[].path. A path that is no namespace, or one of another type, is an error that says so.
Result<UniqueFd> open_namespace(oci::NamespaceType type, const std::string& path);
// The namespace of a process (0: our own).
Result<UniqueFd> open_process_namespace(oci::NamespaceType type, pid_t pid);
// Whether both descriptors show the same namespace.
bool is_same_namespace(int first, int second);

struct NamespaceFd {
    oci::NamespaceType type;
    int fd;
};
// Joins all, the user namespace first. For the calling thread; joining a user or mount namespace needs a process with
// one thread, and a pid namespace takes effect for children.
Result<void> join_namespaces(std::vector<NamespaceFd> namespaces);

// Runs `work` on a thread of its own that joined the namespace, and waits for it: the way for a process with threads to
// open sockets in a pod's network namespace. Not for user and mount namespaces.
Result<void> run_in_namespace(const NamespaceFd& where, const std::function<Result<void>()>& work);

// A new user namespace with these maps and no process in it, for id-mapped mounts (MOUNT_ATTR_IDMAP).
Result<UniqueFd> create_user_namespace(const IdMaps& maps);

// Whether the caller has less than the host's root: another user, or root of a user namespace only.
bool is_rootless();
// The caller's user as the user namespace around its own knows it: in the host's own the effective uid.
uid_t outer_uid();

// The maps a caller without root can have: its own ids as root inside and, where newuidmap and newgidmap are installed
// and /etc/subuid and /etc/subgid list it, its subordinate ids from 1 on.
IdMaps rootless_id_maps();
// The calling process (one thread) goes on as root of a new user and mount namespace with these maps.
Result<void> enter_rootless(const IdMaps& maps);

// The ranges of `user` (or its uid as a number) in the text of /etc/subuid.
std::vector<IdMapping> parse_subordinate_ids(std::string_view text, std::string_view user, uid_t uid);

}  // namespace casemate::host
