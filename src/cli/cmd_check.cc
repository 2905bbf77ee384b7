// check: what this host offers, and which engine `auto` takes.
#include <fmt/format.h>

#include "cli/commands.h"
#include "host/check.h"
#include "linux/file.h"
#include "linux/path.h"
#include "sandbox/engine.h"
#include "sandbox/launch.h"

namespace casemate::cli {

namespace {

using host::CheckStatus;
using host::HostCheck;

std::string json_quote(std::string_view text) {
    std::string out = "\"";
    for (unsigned char c : text) {
        if (c == '"' || c == '\\')
            out += {'\\', static_cast<char>(c)};
        else if (c < 0x20)
            out += fmt::format("\\u{:04x}", c);
        else
            out += static_cast<char>(c);
    }
    return out + "\"";
}

const char* status_name(CheckStatus status) {
    switch (status) {
        case CheckStatus::kOk:
            return "ok";
        case CheckStatus::kWarning:
            return "warning";
        case CheckStatus::kMissing:
            break;
    }
    return "missing";
}

// The programs that a sandbox is made of.
HostCheck check_helpers(const sandbox::Config& config) {
    std::string folder = config.libexec.empty() ? sandbox::own_folder() : config.libexec;
    HostCheck check{"helpers", "helper programs", CheckStatus::kOk, folder, ""};
    for (const char* name : {"casemate-sentry", "casemate-files", "casemate-anchor"}) {
        if (linux::path_exists(folder + "/" + name)) continue;
        check.status = CheckStatus::kMissing;
        check.found = fmt::format("{}/{} is not there", folder, name);
        check.remedy = "install all of Casemate's programs into one folder, or set libexec in the configuration";
    }
    return check;
}

HostCheck check_guest_kernel() {
    HostCheck check{"guest_kernel", "guest kernel for engine microvm", CheckStatus::kWarning, "none found",
                    "engine microvm needs one: install linux-image-cloud-amd64 or build guest/"};
    for (const char* path : {"/usr/share/casemate/vmlinux", "/var/lib/casemate/vmlinux"}) {
        if (!linux::path_exists(path)) continue;
        check.status = CheckStatus::kOk;
        check.found = path;
        check.remedy.clear();
    }
    return check;
}

}  // namespace

int check_command(Context& context, const Arguments& arguments) {
    std::vector<HostCheck> checks = host::check_host();
    checks.push_back(check_guest_kernel());
    checks.push_back(check_helpers(*context.config));
    auto failed = [&](const char* name) {
        for (const HostCheck& check : checks)
            if (check.name == name) return check.status == CheckStatus::kMissing;
        return false;
    };
    bool sentry = !failed("user_notification") && !failed("helpers") && !failed("kernel");
    std::string reason = "engine microvm is not part of this version";
    if (!sentry) reason = "no engine can run here: see what is missing above";

    std::string out;
    if (arguments.has("json")) {
        out = "{\"checks\":{";
        for (const HostCheck& check : checks)
            out += fmt::format("{}{}:{{\"title\":{},\"status\":\"{}\",\"found\":{},\"remedy\":{}}}",
                               out.back() == '{' ? "" : ",", json_quote(check.name), json_quote(check.title),
                               status_name(check.status), json_quote(check.found), json_quote(check.remedy));
        out += fmt::format("}},\"engine\":{},\"reason\":{}}}\n", sentry ? "\"sentry\"" : "null", json_quote(reason));
    } else {
        for (const HostCheck& check : checks) {
            out += fmt::format("{:<8} {:<34} {}\n", status_name(check.status), check.title, check.found);
            if (!check.remedy.empty()) out += fmt::format("{:<8}   -> {}\n", "", check.remedy);
        }
        out += fmt::format("\nengine auto takes: {} ({})\n", sentry ? "sentry" : "none", reason);
    }
    (void)linux::write_all(1, out);
    return sentry ? 0 : 1;
}

}  // namespace casemate::cli
