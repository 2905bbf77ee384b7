// The guest API end to end: client, wire, server, with the fake guest as kernel.
#include "guest_fake/fake_guest.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <future>

namespace casemate::guest_fake {
namespace {

using guest_api::Code;
using guest_api::GuestClient;
using guest_api::GuestResult;

struct Pipe {
    Pipe() {
        int fds[2];
        CHECK(::pipe2(fds, O_CLOEXEC) == 0);
        read.reset(fds[0]);
        write.reset(fds[1]);
    }
    std::string drain() {
        write.reset();
        std::string text;
        char chunk[512];
        ssize_t count;
        while ((count = ::read(read.get(), chunk, sizeof(chunk))) > 0) text.append(chunk, count);
        return text;
    }
    UniqueFd read, write;
};

std::string config(std::string args) { return "{\"process\":{\"args\":[" + args + "]}}"; }

class GuestApi : public ::testing::Test {
  protected:
    GuestApi() {
        MUST(client().connect());
        MUST(client().create_sandbox({}));
    }
    GuestClient& client() { return session_.client(); }
    v1::CreateContainerRequest container(const std::string& id, const std::string& args) {
        v1::CreateContainerRequest request;
        request.set_container_id(id);
        request.set_config(config(args));
        return request;
    }
    void start(const std::string& id) {
        v1::StartContainerRequest request;
        request.set_container_id(id);
        MUST(client().start_container(request));
    }
    GuestResult<v1::WaitProcessReply> wait(const std::string& id, const std::string& exec = "") {
        v1::WaitProcessRequest request;
        request.set_container_id(id);
        request.set_exec_id(exec);
        return client().wait_process(request);
    }
    GuestResult<v1::SignalProcessReply> kill(const std::string& id, int signal) {
        v1::SignalProcessRequest request;
        request.set_container_id(id);
        request.set_signal(signal);
        return client().signal_process(request);
    }
    GuestResult<v1::DeleteContainerReply> remove(const std::string& id, bool force = false) {
        v1::DeleteContainerRequest request;
        request.set_container_id(id);
        request.set_force(force);
        return client().delete_container(request);
    }
    FakeGuestSession session_;
};

TEST_F(GuestApi, LifeOfAContainer) {
    Pipe out;
    auto request = container("c1", R"("/bin/echo","hello","world")");
    request.mutable_stdio()->set_stdout(MUST(client().send_stream(out.write.get())));
    uint32_t pid = MUST(client().create_container(request)).pid();
    auto list = MUST(client().list_containers());
    ASSERT_EQ(list.containers_size(), 1);
    EXPECT_EQ(list.containers(0).state(), v1::CONTAINER_CREATED);
    EXPECT_EQ(list.containers(0).pid(), pid);
    EXPECT_EQ(remove("c1").error().kind(), Code::kFailedPrecondition);
    start("c1");
    EXPECT_EQ(out.drain(), "hello world\n");
    auto exit = MUST(wait("c1")).exit();
    EXPECT_EQ(exit.exit_status(), 0u);
    EXPECT_GT(exit.exited_at_ns(), 0);
    EXPECT_EQ(MUST(client().list_containers()).containers(0).state(), v1::CONTAINER_STOPPED);
    EXPECT_EQ(kill("c1", SIGTERM).error().code(), ESRCH);
    EXPECT_TRUE(remove("c1").ok());
    EXPECT_EQ(MUST(client().list_containers()).containers_size(), 0);
}

TEST_F(GuestApi, ErrorsKeepTheirKind) {
    EXPECT_EQ(wait("none").error().kind(), Code::kNotFound);
    EXPECT_EQ(kill("none", SIGTERM).error().kind(), Code::kNotFound);
    EXPECT_EQ(remove("none").error().kind(), Code::kNotFound);
    MUST(client().create_container(container("c", R"("/no/such")")));
    EXPECT_EQ(client().create_container(container("c", R"("true")")).error().kind(), Code::kAlreadyExists);
    EXPECT_EQ(client().create_container(container("", R"("true")")).error().field(), "container_id");
    EXPECT_EQ(client().create_container(container("d", "1")).error().kind(), Code::kInvalidArgument);
    v1::StartContainerRequest request;
    request.set_container_id("c");
    auto failed = client().start_container(request);
    EXPECT_EQ(failed.error().code(), ENOENT);
    EXPECT_EQ(failed.error().field(), "process.args[0]");
    EXPECT_EQ(client().create_sandbox({}).error().kind(), Code::kAlreadyExists);
    EXPECT_EQ(client().set_trace({}).error().kind(), Code::kUnimplemented);
}

TEST_F(GuestApi, UnknownTokenIsRefusedAndNothingIsMade) {
    auto request = container("c", R"("true")");
    request.mutable_stdio()->set_stdin(4711);
    EXPECT_EQ(client().create_container(request).error().kind(), Code::kInvalidArgument);
    EXPECT_EQ(MUST(client().list_containers()).containers_size(), 0);
    EXPECT_TRUE(client().create_container(container("c", R"("true")")).ok());
}

TEST_F(GuestApi, SignalsAndWaitsFromSeveralCallers) {
    MUST(client().create_container(container("c", R"("sleep")")));
    start("c");
    std::promise<GuestResult<v1::WaitProcessReply>> first, second;
    v1::WaitProcessRequest request;
    request.set_container_id("c");
    client().wait_process(request, [&](auto reply) { first.set_value(std::move(reply)); });
    client().wait_process(request, [&](auto reply) { second.set_value(std::move(reply)); });
    EXPECT_TRUE(kill("c", 0).ok());
    EXPECT_EQ(kill("c", 99).error().kind(), Code::kInvalidArgument);
    EXPECT_TRUE(kill("c", SIGKILL).ok());
    auto exit = MUST(first.get_future().get()).exit();
    EXPECT_EQ(exit.signal(), uint32_t(SIGKILL));
    EXPECT_EQ(exit.exit_status(), 128u + SIGKILL);
    EXPECT_EQ(MUST(second.get_future().get()).exit().signal(), uint32_t(SIGKILL));
}

TEST_F(GuestApi, CreatedContainerDiesOfASignal) {
    MUST(client().create_container(container("c", R"("sleep")")));
    EXPECT_TRUE(kill("c", SIGTERM).ok());
    EXPECT_EQ(MUST(wait("c")).exit().signal(), uint32_t(SIGTERM));
    v1::StartContainerRequest request;
    request.set_container_id("c");
    EXPECT_EQ(client().start_container(request).error().kind(), Code::kFailedPrecondition);
}

TEST_F(GuestApi, ExecWithStdin) {
    MUST(client().create_container(container("c", R"("sleep")")));
    start("c");
    Pipe in, out;
    v1::ExecProcessRequest request;
    request.set_container_id("c");
    request.set_exec_id("e1");
    request.set_process(R"({"args":["cat"]})");
    request.mutable_stdio()->set_stdin(MUST(client().send_stream(in.read.get())));
    request.mutable_stdio()->set_stdout(MUST(client().send_stream(out.write.get())));
    MUST(client().exec_process(request));
    auto again = request;
    again.clear_stdio();
    EXPECT_EQ(client().exec_process(again).error().kind(), Code::kAlreadyExists);
    ASSERT_EQ(::write(in.write.get(), "data", 4), 4);
    v1::DeleteExecRequest forget;
    forget.set_container_id("c");
    forget.set_exec_id("e1");
    EXPECT_EQ(client().delete_exec(forget).error().kind(), Code::kFailedPrecondition);
    v1::ListProcessesRequest list;
    list.set_container_id("c");
    EXPECT_EQ(MUST(client().list_processes(list)).processes_size(), 2);
    v1::CloseStdinRequest close;  // although in.write is still open
    close.set_container_id("c");
    close.set_exec_id("e1");
    MUST(client().close_stdin(close));
    EXPECT_EQ(out.drain(), "data");
    EXPECT_EQ(MUST(wait("c", "e1")).exit().exit_status(), 0u);
    EXPECT_TRUE(client().delete_exec(forget).ok());
    EXPECT_EQ(wait("c", "e1").error().kind(), Code::kNotFound);
    MUST(remove("c", true));
}

TEST_F(GuestApi, TerminalHasOneStreamAndASize) {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    UniqueFd ours(fds[0]), theirs(fds[1]);
    auto request = container("c", R"("tty")");
    request.mutable_stdio()->set_terminal(true);
    request.mutable_stdio()->set_rows(24);
    request.mutable_stdio()->set_columns(80);
    request.mutable_stdio()->set_console(MUST(client().send_stream(theirs.get())));
    theirs.reset();
    MUST(client().create_container(request));
    start("c");
    auto ask = [&] {
        EXPECT_EQ(::write(ours.get(), "\n", 1), 1);
        char buffer[64];
        ssize_t count = ::read(ours.get(), buffer, sizeof(buffer));
        return std::string(buffer, count > 0 ? count : 0);
    };
    EXPECT_EQ(ask(), "24x80\r\n");
    v1::ResizeTerminalRequest resize;
    resize.set_container_id("c");
    resize.set_rows(50);
    resize.set_columns(132);
    MUST(client().resize_terminal(resize));
    EXPECT_EQ(ask(), "50x132\r\n");
    ours.reset();
    EXPECT_EQ(MUST(wait("c")).exit().exit_status(), 0u);
}

TEST_F(GuestApi, EventsInOrderAndWaiting) {
    std::promise<GuestResult<v1::GetEventsReply>> promise;
    client().get_events({}, [&](auto reply) { promise.set_value(std::move(reply)); });
    MUST(client().create_container(container("c", R"("exit","7")")));
    start("c");
    auto reply = MUST(promise.get_future().get());
    ASSERT_EQ(reply.events_size(), 1);
    EXPECT_EQ(reply.events(0).container_id(), "c");
    EXPECT_EQ(reply.events(0).exit().exit().exit_status(), 7u);
    session_.guest().add_oom_event("c", 3);
    v1::GetEventsRequest more;
    more.set_after(reply.events(0).sequence());
    reply = MUST(client().get_events(more));
    ASSERT_EQ(reply.events_size(), 1);
    EXPECT_EQ(reply.events(0).oom().killed_pid(), 3u);
    EXPECT_EQ(reply.lost(), 0u);
    more.set_after(reply.events(0).sequence());
    EXPECT_EQ(client().get_events(more, std::chrono::milliseconds(20)).error().kind(), Code::kDeadlineExceeded);
    for (int i = 0; i < 2000; i++) session_.guest().add_oom_event("c", i);
    reply = MUST(client().get_events(more));
    EXPECT_EQ(reply.lost(), 2000u - 1024u);
    EXPECT_EQ(reply.events_size(), 64);
}

TEST_F(GuestApi, PauseStatsNetworkAndTheRest) {
    MUST(client().create_container(container("c", R"("sleep")")));
    start("c");
    v1::PauseContainerRequest pause;
    pause.set_container_id("c");
    MUST(client().pause_container(pause));
    EXPECT_EQ(MUST(client().list_containers()).containers(0).state(), v1::CONTAINER_PAUSED);
    MUST(client().resume_container({}));
    EXPECT_EQ(MUST(client().list_containers()).containers(0).state(), v1::CONTAINER_RUNNING);
    EXPECT_EQ(MUST(client().get_stats({})).pids(), 1u);
    MUST(client().update_resources({}));

    v1::UpdateNetworkRequest network;
    v1::Interface* interface = network.add_interfaces();
    interface->set_name("eth0");
    interface->add_addresses("10.0.0.2/24");
    interface->add_queues(MUST(client().send_stream(0)));
    network.add_routes()->set_destination("0.0.0.0/0");
    MUST(client().update_network(network));
    std::promise<uint64_t> generation;
    client().get_listeners({}, [&](auto reply) { generation.set_value(reply.ok() ? reply->generation() : 0); });
    EXPECT_EQ(generation.get_future().get(), 1u);
    auto seen = MUST(client().get_network());
    ASSERT_EQ(seen.interfaces_size(), 1);
    EXPECT_EQ(seen.interfaces(0).addresses(0), "10.0.0.2/24");
    EXPECT_EQ(seen.routes_size(), 1);
    v1::UpdateNetworkRequest removal;
    removal.add_remove_interfaces("eth1");
    EXPECT_EQ(client().update_network(removal).error().kind(), Code::kNotFound);

    EXPECT_NE(MUST(client().get_metrics()).text().find("casemate_guest_containers 1"), std::string::npos);
    EXPECT_EQ(MUST(client().get_diagnostics({})).sections(0).name(), "tasks");
    EXPECT_EQ(client().set_clock({}).error().kind(), Code::kInvalidArgument);
    MUST(client().add_entropy({}));
}

TEST_F(GuestApi, PlannedFailuresAndTheRecord) {
    session_.guest().fail_next("ListContainers", guest_api::failure(Code::kInternal, EIO, "planned"));
    EXPECT_EQ(client().list_containers().error().message(), "planned");
    EXPECT_TRUE(client().list_containers().ok());
    EXPECT_EQ(session_.guest().calls(),
              (std::vector<std::string>{"GetVersion", "CreateSandbox", "ListContainers", "ListContainers"}));
}

TEST_F(GuestApi, DestroyAnswersAndThenTheConnectionEnds) {
    MUST(client().create_container(container("c", R"("sleep")")));
    start("c");
    std::promise<GuestResult<v1::WaitProcessReply>> waiting;
    v1::WaitProcessRequest request;
    request.set_container_id("c");
    client().wait_process(request, [&](auto reply) { waiting.set_value(std::move(reply)); });
    EXPECT_TRUE(client().destroy_sandbox().ok());
    EXPECT_EQ(MUST(waiting.get_future().get()).exit().signal(), uint32_t(SIGKILL));
    while (!client().closed()) std::this_thread::yield();
    EXPECT_EQ(client().list_containers().error().kind(), Code::kUnavailable);
}

TEST_F(GuestApi, KilledGuestFailsWhatWaits) {
    MUST(client().create_container(container("c", R"("sleep")")));
    start("c");
    std::promise<GuestResult<v1::WaitProcessReply>> waiting;
    v1::WaitProcessRequest request;
    request.set_container_id("c");
    client().wait_process(request, [&](auto reply) { waiting.set_value(std::move(reply)); });
    session_.kill();
    EXPECT_EQ(waiting.get_future().get().error().kind(), Code::kUnavailable);
}

}  // namespace
}  // namespace casemate::guest_fake
