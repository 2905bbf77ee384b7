// cgroups: paths and texts; v2's files on a directory that imitates them; both versions on this host's kernel.
#include "host/cgroup.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "host/cgroup_devices_bpf.h"
#include "host/cgroup_settings.h"
#include "host/cgroup_v2.h"
#include "host/oom_echo.h"
#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/path.h"
#include "linux/process.h"

namespace casemate::host {
namespace {

constexpr char kHybridMounts[] =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 /docker/abc /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

TEST(CgroupMounts, hybrid_uses_v1) {
    auto mounts = CgroupMounts::parse(
        kHybridMounts, "9:name=systemd:/\n4:memory:/docker/abc/own\n2:cpu,cpuacct:/a\n1:xattr:/\n0::/u\n");
    ASSERT_TRUE(mounts.ok());
    EXPECT_FALSE(mounts->unified());
    EXPECT_EQ(mounts->v1.find("memory")->second.mount_point, "/sys/fs/cgroup/mem ory");
    EXPECT_EQ(mounts->v1.find("memory")->second.own_path, "/own");
    EXPECT_EQ(mounts->v1.find("cpuacct")->second.own_path, "/a");
    EXPECT_TRUE(mounts->v1.contains("name=systemd"));
    EXPECT_EQ(mounts->v2.own_path, "/u");
}

TEST(CgroupMounts, a_named_hierarchy_alone_does_not_make_v1) {
    auto mounts = CgroupMounts::parse(
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "1:name=systemd:/\n0::/user.slice/x\n");
    ASSERT_TRUE(mounts.ok());
    EXPECT_TRUE(mounts->unified());
    EXPECT_EQ(mounts->v2.own_path, "/user.slice/x");
    EXPECT_FALSE(CgroupMounts::parse("", "").ok());
}

TEST(CgroupPath, is_cleaned_and_cannot_leave) {
    EXPECT_EQ(*clean_cgroup_path("/a/./b//c/"), "/a/b/c");
    EXPECT_EQ(*clean_cgroup_path("a/../b"), "b");
    EXPECT_EQ(*clean_cgroup_path("/"), "/");
    EXPECT_FALSE(clean_cgroup_path("/a/../../b").ok());
    EXPECT_FALSE(clean_cgroup_path("../b").ok());
}

TEST(CgroupValues, are_converted_as_runc_does) {
    EXPECT_EQ(cpu_weight_of_shares(0), 0u);
    EXPECT_EQ(cpu_weight_of_shares(2), 1u);
    EXPECT_EQ(cpu_weight_of_shares(1024), 100u);
    EXPECT_EQ(cpu_weight_of_shares(262144), 10000u);
    EXPECT_EQ(cpu_weight_of_shares(1), 1u);
    EXPECT_GT(cpu_weight_of_shares(2048), cpu_weight_of_shares(1024));
    EXPECT_EQ(io_weight_of_blkio_weight(10), 1u);
    EXPECT_EQ(io_weight_of_blkio_weight(1000), 10000u);
    EXPECT_EQ(*swap_max(300, 100), "200");
    EXPECT_EQ(*swap_max(-1, 100), "max");
    EXPECT_FALSE(swap_max(50, 100).ok());
    EXPECT_FALSE(swap_max(50, -1).ok());
    EXPECT_FALSE(swap_max(50, 0).ok());
}

TEST(CgroupStatsTexts, are_parsed) {
    auto flat = parse_flat_keyed("a 1\nb 18446744073709551615\nbad\nworse x\n");
    EXPECT_EQ(flat.size(), 2u);
    EXPECT_EQ(flat["b"], UINT64_MAX);
    EXPECT_EQ(parse_limit("max\n"), kNoLimit);
    EXPECT_EQ(parse_limit("9223372036854771712\n"), kNoLimit);
    EXPECT_EQ(parse_limit("4096\n"), 4096u);
    EXPECT_EQ(parse_limit(""), 0u);
    auto blkio = parse_blkio("8:0 Read 12\n8:0 Write 5\nTotal 17\n");
    ASSERT_EQ(blkio.size(), 2u);
    EXPECT_EQ(blkio[1].op, "Write");
    auto io = parse_io_stat("254:16 rbytes=1 wbytes=2\n7:0 \n");
    ASSERT_EQ(io.size(), 2u);
    EXPECT_EQ(io[1].minor, 16u);
    auto rdma = parse_rdma("mlx4_0 hca_handle=1 hca_object=max\n");
    ASSERT_EQ(rdma.size(), 1u);
    EXPECT_EQ(rdma[0].hca_objects, UINT32_MAX);
}

// --- v2 on an imitation ----------------------------------------------------------------------------------------------

class ImitatedV2 : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/casemate-cgroup-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        root_ = name;
        mounts_.v2.mount_point = root_;
        mounts_.v2.own_path = "/machine/runtime";
        // What the kernel would make with the directory.
        directory_ = root_ + "/machine/casemate-pod";
        MUST(linux::mkdir_p(directory_, 0755));
        put(root_ + "/cgroup.controllers", "cpu memory\n");
        put(root_ + "/cgroup.subtree_control", "");
        for (const char* file :
             {"memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle",
              "cpuset.cpus", "pids.max", "io.weight", "io.max", "memory.high"})
            put(directory_ + "/" + file, "");
        CgroupRequest request;
        request.id = "pod";
        cgroup_ = MUST(Cgroup::create(mounts_, request));
    }
    void TearDown() override { EXPECT_TRUE(linux::remove_tree(root_).ok()); }
    static void put(const std::string& path, const char* text) { MUST(linux::write_file_atomic(path, text, 0644)); }
    std::string file(const std::string& name) { return linux::read_file(directory_ + "/" + name).value_or("missing"); }

