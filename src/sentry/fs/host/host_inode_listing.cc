// HostInode: the names of a directory as a whole, with those of directories below it.
#include <dirent.h>

#include <cstring>

#include "sentry/fs/host/host_names.h"

namespace casemate::sentry {

using fileserver::Attributes;
using fileserver::ListEntry;
using fileserver::Op;
using fileserver::Request;

SysResult<void> HostInode::load_names(size_t give_up_at, bool below_too) {
    Address address = TRY(this->address());
    Names fresh;
    fresh.complete = true;
    // In the server's order, which is the order of what it sends ahead.
    auto order = std::make_shared<Listing>();
    uint64_t cookie = 0;
    struct Section {
        std::string path;
        bool sibling = false;
        Names names;
        std::shared_ptr<Listing> order = std::make_shared<Listing>();
    };
    std::vector<Section> sections;
    Names* into = &fresh;
    Listing* listed = order.get();
    std::string siblings;
    if (below_too) siblings = following_siblings();
    do {
        Request request = request_of(Op::kList, address.node);
        request.value = cookie;
        if (below_too) request.flags = fileserver::kFlagPrefetch;
        auto answer = TRY(host().client().call(request, address.path, {}, siblings));
        std::string_view data = answer.data;
        while (data.size() >= sizeof(ListEntry)) {
            ListEntry entry;
            std::memcpy(&entry, data.data(), sizeof(entry));
            bool with = entry.kind == ListEntry::kWithAttributes;
            size_t head = sizeof(entry) + (with ? sizeof(Attributes) : 0);
            if (entry.record_size > data.size() || entry.record_size < head + entry.name_size) return Errno(EIO);
            std::string name(data.substr(head, entry.name_size));
            if (entry.kind == ListEntry::kSection || entry.kind == ListEntry::kSiblingSection) {
                sections.emplace_back();
                sections.back().sibling = entry.kind == ListEntry::kSiblingSection;
                sections.back().path = std::move(name);
                into = &sections.back().names;
                into->complete = true;
                listed = sections.back().order.get();
            } else {
                Names::Entry known;
                known.type = entry.type;
                known.inode = entry.inode;
                if (with) {
                    std::memcpy(&known.attributes, data.data() + sizeof(entry), sizeof(Attributes));
                    // Another name of a file may change what we know under this one.
                    known.has_attributes = known.attributes.links <= 1 || S_ISDIR(known.attributes.mode);
                }
                listed->entries.push_back(Listing::Entry{name, known.inode, known.type});
                into->entries.emplace(std::move(name), known);
            }
            data.remove_prefix(entry.record_size);
        }
        if (answer.reply.value != 0 && answer.reply.value == cookie) return Errno(EIO);
        cookie = answer.reply.value;
        if (cookie != 0 && fresh.entries.size() > give_up_at) {
            std::lock_guard lock(mutex_);
            names_locked().too_big = true;
            return Errno(EFBIG);
        }
    } while (cookie != 0);
    {
        std::lock_guard lock(mutex_);
        Names& names = names_locked();
        fresh.hints = std::move(names.hints);
        fresh.version = names.version + 1;
        fresh.listing = std::move(order);
        names = std::move(fresh);
    }
    host().keep_names(*this);
    Ref<HostInode> parent;
    {
        std::lock_guard lock(host().mutex_);
        parent = parent_;
    }
    for (auto& [path, sibling, names, section_order] : sections) {
        // Parents come before their children, so the way down is known.
        Ref<HostInode> at = sibling ? parent : Ref<HostInode>(this);
        std::string_view rest = path;
        while (at && !rest.empty()) {
            size_t end = rest.find('/');
            at = at->known_directory(rest.substr(0, end));
            rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
        }
        if (!at) continue;
        bool taken = false;
        {
            std::lock_guard lock(at->mutex_);
            Names& known = at->names_locked();
            if (!known.complete) {
                names.hints = std::move(known.hints);
                names.version = known.version + 1;
                names.listing = std::move(section_order);
                known = std::move(names);
                taken = true;
            }
        }
        if (taken) {
            host().keep_names(*at);
            host().keep_recent(at);
        }
    }
    return {};
}

// A directory among the names that are known, without asking; null: cannot tell.
Ref<HostInode> HostInode::known_directory(std::string_view name) {
    Attributes attributes;
    uint64_t number = 0;
    {
        std::lock_guard lock(mutex_);
        if (!names_ || !names_->complete) return nullptr;
        auto found = names_->entries.find(name);
        if (found == names_->entries.end() || found->second.type != DT_DIR) return nullptr;
        number = found->second.inode;
        if (found->second.has_attributes) attributes = found->second.attributes;
    }
    if (attributes.inode != 0) return host().intern(attributes, this, name);
    std::lock_guard lock(host().mutex_);
    auto live = host().inodes_.find(HostFileSystem::Key{key_.device, number});
    if (live == host().inodes_.end() || live->second->parent_.get() != this || live->second->name_ != name ||
        !live->second->try_ref())
        return nullptr;
    return Ref<HostInode>::adopt(live->second);
}

// The directories that stand behind this one in its parent, for the server to send along.
std::string HostInode::following_siblings() {
    constexpr size_t kSiblings = 96;
    Ref<HostInode> parent;
    std::string own;
    {
        std::lock_guard lock(host().mutex_);
        parent = parent_;
        own = name_;
    }
    if (!parent) return {};
    std::shared_ptr<const Listing> listing;
    {
        std::lock_guard lock(parent->mutex_);
        if (!parent->names_ || !parent->names_->complete) return {};
        listing = parent->names_->listing;
    }
    if (!listing) return {};
    std::string names;
    size_t count = 0;
    bool behind = false;
    for (const Listing::Entry& entry : listing->entries) {
        if (!behind) {
            behind = entry.name == own;
            continue;
        }
        if (entry.type != DT_DIR) continue;
        names += entry.name;
        names += '\0';
        if (++count == kSiblings) break;
    }
    return names;
}

SysResult<std::shared_ptr<const Listing>> HostInode::listing() {
    if (!S_ISDIR(mode())) return Errno(ENOTDIR);
    // Who lists a directory and then one in it is about to list them all.
    bool walking = false;
    if (!host().shared()) {
        Ref<HostInode> parent;
        {
            std::lock_guard lock(host().mutex_);
            parent = parent_;
        }
        was_listed_.store(true, std::memory_order_relaxed);
        walking = parent && parent->was_listed_.load(std::memory_order_relaxed);
    }
    for (int round = 0; round < 3; ++round) {
        {
            std::lock_guard lock(mutex_);
            if (names_ && names_->complete && (!host().shared() || round > 0)) {
                if (!names_->listing) {
                    auto made = std::make_shared<Listing>();
                    made->entries.reserve(names_->entries.size());
                    for (const auto& [name, entry] : names_->entries)
                        made->entries.push_back(Listing::Entry{name, entry.inode, entry.type});
                    names_->listing = std::move(made);
                }
                auto listing = names_->listing;
                // Shared trees: names are not believed any longer than this.
                if (host().shared()) {
                    names_->ahead = {.order = listing};
                    names_->complete = false;
                    names_->listing.reset();
                    names_->entries.clear();
                }
                return listing;
            }
        }
        TRY(load_names(SIZE_MAX, walking));
    }
    return Errno(EIO);
}

}  // namespace casemate::sentry
