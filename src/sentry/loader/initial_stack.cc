#include "sentry/loader/initial_stack.h"

#include <elf.h>
#include <sys/random.h>

#include <cstring>

namespace casemate::sentry {
namespace {

constexpr std::string_view kPlatform = "x86_64";

// Pointers to each string of a list that lies at `at`.
void append_pointers(std::vector<uint64_t>& words, const StringList& list, GuestAddr at) {
    const std::string& bytes = list.bytes();
    for (size_t position = 0; position < bytes.size();) {
        words.push_back(at + position);
        position = bytes.find('\0', position) + 1;
    }
    words.push_back(0);
}

}  // namespace

SysResult<StackResult> write_initial_stack(AddressSpace& memory, const StackContents& contents) {
    const std::string& arguments = contents.arguments->bytes();
    const std::string& environment = contents.environment->bytes();
    StackResult result;
    // From the top: a null word, the file name, environment, arguments: where Linux and /proc readers look for them.
    GuestAddr at = contents.top - 8;
    at -= contents.executable_name.size() + 1;
    GuestAddr name_at = at;
    result.env_end = at;
    at -= environment.size();
    result.env_start = at;
    result.arg_end = at;
    at -= arguments.size();
    result.arg_start = at;
    at &= ~uint64_t{15};
    at -= kPlatform.size() + 1;
    GuestAddr platform_at = at;
    at -= 16;
    GuestAddr random_at = at;
    GuestAddr strings_low = at;

    std::vector<uint64_t>& auxv = result.auxv;
    auxv.assign(contents.auxv.begin(), contents.auxv.end());
    for (uint64_t word : {uint64_t{AT_RANDOM}, random_at, uint64_t{AT_EXECFN}, name_at, uint64_t{AT_PLATFORM},
                          platform_at, uint64_t{AT_NULL}, uint64_t{0}})
        auxv.push_back(word);

    std::vector<uint64_t> words;
    words.reserve(contents.arguments->count() + contents.environment->count() + auxv.size() + 3);
    words.push_back(contents.arguments->count());
    append_pointers(words, *contents.arguments, result.arg_start);
    append_pointers(words, *contents.environment, result.env_start);
    words.insert(words.end(), auxv.begin(), auxv.end());
    result.pointer = (strings_low - words.size() * sizeof(uint64_t)) & ~uint64_t{15};

    // One copy for all.
    std::string image(contents.top - result.pointer, '\0');
    auto place = [&](GuestAddr address, const void* bytes, size_t size) {
        std::memcpy(image.data() + (address - result.pointer), bytes, size);
    };
    place(result.pointer, words.data(), words.size() * sizeof(uint64_t));
    char random[16];
    if (::getrandom(random, sizeof(random), 0) != sizeof(random)) return Errno(EIO);
    place(random_at, random, sizeof(random));
    place(platform_at, kPlatform.data(), kPlatform.size());
    place(result.arg_start, arguments.data(), arguments.size());
    place(result.env_start, environment.data(), environment.size());
    place(name_at, contents.executable_name.data(), contents.executable_name.size());
    TRY(memory.copy_out(result.pointer, image.data(), image.size()));
    return result;
}

}  // namespace casemate::sentry
