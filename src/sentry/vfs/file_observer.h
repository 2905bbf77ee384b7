// FileObserver: told when an open file goes away (epoll, which does not keep what it watches open).
#pragma once

#include <mutex>

namespace casemate::sentry {

class File;

class FileObserver {
  public:
    // The last reference is gone; the file is still whole. Called with file_observers_mutex(), already unlinked.
    virtual void file_gone() = 0;

  protected:
    ~FileObserver() = default;

  private:
    friend class File;
    FileObserver* next_observer_ = nullptr;  // guarded by file_observers_mutex()
};

// Held by whoever adds, removes or tells observers of any file; outermost of the locks of epoll.
std::mutex& file_observers_mutex();

}  // namespace casemate::sentry
