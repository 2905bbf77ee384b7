#include "sentry/net/unix/flight.h"

#include <linux/capability.h>
#include <sys/resource.h>

#include <map>
#include <mutex>
#include <unordered_map>

#include "sentry/kernel/task.h"
#include "sentry/net/passenger.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {

namespace {

constexpr uint64_t kMostInFlight = 1 << 17;  // of the pod, whatever capabilities a sender has
constexpr size_t kFirstSearch = 64;          // sockets in flight before the first search

// Drops files one after the other. A file that goes may be a socket with passed files in its queue, and so on: they
// join the list of the outermost call instead of nesting.
void drop_files(std::vector<Ref<File>> files) {
    thread_local std::vector<Ref<File>>* dropping = nullptr;
    if (dropping != nullptr) {
        for (auto& file : files) dropping->push_back(std::move(file));
        return;
    }
    dropping = &files;
    while (!files.empty()) {
        Ref<File> file = std::move(files.back());
        files.pop_back();
        file.reset();
    }
    dropping = nullptr;
}

UnixSocket* unix_socket_of(File& file) {
    Socket* socket = file.as_socket();
    return socket != nullptr && socket->family() == AF_UNIX ? static_cast<UnixSocket*>(socket) : nullptr;
}

}  // namespace

// The pod's book of what is in flight. Its lock is taken before those of sockets and buffers.
class FlightControl {
  public:
    SysResult<void> depart(PassedFiles& passed, uint64_t limit) {
        std::lock_guard lock(mutex_);
        uint64_t& charged = by_uid_[passed.uid_];
        if (charged + passed.files_.size() > limit || total_ + passed.files_.size() > kMostInFlight)
            return Errno(ETOOMANYREFS);
        charged += passed.files_.size();
        total_ += passed.files_.size();
        for (auto& file : passed.files_)
            if (unix_socket_of(*file) != nullptr) sockets_[file.get()]++;
        passed.departed_ = true;
        return {};
    }
    void arrive(PassedFiles& passed) {
        if (!passed.departed_) return;
        std::lock_guard lock(mutex_);
        total_ -= passed.files_.size();
        auto charged = by_uid_.find(passed.uid_);
        if ((charged->second -= passed.files_.size()) == 0) by_uid_.erase(charged);
        for (auto& file : passed.files_) {
            if (unix_socket_of(*file) == nullptr) continue;
            auto it = sockets_.find(file.get());
            if (--it->second == 0) sockets_.erase(it);
        }
    }

    bool search_due(bool after_close) {
        std::lock_guard lock(mutex_);
        if (sockets_.empty()) return false;
        if (!after_close) return sockets_.size() >= next_search_;
        return ++closes_ * 4 >= sockets_.size();
    }
    void search() {
        std::vector<Ref<PassedFiles>> garbage;
        {
            std::lock_guard lock(mutex_);
            closes_ = 0;
            struct Candidate {
                uint64_t outside;
                bool reachable = false;
            };
            std::unordered_map<File*, Candidate> candidates;
            for (auto& [file, count] : sockets_)
                if (file->ref_count() == count) candidates.emplace(file, Candidate{count});
            auto each_inside = [&](File* file, auto&& visit) {
                unix_socket_of(*file)->for_each_passed([&](PassedFiles& passed) {
                    for (auto& inner : passed.files_)
                        if (auto it = candidates.find(inner.get()); it != candidates.end()) visit(it);
                });
            };
            for (auto& entry : candidates)
                each_inside(entry.first, [](auto it) {
                    if (it->second.outside > 0) it->second.outside--;
                });
            std::vector<File*> reachable;
            for (auto& [file, candidate] : candidates) {
                if (candidate.outside == 0) continue;
                candidate.reachable = true;
                reachable.push_back(file);
            }
            while (!reachable.empty()) {
                File* file = reachable.back();
                reachable.pop_back();
                each_inside(file, [&](auto it) {
                    if (it->second.reachable) return;
                    it->second.reachable = true;
                    reachable.push_back(it->first);
                });
            }
            for (auto& [file, candidate] : candidates)
                if (!candidate.reachable) unix_socket_of(*file)->take_passed(garbage);
            next_search_ = std::max(kFirstSearch, sockets_.size() * 2);
        }
        garbage.clear();
    }

    static void drop(PassedFiles& passed) { drop_files(std::move(passed.files_)); }

  private:
    std::mutex mutex_;
    std::unordered_map<File*, uint64_t> sockets_;  // Unix socket files: references in flight; guarded by mutex_
    std::map<uint32_t, uint64_t> by_uid_;          // files; guarded by mutex_, as is all below
    uint64_t total_ = 0;
    size_t closes_ = 0;
    size_t next_search_ = kFirstSearch;
};

namespace {

FlightControl& flight_control() {
    static FlightControl control;
    return control;
}

}  // namespace

SysResult<Ref<PassedFiles>> PassedFiles::create(Task& task, std::vector<Ref<File>> files) {
    if (flight_control().search_due(false)) flight_control().search();
    bool unbounded = task.has_capability(CAP_SYS_RESOURCE) || task.has_capability(CAP_SYS_ADMIN);
    uint64_t limit = unbounded ? kMostInFlight : task.limit(RLIMIT_NOFILE);
    auto passed = Ref<PassedFiles>::adopt(new PassedFiles(std::move(files), task.credentials().uid));
    TRY(flight_control().depart(*passed, limit));
    return passed;
}

PassedFiles::~PassedFiles() {
    flight_control().arrive(*this);
    FlightControl::drop(*this);
}

void collect_unreachable_after_close() {
    if (flight_control().search_due(true)) flight_control().search();
}

}  // namespace casemate::sentry
