// TaskFixture: a task of a kernel without a host process behind it, to call syscall handlers in unit tests. What it
// maps lies in the memory file, so copies work; nothing runs in it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <string>

#include "base/checked.h"
#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task_clone.h"
#include "sentry/kernel/task_set.h"
#include "sentry/mm/guarded_copy.h"
#include "sentry/platform/empty_platform.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

class TaskFixture : public testing::Test {
  protected:
    // `root`: what "/" is; null: a fresh tmpfs.
    void boot(Ref<FileSystem> root = nullptr) {
        install_fault_guard();
        memory_ = MUST(MemoryFile::create(UniqueFd(::memfd_create("test", MFD_CLOEXEC)), 0));
        kernel_ = std::make_unique<Kernel>(platform_, *memory_, KernelOptions());
        kernel_->set_anonymous_files(make_ref<AnonymousFiles>());
        if (!root) root = TmpfsFileSystem::create(*memory_, TmpfsOptions{.mode = 0755});
        Ref<Mount> mount = MUST(Mount::create(std::move(root), 0, "root", ""));
        mounts_ = MountNamespace::create(mount);
        task_ = spawn(mounts_->root());
    }
    // Tests that need the fixture's memory for their root call these two instead.
    void boot_memory() {
        install_fault_guard();
        memory_ = MUST(MemoryFile::create(UniqueFd(::memfd_create("test", MFD_CLOEXEC)), 0));
        kernel_ = std::make_unique<Kernel>(platform_, *memory_, KernelOptions());
        kernel_->set_anonymous_files(make_ref<AnonymousFiles>());
    }
    void boot_root(Ref<FileSystem> root) {
        mounts_ = MountNamespace::create(MUST(Mount::create(std::move(root), 0, "root", "")));
        task_ = spawn(mounts_->root());
    }

    Ref<Task> spawn(const Path& root) {
        SpawnRequest request;
        if (!container_) container_ = make_ref<Container>("test");
        request.container = container_;
        request.pid_namespace = kernel_->tasks().root_space;
        request.namespaces = make_ref<Namespaces>();
        request.namespaces->mount = mounts_;
        request.namespaces->pid_for_children = kernel_->tasks().root_space;
        request.fs = make_ref<FsContext>(root, root, 022);
        request.files = make_ref<FdTable>();
        request.credentials = make_ref<Credentials>();
        request.credentials->permitted = request.credentials->effective = kAllCapabilities;
        request.credentials->user_namespace = Ref<UserNamespace>(&kernel_->user_namespace());
        request.new_init = kernel_->tasks().root_space->init == nullptr;
        Ref<Task> task = MUST(TaskBuilder::create_process(*kernel_, request));
        task->memory_ = MUST(AddressSpace::create(platform_, *memory_));
        task->app_ = std::make_unique<EmptyThread>();
        return task;
    }
    void TearDown() override {
        if (task_) TaskBuilder::discard_process(*task_);
        task_.reset();
        mounts_.reset();
        kernel_.reset();
    }

    // A syscall: its value or -errno.
    template <typename... Args>
    int64_t call(uint64_t number, Args... args) {
        SyscallArgs packed;
        packed.nr = number;
        uint64_t values[] = {to_argument(args)..., 0};
        for (size_t i = 0; i < sizeof...(args); ++i) packed.a[i] = values[i];
        const SyscallRow* row = find_syscall(number);
        if (row == nullptr || row->handler == nullptr) return -ENOSYS;
        auto result = row->handler(*task_, packed);
        return result.ok() ? *result : -result.error().value;
    }
    template <typename T>
    uint64_t to_argument(T value) {
        if constexpr (std::is_convertible_v<T, std::string_view>)
            return put(std::string(value));
        else
            return static_cast<uint64_t>(static_cast<int64_t>(value));
    }

    // Application memory that holds `text` with a NUL; lives until the test ends.
    GuestAddr put(const std::string& text) {
        GuestAddr at = room(text.size() + 1);
        MUST(task_->memory().copy_out(at, text.c_str(), text.size() + 1));
        return at;
    }
    GuestAddr room(size_t size) {
        if (arena_ == 0 || used_ + size > kArena) {
            MapRequest request;
            request.size = std::max<uint64_t>(kArena, page_up(size));
            request.protection = PROT_READ | PROT_WRITE;
            arena_ = MUST(task_->memory().map(request));
            used_ = 0;
        }
        GuestAddr at = arena_ + used_;
        used_ += (size + 15) & ~size_t{15};
        return at;
    }
    std::string take(GuestAddr from, size_t size) {
        std::string text(size, '\0');
        MUST(task_->memory().copy_in(from, text.data(), size));
        return text;
    }

    // What the task's application is told about a descriptor without a stop.
    std::optional<int64_t> standing(int fd) { return static_cast<EmptyThread&>(task_->app()).standing(fd); }

    static constexpr size_t kArena = 1 << 20;
    EmptyPlatform platform_;
    std::unique_ptr<MemoryFile> memory_;
    std::unique_ptr<Kernel> kernel_;
    Ref<MountNamespace> mounts_;
    Ref<Container> container_;
    Ref<Task> task_;
    GuestAddr arena_ = 0;
    size_t used_ = 0;
};

}  // namespace casemate::sentry
