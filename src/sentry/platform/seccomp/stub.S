// The code that runs in the template and in every stub process, mapped r-x at STUB_CODE.
//
// It uses registers only: no stack, no writable memory is ever read to decide anything, because application threads
// share the address space and may write all of it. What it does is ordered by pages that are read-only here, and by the
// kernel's replies to its notifications. Applications may jump to any byte of it: every syscall below is refused by the
// application threads' filter, but for rt_sigreturn, one futex wake, one futex wait and two sched_yield, which are
// harmless with any arguments.

#include <asm/unistd.h>

#include "sentry/platform/seccomp/stub_abi.h"

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_WAIT_BITSET 9
#define ETIMEDOUT 110
#define STUB_SEEK_END 2
#define PR_SET_PDEATHSIG 1
#define SIGKILL 9
#define SIGCHLD 17
#define AF_UNIX 1
#define SOCK_SEQPACKET 5
#define SPAWN_FLAGS 0x00108011  /* CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD */
#define THREAD_FLAGS 0x00050f00 /* CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM */
#define SECCOMP_SET_MODE_FILTER 1
#define CPU_SEGMENT 0x7b /* its limit tells the CPU, as the vDSO's getcpu reads it */
#define CPU_MASK 0xfff
#define LISTENER_FLAGS 0x28 /* NEW_LISTENER | WAIT_KILLABLE_RECV */

    .section .rodata.casemate_stub, "a", @progbits
    .balign 64
    .globl casemate_stub_begin, casemate_stub_end, casemate_stub_handler, casemate_stub_frame_return
    .globl casemate_stub_sigreturn_return, casemate_stub_wake_return, casemate_stub_map_return
    .globl casemate_stub_call, casemate_stub_call_saved, casemate_stub_call_known, casemate_stub_call_known_end
    .globl casemate_stub_call_stands, casemate_stub_call_stands_end
    .globl casemate_stub_call_offer, casemate_stub_call_offer_claimed, casemate_stub_call_offer_taken
    .globl casemate_stub_call_offer_taken_end, casemate_stub_call_offer_end
    .globl casemate_stub_call_stored, casemate_stub_call_asked, casemate_stub_call_yield_return
    .globl casemate_stub_call_wait_return, casemate_stub_call_park, casemate_stub_call_park_return
    .globl casemate_stub_call_park_yield_return, casemate_stub_call_unparked, casemate_stub_call_back, casemate_stub_call_end

casemate_stub_begin:

// ---- The template: forked from the sentry, all signals blocked, descriptors in place. Runs from a copy of this page at
// an address that the host chose; %rdi is another copy, %rsi the template's order page. Both move to their places only
// now, since the sentry's own stack may happen to lie there.
template_entry:
    mov %rsi, %r15
    mov $__NR_mremap, %eax
    mov $STUB_CODE_SIZE, %esi
    mov $STUB_CODE_SIZE, %edx
    mov $3, %r10d               // MREMAP_MAYMOVE | MREMAP_FIXED
    movabs $STUB_CODE, %r8
    syscall
    cmp %r8, %rax
    jne die
    mov $__NR_mremap, %eax
    mov %r15, %rdi
    mov $STUB_TEMPLATE_SIZE, %esi
    mov $STUB_TEMPLATE_SIZE, %edx
    mov $3, %r10d
    movabs $STUB_TEMPLATE, %r8
    syscall
    cmp %r8, %rax
    jne die
    movabs $(STUB_CODE + template_moved - casemate_stub_begin), %rax
    jmp *%rax
template_moved:
    xor %eax, %eax
    wrfsbase %rax
    wrgsbase %rax
    mov $__NR_munmap, %eax
    movabs $STUB_BLOCK_BASE, %rdi
    mov $(STUB_TEMPLATE - STUB_BLOCK_BASE), %esi
    syscall
    test %rax, %rax
    jnz die
    mov $__NR_munmap, %eax
    movabs $(STUB_TEMPLATE + STUB_TEMPLATE_SIZE), %rdi
    mov $(STUB_CODE - STUB_TEMPLATE - STUB_TEMPLATE_SIZE), %esi
    syscall
    test %rax, %rax
    jnz die
    mov $__NR_munmap, %eax
    movabs $(STUB_CODE + STUB_CODE_SIZE), %rdi
    mov $(STUB_TASK_TOP - STUB_CODE - STUB_CODE_SIZE), %esi
    syscall
    test %rax, %rax
    jnz die
    movabs $STUB_TEMPLATE, %r15
    lea STUB_SPAWN_MOVES(%r15), %rbx
