#include "sentry/kernel/credentials.h"

#include "sentry/kernel/namespaces.h"

namespace casemate::sentry {

Credentials::Credentials() = default;
Credentials::~Credentials() = default;

Ref<Credentials> Credentials::clone() const {
    auto copy = make_ref<Credentials>();
    copy->uid = uid, copy->euid = euid, copy->suid = suid, copy->fsuid = fsuid;
    copy->gid = gid, copy->egid = egid, copy->sgid = sgid, copy->fsgid = fsgid;
    copy->groups = groups;
    copy->permitted = permitted;
    copy->effective = effective;
    copy->inheritable = inheritable;
    copy->bounding = bounding;
    copy->ambient = ambient;
    copy->secure_bits = secure_bits;
    copy->no_new_privileges = no_new_privileges;
    copy->user_namespace = user_namespace;
    return copy;
}

}  // namespace casemate::sentry
