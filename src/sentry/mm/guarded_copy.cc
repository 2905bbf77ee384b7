#include "sentry/mm/guarded_copy.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>

extern "C" {
extern const char __executable_start, etext;
extern const char guarded_begin[], guarded_end[], guarded_failed[];
int guarded_copy_asm(void* into, const void* from, size_t size);
int guarded_zero_asm(void* into, size_t size);
int guarded_load_asm(const uint32_t* word, uint32_t* value);
int guarded_compare_exchange_asm(uint32_t* word, uint32_t expected, uint32_t desired, uint32_t* value);
}

namespace casemate::sentry {
namespace {

// SAFETY: runs as a signal handler; touches only the interrupted context. A fault outside of the guarded functions is a
// bug: the default action is put back and the instruction faults again, so that the core shows the place.
void on_fault(int signo, siginfo_t*, void* context) {
    auto& ip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    if (ip >= reinterpret_cast<greg_t>(guarded_begin) && ip < reinterpret_cast<greg_t>(guarded_end)) {
        ip = reinterpret_cast<greg_t>(guarded_failed);
        return;
    }
    // Where, for addr2line: the instruction and what called it, as offsets in the program.
    constexpr int kLogFd = 6;
    auto base = reinterpret_cast<uintptr_t>(&__executable_start);
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    char line[600] = "BUG: fault at";
    size_t length = strlen(line);
    auto append = [&](uintptr_t value) {
        line[length++] = ' ';
        for (int shift = 44; shift >= 0; shift -= 4) line[length++] = "0123456789abcdef"[value >> shift & 15];
    };
    append(static_cast<uintptr_t>(ip) - base);
    auto frame = static_cast<uintptr_t>(registers[REG_RBP]);
    for (int depth = 0; depth < 8 && frame > 4096; depth++) {
        uintptr_t words[2] = {};
        if (guarded_copy_asm(words, reinterpret_cast<void*>(frame), sizeof(words)) == 0) break;
        append(words[1] - base);
        if (words[0] <= frame) break;
        frame = words[0];
    }
    // The C library keeps no frames: what on the stack may be return addresses.
    auto words = static_cast<uintptr_t>(registers[REG_RSP]);
    const auto end = reinterpret_cast<uintptr_t>(&etext);
    line[length++] = ';';
    for (int depth = 0, found = 0; depth < 400 && found < 24; depth++, words += sizeof(uintptr_t)) {
        uintptr_t word = 0;
        if (guarded_copy_asm(&word, reinterpret_cast<void*>(words), sizeof(word)) == 0) break;
        if (word <= base || word >= end) continue;
        append(word - base);
        ++found;
    }
    line[length++] = '\n';
    ssize_t written = write(kLogFd, line, length);
    written = write(2, line, length);
    static_cast<void>(written);
    struct sigaction fallback {};
    fallback.sa_handler = SIG_DFL;
    sigaction(signo, &fallback, nullptr);
    _exit(134);  // a pid namespace's first process would survive its own default action
}

}  // namespace

void install_fault_guard() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}

bool guarded_copy(void* into, const void* from, size_t size) { return guarded_copy_asm(into, from, size) != 0; }
bool guarded_zero(void* into, size_t size) { return guarded_zero_asm(into, size) != 0; }
bool guarded_load(const uint32_t* word, uint32_t& value) { return guarded_load_asm(word, &value) != 0; }
bool guarded_compare_exchange(uint32_t* word, uint32_t expected, uint32_t desired, uint32_t& value) {
    return guarded_compare_exchange_asm(word, expected, desired, &value) != 0;
}

}  // namespace casemate::sentry
