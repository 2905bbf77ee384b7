#include "sentry/kernel/kernel_log.h"

#include <fmt/core.h>

namespace casemate::sentry {

void KernelLog::add(std::string_view line) {
    Nanoseconds at = monotonic_now() - start_;
    std::string text = fmt::format("<6>[{:5}.{:06}] ", at / kSecond, at % kSecond / 1000);
    for (char c : line.substr(0, 1000)) text += c >= 32 && c < 127 ? c : '?';
    text += '\n';
    std::lock_guard lock(mutex_);
    bytes_ += text.size();
    lines_.push_back(std::move(text));
    while (bytes_ > kSize) {
        bytes_ -= lines_.front().size();
        lines_.pop_front();
    }
}

std::string KernelLog::text(size_t limit) {
    std::lock_guard lock(mutex_);
    size_t first = lines_.size(), taken = 0;
    while (first > 0 && taken + lines_[first - 1].size() <= limit) taken += lines_[--first].size();
    std::string all;
    all.reserve(taken);
    for (size_t i = first; i < lines_.size(); ++i) all += lines_[i];
    return all;
}

size_t KernelLog::size() {
    std::lock_guard lock(mutex_);
    return bytes_;
}

void KernelLog::clear() {
    std::lock_guard lock(mutex_);
    lines_.clear();
    bytes_ = 0;
}

}  // namespace casemate::sentry
