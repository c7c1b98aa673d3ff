# The one object that every mock kernel is linked from: an entry that returns, and a function that loads
# a zero-initialised word, so that text, data and relocations exist.
    .section .start, "ax", @progbits
    .globl _start
_start:
    ret

    .text
    .globl load_word
load_word:
    lui a0, %hi(word)
    lw a0, %lo(word)(a0)
    ret

    .section .bss
    .align 2
    .globl word
word:
    .zero 4
