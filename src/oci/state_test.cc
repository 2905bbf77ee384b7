#include "oci/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace casemate::oci {
namespace {

using testing::HasSubstr;

TEST(State, RoundTrip) {
    State state;
    state.id = "oci-container1";
    state.status = ContainerStatus::kRunning;
    state.pid = 4422;
    state.bundle = "/containers/redis \"x\"";
    state.annotations = {{"myKey", "myValue"}, {"a", ""}};
    state.created = "2026-01-01T00:00:00Z";
    auto back = parse_state(state_to_json(state));
    ASSERT_TRUE(back.ok()) << back.error().message();
    EXPECT_EQ(back->oci_version, kOciVersion);
    EXPECT_EQ(back->id, state.id);
    EXPECT_EQ(back->status, state.status);
    EXPECT_EQ(back->pid, state.pid);
    EXPECT_EQ(back->bundle, state.bundle);
    EXPECT_EQ(back->annotations, state.annotations);
    EXPECT_EQ(back->created, state.created);
}

TEST(State, IsTheSpecificationsDocument) {
    State state;
    state.id = "a";
    state.status = ContainerStatus::kStopped;
    state.bundle = "/b";
    auto document = nlohmann::json::parse(state_to_json(state));
    EXPECT_EQ(document["ociVersion"], kOciVersion);
    EXPECT_EQ(document["id"], "a");
    EXPECT_EQ(document["status"], "stopped");
    EXPECT_EQ(document["bundle"], "/b");
    EXPECT_FALSE(document.contains("annotations"));
    EXPECT_FALSE(document.contains("rootfs"));
}

TEST(State, PathsThatAreNotUtf8StillMakeJson) {
    State state;
    state.id = "a";
    state.bundle = "/b\xff";
    EXPECT_TRUE(nlohmann::json::accept(state_to_json(state)));
}

TEST(State, BadDocuments) {
    auto error = [](std::string_view text) {
        auto state = parse_state(text);
        return state.ok() ? "accepted" : state.error().message();
    };
    EXPECT_THAT(error(""), HasSubstr("container state: line 1"));
    EXPECT_EQ(error("{}"), "container state: ociVersion: is missing");
    EXPECT_THAT(error(R"({"ociVersion": "1.0.0", "id": "a/b", "status": "created", "bundle": "/"})"),
                HasSubstr("container state: id: container id holds \"/\""));
    EXPECT_THAT(error(R"({"ociVersion": "1.0.0", "id": "a", "status": "dead", "bundle": "/"})"),
                HasSubstr("container state: status: is \"dead\", must be one of creating, created, running"));
    EXPECT_THAT(error(R"({"ociVersion": "1.0.0", "id": "a", "status": "created", "bundle": "b"})"),
                HasSubstr("bundle: is \"b\", must be an absolute path"));
    EXPECT_THAT(error(R"({"ociVersion": "1.0.0", "id": "a", "status": "created", "bundle": "/", "pid": -1})"),
                HasSubstr("pid: is -1, must be"));
    EXPECT_EQ(error(R"({"ociVersion": "1.0.0", "id": "a", "status": "created", "bundle": "/", "more": {}})"),
              "accepted");
}

TEST(ContainerId, Rule) {
    for (const char* good : {"a", "A-b_c.d+9", "...", ".a", "-", "6b1fdb26-6c5d"})
        EXPECT_TRUE(validate_container_id(good).ok()) << good;
    for (const char* bad : {"", ".", "..", "a/b", "../a", "a b", "\xc3\xa9", "a\n", "a:b", "a@b"})
        EXPECT_FALSE(validate_container_id(bad).ok()) << bad;
    EXPECT_FALSE(validate_container_id(std::string_view("a\0b", 3)).ok());
    EXPECT_TRUE(validate_container_id(std::string(kMaxContainerId, 'a')).ok());
    EXPECT_FALSE(validate_container_id(std::string(kMaxContainerId + 1, 'a')).ok());
    EXPECT_EQ(validate_container_id("a/b").error().message(),
              "container id holds \"/\", must be of A-Z a-z 0-9 _ + - . only");
}

TEST(ContainerStatus, Names) {
    EXPECT_EQ(status_name(ContainerStatus::kPaused), "paused");
    EXPECT_EQ(status_from_name("creating"), ContainerStatus::kCreating);
    EXPECT_FALSE(status_from_name("x"));
}

}  // namespace
}  // namespace casemate::oci
