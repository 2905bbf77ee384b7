// casemate: the command line. Reads the global options, finds the command, runs it.
#include "cli/main.h"

int main(int argc, char** argv) { return casemate::cli::run(argc, argv); }
