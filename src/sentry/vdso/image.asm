// The vDSO that applications see: an ELF shared object in one page, linked by itself (image.lds) and carried by the
// sentry as bytes (vdso_blob.S). It reads clocks by the host's own functions, which the platform keeps at known
// addresses in every address space; what they do not offer it asks the sentry for by an ordinary system call.
//
// The parameters at the end are the sentry's to fill in (vdso.h). System V ABI: each function keeps its arguments in
// their registers until it jumps on.

#include <asm/unistd.h>

#define HOST_CLOCKS 0x8f3  /* by number: REALTIME, MONOTONIC, MONOTONIC_RAW, both COARSE, BOOTTIME, TAI */

    .macro entry name
    .globl __vdso_\name
    .type __vdso_\name, @function
    .balign 16
__vdso_\name:
    .cfi_startproc
    .endm

    .macro leave name
    .cfi_endproc
    .size __vdso_\name, . - __vdso_\name
    .weak \name
    .set \name, __vdso_\name
    .endm

    .text

entry clock_gettime
    cmp $12, %edi
    jae 1f
    mov $HOST_CLOCKS, %eax
    bt %edi, %eax
    jnc 1f
    mov host_clock_gettime(%rip), %rax
    test %rax, %rax
    jz 1f
    jmp *%rax
1:  mov $__NR_clock_gettime, %eax
    syscall
    ret
leave clock_gettime

entry clock_getres
    cmp $12, %edi
    jae 1f
    mov $HOST_CLOCKS, %eax
    bt %edi, %eax
    jnc 1f
    mov host_clock_getres(%rip), %rax
    test %rax, %rax
    jz 1f
    jmp *%rax
1:  mov $__NR_clock_getres, %eax
    syscall
    ret
leave clock_getres

entry gettimeofday
    test %rsi, %rsi             // the time zone is the sentry's to tell
    jnz 1f
    mov host_gettimeofday(%rip), %rax
    test %rax, %rax
    jz 1f
    jmp *%rax
1:  mov $__NR_gettimeofday, %eax
    syscall
    ret
leave gettimeofday

entry time
    mov host_time(%rip), %rax
    test %rax, %rax
    jz 1f
    jmp *%rax
1:  mov $__NR_time, %eax
    syscall
    ret
leave time

// The CPU it runs on, counted as the sentry counts them; node 0.
entry getcpu
    mov cpus(%rip), %ecx
    test %ecx, %ecx
    jz 3f
    .byte 0xf3, 0x0f, 0xc7, 0xf8  // rdpid %rax
    and $0xfff, %eax
    xor %edx, %edx
    div %ecx
    test %rdi, %rdi
    jz 1f
    mov %edx, (%rdi)
1:  test %rsi, %rsi
    jz 2f
    movl $0, (%rsi)
2:  xor %eax, %eax
    ret
3:  mov $__NR_getcpu, %eax
    syscall
    ret
leave getcpu

    .section .parameters, "a"
    .balign 16
    .ascii "casemate vdso 01"
host_clock_gettime:
    .quad 0
host_gettimeofday:
    .quad 0
host_time:
    .quad 0
host_clock_getres:
    .quad 0
cpus:
    .long 0
    .long 0

    .section .note.GNU-stack, "", @progbits
