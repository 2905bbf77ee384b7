#include "host/cgroup_devices_bpf.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "base/unique_fd.h"
#include "linux/path.h"

namespace casemate::host {

namespace {

constexpr char kProgramName[] = "casemate_dev";

bpf_insn instruction(int code, int dst, int src, int offset, int32_t imm) {
    bpf_insn insn = {};
    insn.code = static_cast<uint8_t>(code);
    insn.dst_reg = static_cast<uint8_t>(dst) & 0xf;
    insn.src_reg = static_cast<uint8_t>(src) & 0xf;
    insn.off = static_cast<int16_t>(offset);
    insn.imm = imm;
    return insn;
}

constexpr int kType = 2, kUndecided = 3, kMajor = 4, kMinor = 5, kScratch = 0, kContext = 1;  // registers

bpf_insn load_field(int dst, size_t offset) {
    return instruction(BPF_LDX | BPF_MEM | BPF_W, dst, kContext, static_cast<int>(offset), 0);
}
bpf_insn alu(int op, int dst, int32_t imm) { return instruction(BPF_ALU | op | BPF_K, dst, 0, 0, imm); }
bpf_insn exit_program() { return instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0); }
bpf_insn move(int dst, int32_t imm) { return alu(BPF_MOV, dst, imm); }

int32_t access_bits(const std::string& access) {
    int32_t bits = 0;
    for (char c : access) bits |= c == 'r' ? BPF_DEVCG_ACC_READ : c == 'w' ? BPF_DEVCG_ACC_WRITE : BPF_DEVCG_ACC_MKNOD;
    return bits;
}

// What a rule does when type and numbers fit.
std::vector<bpf_insn> verdict(const oci::DeviceRule& rule) {
    int32_t bits = access_bits(rule.access);
    if (rule.allow) {
        // Those bits are decided; with none left the answer is yes.
        return {alu(BPF_AND, kUndecided, ~bits & 7), instruction(BPF_JMP32 | BPF_JNE | BPF_K, kUndecided, 0, 2, 0),
                move(kScratch, 1), exit_program()};
    }
    return {instruction(BPF_JMP32 | BPF_JSET | BPF_K, kUndecided, 0, 1, bits),
            instruction(BPF_JMP | BPF_JA, 0, 0, 2, 0), move(kScratch, 0), exit_program()};
}

SysResult<int> bpf(int command, bpf_attr& attributes) {
    long result = ::syscall(SYS_bpf, command, &attributes, sizeof attributes);
    if (result < 0) return last_errno();
    return static_cast<int>(result);
}

// The descriptor of our own program among those attached, or empty.
UniqueFd find_attached(int cgroup_fd) {
    uint32_t ids[64];
    bpf_attr query = {};
    query.query.target_fd = static_cast<uint32_t>(cgroup_fd);
    query.query.attach_type = BPF_CGROUP_DEVICE;
    query.query.prog_ids = reinterpret_cast<uint64_t>(ids);
    query.query.prog_cnt = 64;
    if (!bpf(BPF_PROG_QUERY, query).ok()) return UniqueFd();
    for (uint32_t i = 0; i < query.query.prog_cnt && i < 64; i++) {
        bpf_attr get = {};
        get.prog_id = ids[i];
        auto fd = bpf(BPF_PROG_GET_FD_BY_ID, get);
        if (!fd.ok()) continue;
        UniqueFd program(*fd);
        bpf_prog_info info = {};
        bpf_attr describe = {};
        describe.info.bpf_fd = static_cast<uint32_t>(program.get());
        describe.info.info_len = sizeof info;
        describe.info.info = reinterpret_cast<uint64_t>(&info);
        if (bpf(BPF_OBJ_GET_INFO_BY_FD, describe).ok() && std::strncmp(info.name, kProgramName, sizeof info.name) == 0)
            return program;
    }
    return UniqueFd();
}

}  // namespace

std::vector<bpf_insn> build_device_program(const std::vector<oci::DeviceRule>& rules) {
    std::vector<bpf_insn> code = {
        load_field(kType, offsetof(bpf_cgroup_dev_ctx, access_type)),
        instruction(BPF_ALU | BPF_MOV | BPF_X, kUndecided, kType, 0, 0),
        alu(BPF_AND, kType, 0xffff),
        alu(BPF_RSH, kUndecided, 16),
        load_field(kMajor, offsetof(bpf_cgroup_dev_ctx, major)),
        load_field(kMinor, offsetof(bpf_cgroup_dev_ctx, minor)),
    };
    // From the last rule to the first: each bit is decided by the first that fits it on this way.
    for (size_t i = rules.size(); i-- > 0;) {
        const oci::DeviceRule& rule = rules[i];
        std::vector<bpf_insn> block = verdict(rule);
        auto require = [&](int reg, uint32_t value) {
            block.insert(block.begin(), instruction(BPF_JMP32 | BPF_JNE | BPF_K, reg, 0, static_cast<int>(block.size()),
                                                    static_cast<int32_t>(value)));
        };
        if (rule.minor) require(kMinor, *rule.minor);
        if (rule.major) require(kMajor, *rule.major);
        if (rule.type != 'a') require(kType, rule.type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
        code.insert(code.end(), block.begin(), block.end());
        // Instructions behind a rule that always returns are unreachable, which the verifier refuses.
        if (rule.type == 'a' && !rule.major && !rule.minor && access_bits(rule.access) == 7 && rule.allow) break;
    }
    code.push_back(move(kScratch, 1));
    code.push_back(exit_program());
    return code;
}

Result<void> attach_device_program(const std::string& cgroup_directory, const std::vector<oci::DeviceRule>& rules) {
    std::vector<bpf_insn> code = build_device_program(rules);
    static const char kLicense[] = "Apache-2.0";
    bpf_attr load = {};
    load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    load.insns = reinterpret_cast<uint64_t>(code.data());
    load.insn_cnt = static_cast<uint32_t>(code.size());
    load.license = reinterpret_cast<uint64_t>(kLicense);
    std::memcpy(load.prog_name, kProgramName, sizeof kProgramName);
    auto loaded = bpf(BPF_PROG_LOAD, load);
    if (!loaded.ok())
        return sys_error("linux.resources.devices: loading the device rules as a BPF program", loaded.error().value);
    UniqueFd program(*loaded);
    auto directory = linux::open(cgroup_directory, O_RDONLY | O_DIRECTORY);
    if (!directory.ok()) return sys_error("open " + cgroup_directory, directory.error().value);
    UniqueFd old = find_attached(directory->get());
    bpf_attr attach = {};
    attach.target_fd = static_cast<uint32_t>(directory->get());
    attach.attach_bpf_fd = static_cast<uint32_t>(program.get());
    attach.attach_type = BPF_CGROUP_DEVICE;
    attach.attach_flags = BPF_F_ALLOW_MULTI;
    if (old) {
        attach.attach_flags |= BPF_F_REPLACE;
        attach.replace_bpf_fd = static_cast<uint32_t>(old.get());
    }
    auto attached = bpf(BPF_PROG_ATTACH, attach);
    if (!attached.ok())
        return sys_error("linux.resources.devices: attaching the BPF program to " + cgroup_directory,
                         attached.error().value);
    return {};
}

}  // namespace casemate::host
