// What a long-lived process does not need to keep resident.
#pragma once

namespace casemate {

// Unmaps the pages of the program's own code and constants: the start and the set-up of a container touch most of them,
// a process that waits needs few. They stay in the host's page cache, and whatever is used again comes back by a minor
// fault, 64 KiB at a time.
void release_program_pages();

}  // namespace casemate
