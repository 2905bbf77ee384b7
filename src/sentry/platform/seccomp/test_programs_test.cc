// The machine code of the tests and of the benchmark. Position-independent.
#include "sentry/platform/seccomp/test_programs.h"

asm(R"(
    .pushsection .rodata.test_programs, "a", @progbits
    .globl prog_begin, prog_end
    .balign 64
prog_begin:
    .globl prog_syscalls
prog_syscalls:                  # rax, args as the registers say, again and again
    syscall
    jmp prog_syscalls
    .globl prog_two
prog_two:                       # syscall rbx, then a second one with the first one's result as argument
    mov %rbx, %rax
    syscall
    mov %rax, %rdi
    mov $777, %eax
    syscall
    ud2
    .globl prog_load
prog_load:
    mov (%rsi), %rdi
    mov $778, %eax
    syscall
    ud2
    .globl prog_store
prog_store:
    mov %rdx, (%rsi)
    mov $779, %eax
    syscall
    ud2
    .globl prog_spin
prog_spin:
    inc %rbx
    jmp prog_spin
    .globl prog_divide
prog_divide:
    xor %edx, %edx
    xor %ecx, %ecx
    div %ecx
    .globl prog_int80
prog_int80:
    mov $20, %eax
    int $0x80
    ud2
    .globl prog_sysenter
prog_sysenter:
    mov $20, %eax
    mov %rsp, %rbp
    sysenter
    ud2
    .globl prog_bases
prog_bases:                     # fs:0 and gs:8 through syscall arguments
    mov %fs:0, %rdi
    mov %gs:8, %rsi
    rdfsbase %rdx
    mov $780, %eax
    syscall
    mov %rbx, %rax
    wrfsbase %rax
    mov $56, %eax               # clone: traps, so registers are there
    syscall
    ud2
    .globl prog_fp
prog_fp:                        # stores ymm1, mm-free x87 top and mxcsr at rsi, loads ymm2 from rdi first
    vmovdqu (%rdi), %ymm2
    vpaddq %ymm1, %ymm2, %ymm3
    vmovdqu %ymm3, (%rsi)
    stmxcsr 32(%rsi)
    int3
    jmp prog_fp
    .globl prog_jump
prog_jump:                      # into the stub
    jmp *%r15
    .globl prog_call_vsyscall
prog_call_vsyscall:
    movabs $0xffffffffff600400, %rbx
    xor %edi, %edi
    call *%rbx
    mov %rax, %rdi
    mov $781, %eax
    syscall
    ud2
    .globl prog_scribble
prog_scribble:                  # fills [rdi, rsi) with rdx, for ever
    mov %rdi, %rcx
1:  mov %rdx, (%rcx)
    add $8, %rcx
    cmp %rsi, %rcx
    jb 1b
    jmp prog_scribble
    .globl prog_getpid_loop
prog_getpid_loop:
    mov $39, %eax
    syscall
    jmp prog_getpid_loop
    .globl prog_call
prog_call:                      # calls r15, then a syscall with the result as argument
    call *%r15
    mov %rax, %rdi
    mov $782, %eax
    syscall
    ud2
prog_end:
    .popsection
)");
