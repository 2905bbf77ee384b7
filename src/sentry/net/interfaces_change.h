// One change of the model under way: what listeners will be told when it is done.
#pragma once

#include "sentry/net/interfaces.h"

namespace casemate::sentry {

// Holds change_mutex_ for its life and mutex_ until finish() or the end; then tells the listeners.
class Interfaces::Changing {
  public:
    explicit Changing(Interfaces& model) : model_(model), turn_(model.change_mutex_), data_(model.mutex_) {}
    ~Changing() {
        data_.unlock();
        if (changes_.empty()) return;
        model_.generation_.fetch_add(1, std::memory_order_acq_rel);
        for (const InterfaceChange& change : changes_)
            for (auto& [id, listener] : model_.listeners_) listener(change);
    }
    template <typename T>
    void now(const T& what) {
        changes_.push_back({false, what});
    }
    template <typename T>
    void gone(const T& what) {
        changes_.push_back({true, what});
    }

  private:
    Interfaces& model_;
    std::unique_lock<std::mutex> turn_;
    std::unique_lock<std::shared_mutex> data_;
    std::vector<InterfaceChange> changes_;
};

}  // namespace casemate::sentry
