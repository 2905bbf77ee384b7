// A pod for tests: the whole sentry in the test's process, with a tmpfs as root into which host files are copied.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/fs/host_stream.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task_clone.h"
#include "sentry/kernel/task_set.h"
#include "sentry/net/network.h"
#include "sentry/platform/empty_platform.h"
#include "sentry/platform/seccomp/seccomp_platform.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

class TestPod final : public ProcessObserver {
  public:
    // Without applications: no host process is made, for tasks that call the kernel's own code only. Under a sanitizer
    // the platform's template process cannot be made: it moves into a small address space of its own.
    enum class Applications { kRun, kNone };

    explicit TestPod(Applications applications = Applications::kRun) {
        UniqueFd file(::memfd_create("pod", MFD_CLOEXEC));
        int fd = file.get();
        if (applications == Applications::kRun)
            platform_ = MUST(seccomp::SeccompPlatform::create(fd));
        else
            platform_ = std::make_unique<EmptyPlatform>();
        memory_ = MUST(MemoryFile::create(std::move(file), 0));
        KernelOptions options;
        options.cpus = 2;
        options.trace = ::getenv("TRACE") != nullptr;
        kernel_ = std::make_unique<Kernel>(*platform_, *memory_, options);
        kernel_->set_anonymous_files(make_ref<AnonymousFiles>());
        poller_ = MUST(HostPoller::create());
        auto files = TmpfsFileSystem::create(*memory_, TmpfsOptions{.mode = 0755});
        auto root = make_ref<Mount>(files, Dentry::create_root(MUST(files->root())), 0, "root", "");
        namespaces_ = make_ref<Namespaces>();
        namespaces_->mount = MountNamespace::create(root);
        namespaces_->uts = make_ref<UtsNamespace>("pod", "(none)");
        namespaces_->ipc = make_ref<IpcNamespace>();
        namespaces_->network = make_pod_network();
        namespaces_->cgroup = make_ref<CgroupNamespace>();
        namespaces_->time = make_ref<TimeNamespace>();
        namespaces_->pid_for_children = kernel_->tasks().root_space;
        container_ = make_ref<Container>("test");
    }
    ~TestPod() {
        kernel_->tasks().kill_all(*container_, SIGKILL);
        kernel_->tasks().wait_until_gone(nullptr);
    }

    Kernel& kernel() { return *kernel_; }

    // A process without a program, whose task may be used to prepare files.
    Ref<Task> create_process(const std::vector<int>& descriptors) {
        SpawnRequest request;
        request.container = container_;
        request.pid_namespace = kernel_->tasks().root_space;
        request.namespaces = namespaces_;
        Path root = namespaces_->mount->root();
        request.fs = make_ref<FsContext>(root, root, 022);
        request.files = make_ref<FdTable>();
        auto credentials = make_ref<Credentials>();
        credentials->permitted = credentials->effective = kAllCapabilities;
        credentials->user_namespace = Ref<UserNamespace>(&kernel_->user_namespace());
        request.credentials = credentials;
        request.observer = this;
        request.new_init = kernel_->tasks().root_space->init == nullptr;
        int flags[] = {O_RDONLY, O_WRONLY, O_WRONLY};
        for (size_t i = 0; i < descriptors.size(); ++i) {
            auto stream =
                MUST(HostStream::create(*poller_, UniqueFd(::dup(descriptors[i])), Path(), flags[i % 3], "pipe:[1]"));
            MUST(request.files->insert(stream, false, 1024));
        }
        ended_ = false;
        return MUST(TaskBuilder::create_process(*kernel_, std::move(request)));
    }

    void copy_in(Task& task, const std::string& host_path, const std::string& path) {
        for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
            static_cast<void>(make_directory(task, AT_FDCWD, path.substr(0, slash), 0755));
        UniqueFd from(::open(host_path.c_str(), O_RDONLY | O_CLOEXEC));
        CHECK(from.get() >= 0);
        Ref<File> to = MUST(open(task, AT_FDCWD, path, O_WRONLY | O_CREAT, 0755));
        std::vector<char> buffer(1 << 20);
        while (true) {
            ssize_t got = ::read(from.get(), buffer.data(), buffer.size());
            if (got <= 0) break;
            IoBuffer io = IoBuffer::kernel(buffer.data(), static_cast<size_t>(got));
            while (io.remaining() != 0) MUST(to->write(task, io));
        }
    }

    SysResult<void> start(Task& task, const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment = {}) {
        LoadRequest request;
        request.path = arguments[0];
        request.file = TRY(open_executable(task, AT_FDCWD, arguments[0], 0));
        for (const std::string& one : arguments) request.arguments.append(one);
        for (const std::string& one : environment) request.environment.append(one);
        TRY(TaskBuilder::load_program(task, std::move(request)));
        return TaskBuilder::start_process(task);
    }

    int wait() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ended_; });
        return status_;
    }

    void process_ended(Process&, int wait_status) override {
        std::lock_guard lock(mutex_);
        status_ = wait_status;
        ended_ = true;
        changed_.notify_all();
    }

  private:
    std::unique_ptr<Platform> platform_;
    std::unique_ptr<MemoryFile> memory_;
    std::unique_ptr<Kernel> kernel_;
    std::unique_ptr<HostPoller> poller_;
    Ref<Namespaces> namespaces_;
    Ref<Container> container_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool ended_ = false;
    int status_ = 0;
};

}  // namespace casemate::sentry