    std::string root_, directory_;
    CgroupMounts mounts_;
    std::unique_ptr<Cgroup> cgroup_;
};

TEST_F(ImitatedV2, resources_become_files) {
    EXPECT_EQ(cgroup_->record().paths.find("")->second, directory_);
    EXPECT_TRUE(cgroup_->record().unified());
    oci::Resources resources;
    resources.memory.limit = 1000;
    resources.memory.swap = 3000;
    resources.memory.reservation = -1;
    resources.cpu.shares = 1024;
    resources.cpu.quota = 5000;
    resources.cpu.period = 10000;
    resources.cpu.cpus = "0-1";
    resources.pids_limit = -1;
    resources.block_io.weight = 1000;
    resources.block_io.throttle_read_bps = {{8, 0, 77}};
    resources.unified = {{"memory.high", "900"}};
    auto applied = cgroup_->apply(resources);
    ASSERT_TRUE(applied.ok()) << applied.error().message();
    EXPECT_EQ(file("memory.max"), "1000");
    EXPECT_EQ(file("memory.swap.max"), "2000");
    EXPECT_EQ(file("memory.low"), "max");
    EXPECT_EQ(file("cpu.weight"), "100");
    EXPECT_EQ(file("cpu.max"), "5000 10000");
    EXPECT_EQ(file("cpuset.cpus"), "0-1");
    EXPECT_EQ(file("pids.max"), "max");
    EXPECT_EQ(file("io.weight"), "default 10000");
    EXPECT_EQ(file("io.max"), "8:0 rbps=77");
    EXPECT_EQ(file("memory.high"), "900");

    // The period alone keeps the quota.
    oci::Resources update;
    update.cpu.period = 20000;
    ASSERT_TRUE(cgroup_->apply(update).ok());
    EXPECT_TRUE(file("cpu.max").starts_with("5000 20000"));
}

TEST_F(ImitatedV2, what_v2_lacks_is_refused_by_name) {
    auto refused = [&](oci::Resources resources, const char* words) {
        auto applied = cgroup_->apply(resources);
        ASSERT_FALSE(applied.ok()) << words;
        EXPECT_NE(applied.error().message().find(words), std::string::npos) << applied.error().message();
    };
    oci::Resources r;
    r.memory.swappiness = 10;
    refused(r, "linux.resources.memory.swappiness cannot be honoured: cgroups v2");
    r = {};
    r.memory.disable_oom_killer = true;
    refused(r, "linux.resources.memory.disableOOMKiller");
    r = {};
    r.cpu.realtime_runtime = 1;
    refused(r, "linux.resources.cpu.realtimeRuntime");
    r = {};
    r.network.class_id = 1;
    refused(r, "linux.resources.network.classID");
    r = {};
    r.hugepage_limits = {{"2MB", 0}};
    refused(r, "linux.resources.hugepageLimits[0].limit needs hugetlb.2MB.max of the cgroup controller hugetlb");
    r = {};
    r.unified = {{"misc.max", "x"}};
    refused(r, "linux.resources.unified[\"misc.max\"]");
}

