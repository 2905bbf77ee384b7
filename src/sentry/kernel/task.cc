#include "sentry/kernel/task.h"
#include "sentry/kernel/task_run.h"

#include <limits.h>

#include "sentry/kernel/futex_sleeper.h"
#include "sentry/kernel/host_futex.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_hold.h"
#include "sentry/kernel/task_parts.h"

namespace casemate::sentry {

Task::Task(Kernel& kernel, Ref<Process> process)
    : kernel_(kernel), process_(std::move(process)), parts_(std::make_unique<Parts>()) {
    parts_->parked_call.set_task(*this);
    parts_->quick_calls.set_task(*this);
}

Task::~Task() = default;

SysResult<std::string> Task::read_path(GuestAddr address) { return memory().copy_in_string(address, PATH_MAX); }

uint64_t Task::limit(int resource) const { return process_->limit(resource).soft; }

bool Task::dying() const {
    if (process_->group_exiting.load(std::memory_order_acquire)) return true;
    Task* executing = process_->exec_task.load(std::memory_order_acquire);
    return executing != nullptr && executing != this;
}

// ------------------------------------------------------------------------------------------------ sleeping

SysResult<void> Task::ThreadWaiter::sleep(Deadline deadline, Interruptible how) {
    Task& task = task_;
    // As if a signal had come: the call goes on on its own thread.
    if (task.borrowed()) return Errno(deadline && *deadline <= monotonic_now() ? ETIMEDOUT : kRestartSys);
    WakeBatch::flush();
    // A sleeping child gives its parent free: the parent may be who is to wake it.
    release_held_parent(task);
    task.parts_->sleeping.store(true, std::memory_order_relaxed);
    CloneRhythm& rhythm = task.parts_->clone_rhythm;
    if (rhythm.undecided()) rhythm.sleeps(monotonic_now());
    SysResult<void> result;
    while (true) {
        // Pairs with wake() and interrupt(): they change their flag, then look at the word.
        task.park_word_.store(1, std::memory_order_seq_cst);
        if (woken_.load(std::memory_order_seq_cst)) break;
        bool stop = how == Interruptible::kYes ? task.interrupted() : task.dying();
        if (stop) {
            result = Errno(kRestartSys);
            break;
        }
        if (host_futex_wait(task.park_word_, 1, deadline) == ETIMEDOUT) {
            if (!woken_.load(std::memory_order_seq_cst)) result = Errno(ETIMEDOUT);
            break;
        }
    }
    task.park_word_.store(0, std::memory_order_relaxed);
    task.parts_->sleeping.store(false, std::memory_order_relaxed);
    task.process_->switches.fetch_add(1, std::memory_order_relaxed);
    return result;
}

void Task::unpark() {
    if (park_word_.exchange(0, std::memory_order_seq_cst) == 1) host_futex_wake(park_word_);
}

// Under the queue's lock, which remove() takes: neither waiter nor task goes away meanwhile.
bool Task::ThreadWaiter::notified(uint32_t) {
    Task& task = task_;
    bool first = !woken_.exchange(true, std::memory_order_seq_cst);
    task.unpark();
    return first;
}

SysResult<void> Task::sleep_until(Deadline deadline) {
    ThreadWaiter waiter(*this, 0);
    return waiter.sleep(deadline);
}

void Task::interrupt() {
    attention_.fetch_or(kInterrupts | kLook, std::memory_order_seq_cst);
    unpark();
    if (parts_->parked_call.claim()) return parts_->parked_call.kick();
    if (!in_application_.load(std::memory_order_seq_cst)) return;
    // The lock keeps app_ alive: exec and exit take it away under the same lock.
    std::lock_guard lock(mutex_);
    if (app_ != nullptr && in_application_.load(std::memory_order_relaxed)) app_->interrupt();
}

// --------------------------------------------------------------------------------------------------- parts

void Task::set_credentials(Ref<Credentials> credentials) {
    std::lock_guard lock(mutex_);
    std::swap(credentials_, credentials);
    TaskRunner::tell_facts_locked(*this);
}
void Task::set_namespaces(Ref<Namespaces> namespaces) {
    std::lock_guard lock(mutex_);
    std::swap(namespaces_, namespaces);
}
// What goes away is dropped by the parameter's destructor, outside of the lock.
void Task::set_files(Ref<FdTable> files) {
    std::lock_guard lock(mutex_);
    std::swap(files_, files);
}
void Task::set_fs(Ref<FsContext> fs) {
    std::lock_guard lock(mutex_);
    std::swap(fs_, fs);
}

Ref<AddressSpace> Task::memory_of() {
    std::lock_guard lock(mutex_);
    return memory_;
}
Ref<FdTable> Task::files_of() {
    std::lock_guard lock(mutex_);
    return files_;
}
Ref<FsContext> Task::fs_of() {
    std::lock_guard lock(mutex_);
    return fs_;
}
Ref<Credentials> Task::credentials_of() {
    std::lock_guard lock(mutex_);
    return credentials_;
}
Ref<Namespaces> Task::namespaces_of() {
    std::lock_guard lock(mutex_);
    return namespaces_;
}

std::string Task::name() {
    std::lock_guard lock(mutex_);
    return name_;
}
void Task::set_name(std::string_view name) {
    std::lock_guard lock(mutex_);
    name_ = std::string(name.substr(0, 15));
}

char Task::state() {
    if (parts_->dead.load(std::memory_order_acquire) != 0) return 'Z';
    if (parts_->parked.load(std::memory_order_acquire)) return is_traced(*this) ? 't' : 'T';
    if (parts_->sleeping.load(std::memory_order_acquire)) return 'S';
    return 'R';
}

bool Task::has_registers() const { return parts_->has_registers; }
Registers& Task::registers() { return app_->registers(); }

void Task::set_restart(std::function<SysResult<int64_t>(Task&)> again) { parts_->restart = std::move(again); }

}  // namespace casemate::sentry
