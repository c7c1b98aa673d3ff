"""Buffers on a mesh, and the number of allocated bytes per bank.

A tensor on a mesh takes the same bytes in the same bank of every chip. So one count is valid for all chips.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from models.common.chip import Chip

from .dtypes import BufferType
from .shapes import round_up

_TRACE_ALIGNMENT = 8192

# Called with the number of every buffer that is freed, while an op log is recorded.
on_free: Callable[[int], None] | None = None
_numbers = itertools.count()


@dataclass(frozen=True)
class MemoryView:
    """The state of one kind of memory of a device, in bytes per bank."""

    num_banks: int
    total_bytes_per_bank: int
    total_bytes_allocated_per_bank: int
    total_bytes_free_per_bank: int
    largest_contiguous_bytes_free_per_bank: int


class Allocator:
    """Counts allocated bytes per bank; `peak` keeps the highest count of each kind of memory."""

    def __init__(self, chip: Chip, l1_small_size: int, trace_region_size: int, worker_l1_size: int):
        trace = round_up(math.ceil(trace_region_size / chip.dram_banks), _TRACE_ALIGNMENT)
        l1, cores = worker_l1_size or chip.l1_bank_bytes, math.prod(chip.grid)
        if not 0 <= l1_small_size < l1 <= chip.l1_bank_bytes:
            raise ValueError(f"l1_small_size {l1_small_size} and worker_l1_size {l1} must fit in {chip.l1_bank_bytes} B")
        self.chip = chip
        self.banks = {
            BufferType.DRAM: chip.dram_banks,
            BufferType.L1: cores,
            BufferType.L1_SMALL: cores if l1_small_size else 0,
            BufferType.TRACE: chip.dram_banks,
        }
        self.capacity = {
            BufferType.DRAM: chip.dram_bank_bytes - trace,
            BufferType.L1: l1 - l1_small_size,
            BufferType.L1_SMALL: l1_small_size,
            BufferType.TRACE: trace,
        }
        self.used = dict.fromkeys(self.capacity, 0)
        self.peak = dict.fromkeys(self.capacity, 0)
        self.parent = None
        self.children = []

    @classmethod
    def of_submesh(cls, parent: "Allocator") -> "Allocator":
        """An allocator for some of `parent`'s chips. Each of the two counts the other's bytes in their common banks."""
        child = cls(parent.chip, 0, 0, 0)
        child.banks, child.capacity, child.parent = parent.banks, parent.capacity, parent
        parent.children.append(child)
        return child

    def total(self, buffer_type: BufferType) -> int:
        """Allocated bytes of a bank: those of this mesh, of the meshes that contain it, and of its submeshes."""
        used, parent = self.used[buffer_type], self.parent
        while parent is not None:
            used += parent.used[buffer_type]
            parent = parent.parent
        return used + max((child.held(buffer_type) for child in self.children), default=0)

    def held(self, buffer_type: BufferType) -> int:
        return self.used[buffer_type] + max((child.held(buffer_type) for child in self.children), default=0)

    def take(self, buffer_type: BufferType, bank_bytes: int) -> None:
        used = self.used[buffer_type] if self.parent is None and not self.children else self.total(buffer_type)
        free = self.capacity[buffer_type] - used
        if bank_bytes > free:
            banks = self.banks[buffer_type]
            raise RuntimeError(
                f"Out of Memory: Not enough space to allocate {bank_bytes * banks} B {buffer_type.name} buffer "
                f"across {banks} banks, where each bank needs to store {bank_bytes} B, but bank size is "
                f"{self.capacity[buffer_type]} B (allocated: {used} B, free: {free} B)"
            )
        self.used[buffer_type] += bank_bytes
        if used + bank_bytes > self.peak[buffer_type]:
            self.peak[buffer_type] = used + bank_bytes

    def view(self, buffer_type: BufferType) -> MemoryView:
        used, capacity = self.total(buffer_type), self.capacity[buffer_type]
        return MemoryView(self.banks[buffer_type], capacity, used, capacity - used, capacity - used)

    def base_address(self, buffer_type: BufferType) -> int:
        if buffer_type is BufferType.DRAM:
            return self.chip.dram_base
        return self.chip.l1_bytes - self.capacity[BufferType.L1] - self.capacity[BufferType.L1_SMALL]


class Buffer:
    """Bytes of one tensor in every bank. Freed by `free`, or when nothing refers to the buffer any more.

    `number`: different for every buffer of the process.
    """

    __slots__ = ("allocator", "buffer_type", "bank_bytes", "address", "allocated", "number", "__weakref__")

    def __init__(self, allocator: Allocator, buffer_type: BufferType, bank_bytes: int):
        self.allocated = False
        allocator.take(buffer_type, bank_bytes)
        self.allocator, self.buffer_type, self.bank_bytes = allocator, buffer_type, bank_bytes
        self.address = allocator.base_address(buffer_type) + allocator.used[buffer_type] - bank_bytes
        self.number = next(_numbers)
        self.allocated = True

    def free(self) -> None:
        if self.allocated:
            self.allocated = False
            self.allocator.used[self.buffer_type] -= self.bank_bytes
            if on_free is not None:
                on_free(self.number)

    __del__ = free
