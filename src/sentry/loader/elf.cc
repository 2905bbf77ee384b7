#include "sentry/loader/elf.h"

#include <limits.h>

#include <cstring>

#include "base/checked.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMaxProgramHeaders = 65536 / sizeof(Elf64_Phdr);  // Linux: at most 64 KiB of them

SysResult<void> add_segment(ElfImage& image, const Elf64_Phdr& header, uint64_t max_address) {
    if (header.p_memsz == 0) return {};
    if (header.p_filesz > header.p_memsz) return Errno(ENOEXEC);
    if (header.p_vaddr % kPageSize != header.p_offset % kPageSize) return Errno(ENOEXEC);
    auto end = checked_add(header.p_vaddr, header.p_memsz);
    if (!end || *end > max_address) return Errno(ENOMEM);
    auto file_end = checked_add(header.p_offset, header.p_filesz);
    if (!file_end || *file_end > static_cast<uint64_t>(INT64_MAX)) return Errno(ENOEXEC);
    if (!image.segments.empty() && page_down(header.p_vaddr) < image.high) {
        // Touching in one page happens (a text end and a data start); going backwards does not.
        const Elf64_Phdr& before = image.segments.back();
        if (header.p_vaddr < before.p_vaddr + before.p_memsz) return Errno(ENOEXEC);
    }
    if (image.segments.empty()) image.low = page_down(header.p_vaddr);
    image.high = page_up(*end);
    if (header.p_align > image.alignment && (header.p_align & (header.p_align - 1)) == 0 &&
        header.p_align <= (uint64_t{1} << 30))
        image.alignment = header.p_align;
    image.segments.push_back(header);
    return {};
}

}  // namespace

SysResult<ElfImage> parse_elf(ElfSource& source, uint64_t max_address) {
    Elf64_Ehdr header;
    if (!source.read_at(0, std::as_writable_bytes(std::span(&header, 1))).ok()) return Errno(ENOEXEC);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != EM_X86_64 ||
        (header.e_type != ET_EXEC && header.e_type != ET_DYN) || header.e_phentsize != sizeof(Elf64_Phdr) ||
        header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders)
        return Errno(ENOEXEC);

    std::vector<Elf64_Phdr> headers(header.e_phnum);
    TRY(source.read_at(header.e_phoff, std::as_writable_bytes(std::span(headers))));

    ElfImage image;
    image.type = header.e_type;
    image.entry = header.e_entry;
    image.headers_count = header.e_phnum;
    for (const Elf64_Phdr& one : headers) {
        switch (one.p_type) {
            case PT_LOAD: {
                TRY(add_segment(image, one, max_address));
                uint64_t table_size = uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
                if (image.headers_address == 0 && one.p_offset <= header.e_phoff &&
                    header.e_phoff - one.p_offset < one.p_filesz &&
                    table_size <= one.p_filesz - (header.e_phoff - one.p_offset))
                    image.headers_address = one.p_vaddr + (header.e_phoff - one.p_offset);
                break;
            }
            case PT_INTERP: {
                if (!image.interpreter.empty()) break;
                if (one.p_filesz < 2 || one.p_filesz > PATH_MAX) return Errno(ENOEXEC);
                std::string path(one.p_filesz, '\0');
                TRY(source.read_at(one.p_offset, std::as_writable_bytes(std::span(path))));
                if (path.back() != '\0') return Errno(ENOEXEC);
                image.interpreter = path.c_str();
                break;
            }
            case PT_GNU_STACK:
                image.executable_stack = (one.p_flags & PF_X) != 0;
                break;
            default:
                break;
        }
    }
    if (image.segments.empty()) return Errno(ENOEXEC);
    return image;
}

namespace {

class FileSource final : public ElfSource {
  public:
    FileSource(Task& task, File& file) : task_(task), file_(file) {}
    SysResult<void> read_at(uint64_t offset, std::span<std::byte> into) override {
        if (offset > static_cast<uint64_t>(INT64_MAX) - into.size()) return Errno(ENOEXEC);
        size_t done = 0;
        while (done < into.size()) {
            IoBuffer buffer = IoBuffer::kernel(into.subspan(done));
            size_t moved = TRY(file_.pread(task_, buffer, static_cast<int64_t>(offset + done)));
            if (moved == 0) return Errno(ENOEXEC);
            done += moved;
        }
        return {};
    }

  private:
    Task& task_;
    File& file_;
};

int protection_of(const Elf64_Phdr& segment) {
    return ((segment.p_flags & PF_R) != 0 ? PROT_READ : 0) | ((segment.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
           ((segment.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
}

// Zeroes [from, end of its page) of a writable segment: the start of its bss.
SysResult<void> zero_page_rest(AddressSpace& memory, uint64_t from) {
    static constexpr char kZeros[kPageSize] = {};
    uint64_t rest = page_up(from) - from;
    if (rest == 0) return {};
    return memory.copy_out(from, kZeros, rest);
}

}  // namespace

SysResult<ElfImage> parse_elf(Task& task, File& file, uint64_t max_address) {
    FileSource source(task, file);
    return parse_elf(source, max_address);
}

SysResult<void> map_elf(Task& task, AddressSpace& memory, const Ref<File>& file, const ElfImage& image, uint64_t bias) {
    for (const Elf64_Phdr& segment : image.segments) {
        uint64_t start = page_down(segment.p_vaddr) + bias;
        uint64_t file_end = segment.p_vaddr + segment.p_filesz + bias;
        uint64_t end = segment.p_vaddr + segment.p_memsz + bias;
        int protection = protection_of(segment);
        if (segment.p_filesz != 0) {
            MapRequest request;
            request.address = start;
            request.size = page_up(file_end) - start;
            request.protection = protection;
            request.fixed = true;
            request.file = file;
            request.offset = page_down(segment.p_offset);
            TRY(file->prepare_map(task, request));
            TRY(memory.map(request));
        }
        uint64_t anonymous_from = segment.p_filesz != 0 ? page_up(file_end) : start;
        if (page_up(end) > anonymous_from) {
            MapRequest request;
            request.address = anonymous_from;
            request.size = page_up(end) - anonymous_from;
            request.protection = protection;
            request.fixed = true;
            TRY(memory.map(request));
        }
        // As Linux: a bss that begins within a page of a segment that cannot be written stays as the file has it.
        if (segment.p_memsz > segment.p_filesz && segment.p_filesz != 0 && (protection & PROT_WRITE) != 0)
            TRY(zero_page_rest(memory, file_end));
    }
    return {};
}

}  // namespace casemate::sentry
