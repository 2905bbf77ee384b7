// What the cases of memory share.
#pragma once

#include <setjmp.h>

#include <string>

#include "case.h"

inline const size_t kPage = 4096;

inline char* map(size_t size, int prot = PROT_READ | PROT_WRITE, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1,
                 off_t offset = 0, void* where = nullptr) {
    return (char*)OK(mmap(where, size, prot, flags, fd, offset));
}

inline int file_with(const std::string& content) {
    int fd = OK(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    EXPECT_EQ(write(fd, content.data(), content.size()), content.size());
    return fd;
}

inline sigjmp_buf after_fault;
inline siginfo_t fault;
inline void on_fault(int, siginfo_t* info, void*) {
    fault = *info;
    siglongjmp(after_fault, 1);
}
// 0, or the signal that the access got.
template <typename Access>
inline int faults(Access access) {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    OK(sigaction(SIGSEGV, &action, nullptr));
    OK(sigaction(SIGBUS, &action, nullptr));
    if (sigsetjmp(after_fault, 1) == 0) {
        access();
        return 0;
    }
    return fault.si_signo;
}
inline int reads(const char* at) {
    return faults([&] { (void)*(volatile const char*)at; });
}
inline int writes(char* at) {
    return faults([&] { *(volatile char*)at = 1; });
}

inline bool mapped(const void* at) {
    unsigned char state;
    return mincore((void*)((uintptr_t)at & ~(kPage - 1)), 1, &state) == 0;
}
