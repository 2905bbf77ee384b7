#include "guest_fake/fake_process.h"

#include <fmt/core.h>
#include <signal.h>

namespace casemate::guest_fake {

FakeProcess::FakeProcess(std::string container, std::string exec, uint32_t number, std::vector<std::string> arguments)
    : container_id(std::move(container)),
      exec_id(std::move(exec)),
      pid(number),
      args(std::move(arguments)),
      waker_(MUST(rpc::Waker::create())) {}

FakeProcess::~FakeProcess() {
    send_signal(SIGKILL);
    if (thread_.joinable()) thread_.join();
}

int FakeProcess::signal() const {
    std::lock_guard lock(mutex_);
    return signal_;
}

bool FakeProcess::wait_readable(int fd, std::optional<std::chrono::milliseconds> timeout) {
    auto end = std::chrono::steady_clock::now() + timeout.value_or(std::chrono::hours(1));
    for (;;) {
        {
            std::lock_guard lock(mutex_);
            if (signal_ != 0) return false;
            if (stdin_closed_ && fd >= 0 && fd == in.get()) return true;
        }
        auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
        if (left <= 0) return false;
        pollfd fds[2] = {{waker_.fd(), POLLIN, 0}, {fd, POLLIN, 0}};
        ::poll(fds, fd < 0 ? 1 : 2, static_cast<int>(left));
        if (fds[0].revents != 0) waker_.drain();
        if (fd >= 0 && fds[1].revents != 0) return true;
    }
}

void FakeProcess::write(const UniqueFd& to, std::string_view text) {
    while (to && !text.empty()) {
        ssize_t count = ::write(to.get(), text.data(), text.size());
        if (count <= 0) return;
        text.remove_prefix(count);
    }
}

std::string FakeProcess::window() const {
    std::lock_guard lock(mutex_);
    return fmt::format("{}x{}", rows_, columns_);
}

void FakeProcess::start(Program program) {
    {
        std::lock_guard lock(mutex_);
        started_ = true;
    }
    thread_ = std::thread([this, program = std::move(program)] {
        int status = program(*this);
        in.reset();
        out.reset();
        err.reset();
        finish(status);
    });
}

bool FakeProcess::started() const {
    std::lock_guard lock(mutex_);
    return started_;
}

std::optional<v1::ExitInfo> FakeProcess::exit() const {
    std::lock_guard lock(mutex_);
    return exit_;
}

// A created but never started init dies of any signal at once: there is no program that could handle it.
bool FakeProcess::send_signal(int number) {
    bool never_ran = false;
    {
        std::lock_guard lock(mutex_);
        if (exit_) return false;
        bool deadly = number != 0 && number != SIGCHLD && number != SIGWINCH && number != SIGCONT && number != SIGURG;
        if (!deadly) return true;
        signal_ = number;
        never_ran = !started_;
    }
    waker_.wake();
    if (never_ran) finish(0);
    return true;
}

void FakeProcess::resize(uint32_t rows, uint32_t columns) {
    std::lock_guard lock(mutex_);
    rows_ = rows;
    columns_ = columns;
}

void FakeProcess::close_stdin() {
    {
        std::lock_guard lock(mutex_);
        stdin_closed_ = true;
    }
    waker_.wake();
}

void FakeProcess::when_exited(std::function<void(const v1::ExitInfo&)> callback) {
    {
        std::lock_guard lock(mutex_);
        if (!exit_) {
            watchers_.push_back(std::move(callback));
            return;
        }
    }
    callback(*exit_);
}

void FakeProcess::finish(int status) {
    std::vector<std::function<void(const v1::ExitInfo&)>> watchers;
    v1::ExitInfo info;
    {
        std::lock_guard lock(mutex_);
        if (exit_) return;
        info.set_signal(signal_);
        info.set_exit_status(signal_ != 0 ? 128 + signal_ : status);
        info.set_exited_at_ns(std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
        exit_ = info;
        watchers.swap(watchers_);
    }
    for (auto& watcher : watchers) watcher(info);
}

}  // namespace casemate::guest_fake
