#include "sentry/net/stack/timers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "sentry/net/stack/fifo.h"

namespace casemate::sentry::stack {
namespace {

class Mark final : public TimerTarget {
  public:
    void timer_fired(Nanoseconds) override { fired++; }
    unsigned fired = 0;
};

TEST(StackTimers, AgainstAModel) {
    Nanoseconds alarm = 0;
    TimerList timers([&](Nanoseconds deadline) { alarm = deadline; });
    std::mt19937 random(7);
    std::vector<Ref<Mark>> marks;
    for (int i = 0; i < 500; i++) marks.push_back(make_ref<Mark>());
    std::map<size_t, Nanoseconds> armed;  // the model: by mark
    std::vector<unsigned> fired(marks.size());
    Nanoseconds now = 1;
    for (int step = 0; step < 100'000; step++) {
        size_t which = random() % marks.size();
        switch (random() % 8) {
            case 0:
                timers.disarm(*marks[which]);
                armed.erase(which);
                break;
            case 1:
                now += static_cast<Nanoseconds>(random() % 50);
                timers.run(now);
                std::erase_if(armed, [&](auto& one) {
                    if (one.second > now) return false;
                    fired[one.first]++;
                    return true;
                });
                break;
            default: {
                Nanoseconds deadline = now + 1 + static_cast<Nanoseconds>(random() % 300);
                timers.arm(*marks[which], deadline);
                auto [it, added] = armed.try_emplace(which, deadline);
                it->second = std::min(it->second, deadline);
            }
        }
        ASSERT_EQ(timers.size(), armed.size());
        Nanoseconds first = 0;
        for (auto& [mark, deadline] : armed)
            if (first == 0 || deadline < first) first = deadline;
        ASSERT_EQ(timers.next(), first);
        ASSERT_TRUE(first == 0 || (alarm != 0 && alarm <= first));
    }
    for (size_t i = 0; i < marks.size(); i++) EXPECT_EQ(marks[i]->fired, fired[i]);
    timers.clear();
    EXPECT_EQ(timers.next(), 0);
    for (auto& mark : marks) EXPECT_EQ(mark->ref_count(), 1u);
}

TEST(StackTimers, GiveTheirMemoryBack) {
    TimerList timers([](Nanoseconds) {});
    std::vector<Ref<Mark>> marks;
    for (int i = 0; i < 50'000; i++) {
        marks.push_back(make_ref<Mark>());
        timers.arm(*marks.back(), 1 + i);
    }
    EXPECT_GE(timers.room(), 50'000u);
    timers.run(49'000);
    EXPECT_EQ(timers.size(), 1000u);
    EXPECT_LE(timers.room(), 8192u);
    for (auto& mark : marks) timers.disarm(*mark);
    EXPECT_LE(timers.room(), 256u);
}

TEST(StackFifo, AgainstADeque) {
    std::mt19937 random(3);
    Fifo<std::string> fifo;
    std::deque<std::string> model;
    for (int step = 0; step < 50'000; step++) {
        // Long and short in turns.
        bool grows = step / 1000 % 2 == 0;
        if (model.empty() || random() % 10 < (grows ? 7u : 3u)) {
            std::string text = std::to_string(random());
            fifo.push_back(text);
            model.push_back(text);
        } else {
            ASSERT_EQ(fifo.front(), model.front());
            fifo.pop_front();
            model.pop_front();
        }
        if (step % 5000 == 4999) {
            fifo.clear();
            model.clear();
        }
        ASSERT_EQ(fifo.size(), model.size());
        ASSERT_EQ(fifo.empty(), model.empty());
        if (model.empty()) continue;
        ASSERT_EQ(fifo.back(), model.back());
        if (step % 100 == 0) {
            ASSERT_TRUE(std::equal(fifo.begin(), fifo.end(), model.begin(), model.end()));
        }
    }
}

// Who is told late of an earlier deadline must not replace it: everything would wait for the later one.
TEST(StackTimers, TheAlarmIsForTheFirstDeadlineWhoeverArms) {
    std::atomic<Nanoseconds> alarm{0};
    TimerList timers([&](Nanoseconds deadline) {
        if (deadline % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
        alarm.store(deadline);
    });
    for (int round = 0; round < 150; round++) {
        auto arm = [&](Nanoseconds offset) {
            for (Nanoseconds i = 0; i < 50; i++) {
                auto mark = make_ref<Mark>();
                timers.arm(*mark, 1'000'000 - 2 * i - offset);
            }
        };
        std::thread other([&] { arm(0); });
        arm(1);
        other.join();
        ASSERT_EQ(alarm.load(), timers.next()) << round;
        timers.clear();
        timers.run(1);
    }
}

}  // namespace
}  // namespace casemate::sentry::stack
