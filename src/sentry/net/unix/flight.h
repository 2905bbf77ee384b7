// Files in flight: passed by SCM_RIGHTS and not received yet. Sockets that are held by messages in each other's queues
// only would never be freed; a search finds them, as Linux's unix_gc does.
//
// A socket file is a candidate if every reference to it is in flight. From the candidates' references those are taken
// off that lie in candidates' own queues; who has some left is reachable from outside, and so is what lies in its
// queues. The others are garbage: their passed files are dropped. A reference that is neither in a queue nor counted
// (a receive under way) only makes a socket count as reachable.
#pragma once

namespace casemate::sentry {

// Called after a socket file is gone: its end may have cut a cycle off. Searches now and then.
void collect_unreachable_after_close();

}  // namespace casemate::sentry
