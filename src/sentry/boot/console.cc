#include "sentry/boot/console.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace casemate::sentry {

// Queued on the terminal's master side: rings the thread out of its poll.
class Console::Doorbell final : public Waiter {
  public:
    explicit Doorbell(int fd) : fd_(fd) {}
    bool notified(uint32_t) override {
        uint64_t one = 1;
        ssize_t written = write(fd_, &one, sizeof(one));  // a full counter rings as well
        static_cast<void>(written);
        return true;
    }

  private:
    const int fd_;
};

SysResult<std::unique_ptr<Console>> Console::start(Ref<File> master, Ref<Terminal> terminal, UniqueFd host) {
    UniqueFd bell(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!bell) return last_errno();
    auto console =
        std::unique_ptr<Console>(new Console(std::move(master), std::move(terminal), std::move(host), std::move(bell)));
    console->thread_ = std::thread([raw = console.get()] { raw->run(); });
    return console;
}

Console::Console(Ref<File> master, Ref<Terminal> terminal, UniqueFd host, UniqueFd bell)
    : master_(std::move(master)), terminal_(std::move(terminal)), host_(std::move(host)), bell_(std::move(bell)) {}

Console::~Console() {
    process_ended();
    if (thread_.joinable()) thread_.join();
}

void Console::process_ended() {
    ended_ = true;
    uint64_t one = 1;
    ssize_t written = write(bell_.get(), &one, sizeof(one));
    static_cast<void>(written);
}

void Console::run() {
    Doorbell doorbell(bell_.get());
    terminal_->master_waiters.add(doorbell);
    std::string to_host, to_terminal;
    bool host_open = true;
    while (true) {
        uint64_t rung;
        ssize_t got = read(bell_.get(), &rung, sizeof(rung));
        static_cast<void>(got);
        bool ended = ended_;
        if (to_host.empty()) {
            std::byte chunk[4096];
            auto outcome = terminal_->master_read(chunk);
            to_host.assign(reinterpret_cast<char*>(chunk), outcome.bytes);
        }
        if (!to_terminal.empty()) {
            auto outcome =
                terminal_->master_write(std::as_bytes(std::span<const char>(to_terminal.data(), to_terminal.size())));
            to_terminal.erase(0, outcome.hung_up ? to_terminal.size() : outcome.bytes);
        }
        if (ended && to_host.empty()) break;
        if (!host_open) break;
        pollfd wait[2] = {{host_.get(), 0, 0}, {bell_.get(), POLLIN, 0}};
        if (!to_host.empty()) wait[0].events |= POLLOUT;
        if (to_terminal.empty()) wait[0].events |= POLLIN;
        // A host that does not read keeps an ended process's last words from leaving: it gets five seconds.
        int ready = poll(wait, 2, ended ? 5000 : -1);
        if (ready == 0 && ended) break;
        if (wait[0].revents & POLLOUT) {
            ssize_t sent = write(host_.get(), to_host.data(), to_host.size());
            if (sent > 0)
                to_host.erase(0, static_cast<size_t>(sent));
            else if (errno != EAGAIN && errno != EINTR)
                host_open = false;
        }
        if (wait[0].revents & POLLIN) {
            char chunk[4096];
            ssize_t bytes = read(host_.get(), chunk, sizeof(chunk));
            if (bytes > 0)
                to_terminal.assign(chunk, static_cast<size_t>(bytes));
            else if (bytes == 0 || (errno != EAGAIN && errno != EINTR))
                host_open = false;
        } else if (wait[0].revents & (POLLHUP | POLLERR | POLLNVAL)) {
            host_open = false;
        }
    }
    terminal_->master_waiters.remove(doorbell);
    host_.reset();
    master_.reset();  // hangs up, unless the application holds the master as well
}

}  // namespace casemate::sentry