1:  mov STUB_MOVE_SIZE(%rbx), %rsi
    test %rsi, %rsi
    jz 2f
    mov $__NR_mremap, %eax
    mov (%rbx), %rdi
    mov %rsi, %rdx
    mov $3, %r10d               // MREMAP_MAYMOVE | MREMAP_FIXED
    mov STUB_MOVE_TO(%rbx), %r8
    syscall
    cmp %r8, %rax
    jne die
    add $STUB_MOVE_ENTRY, %rbx
    jmp 1b
2:
    mov $__NR_munmap, %eax
    xor %edi, %edi
    movabs $STUB_BLOCK_BASE, %rsi
    syscall
    test %rax, %rax
    jnz die
    xor %r12d, %r12d            // the last sequence served
    mov $1, %eax
template_report:
    mov %eax, STUB_SPAWN_READY(%r15)
    mov $__NR_futex, %eax
    lea STUB_SPAWN_READY(%r15), %rdi
    mov $FUTEX_WAKE, %esi
    mov $1, %edx
    syscall
template_loop:
    mov STUB_SPAWN_SEQUENCE(%r15), %eax
    cmp %r12d, %eax
    jne 1f
    mov $__NR_futex, %eax
    lea STUB_SPAWN_SEQUENCE(%r15), %rdi
    mov $FUTEX_WAIT, %esi
    mov %r12d, %edx
    xor %r10d, %r10d
    syscall
    jmp template_loop
1:  mov %eax, %r12d
    mov STUB_SPAWN_BLOCK(%r15), %r13
    mov STUB_SPAWN_PARENT(%r15), %r14d
    mov $__NR_clone, %eax
    mov $SPAWN_FLAGS, %edi
    xor %esi, %esi
    lea STUB_SPAWN_CHILD(%r15), %rdx
    xor %r10d, %r10d
    xor %r8d, %r8d
    syscall
    test %rax, %rax
    jz stub_start
    js template_report
    jmp template_loop

// ---- A new stub process: maps its own pages, starts its map thread, becomes the cloner.
stub_start:
    mov $__NR_prctl, %eax
    mov $PR_SET_PDEATHSIG, %edi
    mov $SIGKILL, %esi
    syscall
    mov $__NR_getppid, %eax
    syscall
    cmp %r14d, %eax
    jne die                     // the sentry died before it could be watched
    mov $__NR_mmap, %eax
    movabs $STUB_ORDERS, %rdi
    mov $STUB_ORDERS_SIZE, %esi
    mov $1, %edx                // PROT_READ
    mov $0x11, %r10d            // MAP_SHARED | MAP_FIXED
    mov $STUB_FD_CONTROL, %r8d
    lea (STUB_ORDERS - STUB_BLOCK_BASE)(%r13), %r9
    syscall
    cmp %rdi, %rax
    jne die
    mov $__NR_mmap, %eax
    movabs $STUB_AREAS_BASE, %rdi
    mov $STUB_AREAS_SIZE, %esi
    mov $3, %edx                // PROT_READ | PROT_WRITE
    mov $0x4011, %r10d          // MAP_SHARED | MAP_FIXED | MAP_NORESERVE
    mov $STUB_FD_CONTROL, %r8d
    lea (STUB_AREAS_BASE - STUB_BLOCK_BASE)(%r13), %r9
    syscall
    cmp %rdi, %rax
    jne die
    mov $__NR_socketpair, %eax
    mov $AF_UNIX, %edi
    mov $SOCK_SEQPACKET, %esi
    xor %edx, %edx
    movabs $(STUB_TEMPLATE + STUB_SPAWN_SOCKETS), %r10
    syscall
    test %rax, %rax
    jnz die
    mov $__NR_close, %eax
    mov $STUB_FD_CONTROL, %edi
    syscall
    mov $__NR_clone, %eax
    mov $THREAD_FLAGS, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    syscall
    test %rax, %rax
    jz map_start
    js die
    movabs $STUB_ORDERS, %r15
    xor %r12d, %r12d

