#include "sentry/fs/anonymous/aio_context.h"

#include <sys/epoll.h>

#include <algorithm>

namespace casemate::sentry {
namespace {

const void* key_of(AioContext& context) { return static_cast<const Mappable*>(&context); }

}  // namespace

bool AioContext::reserve() {
    std::lock_guard lock(mutex_);
    if (ended_ || reserved_ + done_.size() >= capacity) return false;
    ++reserved_;
    return true;
}

void AioContext::cancel() {
    std::lock_guard lock(mutex_);
    --reserved_;
}

void AioContext::add(const io_event& event) {
    {
        std::lock_guard lock(mutex_);
        --reserved_;
        done_.push_back(event);
    }
    waiters.notify(EPOLLIN);
}

std::vector<io_event> AioContext::take(size_t most) {
    std::lock_guard lock(mutex_);
    auto end = done_.begin() + static_cast<ptrdiff_t>(std::min(most, done_.size()));
    std::vector<io_event> taken(done_.begin(), end);
    done_.erase(done_.begin(), end);
    return taken;
}

void AioContext::end() {
    {
        std::lock_guard lock(mutex_);
        ended_ = true;
    }
    waiters.notify(EPOLLIN);
}

bool AioContext::ended() {
    std::lock_guard lock(mutex_);
    return ended_;
}

void AioContext::remove_mapping(AddressSpace&) {
    // The mapping that goes still holds a reference of its own.
    if (mappings_.fetch_sub(1) == 1) home_.remove(*this);
}

SysResult<Ref<AioContext>> AioContexts::create(MemoryFile& memory, const AddressSpace& owner, uint32_t events) {
    constexpr uint64_t kRing = 4096;
    auto context = make_ref<AioContext>(*this, TRY(SharedMemory::create(memory, kRing)), &owner, events);
    std::lock_guard lock(mutex_);
    if (events_ + events > kMostEvents) return Errno(EAGAIN);
    events_ += events;
    contexts_.emplace(key_of(*context), context);
    return context;
}

Ref<AioContext> AioContexts::find(const void* object) {
    std::lock_guard lock(mutex_);
    auto found = contexts_.find(object);
    return found != contexts_.end() ? found->second : nullptr;
}

void AioContexts::remove(AioContext& context) {
    Ref<AioContext> dropped;
    std::lock_guard lock(mutex_);
    auto found = contexts_.find(key_of(context));
    if (found == contexts_.end()) return;
    events_ -= context.capacity;
    dropped = std::move(found->second);
    contexts_.erase(found);
}

uint64_t AioContexts::events() {
    std::lock_guard lock(mutex_);
    return events_;
}

AioContexts& aio_contexts() {
    static auto* const all = new AioContexts;  // never destroyed: mappings may last until the end
    return *all;
}

}  // namespace casemate::sentry
