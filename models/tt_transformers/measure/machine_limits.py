"""What this machine can do at most, with torch's threads: read memory, and multiply matrices."""

import statistics
import time

import torch

from models.common.benchmark_record import measurement

READ, MATMUL = "machine/read", "machine/matmul"
READ_BYTES = 1 << 29  # far more than the caches of a few cores
ROWS, COLUMNS = 512, 3072  # a prefill's product at Phi-3-mini's width
REPEATS = 5


def measure(iteration: int) -> list[dict]:
    """Measurements `READ` (GB/s) and `MATMUL` (TFLOP/s), to be taken several times in a run."""
    return [
        measurement(READ, read_bytes_a_second() / 1e9, "GB/s", iteration),
        measurement(MATMUL, matmul_operations_a_second() / 1e12, "TFLOP/s", iteration),
    ]


def read_bytes_a_second(size: int = READ_BYTES) -> float:
    """Bytes of memory that a sum over `size` bytes reads a second. Of torch's sums, fp64's computes least a byte."""
    return size / _median_seconds(torch.ones(size // 8, dtype=torch.float64).sum)


def matmul_operations_a_second() -> float:
    """Additions and multiplications a second in a linear layer, in bf16 or fp32, whichever is faster."""
    return max(2 * ROWS * COLUMNS**2 / _linear_seconds(dtype) for dtype in (torch.bfloat16, torch.float32))


@torch.inference_mode()
def _linear_seconds(dtype: torch.dtype) -> float:
    rows, weight = torch.ones(ROWS, COLUMNS, dtype=dtype), torch.ones(COLUMNS, COLUMNS, dtype=dtype)
    return _median_seconds(lambda: torch.nn.functional.linear(rows, weight))


def _median_seconds(run) -> float:
    """The median of some runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
