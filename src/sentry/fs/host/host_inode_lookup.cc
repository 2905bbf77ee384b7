// HostInode: finding names, with as few questions as can be.
#include <dirent.h>
#include <linux/limits.h>

#include <algorithm>
#include <cstring>

#include "sentry/fs/host/host_names.h"

namespace casemate::sentry {

using fileserver::Attributes;
using fileserver::Op;
using fileserver::Request;

namespace {

// A directory is listed as a whole at this lookup that had to ask, unless it is bigger than kWorthKnowing.
constexpr uint32_t kMissesUntilListed = 2;
constexpr size_t kWorthKnowing = 8192;

}  // namespace

HostInode::Names& HostInode::names_locked() {
    if (!names_) names_ = std::make_unique<Names>();
    return *names_;
}

SysResult<Ref<Inode>> HostInode::lookup(std::string_view name) {
    if (!S_ISDIR(mode())) return Errno(ENOTDIR);
    for (int round = 0;; ++round) {
        std::optional<Names::Hint> hint;
        std::optional<Attributes> known;
        bool list = false, fetch = false;
        {
            std::lock_guard lock(mutex_);
            Names& names = names_locked();
            hint = names.take_hint(name);
            if (hint && host().shared() && monotonic_now() - hint->when > HostFileSystem::kSharedValidity) hint.reset();
            if (const Attributes* ahead = hint ? nullptr : names.ahead.find(name)) {
                known = *ahead;
            } else if (!hint && names.complete) {
                auto found = names.entries.find(name);
                if (found == names.entries.end()) return Errno(ENOENT);
                if (found->second.has_attributes) {
                    known = found->second.attributes;
                    // From now on the inode knows better; it gives them back at its end.
                    found->second.has_attributes = false;
                } else {
                    fetch = round == 0;
                }
            } else if (!hint && !host().shared() && !names.too_big) {
                list = ++names.misses >= kMissesUntilListed;
            }
        }
        if (hint && !hint->exists) return Errno(ENOENT);
        if (hint || known) {
            Ref<HostInode> child = host().intern(known ? *known : hint->attributes, this, name);
            if (hint && (hint->fd || !hint->link_text.empty())) {
                Ref<HostFd> fd = hint->fd ? make_ref<HostFd>(std::move(hint->fd)) : nullptr;
                {
                    std::lock_guard lock(child->mutex_);
                    if (fd && !child->read_fd_) child->read_fd_ = fd;
                    if (child->link_text_.empty()) child->link_text_ = std::move(hint->link_text);
                }
                if (fd) host().keep_descriptor(*child);
            }
            return Ref<Inode>(child);
        }
        if (round == 2) return Errno(ENOENT);
        if (round == 0 && fetch_ahead(name)) continue;
        if (list) {
            auto loaded = load_names(kWorthKnowing, false);
            if (!loaded.ok() && loaded.error() != Errno(EFBIG)) return loaded.error();
            if (loaded.ok()) continue;
        }
        if (fetch && fetch_attributes(name).ok()) continue;
        TRY(look_up_path(name, false));
    }
}

SysResult<void> HostInode::fetch_attributes(std::string_view name) {
    constexpr uint32_t kMostAtOnce = 256;
    std::vector<std::string> asked;
    std::string names;
    uint32_t version;
    {
        std::lock_guard lock(mutex_);
        Names& known = names_locked();
        if (!known.complete || !known.listing) return Errno(ENODATA);
        // One that is asked for alone stays alone.
        uint32_t most = known.asked;
        known.asked = std::min(kMostAtOnce, most == 0 ? 8 : most * 4);
        if (most == 0) return Errno(ENODATA);
        const auto& listed = known.listing->entries;
        size_t at = known.cursor < listed.size() ? known.cursor : 0, tries = 0;
        for (; tries < listed.size() && listed[at].name != name; ++tries) at = at + 1 < listed.size() ? at + 1 : 0;
        if (tries == listed.size()) return Errno(ENODATA);
        for (; at < listed.size() && asked.size() < most; ++at) {
            auto found = known.entries.find(std::string_view(listed[at].name));
            if (found == known.entries.end() || found->second.has_attributes) continue;
            asked.push_back(listed[at].name);
            names.append(listed[at].name).push_back('\0');
        }
        known.cursor = at;
        version = known.version;
    }
    Address address = TRY(this->address());
    Request request = request_of(Op::kAttributesOf, address.node);
    auto answer = TRY(host().client().call(request, address.path, {}, names));
    if (answer.data.size() < asked.size() * sizeof(Attributes)) return Errno(EIO);
    std::lock_guard outer(host().mutex_);
    std::lock_guard lock(mutex_);
    Names& known = names_locked();
    if (!known.complete || known.version != version) return Errno(ENODATA);
    for (size_t i = 0; i < asked.size(); ++i) {
        Attributes attributes;
        std::memcpy(&attributes, answer.data.data() + i * sizeof(attributes), sizeof(attributes));
        auto found = known.entries.find(std::string_view(asked[i]));
        if (attributes.inode == 0 || found == known.entries.end()) continue;
        // Of a file in use its inode knows more; what another name may change is not believed.
        if (host().inodes_.contains(HostFileSystem::Key{attributes.device, attributes.inode})) continue;
        if (attributes.links > 1 && !S_ISDIR(attributes.mode)) continue;
        found->second.attributes = attributes;
        found->second.has_attributes = true;
    }
    return {};
}

bool HostInode::fetch_ahead(std::string_view name) {
    constexpr size_t kMostAtOnce = 64;
    constexpr uint32_t kMostStrays = 8;
    std::vector<std::string> asked;
    std::string names;
    {
        std::lock_guard lock(mutex_);
        if (!names_ || !names_->ahead.order) return false;
        Names::Ahead& ahead = names_->ahead;
        const auto& listed = ahead.order->entries;
        // Who goes through the directory comes to the next one; everybody else asks alone.
        const bool next = ahead.cursor < listed.size() && listed[ahead.cursor].name == name;
        if (!next) {
            size_t at = 0;
            if (++ahead.strays > kMostStrays) {
                ahead.order.reset();
                return false;
            }
            if (ahead.cursor > 0 && listed[ahead.cursor - 1].name == name) return false;
            while (at < listed.size() && listed[at].name != name) ++at;
            ahead.cursor = at == listed.size() ? 0 : at + 1;
            ahead.asked = 0;
            return false;
        }
        ahead.strays = 0;
        ahead.asked = std::min(kMostAtOnce, ahead.asked == 0 ? 4 : ahead.asked * 4);
        for (size_t at = ahead.cursor; at < listed.size() && asked.size() < ahead.asked; ++at) {
            asked.push_back(listed[at].name);
            names.append(listed[at].name).push_back('\0');
        }
        ahead.cursor += asked.size();
    }
    auto address = this->address();
    if (!address.ok()) return false;
    Request request = request_of(Op::kAttributesOf, address->node);
    const Nanoseconds when = monotonic_now();
    auto answer = host().client().call(request, address->path, {}, names);
    if (!answer.ok()) return false;
    std::lock_guard lock(mutex_);
    Names::Ahead& ahead = names_locked().ahead;
    ahead.attributes.clear();
    ahead.when = when;
    for (size_t i = 0; i < asked.size() && (i + 1) * sizeof(Attributes) <= answer->data.size(); ++i) {
        Attributes attributes;
        std::memcpy(&attributes, answer->data.data() + i * sizeof(attributes), sizeof(attributes));
        if (attributes.inode != 0) ahead.attributes.emplace(std::move(asked[i]), attributes);
    }
    return ahead.attributes.contains(name);
}

void HostInode::prefetch(std::string_view rest, bool open) {
    if (!S_ISDIR(mode())) return;
    // As much of the path as can be asked for as it stands.
    std::string path;
    size_t components = 0;
    std::string first;
    while (path.size() < 1000) {
        size_t begin = rest.find_first_not_of('/');
        if (begin == std::string_view::npos) break;
        rest.remove_prefix(begin);
        size_t end = rest.find('/');
        std::string_view name = rest.substr(0, end);
        if (name == "." || name == ".." || name.size() > NAME_MAX || name.find('\0') != std::string_view::npos) break;
        if (!path.empty()) path += '/';
        path += name;
        if (components++ == 0) first = std::string(name);
        if (end == std::string_view::npos) {
            rest = {};
            break;
        }
        rest.remove_prefix(end);
    }
    if (components == 0) return;
    bool whole = rest.find_first_not_of('/') == std::string_view::npos;
    if (components == 1 && !(whole && open)) return;  // lookup() does it
    {
        std::lock_guard lock(mutex_);
        if (names_) {
            if (names_->complete && !host().shared()) {
                // Only a file to be opened at once is worth a question that lookup() could answer alone.
                auto found = names_->entries.find(std::string_view(first));
                if (found == names_->entries.end()) return;
                if (components == 1 && (found->second.type != DT_REG || found->second.has_attributes)) return;
                if (components > 1 && found->second.has_attributes) return;
            }
            for (const Names::Hint& hint : names_->hints)
                if (hint.name == first &&
                    (!host().shared() || monotonic_now() - hint.when < HostFileSystem::kSharedValidity))
                    return;
            // A directory about to be listed answers this and all that follows.
            if (!host().shared() && components == 1 && !names_->complete && !names_->too_big &&
                names_->misses + 1 >= kMissesUntilListed)
                return;
        }
        ++names_locked().misses;
    }
    (void)look_up_path(path, open && whole);
}

SysResult<void> HostInode::look_up_path(std::string_view path, bool open) {
    Address address = TRY(this->address());
    if (address.path.size() + path.size() + 2 > fileserver::kMaxPathBytes) return Errno(ENAMETOOLONG);
    // The server walks from our node through our own path, whose attributes come back too.
    size_t own = 0;
    if (!address.path.empty()) {
        own = 1 + static_cast<size_t>(std::count(address.path.begin(), address.path.end(), '/'));
        address.path += '/';
    }
    address.path += path;
    Request request = request_of(Op::kLookup, address.node);
    if (open) request.flags |= fileserver::kFlagWantOpen;
    auto answer = TRY(host().client().call(request, address.path));
    size_t count = answer.reply.count;
    if (count > 4096 || answer.data.size() < count * sizeof(Attributes)) return Errno(EIO);
    if (count < own)
        return Errno(answer.reply.value == ENOENT || answer.reply.value == 0 ? ESTALE : answer.reply.value);
    std::vector<Attributes> found(count);
    std::memcpy(found.data(), answer.data.data(), count * sizeof(Attributes));
    std::string link_text = answer.data.substr(count * sizeof(Attributes));
    Nanoseconds now = monotonic_now();

    Ref<HostInode> at(this);
    size_t index = own;
    bool any = false;
    while (!path.empty()) {
        size_t end = path.find('/');
        std::string_view name = path.substr(0, end);
        path = end == std::string_view::npos ? std::string_view() : path.substr(end + 1);
        Names::Hint hint;
        hint.name = std::string(name);
        hint.when = now;
        if (index >= count) {
            if (answer.reply.value == ENOENT) {
                std::lock_guard lock(at->mutex_);
                at->names_locked().add_hint(std::move(hint));
                return {};
            }
            if (any || answer.reply.value == 0) return {};
            return Errno(static_cast<int>(answer.reply.value));
        }
        hint.exists = true;
        hint.attributes = found[index];
        bool last_found = index + 1 == count;
        if (last_found) {
            if (S_ISLNK(found[index].mode)) hint.link_text = link_text;
            if (path.empty()) hint.fd = std::move(answer.fd);
        }
        bool directory = S_ISDIR(found[index].mode);
        {
            std::lock_guard lock(at->mutex_);
            at->names_locked().add_hint(std::move(hint));
        }
        any = true;
        ++index;
        if (!directory) return {};
        if (!path.empty()) {
            // The hints of the next one hang on its inode, which must live until the walk gets there.
            at = host().intern(found[index - 1], at.get(), name);
            host().keep_recent(at);
        }
    }
    return {};
}

bool HostInode::revalidate_child(std::string_view name, Inode* child) {
    auto* known = static_cast<HostInode*>(child);
    if (known == nullptr) return false;
    auto same = [&](const Attributes& a) {
        if (a.inode != known->key_.inode || a.device != known->key_.device) return false;
        std::lock_guard lock(known->mutex_);
        if ((known->attributes_.mode & S_IFMT) != (a.mode & S_IFMT)) return false;
        // What a change of our own made unknown is not known from a hint of before.
        if (known->attributes_known_) known->take_attributes(a);
        return true;
    };
    {
        std::lock_guard lock(known->mutex_);
        if (known->fresh_locked()) return true;
    }
    for (int round = 0; round < 2; ++round) {
        {
            std::lock_guard lock(mutex_);
            Names& names = names_locked();
            if (const Attributes* ahead = names.ahead.find(name)) return same(*ahead);
            for (size_t i = 0; i < names.hints.size(); ++i) {
                Names::Hint& hint = names.hints[i];
                if (hint.name != name || monotonic_now() - hint.when > HostFileSystem::kSharedValidity) continue;
                if (!hint.exists || !same(hint.attributes)) return false;
                return true;
            }
        }
        if (round == 0 && !fetch_ahead(name) && !look_up_path(name, false).ok()) return false;
    }
    return false;
}

}  // namespace casemate::sentry