// --- the kernel ------------------------------------------------------------------------------------------------------

// A child that runs until it is killed.
class Sleeper {
  public:
    Sleeper() {
        pid_ = ::fork();
        if (pid_ == 0)
            for (;;) ::pause();
        pidfd_ = MUST(linux::pidfd_open(pid_));
    }
    ~Sleeper() { linux::kill_and_reap(pidfd_.get()); }
    pid_t pid() const { return pid_; }
    bool dead() const { return linux::pidfd_exited(pidfd_.get()); }

  private:
    pid_t pid_;
    UniqueFd pidfd_;
};

class RealV1 : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        mounts_ = MUST(CgroupMounts::discover());
        if (mounts_.v1.empty()) GTEST_SKIP() << "this host has no cgroups v1";
        CgroupRequest request;
        request.id = "test-" + std::to_string(::getpid());
        auto made = Cgroup::create(mounts_, request);
        ASSERT_TRUE(made.ok()) << made.error().message();
        cgroup_ = made.take_value();
    }
    void TearDown() override {
        if (!cgroup_) return;
        auto destroyed = cgroup_->destroy();
        EXPECT_TRUE(destroyed.ok()) << destroyed.error().message();
        EXPECT_FALSE(cgroup_->exists());
    }
    bool has(const char* controller) { return mounts_.v1.contains(controller); }
    std::string file(const char* controller, const char* name) {
        return CgroupSettings(cgroup_->record()).read(controller, name);
    }
    std::string apply_error(const oci::Resources& resources) {
        auto applied = cgroup_->apply(resources);
        return applied.ok() ? "" : applied.error().message();
    }

    CgroupMounts mounts_;
    std::unique_ptr<Cgroup> cgroup_;
};

TEST_F(RealV1, relative_paths_start_at_our_own_cgroup) {
    const CgroupHierarchy& memory = mounts_.v1.find("memory")->second;
    std::string own = memory.own_path == "/" ? "" : memory.own_path;
    EXPECT_EQ(cgroup_->record().paths.find("memory")->second,
              memory.mount_point + own + "/casemate-test-" + std::to_string(::getpid()));
}

TEST_F(RealV1, resources_reach_the_kernel_and_can_change) {
    oci::Resources resources;
    resources.memory.limit = 64 << 20;
    resources.memory.reservation = 32 << 20;
    resources.memory.swap = 128 << 20;
    resources.memory.swappiness = 7;
    resources.cpu.shares = 512;
    resources.cpu.quota = 50'000;
    resources.cpu.period = 200'000;
    resources.cpu.burst = 10'000;
    resources.cpu.cpus = "0";
    resources.cpu.mems = "0";
    resources.pids_limit = 33;
    EXPECT_EQ(apply_error(resources), "");
    EXPECT_EQ(file("memory", "memory.limit_in_bytes"), "67108864\n");
    EXPECT_EQ(file("memory", "memory.soft_limit_in_bytes"), "33554432\n");
    EXPECT_EQ(file("memory", "memory.memsw.limit_in_bytes"), "134217728\n");
    EXPECT_EQ(file("memory", "memory.swappiness"), "7\n");
    EXPECT_EQ(file("cpu", "cpu.shares"), "512\n");
    EXPECT_EQ(file("cpu", "cpu.cfs_quota_us"), "50000\n");
    EXPECT_EQ(file("cpu", "cpu.cfs_period_us"), "200000\n");
    EXPECT_EQ(file("cpu", "cpu.cfs_burst_us"), "10000\n");
    EXPECT_EQ(file("cpuset", "cpuset.cpus"), "0\n");
    EXPECT_EQ(file("pids", "pids.max"), "33\n");

    // Up past the old sum with swap, and down below the old limit: each needs another order of the writes.
    oci::Resources more;
    more.memory.limit = 256 << 20;
    more.memory.swap = 512 << 20;
    EXPECT_EQ(apply_error(more), "");
    oci::Resources less;
    less.memory.limit = 16 << 20;
    less.memory.swap = 16 << 20;
    EXPECT_EQ(apply_error(less), "");
    EXPECT_EQ(file("memory", "memory.memsw.limit_in_bytes"), "16777216\n");
    oci::Resources none;
    none.memory.limit = -1;
    EXPECT_EQ(apply_error(none), "");
    EXPECT_EQ(parse_limit(file("memory", "memory.limit_in_bytes")), kNoLimit);
    EXPECT_EQ(parse_limit(file("memory", "memory.memsw.limit_in_bytes")), kNoLimit);
}

