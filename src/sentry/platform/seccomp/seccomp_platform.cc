#include "sentry/platform/seccomp/seccomp_platform.h"

namespace casemate::sentry::seccomp {
namespace {

constexpr size_t kPoolSize = 8;

class SeccompThread final : public AppThread {
  public:
    SeccompThread(StubProcess& stub, HostThread& thread) : stub_(stub), thread_(thread) {}
    ~SeccompThread() override {
        thread_.set_quick_calls(nullptr);
        stub_.park_thread(&thread_);
    }

    Stop resume() override { return thread_.resume(); }
    Stop complete_syscall(int64_t result) override { return thread_.complete_syscall(result); }
    Stop complete_and_stop(int64_t result) override { return thread_.complete_and_stop(result); }
    void go_on() override { thread_.go_on(); }
    void answer(int64_t result, WakeOn where) override { thread_.answer(result, where); }
    void answer_and_stop(int64_t result) override { thread_.answer_and_stop(result); }
    bool answer_stopped(int64_t result) override { return thread_.answer_stopped(result); }
    void take_parked() override { thread_.take_parked(); }
    Stop wait(std::optional<int64_t> deadline) override { return thread_.wait(deadline); }
    Registers& registers() override { return thread_.registers(); }
    std::span<std::byte> fp_state() override { return thread_.fp_state(); }
    void interrupt() override { thread_.interrupt(); }
    void set_quick_calls(QuickCalls* calls) override { thread_.set_quick_calls(calls); }
    void set_facts(std::span<const CallFact> facts) override { thread_.set_facts(facts); }
    StandingPlace place_for(const StandingAnswer& answer) override { return thread_.place_for(answer); }
    OfferPlace offer_place(const ReadOffer& offer) override { return thread_.offer_place(offer); }
    int host_thread_id() const override { return thread_.thread_id(); }

  private:
    StubProcess& stub_;
    HostThread& thread_;
};

}  // namespace

class SeccompAddressSpace final : public HostAddressSpace {
  public:
    SeccompAddressSpace(SeccompPlatform& platform, std::unique_ptr<StubProcess> stub)
        : platform_(platform), stub_(std::move(stub)) {}
    ~SeccompAddressSpace() override { platform_.recycle(std::move(stub_)); }

    SysResult<void> apply(std::span<const MapOrder> orders) override { return stub_->apply(orders); }
    SysResult<std::unique_ptr<AppThread>> create_thread() override {
        HostThread* thread = TRY(stub_->take_thread());
        return std::unique_ptr<AppThread>(std::make_unique<SeccompThread>(*stub_, *thread));
    }
    SysResult<size_t> read_memory(uint64_t address, std::span<std::byte> into) override {
        return stub_->transfer(false, address, into.data(), into.size());
    }
    SysResult<size_t> write_memory(uint64_t address, std::span<const std::byte> from) override {
        return stub_->transfer(true, address, const_cast<std::byte*>(from.data()), from.size());
    }
    std::optional<ThunkPlaces> recognise_call_site(const SyscallStop& call, uint64_t page_address,
                                                   std::span<const std::byte> page) override {
        const auto site = recognise_site(page, page_address, call.ip, call.nr);
        return site ? std::optional(places_for_thunk(*site)) : std::nullopt;
    }
    PatchOutcome patch_call_site(const SyscallStop& call, const SitePatch& patch) override {
        return stub_->sites().patch(call, patch);
    }
    void forget_thunks(uint64_t thunks_address) override { stub_->sites().forget(thunks_address); }
    uint64_t behind_planted_trap(uint64_t trap) override { return stub_->sites().behind_trap(trap); }
    void kill() override { stub_->kill(); }
    int host_process_id() const override { return stub_->pid(); }

  private:
    SeccompPlatform& platform_;
    std::unique_ptr<StubProcess> stub_;
};

SeccompPlatform::SeccompPlatform(ControlArea control, TemplateProcess template_process, const FrameLayout& layout)
    : layout_(layout), control_(std::move(control)), template_(std::move(template_process)) {}

SeccompPlatform::~SeccompPlatform() = default;

Result<std::unique_ptr<SeccompPlatform>> SeccompPlatform::create(int memory_file) {
    TRY(check_kernel());
    const FrameLayout layout = TRY(FrameLayout::probe());
    ControlArea control = TRY(ControlArea::create());
    TemplateProcess template_process = TRY(TemplateProcess::create(control, memory_file));
    return std::unique_ptr<SeccompPlatform>(
        new SeccompPlatform(std::move(control), std::move(template_process), layout));
}

SysResult<std::unique_ptr<StubProcess>> SeccompPlatform::spawn_locked() {
    const auto block = control_.allocate();
    if (!block) return Errno(EAGAIN);
    auto process = template_.spawn(control_, *block);
    if (process.ok()) {
        auto stub = StubProcess::create(std::move(*process), *block, control_.block(*block), layout_, poller_);
        if (stub.ok()) return stub;
        control_.release(*block);
        return stub.error();
    }
    control_.release(*block);
    return process.error();
}

SysResult<std::unique_ptr<HostAddressSpace>> SeccompPlatform::create_address_space() {
    std::lock_guard lock(mutex_);
    std::unique_ptr<StubProcess> stub;
    while (!stub && !pool_.empty()) {
        stub = std::move(pool_.back());
        pool_.pop_back();
        if (stub->is_dead()) {
            const uint32_t block = stub->block_index();
            stub.reset();
            control_.release(block);
        }
    }
    if (!stub) stub = TRY(spawn_locked());
    return std::unique_ptr<HostAddressSpace>(std::make_unique<SeccompAddressSpace>(*this, std::move(stub)));
}

SysResult<void> SeccompPlatform::prepare(size_t count) {
    std::lock_guard lock(mutex_);
    while (pool_.size() < count) {
        auto stub = TRY(spawn_locked());
        pool_.push_back(std::move(stub));
    }
    return {};
}

void SeccompPlatform::recycle(std::unique_ptr<StubProcess> stub) {
    CHECK(!stub->has_taken_threads());
    if (stub->clear()) {
        std::lock_guard lock(mutex_);
        if (pool_.size() < kPoolSize) {
            pool_.push_back(std::move(stub));
            return;
        }
    }
    const uint32_t block = stub->block_index();
    stub.reset();  // kills and reaps, outside the lock
    std::lock_guard lock(mutex_);
    control_.release(block);
}

}  // namespace casemate::sentry::seccomp
