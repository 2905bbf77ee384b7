#include "sentry/fs/sys/sysfs.h"

#include <fmt/core.h>
#include <linux/magic.h>

#include <map>

#include "sentry/kernel/kernel.h"

namespace casemate::sentry {
namespace {

// Directories on the way are made when a file is added.
class TreeBuilder {
  public:
    explicit TreeBuilder(Ref<SyntheticFileSystem> files)
        : files_(std::move(files)), root_(make_ref<SyntheticDirectory>(Ref<FileSystem>(files_), 0555u)) {}

    Ref<SyntheticDirectory> directory(const std::string& path) {
        if (path.empty()) return root_;
        auto it = made_.find(path);
        if (it != made_.end()) return it->second;
        size_t slash = path.rfind('/');
        auto parent = directory(slash == std::string::npos ? "" : path.substr(0, slash));
        auto fresh = make_ref<SyntheticDirectory>(Ref<FileSystem>(files_), 0755u);
        parent->add(slash == std::string::npos ? path : path.substr(slash + 1), Ref<Inode>(fresh));
        made_[path] = fresh;
        return fresh;
    }
    void file(const std::string& path, std::string text) {
        size_t slash = path.rfind('/');
        directory(path.substr(0, slash))
            ->add(path.substr(slash + 1),
                  Ref<Inode>(make_ref<TextFile>(
                      Ref<FileSystem>(files_), 0444u,
                      [text = std::move(text)](Task&) -> SysResult<std::string> { return text + "\n"; })));
    }
    Ref<SyntheticDirectory> root() { return root_; }

  private:
    Ref<SyntheticFileSystem> files_;
    Ref<SyntheticDirectory> root_;
    std::map<std::string, Ref<SyntheticDirectory>> made_;
};

}  // namespace

SysResult<Ref<FileSystem>> make_sysfs(Kernel& kernel, std::string_view options) {
    if (!options.empty()) return Errno(EINVAL);
    auto files = make_ref<SyntheticFileSystem>("sysfs", SYSFS_MAGIC);
    TreeBuilder tree(files);
    unsigned cpus = kernel.options().cpus;
    std::string all = cpus > 1 ? fmt::format("0-{}", cpus - 1) : "0";
    std::string mask = fmt::format("{:x}", cpus >= 64 ? ~uint64_t{0} : (uint64_t{1} << cpus) - 1);
    const std::string cpu = "devices/system/cpu/";
    for (const char* name : {"online", "possible", "present"}) tree.file(cpu + name, all);
    tree.file(cpu + "offline", "");
    tree.file(cpu + "isolated", "");
    tree.file(cpu + "kernel_max", "8191");
    tree.file(cpu + "smt/active", "0");
    tree.file(cpu + "smt/control", "notsupported");
    for (unsigned i = 0; i < cpus; i++) {
        std::string one = fmt::format("{}cpu{}/", cpu, i);
        std::string own = fmt::format("{:x}", uint64_t{1} << (i % 64));
        tree.file(one + "online", "1");
        tree.file(one + "topology/physical_package_id", "0");
        tree.file(one + "topology/core_id", std::to_string(i));
        tree.file(one + "topology/thread_siblings", own);
        tree.file(one + "topology/thread_siblings_list", std::to_string(i));
        tree.file(one + "topology/core_cpus_list", std::to_string(i));
        tree.file(one + "topology/core_siblings", mask);
        tree.file(one + "topology/core_siblings_list", all);
        tree.file(one + "topology/package_cpus_list", all);
        tree.directory(fmt::format("devices/system/node/node0/cpu{}", i));
    }
    for (const char* name : {"online", "possible", "has_cpu", "has_memory", "has_normal_memory"})
        tree.file(std::string("devices/system/node/") + name, "0");
    tree.file("devices/system/node/node0/cpulist", all);
    tree.file("devices/system/node/node0/cpumap", mask);
    tree.file("devices/system/node/node0/distance", "10");
    tree.file("kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
    tree.file("kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never");
    tree.file("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152");
    tree.file("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force");
    tree.file("kernel/profiling", "0");
    for (const char* name : {"fs/cgroup", "block", "bus", "class/net", "class/block", "class/mem", "class/tty",
                             "dev/block", "dev/char", "devices/virtual", "firmware", "module", "power", "hypervisor"})
        tree.directory(name);
    files->set_root(Ref<Inode>(tree.root()));
    return Ref<FileSystem>(std::move(files));
}

}  // namespace casemate::sentry
