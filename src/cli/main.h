// The entry of the command line.
#pragma once

namespace casemate::cli {

int run(int argc, char** argv);

}  // namespace casemate::cli
