// The linked vDSO (image.asm) as bytes.
    .section .rodata.casemate_vdso, "a", @progbits
    .balign 16
    .globl casemate_vdso_begin, casemate_vdso_end
    .hidden casemate_vdso_begin, casemate_vdso_end
casemate_vdso_begin:
    .incbin "casemate_vdso.so"
casemate_vdso_end:
    .section .note.GNU-stack, "", @progbits
