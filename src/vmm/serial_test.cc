#include "vmm/serial.h"

#include <gtest/gtest.h>

namespace casemate::vmm {
namespace {

class SerialTest : public testing::Test {
  protected:
    int interrupts_ = 0, outputs_ = 0, wanted_ = 0;
    Serial serial_{{[this] { ++interrupts_; }, [this] { ++outputs_; }, [this] { ++wanted_; }}};
};

TEST_F(SerialTest, WhatTheGuestWritesIsGivenOutOnce) {
    for (char c : std::string_view("abc")) serial_.write(0, static_cast<uint8_t>(c));
    EXPECT_EQ(outputs_, 1);
    EXPECT_EQ(serial_.take_output(), "abc");
    EXPECT_EQ(serial_.take_output(), "");
}

// CVE-2020-27173: the queue of a serial port grew without a bound.
TEST_F(SerialTest, CVE_2020_27173_OutputAndInputAreBounded) {
    for (size_t i = 0; i < Serial::kOutputLimit + 100; ++i) serial_.write(0, 'x');
    EXPECT_EQ(serial_.dropped(), 100u);
    EXPECT_EQ(serial_.take_output().size(), Serial::kOutputLimit);
    EXPECT_EQ(serial_.give_input(std::string(1000, 'y')), Serial::kInputLimit);
    EXPECT_EQ(serial_.give_input("z"), 0u);
    serial_.write(4, 0x10);  // looped back
    for (int i = 0; i < 100000; ++i) serial_.write(0, 'x');
    serial_.write(4, 0);
    size_t read = 0;
    while ((serial_.read(5) & 1) != 0) {
        serial_.read(0);
        ++read;
    }
    EXPECT_EQ(read, Serial::kInputLimit);
    EXPECT_GE(wanted_, 1);
}

TEST_F(SerialTest, InterruptsForInputAndForRoom) {
    serial_.write(1, 1);
    EXPECT_EQ(serial_.read(2) & 0xf, 1);
    serial_.give_input("k");
    EXPECT_EQ(interrupts_, 1);
    EXPECT_EQ(serial_.read(2) & 0xf, 4);
    EXPECT_EQ(serial_.read(5) & 1, 1);
    EXPECT_EQ(serial_.read(0), 'k');
    EXPECT_EQ(serial_.read(2) & 0xf, 1);
    serial_.write(1, 2);  // there is room now, as always
    EXPECT_EQ(interrupts_, 2);
    EXPECT_EQ(serial_.read(2) & 0xf, 2);
    EXPECT_EQ(serial_.read(2) & 0xf, 1);  // told once
    serial_.write(0, 'x');
    EXPECT_EQ(interrupts_, 3);
}

TEST_F(SerialTest, LooksLikeA16550AToLinux) {
    serial_.write(2, 1);
    EXPECT_EQ(serial_.read(2) >> 6, 3);
    serial_.write(4, 0x1a);
    EXPECT_EQ(serial_.read(6) & 0xf0, 0x90);
    serial_.write(4, 0);
    serial_.write(7, 0x5a);
    EXPECT_EQ(serial_.read(7), 0x5a);
    serial_.write(3, 0x83);
    serial_.write(0, 1);
    serial_.write(1, 2);
    EXPECT_EQ(serial_.read(0), 1);
    EXPECT_EQ(serial_.read(1), 2);
    serial_.write(3, 3);
    EXPECT_EQ(serial_.read(1), 0);
    EXPECT_EQ(serial_.take_output(), "");
}

TEST_F(SerialTest, ADueInterruptSurvivesASnapshot) {
    serial_.write(1, 2);
    Serial::State state = serial_.state();
    int raised = 0;
    Serial copy({[&] { ++raised; }, {}, {}});
    copy.restore(state);
    EXPECT_EQ(raised, 1);
    EXPECT_EQ(copy.read(2) & 0xf, 2);
}

}  // namespace
}  // namespace casemate::vmm