TEST_F(RealV1, errors_name_field_and_controller) {
    oci::Resources resources;
    resources.cpu.shares = 300'000;
    EXPECT_NE(apply_error(resources).find("linux.resources.cpu.shares is 300000, but the kernel's maximum is 262144"),
              std::string::npos);
    resources = {};
    resources.cpu.period = 5;
    EXPECT_NE(apply_error(resources).find("linux.resources.cpu.period: writing \"5\""), std::string::npos);
    resources = {};
    resources.unified = {{"memory.max", "1"}};
    EXPECT_NE(apply_error(resources).find("linux.resources.unified cannot be honoured"), std::string::npos);
    if (!has("hugetlb")) {
        resources = {};
        resources.hugepage_limits = {{"2MB", 0}};
        EXPECT_NE(
            apply_error(resources).find("linux.resources.hugepageLimits[0].limit needs the cgroup controller hugetlb"),
            std::string::npos);
    }
}

TEST_F(RealV1, statistics_count_what_runs_inside) {
    // A child that enters first and touches memory then.
    linux::Pipe pipe = MUST(linux::create_pipe());
    auto files = cgroup_->procs_files();
    pid_t child = ::fork();
    if (child == 0) {
        for (const std::string& path : files) MUST(linux::write_existing(path, "0"));
        size_t size = 20 << 20;
        void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(memory, 1, size);
        (void)!::write(pipe.write_end.get(), "x", 1);
        for (;;) ::pause();
    }
    UniqueFd pidfd = MUST(linux::pidfd_open(child));
    char c;
    ASSERT_EQ(::read(pipe.read_end.get(), &c, 1), 1);
    auto stats = cgroup_->stats();
    ASSERT_TRUE(stats.ok());
    ASSERT_TRUE(stats->memory.has_value());
    EXPECT_GE(stats->memory->memory.usage, 20u << 20);
    EXPECT_GE(stats->memory->memory.max_usage, stats->memory->memory.usage);
    EXPECT_EQ(stats->memory->memory.limit, kNoLimit);
    EXPECT_GE(stats->memory->stat["rss"], 20u << 20);
    ASSERT_TRUE(stats->cpu.has_value());
    EXPECT_GT(stats->cpu->usage_ns, 0u);
    ASSERT_TRUE(stats->pids.has_value());
    EXPECT_EQ(stats->pids->current, 1u);
    EXPECT_EQ(MUST(cgroup_->processes()), std::vector<pid_t>{child});
    linux::kill_and_reap(pidfd.get());
}

TEST_F(RealV1, freezes_thaws_and_kills) {
    Sleeper one, two;
    ASSERT_TRUE(cgroup_->add_process(one.pid()).ok());
    ASSERT_TRUE(cgroup_->add_process(two.pid()).ok());
    EXPECT_FALSE(MUST(cgroup_->is_frozen()));
    auto frozen = cgroup_->freeze();
    ASSERT_TRUE(frozen.ok()) << frozen.error().message();
    EXPECT_TRUE(MUST(cgroup_->is_frozen()));
    ASSERT_TRUE(cgroup_->thaw().ok());
    EXPECT_FALSE(MUST(cgroup_->is_frozen()));
    ASSERT_TRUE(cgroup_->freeze().ok());
    // Also from the frozen state. Zombies count as gone.
    std::unique_ptr<Cgroup> opened = Cgroup::open(cgroup_->record());
    auto killed = opened->kill_all();
    ASSERT_TRUE(killed.ok()) << killed.error().message();
    EXPECT_TRUE(one.dead());
    EXPECT_TRUE(two.dead());
}

