#include <elf.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/checked.h"
#include "vmm/image_formats.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr size_t kMaxHeaders = 64;
constexpr uint64_t kMaxNotes = 64 << 10;
constexpr uint32_t kPvhNote = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr size_t kMaxSections = 256;
constexpr uint64_t kSmallGap = 256 << 10;  // copied rather than left out
constexpr uint64_t kLargeSection = kMiB;   // may be a hole itself: Linux' .init.scratch

Error bad(std::string_view what) { return Error(fmt::format("the kernel image is a bad ELF file: {}", what), ENOEXEC); }

// The entry of the PVH note, if there is one in this segment of notes.
std::optional<uint64_t> find_pvh_entry(std::span<const char> notes) {
    while (notes.size() >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr header;
        std::memcpy(&header, notes.data(), sizeof header);
        notes = notes.subspan(sizeof header);
        uint64_t name = (uint64_t{header.n_namesz} + 3) & ~uint64_t{3};
        uint64_t value = (uint64_t{header.n_descsz} + 3) & ~uint64_t{3};
        if (name > notes.size() || value > notes.size() - name) return std::nullopt;
        if (header.n_type == kPvhNote && header.n_namesz == 4 && std::memcmp(notes.data(), "Xen", 4) == 0 &&
            (header.n_descsz == 4 || header.n_descsz == 8)) {
            uint64_t entry = 0;
            std::memcpy(&entry, notes.data() + name, header.n_descsz);
            return entry;
        }
        notes = notes.subspan(name + value);
    }
    return std::nullopt;
}

// Ranges of the file that sections with data lie in, from offset to end, in order. None if the file has no section
// table that makes sense: it can be loaded without one.
std::vector<std::pair<uint64_t, uint64_t>> read_sections(const ImageSource& source, const Elf64_Ehdr& header) {
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum > kMaxSections) return ranges;
    std::vector<Elf64_Shdr> sections(header.e_shnum);
    if (!source.read(header.e_shoff, {reinterpret_cast<char*>(sections.data()), sections.size() * sizeof(Elf64_Shdr)})
             .ok())
        return ranges;
    for (const Elf64_Shdr& section : sections) {
        auto end = checked_add(section.sh_offset, section.sh_size);
        if ((section.sh_flags & SHF_ALLOC) != 0 && section.sh_type != SHT_NOBITS && section.sh_size > 0 && end)
            ranges.emplace_back(section.sh_offset, *end);
    }
    std::sort(ranges.begin(), ranges.end());
    size_t last = 0;
    for (size_t i = 1; i < ranges.size(); ++i) {
        if (ranges[i].first <= ranges[last].second || ranges[i].first - ranges[last].second < kSmallGap)
            ranges[last].second = std::max(ranges[last].second, ranges[i].second);
        else
            ranges[++last] = ranges[i];
    }
    if (!ranges.empty()) ranges.resize(last + 1);
    return ranges;
}

// What of a piece is to be copied. A kernel is a third of padding between sections (Linux aligns them to 2 MiB) and of
// sections without data that linkers put in front of others; a table that leaves something out harms its own kernel.
void add_data(const ImagePiece& piece, const std::vector<std::pair<uint64_t, uint64_t>>& sections,
              std::vector<FilePart>& data) {
    if (piece.file_size == 0) return;
    uint64_t begin = piece.file_offset, end = begin + piece.file_size;
    size_t before = data.size();
    for (auto [first, last] : sections) {
        if (last <= begin || first >= end) continue;
        first = first <= begin || first - begin < kSmallGap ? begin : first;
        last = last >= end || end - last < kSmallGap ? end : last;
        data.push_back({first, last - first, piece.address + (first - begin),
                        last - first < kLargeSection ? Holes::kNone : Holes::kAtBeginning});
    }
    if (data.size() == before) data.push_back({begin, piece.file_size, piece.address, Holes::kAnywhere});
}

}  // namespace

Result<KernelImage> read_elf(const ImageSource& source) {
    Elf64_Ehdr header;
    if (!source.read(0, {reinterpret_cast<char*>(&header), sizeof header}).ok()) return bad("it ends in its header");
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != EM_X86_64)
        return bad("it is not for x86-64");
    if (header.e_type != ET_EXEC && header.e_type != ET_DYN) return bad("it is not a program");
    if (header.e_phentsize != sizeof(Elf64_Phdr)) return bad("its program headers have an odd size");
    if (header.e_phnum == 0 || header.e_phnum > kMaxHeaders)
        return bad(fmt::format("it has {} program headers", header.e_phnum));
    std::vector<Elf64_Phdr> headers(header.e_phnum);
    if (!source.read(header.e_phoff, {reinterpret_cast<char*>(headers.data()), headers.size() * sizeof(Elf64_Phdr)})
             .ok())
        return bad("its program headers lie past its end");

    KernelImage image;
    image.protocol = Protocol::kLinux64;
    image.entry = header.e_entry;
    for (const Elf64_Phdr& segment : headers) {
        if (segment.p_type == PT_LOAD && segment.p_memsz > 0) {
            auto end = checked_add(segment.p_paddr, segment.p_memsz);
            if (segment.p_filesz > segment.p_memsz) return bad("a segment is larger in the file than in memory");
            if (segment.p_offset > source.size() || segment.p_filesz > source.size() - segment.p_offset)
                return bad("a segment lies past its end (is it truncated?)");
            if (!end || *end > kMaxMemory)
                return bad(fmt::format("a segment at {:#x} of {:#x} bytes", segment.p_paddr, segment.p_memsz));
            if (segment.p_paddr < kHighMemory) return bad("a segment lies below 1 MiB, where the boot tables are");
            image.pieces.push_back({segment.p_offset, segment.p_filesz, segment.p_paddr, segment.p_memsz});
            image.end = std::max(image.end, *end);
        } else if (segment.p_type == PT_NOTE) {
            if (segment.p_filesz > kMaxNotes) continue;  // not the kernel's own
            std::vector<char> notes(segment.p_filesz);
            if (!source.read(segment.p_offset, notes).ok()) return bad("its notes lie past its end (is it truncated?)");
            if (auto entry = find_pvh_entry(notes)) {
                image.protocol = Protocol::kPvh;
                image.entry = *entry;
            }
        }
    }
    if (image.pieces.empty()) return bad("there is nothing to load in it");
    std::sort(image.pieces.begin(), image.pieces.end(),
              [](const ImagePiece& a, const ImagePiece& b) { return a.address < b.address; });
    for (size_t i = 1; i < image.pieces.size(); ++i)
        if (image.pieces[i - 1].address + image.pieces[i - 1].memory_size > image.pieces[i].address)
            return bad("two segments overlap in memory");
    bool inside = std::any_of(image.pieces.begin(), image.pieces.end(), [&](const ImagePiece& piece) {
        return image.entry >= piece.address && image.entry - piece.address < piece.memory_size;
    });
    if (!inside) return bad(fmt::format("its entry {:#x} lies in no segment", image.entry));
    if (image.protocol == Protocol::kPvh && image.entry > 0xffffffff) return bad("its PVH entry lies above 4 GiB");
    auto sections = read_sections(source, header);
    for (const ImagePiece& piece : image.pieces) add_data(piece, sections, image.data);
    return image;
}

}  // namespace casemate::vmm
