// The only instructions in the sentry that may fault on guest memory, between guarded_begin and guarded_end. The fault
// handler (guarded_copy.cc) sends a fault here to guarded_failed. System V ABI; each returns 1 in eax, or 0 by the
// handler.
    .text
    .globl guarded_begin, guarded_end, guarded_failed
    .hidden guarded_begin, guarded_end, guarded_failed
    .globl guarded_copy_asm, guarded_zero_asm, guarded_load_asm, guarded_compare_exchange_asm
    .hidden guarded_copy_asm, guarded_zero_asm, guarded_load_asm, guarded_compare_exchange_asm

guarded_begin:

// (rdi = into, rsi = from, rdx = size)
guarded_copy_asm:
    cmp $16, %rdx
    ja 2f
    cmp $8, %rdx
    jae 1f
    cmp $4, %rdx
    jae 3f
    test %rdx, %rdx
    jz 5f
    movzbl (%rsi), %eax
    movzbl -1(%rsi,%rdx), %ecx
    cmp $2, %rdx
    jbe 4f
    movzbl 1(%rsi), %r8d
    mov %r8b, 1(%rdi)
4:  mov %al, (%rdi)
    mov %cl, -1(%rdi,%rdx)
5:  mov $1, %eax
    ret
3:  mov (%rsi), %eax
    mov -4(%rsi,%rdx), %ecx
    mov %eax, (%rdi)
    mov %ecx, -4(%rdi,%rdx)
    mov $1, %eax
    ret
1:  mov (%rsi), %rax
    mov -8(%rsi,%rdx), %rcx
    mov %rax, (%rdi)
    mov %rcx, -8(%rdi,%rdx)
    mov $1, %eax
    ret
2:  cmp $256, %rdx
    ja 7f
6:  movups (%rsi), %xmm0            // 17 to 256 bytes: 16 at a time, then the tail
    movups -16(%rsi,%rdx), %xmm1
8:  movups %xmm0, (%rdi)
    sub $16, %rdx
    jbe 9f
    add $16, %rsi
    add $16, %rdi
    cmp $16, %rdx
    jbe 9f
    movups (%rsi), %xmm0
    jmp 8b
9:  movups %xmm1, -16(%rdi,%rdx)
    mov $1, %eax
    ret
7:  mov %rdx, %rcx
    rep movsb
    mov $1, %eax
    ret

// (rdi = into, rsi = size)
guarded_zero_asm:
    mov %rsi, %rcx
    xor %eax, %eax
    rep stosb
    mov $1, %eax
    ret

// (rdi = word, rsi = value out)
guarded_load_asm:
    mov (%rdi), %ecx
    mov %ecx, (%rsi)
    mov $1, %eax
    ret

// (rdi = word, esi = expected, edx = desired, rcx = value out)
guarded_compare_exchange_asm:
    mov %esi, %eax
    lock cmpxchg %edx, (%rdi)
    mov %eax, (%rcx)
    mov $1, %eax
    ret

guarded_end:

guarded_failed:
    xor %eax, %eax
    ret

    .section .note.GNU-stack, "", @progbits
