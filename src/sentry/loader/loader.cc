#include "sentry/loader/loader.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "base/checked.h"
#include "sentry/kernel/exec_credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/tracing.h"
#include "sentry/loader/cpuid_answers.h"
#include "sentry/loader/elf.h"
#include "sentry/loader/initial_stack.h"
#include "sentry/loader/script.h"
#include "sentry/vdso/vdso.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

constexpr int kMaxInterpreters = 5;
constexpr uint64_t kGigabyte = uint64_t{1} << 30;
constexpr uint64_t kMaxStack = 4 * kGigabyte;  // what RLIM_INFINITY means
constexpr GuestAddr kPieBase = 0x555555554000;

uint64_t random_pages(Task& task, unsigned bits) {
    if ((task.parts().personality & ADDR_NO_RANDOMIZE) != 0) return 0;
    uint64_t value = 0;
    if (::getrandom(&value, sizeof(value), 0) != sizeof(value)) return 0;
    return (value & ((uint64_t{1} << bits) - 1)) * kPageSize;
}

SysResult<size_t> read_head(Task& task, File& file, std::span<char> into) {
    IoBuffer buffer = IoBuffer::kernel(std::as_writable_bytes(into));
    return file.pread(task, buffer, 0);
}

// Follows scripts to the program that runs them; the arguments grow accordingly.
SysResult<void> resolve_scripts(Task& task, LoadRequest& request) {
    for (int depth = 0;; ++depth) {
        char head[kProbeSize];
        size_t size = TRY(read_head(task, *request.file, head));
        auto script = TRY(parse_script(std::string_view(head, size)));
        if (!script) return {};
        if (depth == kMaxInterpreters) return Errno(ELOOP);
        if (request.close_on_exec) return Errno(ENOENT);
        request.arguments.remove_first();
        request.arguments.prepend(request.path);
        if (script->argument) request.arguments.prepend(*script->argument);
        request.arguments.prepend(script->interpreter);
        request.file = TRY(open_executable(task, AT_FDCWD, script->interpreter, 0));
        request.path = script->interpreter;
    }
}

std::string_view base_name(std::string_view path) {
    size_t slash = path.rfind('/');
    return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

struct Placement {
    uint64_t bias = 0;
    GuestAddr start = 0, end = 0;
};

// Where an image goes: at its own addresses, or near `base`.
SysResult<Placement> place(const ElfImage& image, GuestAddr base, GuestAddr limit) {
    Placement placement;
    if (image.type == ET_DYN) {
        GuestAddr at = base & ~(image.alignment - 1);
        placement.bias = at - (image.low & ~(image.alignment - 1));
    }
    placement.start = image.low + placement.bias;
    placement.end = image.high + placement.bias;
    if (placement.end > limit || placement.end < placement.start) return Errno(ENOMEM);
    return placement;
}

SysResult<GuestAddr> map_stack(Task& task, AddressSpace& memory, bool executable, uint64_t max_address) {
    uint64_t limit = task.limit(RLIMIT_STACK);
    uint64_t size = limit > kMaxStack ? kMaxStack : page_up(limit);
    if (size < 128 * 1024) size = 128 * 1024;
    GuestAddr top = page_down(max_address) - kPageSize - random_pages(task, 22);
    MapRequest request;
    request.address = top - size;
    request.size = size;
    request.protection = PROT_READ | PROT_WRITE | (executable ? PROT_EXEC : 0);
    request.fixed = true;
    request.grows_down = true;
    request.no_reserve = true;
    request.name = "[stack]";
    TRY(memory.map(request));
    return top;
}

SysResult<GuestAddr> map_vdso(AddressSpace& memory, const Vdso& vdso) {
    MapRequest request;
    request.size = vdso.size();
    request.protection = PROT_READ | PROT_EXEC;
    request.object = vdso.image();
    request.name = "[vdso]";
    return memory.map(request);
}

}  // namespace

uint64_t argument_limit(uint64_t stack_limit) {
    uint64_t limit = stack_limit / 4;
    if (limit > 6 << 20) limit = 6 << 20;
    return limit < 128 << 10 ? 128 << 10 : limit;
}

