#include "host/systemd_scope.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>

#include "host/dbus.h"
#include "linux/path.h"

namespace casemate::host {

namespace {

constexpr char kDestination[] = "org.freedesktop.systemd1";
constexpr char kPath[] = "/org/freedesktop/systemd1";
constexpr char kManager[] = "org.freedesktop.systemd1.Manager";

// Root's and a user's private sockets need no message bus; the bus is the other way.
Result<DbusConnection> connect_manager(bool user) {
    std::string runtime, bus;
    if (user) {
        const char* directory = std::getenv("XDG_RUNTIME_DIR");
        if (directory == nullptr)
            return Error("the systemd cgroup driver needs XDG_RUNTIME_DIR to find the user's systemd", ENOENT);
        runtime = directory;
        bus = runtime + "/bus";
    } else {
        if (!systemd_is_running())
            return Error(
                "the systemd cgroup driver was asked for, but systemd is not running on this host (no "
                "/run/systemd/system); "
                "use the cgroupfs driver",
                ENOTSUP);
        runtime = "/run";
        bus = "/run/dbus/system_bus_socket";
    }
    auto direct = DbusConnection::connect(runtime + "/systemd/private", false);
    if (direct.ok()) return direct;
    auto connection = DbusConnection::connect(bus, true);
    if (!connection.ok()) return connection.take_error().with_context("the systemd cgroup driver");
    DbusWriter match;
    match.string(fmt::format("type='signal',sender='{}',interface='{}',member='JobRemoved'", kDestination, kManager));
    TRY(connection->call("org.freedesktop.DBus", kPath, "org.freedesktop.DBus", "AddMatch", "s", match.bytes()));
    TRY(connection->call(kDestination, kPath, kManager, "Subscribe", "", ""));
    return connection;
}

Result<DbusMessage> call_manager(DbusConnection& connection, const char* member, const char* signature,
                                 const DbusWriter& body) {
    return connection.call(kDestination, kPath, kManager, member, signature, body.bytes());
}

// Waits until systemd is done with the job that `reply` names.
Result<void> wait_job(DbusConnection& connection, const DbusMessage& reply, const std::string& unit) {
    std::string job = TRY(DbusReader(reply.body).string());
    while (true) {
        DbusMessage signal = TRY(connection.wait_signal("JobRemoved"));
        DbusReader reader(signal.body);
        TRY(reader.u32());
        std::string removed = TRY(reader.string());
        TRY(reader.string());
        std::string result = TRY(reader.string());
        if (removed != job) continue;
        if (result == "done") return {};
        return Error(fmt::format("systemd's job for {} ended with \"{}\"", unit, result), EIO);
    }
}

std::string manager_cgroup(DbusConnection& connection) {
    DbusWriter body;
    body.string(kManager);
    body.string("ControlGroup");
    auto reply = connection.call(kDestination, kPath, "org.freedesktop.DBus.Properties", "Get", "ss", body.bytes());
    if (!reply.ok()) return "";
    DbusReader reader(reply->body);
    auto type = reader.signature();
    auto value = type.ok() && *type == "s" ? reader.string() : Result<std::string>(std::string());
    std::string path = value.ok() ? *value : "";
    // The manager itself sits in init.scope below its cgroup.
    if (path.ends_with("/init.scope")) path.resize(path.size() - 11);
    return path == "/" ? "" : path;
}

}  // namespace

bool systemd_is_running() { return linux::path_exists("/run/systemd/system"); }

Result<std::string> expand_slice(const std::string& slice) {
    constexpr std::string_view kSuffix = ".slice";
    auto bad = [&] {
        return Error(fmt::format("linux.cgroupsPath names the slice \"{}\", must be like \"a-b.slice\"", slice),
                     EINVAL);
    };
    if (!slice.ends_with(kSuffix) || slice.size() == kSuffix.size() || slice.find('/') != std::string::npos)
        return bad();
    std::string name = slice.substr(0, slice.size() - kSuffix.size());
    if (name == "-") return std::string();
    std::string path;
    for (size_t at = 0;; at++) {
        size_t dash = name.find('-', at);
        if (dash == at || at == name.size()) return bad();  // an empty part
        path += "/" + name.substr(0, dash) + std::string(kSuffix);
        if (dash == std::string::npos) return path;
        at = dash;
    }
}

Result<SystemdScope> SystemdScope::parse(const std::string& cgroups_path, const std::string& id, bool user) {
    SystemdScope scope;
    scope.user_ = user;
    std::string prefix = "casemate", name = id;
    if (!cgroups_path.empty()) {
        size_t first = cgroups_path.find(':');
        size_t second = first == std::string::npos ? first : cgroups_path.find(':', first + 1);
        if (second == std::string::npos || cgroups_path.find(':', second + 1) != std::string::npos)
            return Error(
                fmt::format("linux.cgroupsPath is \"{}\", must be \"slice:prefix:name\" with the systemd cgroup driver",
                            cgroups_path),
                EINVAL);
        scope.slice_ = cgroups_path.substr(0, first);
        prefix = cgroups_path.substr(first + 1, second - first - 1);
        name = cgroups_path.substr(second + 1);
    }
    if (scope.slice_.empty()) scope.slice_ = user ? "user.slice" : "system.slice";
    TRY(expand_slice(scope.slice_));
    if (name.ends_with(".slice"))
        return Error(
            "linux.cgroupsPath names a slice as the container's own unit, which is not supported; name a scope",
            ENOTSUP);
    scope.unit_ = (prefix.empty() ? "" : prefix + "-") + name + ".scope";
    if (name.empty() || scope.unit_.size() > 255 || scope.unit_.find('/') != std::string::npos)
        return Error(fmt::format("linux.cgroupsPath names the unit \"{}\", which systemd does not allow", scope.unit_),
                     EINVAL);
    return scope;
}

Result<std::string> SystemdScope::start(const CgroupMounts& mounts, pid_t first_process) const {
    if (user_ && !mounts.unified())
        return Error("the systemd cgroup driver without root needs cgroups v2; this host's controllers are v1",
                     ENOTSUP);
    if (first_process <= 0) return Error("a systemd scope needs a process to start with", EINVAL);
    DbusConnection connection = TRY(connect_manager(user_));
    DbusWriter body;
    body.string(unit_);
    body.string("replace");
    size_t properties = body.begin_array(8);
    auto text = [&](const char* name, const std::string& value) {
        body.begin_struct();
        body.string(name);
        body.variant("s");
        body.string(value);
    };
    auto flag = [&](const char* name, bool value) {
        body.begin_struct();
        body.string(name);
        body.variant("b");
        body.boolean(value);
    };
    text("Description", "casemate sandbox " + unit_);
    text("Slice", slice_);
    flag("Delegate", true);  // systemd leaves our settings alone
    flag("DefaultDependencies", false);
    flag("MemoryAccounting", true);
    flag("CPUAccounting", true);
    flag("IOAccounting", true);
    flag("TasksAccounting", true);
    body.begin_struct();
    body.string("PIDs");
    body.variant("au");
    size_t pids = body.begin_array(4);
    body.u32(static_cast<uint32_t>(first_process));
    body.end_array(pids);
    body.end_array(properties);
    size_t auxiliary = body.begin_array(8);
    body.end_array(auxiliary);
    auto reply = call_manager(connection, "StartTransientUnit", "ssa(sv)a(sa(sv))", body);
    if (!reply.ok()) return reply.take_error().with_context("systemd does not make " + unit_);
    TRY(wait_job(connection, *reply, unit_));
    std::string root = user_ ? manager_cgroup(connection) : "";
    std::string path = TRY(expand_slice(slice_));
    return root + path + "/" + unit_;
}

Result<void> SystemdScope::set_limits(const std::string& unit, bool user, const SystemdProperties& limits) {
    DbusConnection connection = TRY(connect_manager(user));
    DbusWriter body;
    body.string(unit);
    body.boolean(true);  // until the next start of the machine, and no longer than the unit
    size_t properties = body.begin_array(8);
    for (const auto& [name, value] : limits.numbers) {
        body.begin_struct();
        body.string(name);
        body.variant("t");
        body.u64(value);
    }
    for (const auto& [name, mask] : limits.masks) {
        body.begin_struct();
        body.string(name);
        body.variant("ay");
        size_t bytes = body.begin_array(1);
        for (char byte : mask) body.byte(static_cast<uint8_t>(byte));
        body.end_array(bytes);
    }
    body.end_array(properties);
    auto reply = call_manager(connection, "SetUnitProperties", "sba(sv)", body);
    if (!reply.ok()) return reply.take_error().with_context("systemd does not take the limits of " + unit);
    return {};
}

Result<void> SystemdScope::stop(const std::string& unit, bool user) {
    DbusConnection connection = TRY(connect_manager(user));
    DbusWriter body;
    body.string(unit);
    body.string("replace");
    auto reply = call_manager(connection, "StopUnit", "ss", body);
    DbusWriter name;
    name.string(unit);
    if (reply.ok()) {
        TRY(wait_job(connection, *reply, unit));
    } else if (!reply.error().message().starts_with("org.freedesktop.systemd1.NoSuchUnit")) {
        return reply.take_error().with_context("systemd does not stop " + unit);
    }
    // A failed unit would stay listed; not failed is an error that means nothing here.
    (void)call_manager(connection, "ResetFailedUnit", "s", name);
    return {};
}

}  // namespace casemate::host
