// The host's files as the sentry sees them: trees of the file server, with everything that can be cached cached.
//
// Exclusive trees (the pod owns them): names, attributes and listings are believed for as long as they are kept, and
// changes are written through. Shared ones: believed for kSharedValidity, then asked again; one request revalidates a
// whole path. Content never passes the server: a regular file's descriptor is passed over once and kept.
//
// Locks: HostFileSystem::mutex_ (tables, places in the tree) before HostInode::mutex_; neither is held over a round
// trip.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "sentry/fs/host/client.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/file_end.h"
#include "sentry/kernel/id_map.h"
#include "sentry/mm/mappable.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

class HostInode;

// A descriptor that the file server donated, shared by the files and mappings that use it.
struct HostFd final : RefCounted {
    explicit HostFd(UniqueFd f) : fd(std::move(f)) {}
    const UniqueFd fd;
};

// Without holes: a look at one through a map would fill it on some file systems.
bool is_whole(const struct stat& info);

// A regular file as the sentry maps it to read from.
struct HostWindow final : RefCounted {
    explicit HostWindow(UniqueMap m) : map(std::move(m)) {}
    const UniqueMap map;
};

class HostFileSystem final : public FileSystem {
  public:
    static constexpr Nanoseconds kSharedValidity = 10'000'000;

    // Attaches the tree that the sandbox host gave to the file server under `token`. `client` outlives it. `ids`: those
    // of the container's user namespace, the host's being outside. `origin`: where mountinfo says that the tree's root
    // lies in its file system; empty: at its root.
    static SysResult<Ref<HostFileSystem>> create(HostFiles& client, uint64_t token, IdMaps ids = {},
                                                 std::string origin = {});

    const char* type() const override { return "hostfs"; }
    SysResult<Ref<Inode>> root() override;
    SysResult<void> statfs(struct statfs& out) override;
    SysResult<void> sync() override;
    bool names_can_change() const override { return shared_; }

    HostFiles& client() const { return client_; }
    bool read_only() const { return read_only_; }
    bool shared() const { return shared_; }
    const IdMaps& ids() const { return ids_; }
    const std::string& origin() const { return origin_; }
    // How long syncing took lately: one that took long is not forgotten at once.
    void took_to_sync(Nanoseconds time);
    bool syncs_at_once() const { return sync_time_.load(std::memory_order_relaxed) < kAtOnce; }

  private:
    friend class HostInode;
    static constexpr Nanoseconds kAtOnce = 100'000;
    struct Key {
        uint64_t device, inode;
        friend bool operator==(const Key&, const Key&) = default;
    };
    struct KeyHash {
        size_t operator()(const Key& key) const { return key.inode * 0x9e3779b97f4a7c15 ^ key.device; }
    };

    HostFileSystem(HostFiles& client, bool read_only, bool shared, IdMaps ids, std::string origin)
        : client_(client), read_only_(read_only), shared_(shared), ids_(std::move(ids)), origin_(std::move(origin)) {}
    ~HostFileSystem() override;

    // The inode of a file just heard of, at its place in the tree.
    Ref<HostInode> intern(const fileserver::Attributes& attributes, HostInode* parent, std::string_view name);
    void remove_from_table(HostInode& inode);
    void drop_caches() override;
    // Bounds on what inodes keep: donated descriptors, names of directories. A ring each: who is overrun gives up his.
    static constexpr size_t kDescriptorsKept = 2048, kDirectoriesKept = 2048, kRecent = 512;
    struct Ring {
        std::vector<HostInode*> slots;
        size_t next = 0;
    };
    Ref<HostInode> enter_ring(Ring& ring, size_t capacity, int32_t HostInode::*slot, HostInode& inode);
    void keep_descriptor(HostInode& inode);
    void keep_names(HostInode& directory);
    // Directories of a path just asked for stay until the walk has come to them.
    void keep_recent(Ref<HostInode> inode);

    HostFiles& client_;
    const bool read_only_, shared_;
    const IdMaps ids_;
    const std::string origin_;
    std::atomic<Nanoseconds> sync_time_{kAtOnce};
    fileserver::NodeId root_node_ = 0;
    fileserver::Attributes root_attributes_;
    std::mutex mutex_;
    std::unordered_map<Key, HostInode*, KeyHash> inodes_;  // guarded by mutex_; not owned
    Ring descriptors_, names_;                             // guarded by mutex_; not owned
    std::vector<Ref<HostInode>> recent_;                   // guarded by mutex_
    // FIFOs and sockets that the pod made: what is bound to their inodes must last as long as their names.
    std::vector<Ref<HostInode>> pinned_;  // guarded by mutex_
    size_t next_recent_ = 0;
};

