// Guests of a few instructions on the host's KVM: on one that emulates ring 0 too.
#include "vmm/machine.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <thread>

#include "virtio/rng.h"
#include "vmm/layout.h"
#include "vmm/snapshot.h"
#include "vmm/tiny_guest.h"

namespace casemate::vmm {
namespace {

using namespace std::chrono_literals;

class MachineTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!Kvm::open_device().ok()) GTEST_SKIP() << "no /dev/kvm here";
        loop_ = MUST(linux::EventLoop::create());
        auto pipe = MUST(linux::create_pipe(O_CLOEXEC | O_NONBLOCK));
        output_ = std::move(pipe.read_end);
        guest_end_ = std::move(pipe.write_end);
    }
    void TearDown() override { machine_.reset(); }

    MachineSpec spec(uint32_t vcpus = 1) {
        MachineSpec spec;
        spec.kvm = MUST(Kvm::open_device());
        spec.vcpus = vcpus;
        spec.memory.size = 32 * kMiB;
        return spec;
    }
    void create(MachineSpec spec) {
        auto machine = Machine::create(std::move(spec), *loop_);
        ASSERT_TRUE(machine.ok()) << machine.error().message();
        machine_ = machine.take_value();
        MUST(machine_->connect_serial(-1, guest_end_.get()));
        machine_->on_end([this](const MachineEnd& end) {
            end_ = end;
            loop_->quit();
        });
    }
    void start(const TinyCode& code, uint32_t vcpus = 1) {
        create(spec(vcpus));
        UniqueFd image = code.file();
        auto booted = machine_->boot({image.get(), -1, "console=ttyS0"});
        ASSERT_TRUE(booted.ok()) << booted.error().message();
        MUST(machine_->start());
    }
    GuestEnd run_to_end() {
        loop_->after(60s, [this] { machine_->stop(); });
        loop_->run();
        return end_->end;
    }
    std::string printed() {
        char bytes[4096];
        ssize_t size = ::read(output_.get(), bytes, sizeof bytes);
        return std::string(bytes, size > 0 ? static_cast<size_t>(size) : 0);
    }
    uint32_t counter() {
        uint32_t value;
        std::memcpy(&value, machine_->memory().at(kCounter, 4), 4);
        return value;
    }
    void wait_for_count_above(uint32_t value) {
        for (int i = 0; i < 3000 && counter() <= value; ++i) std::this_thread::sleep_for(10ms);
        ASSERT_GT(counter(), value);
    }

    static constexpr uint32_t kCounter = 0x8000;
    std::unique_ptr<linux::EventLoop> loop_;
    std::unique_ptr<Machine> machine_;
    std::optional<MachineEnd> end_;
    UniqueFd output_, guest_end_;
};

TEST_F(MachineTest, PrintsAndPowersOff) {
    start(TinyCode().print("hello\n").out(kSleepControlPort, 5 << 2 | 1 << 5).spin());
    EXPECT_EQ(run_to_end(), GuestEnd::kPowerOff);
    EXPECT_EQ(printed(), "hello\n");
}

TEST_F(MachineTest, SettingsOfTheSerialPortTakeEffectInOrderAndWithoutExits) {
    // To the divisor and back, between two letters: what is written in between is no output.
    TinyCode code;
    code.print("a").out(kSerialPort + 3, 0x83).out(kSerialPort + 4, 1).out(kSerialPort, 'x').out(kSerialPort + 3, 3);
    for (int i = 0; i < 400; ++i) code.out(kSerialPort + 2, 7);  // more than KVM keeps
    start(code.print("b").out(kSleepControlPort, 5 << 2 | 1 << 5).spin());
    EXPECT_EQ(run_to_end(), GuestEnd::kPowerOff);
    EXPECT_EQ(printed(), "ab");
    EXPECT_EQ(machine_->serial().state().line_control, 3);
    EXPECT_EQ(machine_->serial().state().modem_control, 1);
    EXPECT_EQ(machine_->serial().state().divisor_low, 'x');
    EXPECT_EQ(machine_->serial().state().fifo_control, 7);
    if (MUST(Kvm::create(MUST(Kvm::open_device()))).check_extension(KVM_CAP_COALESCED_PIO) > 0) {
        EXPECT_LT(machine_->exit_count(), 20u);
    }
}

TEST_F(MachineTest, InterruptsAreAcknowledgedWithoutExits) {
    TinyCode code;
    for (int i = 0; i < 400; ++i)  // more than KVM keeps
        code.store16(kVirtioRegisters + virtio::MmioTransport::kInterruptAck, 3);
    create(spec());
    MUST(machine_->add_device(std::make_unique<virtio::RngDevice>(machine_->device_loop())));
    UniqueFd image = code.out(kSleepControlPort, 5 << 2 | 1 << 5).spin().file();
    ASSERT_TRUE(machine_->boot({image.get(), -1, ""}).ok());
    MUST(machine_->start());
    EXPECT_EQ(run_to_end(), GuestEnd::kPowerOff);
    if (machine_->vcpu(0).kvm().delayed_writes() != nullptr) {
        EXPECT_LT(machine_->exit_count(), 20u);
    }
}

