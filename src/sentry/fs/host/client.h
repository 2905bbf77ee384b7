// HostFiles: the sentry's end of the way to casemate-files: requests through shared memory, rung by a system call that
// the sentry's own filter turns into a notification (fileserver/shared_area.h); without a listener for those, or before
// there is one, over the socket, one at a time.
//
// The sentry cannot open host files; every descriptor of one came through here. The server is trusted with the files'
// content but its replies are checked for shape all the same. When it is gone, everything answers EIO.
#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <semaphore>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "fileserver/protocol.h"
#include "fileserver/receiver.h"
#include "fileserver/shared_area.h"

namespace casemate::sentry {

class HostFiles {
  public:
    // `socket`: connected SOCK_SEQPACKET.
    explicit HostFiles(UniqueFd socket);

    // Makes the memory to be shared: while the process may still make such things. Without it the socket it is.
    SysResult<void> prepare_sharing();
    // From now on through the shared memory: `listener` gets what this process's filter notifies. Before the first
    // call.
    SysResult<void> share(UniqueFd listener);

    struct Answer {
        fileserver::Reply reply;
        UniqueFd fd;
        std::string data;
        uint64_t number = 0;  // posts with a lower one were worked off before
    };
    // The server's errno, or EIO if it is gone. `request` gets its sizes and tag here.
    SysResult<Answer> call(fileserver::Request& request, std::string_view path = {}, std::string_view path2 = {},
                           std::string_view data = {});
    // Sends without waiting; returns a number that done() reaches when the server has worked it off for certain.
    uint64_t post(fileserver::Request& request, std::string_view path = {}, std::string_view path2 = {},
                  std::string_view data = {});
    // Returns when all that was posted is worked off.
    void flush();
    uint64_t done() const { return done_.load(std::memory_order_acquire); }
    // Told to the server with one of the next requests.
    void forget(fileserver::NodeId node);

    uint64_t round_trips() const { return round_trips_.load(std::memory_order_relaxed); }
    // How many of them asked what: "create 12, open 7".
    std::string round_trips_by_kind() const;

  private:
    struct Parts {
        std::string_view path, path2, data;
    };
    static SysResult<size_t> measure(fileserver::Request& request, const Parts& parts);
    SysResult<Answer> call_shared(fileserver::Request& request, const Parts& parts);
    SysResult<Answer> call_by_socket(fileserver::Request& request, const Parts& parts);
    SysResult<void> exchange(fileserver::Slot& slot, uint64_t number);
    SysResult<Answer> take_reply(const char* bytes, size_t size, uint32_t tag, uint64_t posted);
    // The descriptor that came along with the reply `tag`.
    SysResult<UniqueFd> take_descriptor(uint32_t tag);
    SysResult<void> send_locked(fileserver::Request& request, const Parts& parts);
    void post_locked(fileserver::Request& request, const Parts& parts);
    void put_post(uint64_t at, const void* bytes, size_t size);
    bool ring(uint64_t number);  // false: the server is gone
    void send_forgets_locked();
    fileserver::SharedArea& area() const;

    UniqueMap map_;    // of a SharedArea
    UniqueFd memory_;  // until share()
    bool shared_ = false;
    std::counting_semaphore<fileserver::SharedArea::kSlots> slots_{fileserver::SharedArea::kSlots};
    std::atomic<uint32_t> slots_taken_{0}, tags_{0};
    std::atomic<size_t> forgets_waiting_{0};

    std::mutex mutex_;
    UniqueFd socket_;  // sending, and receiving without shared memory, guarded by mutex_; as all below
    fileserver::Receiver receiver_;
    std::vector<char> buffer_;
    std::vector<fileserver::NodeId> forgets_;
    std::atomic<uint64_t> posted_{0};  // how many posts are out
    std::atomic<uint64_t> done_{0}, round_trips_{0};
    static constexpr size_t kKinds = 32;
    std::array<std::atomic<uint64_t>, kKinds> kinds_{};  // of round trips, by Op

    std::mutex descriptors_mutex_;
    std::vector<std::pair<uint32_t, UniqueFd>> descriptors_;  // guarded by descriptors_mutex_: taken for others
};

}  // namespace casemate::sentry
