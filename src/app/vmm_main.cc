// casemate-vmm: the monitor of one virtual machine, in its jail. Started by `casemate vmm` (vmm/jail.h) with its
// options as arguments and their descriptors open.
#include <string>
#include <vector>

#include "vmm/jail.h"

int main(int argc, char** argv) {
    return casemate::vmm::run_jailed_monitor(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