TEST_F(MachineTest, TellsEndsApart) {
    struct {
        TinyCode code;
        GuestEnd end;
    } cases[] = {
        {TinyCode().out(kResetPort, 1).spin(), GuestEnd::kReboot},
        {TinyCode().out(kKeyboardPort, 0xfe).spin(), GuestEnd::kReboot},
        {TinyCode().out(kPanicPort, 1).spin(), GuestEnd::kPanic},
        {TinyCode().store16(kWarmRebootWord, kWarmReboot).out(kResetPort, 1).spin(), GuestEnd::kPanic},
        {TinyCode().triple_fault().spin(), GuestEnd::kTripleFault},
        {TinyCode().store16(kWarmRebootWord, 0).triple_fault().spin(), GuestEnd::kReboot},
        {TinyCode().store16(kWarmRebootWord, kWarmReboot).triple_fault().spin(), GuestEnd::kPanic},
    };
    for (auto& one : cases) {
        end_.reset();
        start(one.code);
        EXPECT_EQ(run_to_end(), one.end) << "case " << &one - cases << ": " << end_->why;
        machine_.reset();
    }
}

TEST_F(MachineTest, StopsAGuestThatNeverExits) {
    start(TinyCode().count_at(kCounter));
    wait_for_count_above(10);
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
}

TEST_F(MachineTest, PausesAndResumes) {
    start(TinyCode().count_at(kCounter));
    wait_for_count_above(10);
    ASSERT_TRUE(machine_->pause().ok());
    EXPECT_FALSE(machine_->pause().ok());
    uint32_t stopped_at = counter();
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(counter(), stopped_at);
    ASSERT_TRUE(machine_->resume().ok());
    wait_for_count_above(stopped_at);
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
}

// A host that connects, a frame or a key may come while the guest is paused.
TEST_F(MachineTest, EventsOfDevicesDoNotStallAPausedMonitor) {
    create(spec());
    std::mutex owner;
    UniqueFd event = MUST(linux::create_eventfd());
    bool seen = false;
    auto watch = MUST(machine_->device_loop().watch(owner, event.get(), EPOLLIN, [&](uint32_t) {
        linux::drain_eventfd(event.get());
        seen = true;
    }));
    UniqueFd image = TinyCode().spin().file();
    MUST(machine_->boot({image.get(), -1, ""}));
    MUST(machine_->start());
    ASSERT_TRUE(machine_->pause().ok());
    linux::signal_eventfd(event.get());
    int turns = 0;
    for (; turns < 100 && !seen; ++turns) loop_->run_once(1ms);
    EXPECT_EQ(turns, 100);
    ASSERT_TRUE(machine_->resume().ok());
    for (turns = 0; turns < 1000 && !seen; ++turns) loop_->run_once(10ms);
    EXPECT_TRUE(seen);
    machine_->device_loop().remove(watch);
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
}

// The same with the devices' loop as the outer one.
TEST_F(MachineTest, RunsDevicesAndTheOtherLoopAndPausesThem) {
    create(spec());
    std::mutex owner;
    UniqueFd event = MUST(linux::create_eventfd());
    bool seen = false, seen_while_paused = false;
    auto watch = MUST(machine_->device_loop().watch(owner, event.get(), EPOLLIN | EPOLLET, [&](uint32_t) {
        seen = true;
        machine_->stop();
    }));
    UniqueFd image = TinyCode().spin().file();
    MUST(machine_->boot({image.get(), -1, ""}));
    MUST(machine_->start());
    loop_->after(5ms, [&] {
        EXPECT_TRUE(machine_->pause().ok());
        linux::signal_eventfd(event.get());
        loop_->after(50ms, [&] {
            seen_while_paused = seen;
            EXPECT_TRUE(machine_->resume().ok());
        });
    });
    loop_->after(60s, [&] { machine_->stop(); });
    machine_->run();
    ASSERT_TRUE(end_);
    EXPECT_EQ(end_->end, GuestEnd::kStopped);
    EXPECT_TRUE(seen);
    EXPECT_FALSE(seen_while_paused);
    machine_->device_loop().remove(watch);
}

TEST_F(MachineTest, ManyVcpusOfWhichOneRuns) {
    start(TinyCode().out(kResetPort, 1).spin(), 8);
    EXPECT_EQ(run_to_end(), GuestEnd::kReboot);
}

