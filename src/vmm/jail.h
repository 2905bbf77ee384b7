// A monitor in a process of its own (casemate-vmm): uid nobody, namespaces that hold nothing else, an empty root, no
// capabilities, only the descriptors it needs, and seccomp lists of its own (confine.h). It is killed when the thread
// that started it ends.
#pragma once

#include <string>

#include "base/result.h"
#include "host/jail.h"
#include "vmm/monitor.h"

namespace casemate::vmm {

// `program` is casemate-vmm's path. The descriptors in `options` are borrowed; options.memory_file is left out: the
// jail makes it. The process's exit status is exit_status() of the guest's end.
Result<host::JailedProcess> spawn_monitor(const std::string& program, MonitorOptions options);

// casemate-vmm's main(), behind its arguments.
int run_jailed_monitor(const std::vector<std::string>& words);

}  // namespace casemate::vmm