SysResult<LoadedProgram> load(Task& task, LoadRequest request) {
    std::string name(base_name(request.path));
    std::string executable_name = request.path;
    // A program is never without argv[0].
    if (request.arguments.count() == 0) request.arguments.append("");
    TRY(resolve_scripts(task, request));
    // Again with what the interpreters added; the caller checked its own part.
    if (request.arguments.bytes().size() + request.environment.bytes().size() +
            (request.arguments.count() + request.environment.count()) * sizeof(uint64_t) >
        argument_limit(task.limit(RLIMIT_STACK)))
        return Errno(E2BIG);

    Kernel& kernel = task.kernel();
    uint64_t max_address = kernel.platform().max_user_address();
    ElfImage image = TRY(parse_elf(task, *request.file, max_address));
    Ref<File> interpreter_file;
    ElfImage interpreter;
    if (!image.interpreter.empty()) {
        interpreter_file = TRY(open_executable(task, AT_FDCWD, image.interpreter, 0));
        auto parsed = parse_elf(task, *interpreter_file, max_address);
        if (!parsed.ok()) return errno_of(parsed.error()) == ENOEXEC ? Errno(ELIBBAD) : parsed.take_error();
        interpreter = parsed.take_value();
        if (!interpreter.interpreter.empty()) return Errno(ELIBBAD);
    }

    LoadedProgram program;
    ExecCredentials after = TRY(credentials_for_exec(task, *request.file));
    program.credentials = after.credentials;
    program.secure = after.secure;
    program.name = std::move(name);
    program.memory = TRY(AddressSpace::create(kernel.platform(), kernel.memory()));
    AddressSpace& memory = *program.memory;
    memory.begin_batch();

    GuestAddr stack_top = TRY(map_stack(task, memory, image.executable_stack, max_address));
    // A position-independent program goes to the usual place, which leaves room for the heap.
    Placement at = TRY(place(image, kPieBase + random_pages(task, 28), max_address));
    TRY(map_elf(task, memory, request.file, image, at.bias));
    Placement interpreter_at;
    if (interpreter_file) {
        // Below the stack and its room to grow, where mmap's area begins.
        GuestAddr base = max_address - 96 * kGigabyte + random_pages(task, 22);
        interpreter_at = TRY(place(interpreter, base - (interpreter.high - interpreter.low), max_address));
        TRY(map_elf(task, memory, interpreter_file, interpreter, interpreter_at.bias));
        // A tracer is shown the code that runs.
        for (const Elf64_Phdr& segment : interpreter.segments) {
            if (segment.p_flags != (PF_R | PF_X) || segment.p_memsz != segment.p_filesz || is_traced(task)) continue;
            GuestAddr start = page_down(segment.p_vaddr);
            answer_cpuid_in(memory, start + interpreter_at.bias, segment.p_vaddr + segment.p_filesz - start);
        }
    }
    GuestAddr brk_start = at.end + random_pages(task, 13);
    memory.set_brk_start(page_up(brk_start));

    GuestAddr vdso = kernel.vdso() != nullptr ? TRY(map_vdso(memory, *kernel.vdso())) : 0;

    const Credentials& credentials = *program.credentials;
    uint64_t entry = image.entry + at.bias;
    program.entry = interpreter_file ? interpreter.entry + interpreter_at.bias : entry;
    std::vector<uint64_t> auxv;
    auto add = [&](uint64_t key, uint64_t value) {
        auxv.push_back(key);
        auxv.push_back(value);
    };
    for (size_t i = 0; i + 1 < request.extra_auxv.size(); i += 2) add(request.extra_auxv[i], request.extra_auxv[i + 1]);
    if (vdso != 0) add(AT_SYSINFO_EHDR, vdso);
    add(AT_HWCAP, ::getauxval(AT_HWCAP));
    add(AT_PAGESZ, kPageSize);
    add(AT_CLKTCK, 100);
    add(AT_PHDR, image.headers_address != 0 ? image.headers_address + at.bias : 0);
    add(AT_PHENT, sizeof(Elf64_Phdr));
    add(AT_PHNUM, image.headers_count);
    add(AT_BASE, interpreter_at.bias);
    add(AT_FLAGS, 0);
    add(AT_ENTRY, entry);
    add(AT_UID, credentials.uid);
    add(AT_EUID, credentials.euid);
    add(AT_GID, credentials.gid);
    add(AT_EGID, credentials.egid);
    add(AT_SECURE, program.secure ? 1 : 0);
    add(AT_HWCAP2, ::getauxval(AT_HWCAP2));
    add(AT_MINSIGSTKSZ, minimum_signal_stack(kernel.platform()));

    StackContents contents{stack_top, &request.arguments, &request.environment, executable_name, auxv};
    StackResult stack = TRY(write_initial_stack(memory, contents));
    program.stack = stack.pointer;

    AddressSpace::Layout layout;
    for (const Elf64_Phdr& segment : image.segments) {
        GuestAddr start = segment.p_vaddr + at.bias, end = start + segment.p_filesz;
        if ((segment.p_flags & PF_X) != 0) {
            if (layout.code_start == 0 || start < layout.code_start) layout.code_start = start;
            if (end > layout.code_end) layout.code_end = end;
        }
        if (start > layout.data_start) layout.data_start = start;
        if (end > layout.data_end) layout.data_end = end;
    }
    layout.stack_start = stack.pointer;
    layout.arg_start = stack.arg_start;
    layout.arg_end = stack.arg_end;
    layout.env_start = stack.env_start;
    layout.env_end = stack.env_end;
    layout.auxv = std::move(stack.auxv);
    layout.executable = request.file;
    // Of what a program consists of, only its own file is protected while it runs.
    if (interpreter_file) interpreter_file->set_write_hold({});
    memory.set_layout(std::move(layout));
    TRY(memory.end_batch());
    return program;
}

}  // namespace casemate::sentry