TEST_F(MachineTest, RestoresASnapshotInTwoMachines) {
    start(TinyCode().count_at(kCounter));
    wait_for_count_above(1000);
    ASSERT_TRUE(machine_->pause().ok());
    UniqueFd state = MUST(linux::create_memfd("state")), memory = MUST(linux::create_memfd("memory"));
    auto saved = save_snapshot(*machine_, state.get(), memory.get());
    ASSERT_TRUE(saved.ok()) << saved.error().message();
    uint32_t at = counter();
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
    std::string generation[2];
    for (int clone = 0; clone < 2; ++clone) {
        machine_.reset();
        end_.reset();
        ::lseek(state.get(), 0, SEEK_SET);
        auto snapshot = read_snapshot(state.get());
        ASSERT_TRUE(snapshot.ok()) << snapshot.error().message();
        EXPECT_EQ(snapshot->memory, 32 * kMiB);
        MachineSpec restored = spec(snapshot->vcpus);
        restored.restored = true;
        restored.memory.file = MUST(linux::duplicate_fd(memory.get()));
        restored.memory.private_copy = true;
        create(std::move(restored));
        virtio::StateReader reader(snapshot->machine);
        auto done = machine_->restore(reader, true);
        ASSERT_TRUE(done.ok()) << done.error().message();
        ASSERT_TRUE(machine_->change_generation().ok());
        generation[clone].assign(machine_->memory().at(kGenerationId, 16), 16);
        EXPECT_EQ(counter(), at);  // the first clone wrote nothing into the file
        MUST(machine_->start());
        wait_for_count_above(at);
        machine_->stop();
        EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
    }
    EXPECT_NE(generation[0], generation[1]);
}

// A kernel that was saved before it had set up any interrupt controller, and is told when it is restored that it is a
// copy: without a table of interrupts anything that comes through would be a triple fault.
TEST_F(MachineTest, AYoungGuestIsNotHitByItsGenerationInterrupt) {
    start(TinyCode().raw({0xfb}).count_at(kCounter));  // sti
    wait_for_count_above(10);
    ASSERT_TRUE(machine_->pause().ok());
    ASSERT_TRUE(machine_->change_generation().ok());
    ASSERT_TRUE(machine_->resume().ok());
    wait_for_count_above(counter() + 1000);
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped) << end_->why;
}

// KVM takes a write to the TSC's register that is within a second of a new machine's for an attempt to synchronize
// processors, and ignores it: a guest younger than that would lose its time and wait for it in every timer.
TEST_F(MachineTest, AGuestYoungerThanASecondKeepsItsTsc) {
    constexpr uint32_t kTsc = 0x8000, kRounds = 0x8008;
    auto word = [&](uint32_t address) {
        uint32_t value;
        std::memcpy(&value, machine_->memory().at(address, 4), 4);
        return value;
    };
    auto tsc = [&] { return uint64_t{word(kTsc + 4)} << 32 | word(kTsc); };
    auto rounds_above = [&](uint32_t count) {
        for (int i = 0; i < 3000 && word(kRounds) <= count; ++i) std::this_thread::sleep_for(10ms);
        ASSERT_GT(word(kRounds), count);
    };
    // again: rdtsc; mov [kTsc], eax; mov [kTsc + 4], edx; inc dword [kRounds]; jmp again
    start(TinyCode().raw(
        {0x0f, 0x31, 0xa3, 0x00, 0x80, 0, 0, 0x89, 0x15, 0x04, 0x80, 0, 0, 0xff, 0x05, 0x08, 0x80, 0, 0, 0xeb, 0xeb}));
    rounds_above(10);
    std::this_thread::sleep_for(300ms);
    ASSERT_TRUE(machine_->pause().ok());
    uint64_t before = tsc();
    uint32_t rounds = word(kRounds);
    UniqueFd state = MUST(linux::create_memfd("state")), memory = MUST(linux::create_memfd("memory"));
    MUST(save_snapshot(*machine_, state.get(), memory.get()));
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
    machine_.reset();
    ::lseek(state.get(), 0, SEEK_SET);
    Snapshot snapshot = MUST(read_snapshot(state.get()));
    MachineSpec restored = spec(snapshot.vcpus);
    restored.restored = true;
    restored.memory.file = MUST(linux::duplicate_fd(memory.get()));
    restored.memory.private_copy = true;
    create(std::move(restored));
    virtio::StateReader reader(snapshot.machine);
    MUST(machine_->restore(reader, false));
    MUST(machine_->start());
    rounds_above(rounds);
    ASSERT_TRUE(machine_->pause().ok());
    EXPECT_GT(tsc(), before);
    // Nor does it find its memory uncached: MTRRs are not among what KVM says is to be saved.
    uint32_t default_type = 0x2ff;
    auto mtrr = MUST(machine_->vcpu(0).kvm().get_msrs(std::span(&default_type, 1)));
    ASSERT_EQ(mtrr.size(), 1u);
    EXPECT_EQ(mtrr[0].data, uint64_t{1 << 11 | 6});
    machine_->stop();
    EXPECT_EQ(run_to_end(), GuestEnd::kStopped);
}

