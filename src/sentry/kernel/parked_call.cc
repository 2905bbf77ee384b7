#include "sentry/kernel/parked_call.h"

#include "sentry/kernel/task.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {
namespace {
thread_local WakeBatch* batch_of_thread = nullptr;
}  // namespace

void ParkedCall::arm(Deadline deadline) {
    deadline_ = deadline;
    result.reset();
    set_state(State::kArmed);
}

void ParkedCall::join(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events) {
    if (entry_)
        more_.push_back(std::make_unique<Entry>(*this, std::move(keep), queue, events));
    else
        entry_.emplace(*this, std::move(keep), queue, events);
}

void ParkedCall::leave() {
    entry_.reset();
    more_.clear();
}

// Claims it for the calling thread, or notes the wake-up for its owner.
bool ParkedCall::wake() {
    while (true) {
        switch (state()) {
            case State::kParked:
                if (!change(State::kParked, State::kClaimed)) continue;
                // From here on nobody but us goes on with the task, so it lives.
                if (WakeBatch* batch = WakeBatch::current())
                    batch->add(*task_);
                else
                    kick();
                return true;
            case State::kArmed:
                if (!change(State::kArmed, State::kWoken)) continue;
                return true;
            default:
                return false;
        }
    }
}

bool ParkedCall::finish(int64_t value) {
    // Written before the state tells: the owner reads it only when it is woken, or under the lock that we hold.
    result = value;
    return wake();
}

void ParkedCall::kick() {
    set_state(State::kKicking);
    task_->app().answer_and_stop(-EINTR);
    set_state(State::kKicked);
}

WakeBatch::WakeBatch(Task& task) : task_(&task) { batch_of_thread = this; }
WakeBatch::WakeBatch() : task_(nullptr) { batch_of_thread = this; }

WakeBatch::~WakeBatch() {
    run(WakeOn::kThisCpu);
    batch_of_thread = nullptr;
}

WakeBatch* WakeBatch::current() { return batch_of_thread; }

bool WakeBatch::serves_other_than(const Task& task) {
    return batch_of_thread != nullptr && batch_of_thread->task_ != &task;
}

void WakeBatch::add_work(Ref<DeferredWork> work) {
    works_.push_back(std::move(work));
    if (task_ != nullptr) TaskRunner::stop_application(*task_);
}

void WakeBatch::run_works() {
    while (!works_.empty()) {
        std::vector<Ref<DeferredWork>> works = std::move(works_);
        works_.clear();
        for (Ref<DeferredWork>& work : works) work->run();
    }
}

bool WakeBatch::run(WakeOn where) {
    if (empty() || running_) return false;
    running_ = true;
    while (!empty()) {
        // Each may bring more of both.
        for (size_t i = 0; i < ready_.size(); ++i) {
            Ref<Task> task = std::move(ready_[i]);
            TaskRunner::make_again(*task, where);
        }
        ready_.clear();
        run_works();
    }
    running_ = false;
    return true;
}

}  // namespace casemate::sentry