// ---- The cloner: no filter with a listener, since its children must get their own. Its orders are read-only here.
cloner_loop:
    mov STUB_CLONE_SEQUENCE(%r15), %eax
    cmp %r12d, %eax
    jne 1f
    mov $__NR_futex, %eax
    lea STUB_CLONE_SEQUENCE(%r15), %rdi
    mov $FUTEX_WAIT, %esi
    mov %r12d, %edx
    xor %r10d, %r10d
    syscall
    jmp cloner_loop
1:  mov %eax, %r12d
    mov STUB_CLONE_HEADER(%r15), %rbx
    mov $__NR_clone, %eax
    mov $THREAD_FLAGS, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    syscall
    test %rax, %rax
    jz app_start
    jns cloner_loop
    mov %eax, STUB_HEADER_READY(%rbx)
    mov $__NR_futex, %eax
    lea STUB_HEADER_READY(%rbx), %rdi
    mov $FUTEX_WAKE, %esi
    mov $1, %edx
    syscall
    jmp cloner_loop

// ---- An application thread, all signals still blocked; %rbx is its header, %r15 the orders.
app_start:
    mov $__NR_sigaltstack, %eax
    lea STUB_CLONE_STACK(%r15), %rdi
    xor %esi, %esi
    syscall
    test %rax, %rax
    jnz die
    mov STUB_CLONE_FRAME(%r15), %rsp
    mov $__NR_seccomp, %eax
    mov $SECCOMP_SET_MODE_FILTER, %edi
    mov $LISTENER_FLAGS, %esi
    movabs $(STUB_CODE + STUB_APP_FILTER), %rdx
    syscall
    test %rax, %rax
    js die
    mov %eax, STUB_HEADER_READY(%rbx)
    mov $__NR_futex, %eax
    lea STUB_HEADER_READY(%rbx), %rdi
    mov $FUTEX_WAKE, %esi
    mov $1, %edx
    syscall
casemate_stub_wake_return:
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    jmp frame_call

// Every signal of an application thread, on its alternate stack, all signals blocked: tells the sentry, then goes on
// with whatever the sentry made of the frame.
casemate_stub_handler:
    mov %rsp, %rbx
    and $-STUB_AREA_SIZE, %rbx
    add $STUB_AREA_HEADER, %rbx
    mov %edi, %r10d
    rdfsbase %rsi
    rdgsbase %rdx
frame_call:
    mov %rsp, %rdi
    mov $STUB_CALL_FRAME, %eax
    syscall
casemate_stub_frame_return:
    mov STUB_HEADER_FS(%rbx), %rax
    wrfsbase %rax
    mov STUB_HEADER_GS(%rbx), %rax
    wrgsbase %rax
    add $8, %rsp
    mov $__NR_rt_sigreturn, %eax
    syscall
casemate_stub_sigreturn_return:
die:
    ud2

// ---- Patched call sites come here, by their thunk (call_sites.h): %rcx is the address behind the site's `syscall`, all
// else as it was to execute it. What the sentry has written down beforehand is answered here; otherwise the call is
// handed over in the thread's slot if the sentry watches that, or goes back to execute the `syscall`. Uses %rax, %rcx,
// %r11 and the flags only, which a system call may change (the kernel keeps flags; compilers do not count on it), and
// no stack. HostThread::leave_trampoline() takes a thread that a signal stopped here to one side of its call.
//
// Where who answers shares this CPU, looking for the answer would only keep it waiting: the CPU is given away, a few
// times at most. Somewhere else than on that CPU nothing is asked.
    .balign 64
casemate_stub_call:
    rdgsbase %r11
    test %r11, %r11
    jz 8f
    cmp %r11, STUB_HEADER_SELF - STUB_SLOT(%r11)
    jne 8f
    mov %rcx, STUB_SLOT_IP(%r11)
