#include "cli/options.h"

#include <gtest/gtest.h>

#include "cli/commands.h"

namespace casemate::cli {
namespace {

std::vector<char*> words(std::vector<std::string>& list) {
    std::vector<char*> out;
    for (std::string& word : list) out.push_back(word.data());
    return out;
}

Result<Arguments> parse(const char* command, std::vector<std::string>& list) {
    const Command* found = find_command(command);
    auto argv = words(list);
    return Arguments::parse(argv, found->options, found->options_end_at_first);
}

TEST(Options, values_by_space_equals_letter_and_single_dash) {
    for (std::vector<std::string> list : {std::vector<std::string>{"--bundle", "/b", "id"},
                                          {"--bundle=/b", "id"},
                                          {"-b", "/b", "id"},
                                          {"-bundle", "/b", "id"},
                                          {"id", "--bundle", "/b"}}) {
        auto arguments = parse("create", list);
        ASSERT_TRUE(arguments.ok()) << list[0];
        EXPECT_EQ(arguments->value("bundle"), "/b");
        ASSERT_EQ(arguments->positional().size(), 1u);
        EXPECT_EQ(arguments->positional()[0], "id");
    }
}

TEST(Options, flags_may_be_given_false) {
    std::vector<std::string> list = {"--force=false", "id"};
    auto arguments = parse("delete", list);
    ASSERT_TRUE(arguments.ok());
    EXPECT_FALSE(arguments->has("force"));
    list = {"-f", "id"};
    EXPECT_TRUE(parse("delete", list)->has("force"));
    list = {"--force=perhaps", "id"};
    EXPECT_FALSE(parse("delete", list).ok());
}

TEST(Options, a_command_line_of_somebody_else_is_left_alone) {
    std::vector<std::string> list = {"-e", "A=1", "id", "ls", "-l", "--color"};
    auto arguments = parse("exec", list);
    ASSERT_TRUE(arguments.ok());
    ASSERT_EQ(arguments->positional().size(), 4u);
    EXPECT_EQ(arguments->positional()[3], "--color");
    list = {"--", "-x", "--"};
    arguments = parse("do", list);
    ASSERT_TRUE(arguments.ok());
    ASSERT_EQ(arguments->positional().size(), 2u);
    EXPECT_EQ(arguments->positional()[0], "-x");
}

TEST(Options, errors_name_the_option) {
    std::vector<std::string> list = {"--nonsense", "id"};
    auto arguments = parse("create", list);
    ASSERT_FALSE(arguments.ok());
    EXPECT_NE(arguments.error().message().find("--nonsense"), std::string::npos);
    list = {"id", "--bundle"};
    EXPECT_FALSE(parse("create", list).ok());
    list = {"--format", "xml"};
    EXPECT_FALSE(parse("list", list).ok());
}

TEST(Help, every_command_has_a_help_a_man_page_and_completion) {
    std::string completion = bash_completion();
    for (const Command& command : commands()) {
        EXPECT_NE(command_help(command).find(command.summary), std::string::npos);
        EXPECT_NE(man_page(&command).find(".SH OPTIONS"), std::string::npos);
        if (!command.hidden) {
            EXPECT_NE(program_help().find(command.name), std::string::npos);
            EXPECT_NE(completion.find(std::string(" ") + command.name + ")"), std::string::npos) << command.name;
        }
        for (const Option& option : command.options)
            EXPECT_NE(command_help(command).find(std::string("--") + option.name), std::string::npos);
    }
}

}  // namespace
}  // namespace casemate::cli
