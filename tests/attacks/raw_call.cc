// One system call by number: raw_call NUMBER [ARGUMENT...]. Arguments are numbers (0x..., decimal) or text, which is
// passed by address. Prints "= VALUE" or the errno's name; status 0 either way.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
    if (argc < 2 || argc > 8) return 2;
    long arguments[7] = {};
    for (int i = 1; i < argc; ++i) {
        char* end;
        long value = (long)strtoull(argv[i], &end, 0);
        arguments[i - 1] = *argv[i] != '\0' && *end == '\0' ? value : (long)argv[i];
    }
    errno = 0;
    long result =
        syscall(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]);
    if (result == -1 && errno != 0) {
        const char* name = strerrorname_np(errno);
        printf("%s\n", name != nullptr ? name : "?");
    } else {
        printf("= %ld\n", result);
    }
}
