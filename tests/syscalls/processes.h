// What the cases of processes share.
#pragma once

#include "case.h"

inline pid_t pause_child() {
    return child([] {
        for (;;) pause();
    });
}
inline void end(pid_t pid) {
    kill(pid, SIGKILL);
    wait_for(pid);
}