class HostInode final : public Inode {
  public:
    HostFileSystem& host() const { return static_cast<HostFileSystem&>(file_system()); }

    SysResult<void> stat(struct stat& out) override;
    uint32_t mode() override { return mode_.load(std::memory_order_relaxed); }
    uint32_t uid() override { return uid_.load(std::memory_order_relaxed); }
    uint32_t gid() override { return gid_.load(std::memory_order_relaxed); }
    std::optional<timespec> birth_time() override;
    SysResult<void> change(const AttributeChange& change) override;
    SysResult<Ref<Inode>> lookup(std::string_view name) override;
    bool revalidate_child(std::string_view name, Inode* child) override;
    bool finds_out_itself() override { return host().shared(); }
    void prefetch(std::string_view rest, bool open) override;
    SysResult<std::shared_ptr<const Listing>> listing() override;
    SysResult<Ref<Inode>> create(std::string_view name, const NewInode& properties) override;
    SysResult<void> link(std::string_view name, Inode& target) override;
    SysResult<void> unlink(std::string_view name, Inode& target) override;
    SysResult<void> remove_directory(std::string_view name, Inode& target) override;
    SysResult<void> rename(std::string_view name, Inode& source, Inode& new_parent, std::string_view new_name,
                           Inode* target, uint32_t flags) override;
    SysResult<Ref<Inode>> create_unnamed(const NewInode& properties) override;
    SysResult<std::string> read_link(Task&) override { return link_text(); }
    SysResult<std::string> link_text() override;
    SysResult<size_t> read_content(IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_content(IoBuffer& from, int64_t offset) override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;
    SysResult<std::string> get_xattr(std::string_view name) override;
    SysResult<void> set_xattr(std::string_view name, std::string_view value, int flags) override;
    SysResult<void> remove_xattr(std::string_view name) override;
    SysResult<std::vector<std::string>> list_xattrs() override;

    // A donated descriptor: read-only, or read and write. One round trip unless it is kept.
    SysResult<Ref<HostFd>> descriptor(bool writable);
    SysResult<Ref<HostFd>> open_direct(bool writable);  // O_DIRECT, not shared
    // What mmap maps; the same one for all who map with that access.
    SysResult<Ref<Mappable>> mappable(bool writable);
    void file_opened() { open_files_.fetch_add(1, std::memory_order_relaxed); }
    void file_closed() { open_files_.fetch_sub(1, std::memory_order_relaxed); }
    // After something was moved through a descriptor: what it changed of the attributes is asked for when somebody
    // wants to know.
    // Before something is written: what was posted for its times must not come to the server behind it.
    void settle_times();
    void was_written(size_t bytes = 0);
    void was_read(size_t bytes);
    void was_cut();  // or holes were made: it may be shorter than before
    // Reads from a map of the file, if it has one or is worth one by now. Less than asked for (0 usually): the
    // descriptor has the rest. host_window.cc.
    size_t read_mapped(IoBuffer& into, int64_t offset);
    // From now on somebody may write through a descriptor without telling.
    void written_behind_us() {
        written_unseen_.store(true, std::memory_order_seq_cst);
        end_changed();
    }
    // The file's end if whoever changes it says so, and its version, taken before it is looked at; null: nobody may.
    Ref<FileEnd> steady_end(uint64_t& version);
    // It is another one, or an open file or descriptor stands there no more.
    void end_changed() {
        if (FileEnd* end = end_.load(std::memory_order_seq_cst)) end->changed();
    }
    // The host takes the set-user-id and set-group-id bits of a file that this process writes to, which has no
    // capabilities there. Whether the pod's task may keep them was decided before: they are given back.
    void keep_mode(uint32_t mode);
    uint64_t link_count();
    SysResult<void> sync_names();  // fsync of a directory

  private:
    friend class HostFileSystem;
    struct Names;  // what is known of a directory's names
    // A file's address for the server: a node and a path under it.
    struct Address {
        fileserver::NodeId node = 0;
        std::string path;
    };

    HostInode(Ref<HostFileSystem> file_system, const fileserver::Attributes& attributes);
    ~HostInode() override;
    void last_ref_dropped() override;

    SysResult<Address> address();
    SysResult<Address> address_of(std::string_view name);
    Address address_locked(std::string_view name, Ref<HostInode>* too_deep);
    void take_attributes(const fileserver::Attributes& attributes);
    void show_owner(uint32_t uid, uint32_t gid);  // of the host
    // A file whose owner or group the container's user namespace does not know: no capability counts there, so it is
    // had by its permission bits alone. `wanted`: S_IROTH, S_IWOTH.
    SysResult<void> check_foreign(uint32_t wanted);
    SysResult<void> put_owner(uint32_t uid, uint32_t gid, fileserver::Request& request) const;
    void forget_attributes();  // known to be old
    SysResult<void> refresh();
    SysResult<void> load_names(size_t give_up_at, bool below_too);
    Ref<HostInode> known_directory(std::string_view name);
    std::string following_siblings();
    // Puts the inodes of a looked-up path below this directory.
    SysResult<void> look_up_path(std::string_view path, bool open);
    // Asks for the attributes of a name and of those that are listed behind it, of more each time.
    SysResult<void> fetch_attributes(std::string_view name);
    // The same in a shared tree, for names that follow each other as they were listed. False: nothing was asked.
    bool fetch_ahead(std::string_view name);
    // What a reply to a change of names here tells of this directory.
    void take_own(const HostFiles::Answer& answer);
    uint16_t parent_flag() const { return host().shared() ? 0 : fileserver::kFlagParent; }
    void name_added(std::string_view name, HostInode& child);
    void name_removed(std::string_view name);
    // `whole`: the name was where the file is asked for; `node` holds it from now on, if not 0.
    void lost_name(fileserver::NodeId node, bool whole = true);
    Names& names_locked();
    bool fresh_locked() const;
    SysResult<void> know_xattrs();
    Ref<HostWindow> make_window_locked();
    Ref<HostWindow> take_window_locked();

    const HostFileSystem::Key key_;
    std::atomic<uint32_t> mode_, uid_{0}, gid_{0};  // the ids as the container has them
    std::atomic<uint8_t> unknown_owner_{0};         // kUnknownUser, kUnknownGroup
    static constexpr uint8_t kUnknownUser = 1, kUnknownGroup = 2;
    std::atomic<int32_t> open_files_{0};
    std::atomic<bool> was_listed_{false};  // a program read the directory
    std::atomic<bool> made_here_{false};   // by the pod, in this life of the inode
    std::atomic<bool> moved_{true};        // read or written since the attributes were asked of a descriptor
    std::atomic<bool> settled_{false};     // reading changes no time any more, as the host's relatime has it
    std::atomic<bool> written_unseen_{false};
    std::atomic<bool> times_posted_{false};
    std::atomic<bool> unread_{true};           // since it was written
    std::atomic<bool> may_have_grown_{false};  // since window_end_ was asked for
    std::atomic<uint64_t> traffic_{0};         // bytes read and written
    std::atomic<FileEnd*> end_{nullptr};       // since somebody asked for it: kept_end_

    // Guarded by HostFileSystem::mutex_: where it is.
    Ref<HostInode> parent_;
    std::string name_;
    fileserver::NodeId node_ = 0;
    bool lost_ = false;  // its name was removed
    bool in_table_ = false;
    int32_t descriptor_slot_ = -1, names_slot_ = -1;

    SmallMutex mutex_;
    // Guarded by mutex_:
    fileserver::Attributes attributes_;
    bool attributes_known_ = true;
    bool written_ = false;   // was open for writing: the names table of the parent gets no attributes
    Nanoseconds heard_ = 0;  // when the attributes came (shared trees)
    uint64_t posted_ = 0;    // the last change sent without waiting for the answer
    Ref<HostFd> read_fd_, write_fd_;
    Ref<Mappable> read_map_, write_map_;
    Ref<FileEnd> kept_end_;
    Ref<HostWindow> window_;
    uint64_t window_end_ = 0;     // the file is at least so long; 0: ask
    uint64_t window_wanted_ = 0;  // the traffic at which a window is thought of again
    bool no_window_ = false;      // somebody goes around the host's cache
    std::string link_text_;
    bool xattrs_known_ = false;
    std::vector<std::string> xattrs_;
    std::unique_ptr<Names> names_;
};

}  // namespace casemate::sentry
