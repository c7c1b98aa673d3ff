"""A stress test: one decode step again and again, watched for values that change and for memory that grows."""

from collections.abc import Sequence

import torch
import ttnn
from tqdm import tqdm

from models.common.profiler import Measurement
from models.tt_transformers.tt.runtime.decode_step import SKIP
from models.tt_transformers.tt.runtime.process_memory import resident_bytes

# Bytes that this process may grow by after the first tenth of the steps: libraries keep a few buffers.
MAX_GROWTH = 64 << 20


def repeat_step(
    runner, tokens: Sequence[int], positions: Sequence[int], page_table: torch.Tensor | None, steps: int
) -> list[Measurement]:
    """Runs the step `steps` times; the arguments are those of `Runner.submit_decode`. Each writes the same rows of the caches.

    Raises ValueError, with the step, for logits that differ in any bit from those of the first one, for more memory
    allocated on the devices than after the first one, and for a process that grows by more than `MAX_GROWTH` bytes.
    """
    running = [slot for slot, position in enumerate(positions) if position != SKIP]
    first = first_bytes = size = None
    for step in tqdm(range(steps), desc="Stress test", unit="step", disable=None, delay=2):
        logits = runner.read(runner.submit_decode(tokens, positions, page_table))[running]
        device_bytes = _device_bytes(runner)
        if first is None:
            first, first_bytes = logits, device_bytes
        _check_equal(step, running, logits, first)
        if device_bytes != first_bytes:
            raise ValueError(f"step {step}: {device_bytes} bytes a bank are allocated, {first_bytes} were after step 0")
        if step == steps // 10:
            size = resident_bytes()
    growth = resident_bytes() - size
    if growth > MAX_GROWTH:
        raise ValueError(f"the process grew by {growth} bytes in {steps} steps; at most {MAX_GROWTH} are expected")
    return [Measurement("repeated_steps", steps, "steps"), Measurement("memory_growth", growth / 1e6, "MB")]


def _check_equal(step: int, slots: Sequence[int], logits: torch.Tensor, first: torch.Tensor) -> None:
    if torch.equal(logits, first):
        return
    row = next(row for row in range(len(slots)) if not torch.equal(logits[row], first[row]))
    difference = (logits[row] - first[row]).abs().max().item()
    raise ValueError(f"step {step}: the logits of user {slots[row]} differ from those of step 0, by up to {difference:g}")


def _device_bytes(runner) -> dict[str, list[int]]:
    """Bytes that are allocated in each bank, by kind of memory, on each mesh of the runner."""
    return {
        kind.name: [ttnn.get_memory_view(mesh, kind).total_bytes_allocated_per_bank for mesh in runner.mesh_devices]
        for kind in (ttnn.BufferType.DRAM, ttnn.BufferType.L1)
    }