casemate_stub_call_saved:
    mov STUB_HEADER_FACTS - STUB_SLOT(%r11), %rcx
    test %rcx, %rcx
    jz 1f
    mov %eax, %r11d
    and $STUB_FACT_MASK, %r11d
    cmp %eax, (%rcx, %r11, 8)
    jne 1f
    mov 4(%rcx, %r11, 8), %eax
casemate_stub_call_known:
    rdgsbase %r11
    jmp *STUB_SLOT_IP(%r11)
casemate_stub_call_known_end:
    // Is there an offer to a read? Its bytes are copied before it is taken: a copy may fault, and the sentry may take the
    // offer back at any time. What does not suit it is not for an answer that stands behind it either.
1:  rdgsbase %r11
    cmpq $0, STUB_HEADER_STANDING - STUB_SLOT(%r11)
    je 1f
    test %eax, %eax
    jz 2f
    cmp $__NR_recvfrom, %eax
    jne 5f
2:  mov %eax, STUB_SLOT_NR(%r11)
casemate_stub_call_offer:
    mov %edi, %ecx
    and $STUB_STANDING_MASK, %ecx
    shl $STUB_OFFER_SHIFT, %ecx
    lea STUB_OFFERS - STUB_SLOT(%r11, %rcx), %r11
    mov (%r11), %rcx
    test %rcx, %rcx
    jz 4f
    xor %ecx, %eax
    test $((1 << STUB_STANDING_NR_BITS) - 1), %eax
    jnz 4f
    shr $STUB_STANDING_NR_BITS, %ecx
    and $((1 << STUB_STANDING_FD_BITS) - 1), %ecx
    cmp %edi, %ecx
    jne 4f
    mov (%r11), %rax
    mov %rax, %rcx
    shr $STUB_OFFER_SIZE_SHIFT, %rcx
    jz 3f
    cmp %rcx, %rdx
    jb 3f
    test %rsi, %rsi
    js 3f
    test $((1 << STUB_STANDING_NR_BITS) - 1), %eax
    jz 2f
    test %r10d, %r10d
    jnz 3f
    test %r8, %r8
    jnz 3f
2:  mov STUB_OFFER_DATA - 1(%r11, %rcx), %al
    mov %al, -1(%rsi, %rcx)
    dec %ecx
    jnz 2b
    mov (%r11), %rax
    test %rax, %rax
    jz 3f
    mov $STUB_OFFER_TAKEN, %ecx
    lock cmpxchg %rcx, (%r11)
casemate_stub_call_offer_claimed:
    jne 3f
    shr $STUB_OFFER_SIZE_SHIFT, %rax
casemate_stub_call_offer_taken:
    rdgsbase %r11
    jmp *STUB_SLOT_IP(%r11)
casemate_stub_call_offer_taken_end:
3:  rdgsbase %r11
    mov STUB_SLOT_NR(%r11), %eax
    jmp 1f
4:  rdgsbase %r11
    mov STUB_SLOT_NR(%r11), %eax
casemate_stub_call_offer_end:
    // Is there an answer that stands? One load, since it may be taken down meanwhile.
5:  mov STUB_HEADER_STANDING - STUB_SLOT(%r11), %rcx
    test %rcx, %rcx
    jz 1f
    mov %edi, %r11d
    and $STUB_STANDING_MASK, %r11d
    mov (%rcx, %r11, 8), %rcx
    test %rcx, %rcx
    jz 1f
    mov %ecx, %r11d
    and $((1 << STUB_STANDING_NR_BITS) - 1), %r11d
    cmp %eax, %r11d
    jne 1f
    mov %ecx, %r11d
    shr $STUB_STANDING_NR_BITS, %r11d
    and $((1 << STUB_STANDING_FD_BITS) - 1), %r11d
    cmp %edi, %r11d
    jne 1f
    // Only for what it was given: a seek to the very end, or some room to read into, at an address that could be one,
    // and no flags (which read has not).
    cmp $__NR_lseek, %eax
    jne 3f
    test %rsi, %rsi
    jnz 1f
    cmp $STUB_SEEK_END, %edx
    jne 1f
    jmp 2f
