// A casemate-sentry for tests of the sandbox host: the fake guest in the sentry's jail, with its descriptors.
#include "base/log.h"
#include "guest_api/guest_server.h"
#include "guest_fake/fake_guest.h"

int main() {
    using namespace casemate;
    log::set_sink(-1, log::Format::kText, log::Level::kError);
    guest_fake::FakeGuest guest;
    auto served = guest_api::serve(guest, UniqueFd(3), UniqueFd(4));
    return served.ok() ? 0 : 1;
}