TEST_F(MachineTest, RefusesDamagedSnapshots) {
    start(TinyCode().spin());
    ASSERT_TRUE(machine_->pause().ok());
    UniqueFd state = MUST(linux::create_memfd("state")), memory = MUST(linux::create_memfd("memory"));
    MUST(save_snapshot(*machine_, state.get(), memory.get()));
    off_t size = ::lseek(state.get(), 0, SEEK_END);
    for (off_t length : {off_t{0}, off_t{10}, off_t{20}, size / 2, size - 1}) {
        std::string part(static_cast<size_t>(length), '\0');
        ASSERT_EQ(::pread(state.get(), part.data(), part.size(), 0), length);
        UniqueFd cut = MUST(linux::create_memfd("cut"));
        MUST(linux::write_all(cut.get(), part));
        ::lseek(cut.get(), 0, SEEK_SET);
        EXPECT_FALSE(read_snapshot(cut.get()).ok()) << length;
    }
    ::lseek(state.get(), 0, SEEK_SET);
    Snapshot snapshot = MUST(read_snapshot(state.get()));
    machine_.reset();
    // A state that is cut behind its checksum, as an enemy would make it.
    for (size_t length = 0; length < snapshot.machine.size(); length += 97) {
        MachineSpec again = spec(1);
        again.restored = true;
        again.memory.file = MUST(linux::duplicate_fd(memory.get()));
        again.memory.private_copy = true;
        create(std::move(again));
        virtio::StateReader reader(std::string_view(snapshot.machine).substr(0, length));
        EXPECT_FALSE(machine_->restore(reader, true).ok()) << length;
        machine_.reset();
    }
}

// The file of the guest's memory, or of its kernel when that is mapped, is cut while the guest runs.
TEST_F(MachineTest, AGuestWhoseMemoryIsCutEndsWithASentence) {
    for (bool image_mapped : {false, true}) {
        end_.reset();
        MachineSpec own = spec();
        UniqueFd memory = MUST(linux::create_memfd("memory"));
        own.memory.file = MUST(linux::duplicate_fd(memory.get()));
        own.memory.map_images = image_mapped;
        create(std::move(own));
        UniqueFd image = TinyCode().count_at(kCounter).file();
        MUST(machine_->boot({image.get(), -1, ""}));
        MUST(machine_->start());
        wait_for_count_above(10);
        ASSERT_EQ(::ftruncate(image_mapped ? image.get() : memory.get(), 0), 0);
        EXPECT_EQ(run_to_end(), GuestEnd::kFailed);
        EXPECT_NE(end_->why.find("cut"), std::string::npos) << end_->why;
        machine_.reset();
    }
}

TEST_F(MachineTest, WhatAMonitorFindsLostEndsTheGuest) {
    MachineSpec own = spec();
    UniqueFd memory = MUST(linux::create_memfd("memory"));
    own.memory.file = MUST(linux::duplicate_fd(memory.get()));
    create(std::move(own));
    UniqueFd image = TinyCode().count_at(kCounter).file();
    MUST(machine_->boot({image.get(), -1, ""}));
    MUST(machine_->start());
    wait_for_count_above(10);
    ASSERT_TRUE(machine_->pause().ok());
    ASSERT_EQ(::ftruncate(memory.get(), 0), 0);
    EXPECT_EQ(*machine_->memory().at(0x3000, 1), 0);
    UniqueFd state = MUST(linux::create_memfd("state")), pages = MUST(linux::create_memfd("pages"));
    EXPECT_FALSE(save_snapshot(*machine_, state.get(), pages.get()).ok());
    EXPECT_EQ(run_to_end(), GuestEnd::kFailed);
}

TEST_F(MachineTest, RefusesWhatItCannotBe) {
    for (uint32_t vcpus : {0u, 65u, 0xffffffffu}) EXPECT_FALSE(Machine::create(spec(vcpus), *loop_).ok());
    for (uint64_t size : {uint64_t{0}, 1 * kMiB, 32 * kMiB + 1, kMaxMemory + kMiB}) {
        MachineSpec bad = spec();
        bad.memory.size = size;
        EXPECT_FALSE(Machine::create(std::move(bad), *loop_).ok()) << size;
    }
}

}  // namespace
}  // namespace casemate::vmm
