// A "process" of the fake guest: a thread that runs a scripted program with real descriptors.
#pragma once

#include <poll.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "guest_api/guest_service.h"
#include "rpc/waker.h"

namespace casemate::guest_fake {

namespace v1 = casemate::guest::v1;

class FakeProcess;
// Returns the exit status. Looks at signal() where it waits.
using Program = std::function<int(FakeProcess&)>;

class FakeProcess {
  public:
    FakeProcess(std::string container, std::string exec, uint32_t pid, std::vector<std::string> args);
    ~FakeProcess();  // kills and joins

    const std::string container_id;
    const std::string exec_id;
    const uint32_t pid;
    const std::vector<std::string> args;
    bool terminal = false;
    UniqueFd in, out, err;  // with a terminal all three are the console

    // For programs. The deadly signal that came, 0 for none.
    int signal() const;
    // Until `fd` is readable (true) or a signal came (false); -1 waits for the signal alone.
    bool wait_readable(int fd, std::optional<std::chrono::milliseconds> timeout = {});
    void write(const UniqueFd& to, std::string_view text);
    std::string window() const;  // "24x80"

    // For the guest.
    void start(Program program);
    bool started() const;
    bool running() const { return started() && !exit(); }
    std::optional<v1::ExitInfo> exit() const;
    bool send_signal(int number);  // false: it has ended
    void resize(uint32_t rows, uint32_t columns);
    void close_stdin();
    // Calls back once, when it has ended; at once if it has.
    void when_exited(std::function<void(const v1::ExitInfo&)> callback);

  private:
    void finish(int status);

    mutable std::mutex mutex_;
    bool started_ = false;
    bool stdin_closed_ = false;
    int signal_ = 0;
    uint32_t rows_ = 0, columns_ = 0;
    std::optional<v1::ExitInfo> exit_;
    std::vector<std::function<void(const v1::ExitInfo&)>> watchers_;
    rpc::Waker waker_;
    std::thread thread_;
};

}  // namespace casemate::guest_fake