3:  test %rdx, %rdx
    jz 1f
    test %rsi, %rsi
    js 1f
    test %eax, %eax
    jz 2f
    test %r10d, %r10d
    jnz 1f
2:  sar $(STUB_STANDING_NR_BITS + STUB_STANDING_FD_BITS), %rcx
    mov %rcx, %rax
casemate_stub_call_stands:
    rdgsbase %r11
    jmp *STUB_SLOT_IP(%r11)
casemate_stub_call_stands_end:
1:  rdgsbase %r11
    mov STUB_SLOT_IP(%r11), %rcx
    testb $STUB_SLOT_WATCHED, STUB_SLOT_STATE(%r11)
    jz 8f
    mov %eax, STUB_SLOT_NR(%r11)
    mov %rdi, STUB_SLOT_ARGS(%r11)
    mov %rsi, STUB_SLOT_ARGS + 8(%r11)
    mov %rdx, STUB_SLOT_ARGS + 16(%r11)
    mov %r10, STUB_SLOT_ARGS + 24(%r11)
    mov %r8, STUB_SLOT_ARGS + 32(%r11)
    mov %r9, STUB_SLOT_ARGS + 40(%r11)
casemate_stub_call_stored:
    mov STUB_HEADER_YIELD_CPU - STUB_SLOT(%r11), %eax
    test %eax, %eax
    jz 1f
    mov $CPU_SEGMENT, %ecx
    lsl %ecx, %ecx
    and $CPU_MASK, %ecx
    inc %ecx
    cmp %ecx, %eax
    mov STUB_SLOT_IP(%r11), %rcx
    jne 5f
    movl $STUB_SLOT_YIELDS, STUB_HEADER_YIELDS - STUB_SLOT(%r11)
1:  movl $(STUB_SLOT_WATCHED | STUB_SLOT_ASKED), STUB_SLOT_STATE(%r11)
casemate_stub_call_asked:
1:  cmpl $0, STUB_HEADER_YIELD_CPU - STUB_SLOT(%r11)
    jne 6f
    mov $STUB_SLOT_PATIENCE, %eax
2:  testb $STUB_SLOT_ANSWERED, STUB_SLOT_STATE(%r11)
    jnz 3f
    pause
    dec %eax
    jnz 2b
7:  lock btrl $STUB_SLOT_ASKED_BIT, STUB_SLOT_STATE(%r11)
    jc 4f                       // nobody took it
9:  mov $STUB_CALL_WAIT, %eax   // somebody is at it, and it takes long
    syscall
casemate_stub_call_wait_return:
    rdgsbase %r11
    mov STUB_SLOT_IP(%r11), %rcx
    testb $STUB_SLOT_ANSWERED, STUB_SLOT_STATE(%r11)
    jnz 3f
    jmp 1b
3:  testb $STUB_SLOT_PARKED, STUB_SLOT_STATE(%r11)
    jnz 10f
    testb $STUB_SLOT_REFUSED, STUB_SLOT_STATE(%r11)
    jnz 5f
    mov STUB_SLOT_ARGS(%r11), %rax
    jmp *%rcx
    // It would wait: so does this thread, on the slot's word.
10: mov %rdi, STUB_PARK - STUB_SLOT + STUB_PARK_RDI(%r11)
casemate_stub_call_park:
    // Where the answer is likely to come soon, a thread that stays awake need not be woken.
    mov STUB_PARK - STUB_SLOT + STUB_PARK_YIELDS(%r11), %esi
12: xor %eax, %eax
    testb $STUB_SLOT_PARKED, STUB_SLOT_STATE(%r11)
    jz 2f
    dec %esi
    js 14f
    rdtsc
    mov %edx, %edi
    shl $32, %rdi
    add %rax, %rdi
    mov $__NR_sched_yield, %eax
    syscall
