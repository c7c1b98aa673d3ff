"""RMS norms: of the residual stream, which is split over the devices by columns, and of single heads."""

from dataclasses import dataclass

import ttnn

from models.tt_transformers.tt.config.program_configs import ChipLayout


@dataclass(frozen=True)
class NormConfig:
    """`cores`: number of cores that the decode output is width-sharded over, as the following matmul needs it."""

    chip: ChipLayout
    dim: int
    eps: float
    cores: int


# Sums of squares over thousands of columns need fp32 accumulation and all bits of the bf16 inputs.
_KERNEL = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, math_approx_mode=False, fp32_dest_acc_en=True, packer_l1_acc=True
)


class DistributedNorm:
    """Gathers x [1, 1, rows, dim / N] from all devices and normalises it; every device gets [1, 1, rows, dim].

    weight: [1, 1, dim / 32, 32], row-major, replicated.
    """

    def __init__(self, config: NormConfig, weight, ccl):
        self.config = config
        self.weight = weight
        self.ccl = ccl
        self._sharded = config.chip.width_sharded(config.dim, config.cores)
        self._decode_program = config.chip.decode_norm(config.dim, config.cores)

    def decode_forward(self, x):
        """x: L1 interleaved, at most 32 rows -> L1 width-sharded over `cores`."""
        x = ttnn.interleaved_to_sharded(self.ccl.all_gather(x, ttnn.L1_MEMORY_CONFIG), self._sharded)
        return ttnn.rms_norm(
            x,
            epsilon=self.config.eps,
            weight=self.weight,
            program_config=self._decode_program,
            memory_config=self._sharded,
            compute_kernel_config=_KERNEL,
        )

    def prefill_forward(self, x):
        """x: DRAM interleaved -> DRAM interleaved."""
        return ttnn.rms_norm(
            self.ccl.all_gather(x, ttnn.DRAM_MEMORY_CONFIG),
            epsilon=self.config.eps,
            weight=self.weight,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            compute_kernel_config=_KERNEL,
        )


class HeadNorm:
    """Normalises each head of x over its head_dim columns.

    weight: [1, 1, head_dim / 32, 32], row-major, replicated; its order is that of the heads' columns (interleaved).
    """

    def __init__(self, eps: float, weight):
        self._options = dict(epsilon=eps, weight=weight, compute_kernel_config=_KERNEL)

    def decode_forward(self, x):
        """x: [1, users, heads, head_dim], L1 height-sharded, one user a core -> the same."""
        placement = x.memory_config()
        # The op takes no height-sharded input.
        x = ttnn.sharded_to_interleaved(x, ttnn.L1_MEMORY_CONFIG)
        x = ttnn.rms_norm(x, memory_config=ttnn.L1_MEMORY_CONFIG, **self._options)
        return ttnn.interleaved_to_sharded(x, placement)

    def prefill_forward(self, x):
        """x: [users, heads, seq_len, head_dim], DRAM interleaved -> the same."""
        return ttnn.rms_norm(x, memory_config=ttnn.DRAM_MEMORY_CONFIG, **self._options)