TEST_F(RealV1, tells_of_oom) {
    oci::Resources resources;
    resources.memory.limit = 8 << 20;
    resources.memory.swap = 8 << 20;
    ASSERT_EQ(apply_error(resources), "");
    auto watch = cgroup_->watch_oom();
    ASSERT_TRUE(watch.ok()) << watch.error().message();
    EXPECT_EQ(watch->drain(), 0u);
    auto files = cgroup_->procs_files();
    pid_t child = ::fork();
    if (child == 0) {
        for (const std::string& path : files) MUST(linux::write_existing(path, "0"));
        size_t size = 64 << 20;
        void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(memory, 1, size);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    pollfd poll = {watch->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&poll, 1, 5000), 1);
    EXPECT_GE(watch->drain(), 1u);
    EXPECT_GE(MUST(cgroup_->stats()).memory->events["oom_kill"], 1u);
}

TEST_F(RealV1, echoes_an_oom_kill_and_spares_who_lives_there) {
    oci::Resources resources;
    resources.memory.limit = 512 << 20;
    ASSERT_EQ(apply_error(resources), "");
    auto watch = MUST(cgroup_->watch_oom());
    pid_t bystander = ::fork();
    if (bystander == 0)
        while (true) ::pause();
    MUST(cgroup_->add_process(bystander));
    auto done = echo_oom(*cgroup_);
    EXPECT_TRUE(done.ok()) << done.error().message();
    pollfd poll = {watch.fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&poll, 1, 5000), 1);
    EXPECT_EQ(MUST(cgroup_->stats()).memory->events["oom_kill"], 1u);
    EXPECT_EQ(file("memory", "memory.limit_in_bytes"), "536870912\n");
    EXPECT_EQ(::waitpid(bystander, nullptr, WNOHANG), 0);
    ::kill(bystander, SIGKILL);
    EXPECT_EQ(::waitpid(bystander, nullptr, 0), bystander);
}

// Whether a process in the cgroup may open /dev/zero for reading and writing.
std::string zero_access(Cgroup& cgroup) {
    linux::Pipe pipe = MUST(linux::create_pipe());
    auto files = cgroup.procs_files();
    pid_t child = ::fork();
    if (child == 0) {
        for (const std::string& path : files) MUST(linux::write_existing(path, "0"));
        std::string answer;
        for (int mode : {O_RDONLY, O_WRONLY, O_RDWR}) answer += ::open("/dev/zero", mode) >= 0 ? 'y' : 'n';
        answer += ::open("/dev/null", O_RDWR) >= 0 ? 'y' : 'n';
        (void)!::write(pipe.write_end.get(), answer.data(), answer.size());
        ::_exit(0);
    }
    pipe.write_end.reset();
    std::string answer = MUST(linux::read_fd(pipe.read_end.get()));
    ::waitpid(child, nullptr, 0);
    return answer;
}

oci::DeviceRule rule(bool allow, char type, std::optional<uint32_t> major, std::optional<uint32_t> minor,
                     const char* access) {
    oci::DeviceRule rule;
    rule.allow = allow;
    rule.type = type;
    rule.major = major;
    rule.minor = minor;
    rule.access = access;
    return rule;
}

// Expected the same of both versions: /dev/zero is 1:5, /dev/null 1:3.
void check_devices(Cgroup& cgroup) {
    auto apply = [&](std::vector<oci::DeviceRule> rules) {
        oci::Resources resources;
        resources.devices = std::move(rules);
        auto applied = cgroup.apply(resources);
        EXPECT_TRUE(applied.ok()) << applied.error().message();
        return zero_access(cgroup);
    };
    EXPECT_EQ(apply({rule(false, 'a', {}, {}, "rwm")}), "nnnn");
    EXPECT_EQ(apply({rule(false, 'a', {}, {}, "rwm"), rule(true, 'c', 1, 3, "rwm")}), "nnny");
    EXPECT_EQ(apply({rule(false, 'a', {}, {}, "rwm"), rule(true, 'c', 1, {}, "r")}), "ynnn");
    EXPECT_EQ(apply({rule(false, 'a', {}, {}, "rwm"), rule(true, 'c', 1, {}, "r"), rule(true, 'c', 1, {}, "w")}),
              "yyyy");
    EXPECT_EQ(apply({rule(false, 'a', {}, {}, "rwm"), rule(true, 'b', 1, 5, "rwm")}), "nnnn");
    EXPECT_EQ(apply({rule(true, 'a', {}, {}, "rwm")}), "yyyy");
    EXPECT_EQ(apply({rule(true, 'a', {}, {}, "rwm"), rule(false, 'c', 1, 5, "w")}), "ynny");
    EXPECT_EQ(apply({rule(true, 'a', {}, {}, "rwm"), rule(false, 'a', 1, 5, "rw")}), "nnny");
}