casemate_stub_call_park_yield_return:
    rdgsbase %r11
    testb $STUB_SLOT_PARKED, STUB_SLOT_STATE(%r11)
    jnz 12b
    rdtsc
    shl $32, %rdx
    add %rdx, %rax
    sub %rdi, %rax
    cmp $STUB_PARK_LONG, %rax
    jb 12b
    movl $1, STUB_PARK - STUB_SLOT + STUB_PARK_LATE(%r11)
    jmp 12b
14: lock orl $STUB_SLOT_ASLEEP, STUB_SLOT_STATE(%r11)
11: mov STUB_SLOT_STATE(%r11), %edx
    xor %eax, %eax
    test $STUB_SLOT_PARKED, %dl
    jz 2f
    mov %r11, %rdi
    mov $FUTEX_WAIT_BITSET, %esi
    lea STUB_PARK - STUB_SLOT + STUB_PARK_SECONDS(%r11), %r10
    cmpq $0, (%r10)
    jne 1f
    xor %r10d, %r10d
1:  mov $-1, %r9d
    mov $__NR_futex, %eax
    syscall
casemate_stub_call_park_return:
    rdgsbase %r11
    cmp $-ETIMEDOUT, %rax
    jne 11b
2:  mov STUB_PARK - STUB_SLOT + STUB_PARK_RDI(%r11), %rdi
    mov STUB_SLOT_ARGS + 8(%r11), %rsi
    mov STUB_SLOT_ARGS + 16(%r11), %rdx
    mov STUB_SLOT_ARGS + 24(%r11), %r10
    mov STUB_SLOT_ARGS + 40(%r11), %r9
casemate_stub_call_unparked:
    test %eax, %eax
    jnz 9b
    mov STUB_SLOT_IP(%r11), %rcx
    jmp 3b
6:  mov $__NR_sched_yield, %eax
    syscall
casemate_stub_call_yield_return:
    rdgsbase %r11
    mov STUB_SLOT_IP(%r11), %rcx
    testb $STUB_SLOT_ANSWERED, STUB_SLOT_STATE(%r11)
    jnz 3b
    decl STUB_HEADER_YIELDS - STUB_SLOT(%r11)
    jg 6b
    jmp 7b
4:  movl $0, STUB_SLOT_STATE(%r11)
casemate_stub_call_back:
5:  mov STUB_SLOT_NR(%r11), %eax
8:  lea -2(%rcx), %r11
    jmp *%r11
casemate_stub_call_end:

// ---- The map thread: executes batches of raw syscalls from read-only pages between two notifications.
map_start:
    mov $__NR_seccomp, %eax
    mov $SECCOMP_SET_MODE_FILTER, %edi
    mov $LISTENER_FLAGS, %esi
    movabs $(STUB_CODE + STUB_MAP_FILTER), %rdx
    syscall
    test %rax, %rax
    js die
    movabs $STUB_TEMPLATE, %r15
    mov %eax, STUB_SPAWN_READY(%r15)
    mov $__NR_futex, %eax
    lea STUB_SPAWN_READY(%r15), %rdi
    mov $FUTEX_WAKE, %esi
    mov $1, %edx
    syscall
    mov $__NR_munmap, %eax
    mov %r15, %rdi
    mov $STUB_TEMPLATE_SIZE, %esi
    syscall
    test %rax, %rax
    jnz die
    movabs $STUB_BATCH, %r15
    xor %ebx, %ebx
map_loop:
    mov %rbx, %rdi              // how many were done
    mov %rax, %rsi              // the last one's result
    mov $STUB_CALL_MAP, %eax
    syscall
casemate_stub_map_return:
    mov %rax, %r13              // how many to do
    mov %r15, %r12
    xor %ebx, %ebx
    xor %eax, %eax
1:  cmp %r13, %rbx
    jae map_loop
    mov (%r12), %rax
    mov 8(%r12), %rdi
    mov 16(%r12), %rsi
    mov 24(%r12), %rdx
    mov 32(%r12), %r10
    mov 40(%r12), %r8
    mov 48(%r12), %r9
    syscall
    cmp $-4096, %rax
    ja map_loop
    inc %rbx
    add $64, %r12
    jmp 1b
casemate_stub_end:

    .section .note.GNU-stack, "", @progbits
