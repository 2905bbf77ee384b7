// start, state, kill, delete, list, pause, resume.
#include <fmt/core.h>

#include "base/log.h"
#include "cli/container.h"
#include "linux/file.h"
#include "oci/config_parser.h"
#include "oci/hooks.h"

namespace casemate::cli {

namespace {

using oci::ContainerStatus;

void print(std::string_view text) { (void)linux::write_all(1, text); }

Result<void> start(Context& context, std::string_view id) {
    Found container = TRY(find_container(context, id, true));
    switch (container.status) {
        case ContainerStatus::kCreated:
            break;
        case ContainerStatus::kStopped:
            return Error("cannot start a container that has stopped", EINVAL);
        case ContainerStatus::kRunning:
            return Error("cannot start an already running container", EINVAL);
        default:
            return Error(fmt::format("cannot start a container in the {} state", oci::status_name(container.status)),
                         EINVAL);
    }
    auto client = TRY(connect_to_pod(context, container));
    sandbox::v1::Request request;
    request.mutable_start()->set_container(std::string(id));
    TRY(client.call(request));
    auto json = container.dir.load_config();
    if (json.ok() && json->find("\"poststart\"") != std::string::npos) {
        auto spec = oci::parse_config(*json);
        container.record.set_status(sandbox::v1::STATUS_RUNNING);
        if (spec.ok())
            (void)oci::run_hooks(oci::HookKind::kPoststart, spec->hooks,
                                 oci::state_to_json(sandbox::state_of(container.record)));
    }
    return {};
}

Result<void> kill(Context& context, std::string_view id, std::string_view signal, bool all) {
    int signo = TRY(parse_signal(signal));
    // No lock: a signal must get through to a container that another command waits for.
    Found container = TRY(find_container(context, id, false));
    bool stopped = container.status == ContainerStatus::kStopped;
    if (stopped && !all) return Error("container not running", ESRCH);
    // Without a pid namespace of its own a container has processes that outlive its first one: a stopped one's are
    // looked for as long as its pod is there.
    auto connected = stopped ? connect_to_pod_of_stopped(context, container) : connect_to_pod(context, container);
    if (stopped && !connected.ok()) return {};
    auto client = TRY(std::move(connected));
    sandbox::v1::Request request;
    request.mutable_signal()->set_container(std::string(id));
    request.mutable_signal()->set_signal(static_cast<uint32_t>(signo));
    request.mutable_signal()->set_all(all);
    auto done = client.call(request);
    // A sandbox that ends instead of answering ended by the signal.
    if (done.ok() || done.error().code() == EPIPE || done.error().code() == ECONNRESET) return {};
    Found now = TRY(find_container(context, id, false));
    if (now.status == ContainerStatus::kStopped) {
        if (all) return {};
        return Error("container not running", ESRCH);
    }
    return done.take_error();
}

Result<void> pause_or_resume(Context& context, std::string_view id, bool pause) {
    Found container = TRY(find_container(context, id, true));
    ContainerStatus wanted = pause ? ContainerStatus::kRunning : ContainerStatus::kPaused;
    if (container.status != wanted && !(pause && container.status == ContainerStatus::kCreated))
        return Error(pause ? "container not running or created" : "container not paused", EINVAL);
    auto client = TRY(connect_to_pod(context, container));
    sandbox::v1::Request request;
    if (pause)
        request.mutable_pause()->set_container(std::string(id));
    else
        request.mutable_resume()->set_container(std::string(id));
    TRY(client.call(request));
    return {};
}

Result<void> remove(Context& context, std::string_view id, bool force) {
    auto container = find_container(context, id, true);
    if (!container.ok()) {
        if (force && container.error().code() == ENOENT) return {};
        return container.take_error();
    }
    return remove_container(context, container.take_value(), force);
}

int report(const Result<void>& result) { return result.ok() ? 0 : fail(result.error()); }

}  // namespace

int start_command(Context& context, const Arguments& arguments) {
    return report(start(context, arguments.positional()[0]));
}

int state_command(Context& context, const Arguments& arguments) {
    auto container = find_container(context, arguments.positional()[0], false);
    if (!container.ok()) return fail(container.error());
    print(oci::state_to_json(sandbox::state_of(container->record)) + "\n");
    return 0;
}

int kill_command(Context& context, const Arguments& arguments) {
    const auto& words = arguments.positional();
    return report(kill(context, words[0], words.size() > 1 ? words[1] : "TERM", arguments.has("all")));
}

int delete_command(Context& context, const Arguments& arguments) {
    return report(remove(context, arguments.positional()[0], arguments.has("force")));
}

int list_command(Context& context, const Arguments& arguments) {
    bool json = arguments.value("format") == "json";
    bool quiet = arguments.has("quiet");
    std::string out;
    if (json && !quiet) out = "[";
    if (!json && !quiet)
        out = fmt::format("{:<24}{:<10}{:<10}{:<32}{:<32}{}\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER");
    bool first = true;
    for (const std::string& id : sandbox::list_containers(context.root)) {
        auto container = find_container(context, id, false);
        if (!container.ok()) {
            if (container.error().code() != ENOENT) log::warning("{}", container.error().message());
            continue;
        }
        oci::State state = sandbox::state_of(container->record);
        if (quiet) {
            out += id + "\n";
        } else if (json) {
            out += (first ? "" : ",") + oci::state_to_json(state);
        } else {
            out += fmt::format("{:<23} {:<9} {:<9} {:<31} {:<31} {}\n", state.id, state.pid,
                               oci::status_name(state.status), state.bundle, state.created, state.owner);
        }
        first = false;
    }
    if (json && !quiet) out += "]\n";
    print(out);
    return 0;
}

int pause_command(Context& context, const Arguments& arguments) {
    return report(pause_or_resume(context, arguments.positional()[0], true));
}

int resume_command(Context& context, const Arguments& arguments) {
    return report(pause_or_resume(context, arguments.positional()[0], false));
}

}  // namespace casemate::cli