TEST_F(RealV1, devices_follow_the_rules) {
    if (!has("devices")) GTEST_SKIP() << "no devices controller";
    check_devices(*cgroup_);
}

TEST_F(RealV1, destroy_says_who_is_in_the_way_and_removes_what_is_below) {
    Sleeper sleeper;
    ASSERT_EQ(::mkdir((cgroup_->record().paths.find("pids")->second + "/below").c_str(), 0755), 0);
    ASSERT_TRUE(cgroup_->add_process(sleeper.pid()).ok());
    auto destroyed = cgroup_->destroy(std::chrono::milliseconds(30));
    ASSERT_FALSE(destroyed.ok());
    EXPECT_NE(destroyed.error().message().find("process " + std::to_string(sleeper.pid())), std::string::npos)
        << destroyed.error().message();
    ASSERT_TRUE(cgroup_->kill_all().ok());
}

TEST_F(RealV1, systemd_driver_without_systemd_is_refused) {
    CgroupRequest request;
    request.id = "x";
    request.driver = CgroupDriver::kSystemd;
    request.first_process = ::getpid();
    request.path = "a.slice:p:x";
    if (linux::path_exists("/run/systemd/system")) GTEST_SKIP() << "systemd runs here";
    auto made = Cgroup::create(mounts_, request);
    ASSERT_FALSE(made.ok());
    EXPECT_NE(made.error().message().find("systemd is not running on this host"), std::string::npos);
    request.path = "no-colons";
    EXPECT_NE(Cgroup::create(mounts_, request).error().message().find("slice:prefix:name"), std::string::npos);
}

// The v2 hierarchy, also one without controllers: freezing, killing and devices need none.
class RealV2 : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        mounts_ = MUST(CgroupMounts::discover());
        if (mounts_.v2.mount_point.empty()) GTEST_SKIP() << "this host has no cgroups v2";
        mounts_.v1.clear();
        CgroupRequest request;
        request.path = "/casemate-test-" + std::to_string(::getpid()) + "/inner";
        auto made = Cgroup::create(mounts_, request);
        ASSERT_TRUE(made.ok()) << made.error().message();
        cgroup_ = made.take_value();
    }
    void TearDown() override {
        if (!cgroup_) return;
        EXPECT_TRUE(cgroup_->destroy().ok());
        std::string directory = cgroup_->record().paths.begin()->second;
        EXPECT_EQ(::rmdir(directory.substr(0, directory.rfind('/')).c_str()), 0);
    }
    CgroupMounts mounts_;
    std::unique_ptr<Cgroup> cgroup_;
};

TEST_F(RealV2, freezes_thaws_and_kills) {
    Sleeper sleeper;
    ASSERT_TRUE(cgroup_->add_process(sleeper.pid()).ok());
    auto frozen = cgroup_->freeze();
    ASSERT_TRUE(frozen.ok()) << frozen.error().message();
    EXPECT_TRUE(MUST(cgroup_->is_frozen()));
    EXPECT_TRUE(cgroup_->thaw().ok());
    ASSERT_TRUE(cgroup_->freeze().ok());
    ASSERT_TRUE(cgroup_->kill_all().ok());
    EXPECT_TRUE(sleeper.dead());
    EXPECT_TRUE(MUST(cgroup_->stats()).cpu.has_value());
}

TEST_F(RealV2, devices_follow_the_rules) { check_devices(*cgroup_); }

TEST_F(RealV2, a_missing_controller_is_named) {
    if (mounts_.controller_names().find("memory") != std::string::npos) GTEST_SKIP() << "the memory controller is here";
    oci::Resources resources;
    resources.memory.limit = 1 << 20;
    auto applied = cgroup_->apply(resources);
    ASSERT_FALSE(applied.ok());
    EXPECT_NE(
        applied.error().message().find("linux.resources.memory.limit needs memory.max of the cgroup controller memory"),
        std::string::npos)
        << applied.error().message();
}

}  // namespace
}  // namespace casemate::host
