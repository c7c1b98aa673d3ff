"""RMS norms: of the residual stream, which is split over the devices by columns, and of single heads."""

import math
from dataclasses import dataclass

import ttnn

from models.tt_transformers.tt.config.program_configs import MAX_ROW_MAJOR_NORM, TILE, ChipLayout


@dataclass(frozen=True)
class NormScale:
    """RMS norm of rows of `dim` numbers that zeros pad to `width`, by an op that divides by `width`.

    The op gives the norm over `dim` with `epsilon` = eps * dim / width and a weight times sqrt(dim / width):
    x / sqrt(sum / dim + eps) = sqrt(dim / width) * x / sqrt(sum / width + epsilon). A weight that is multiplied stays in
    fp32, because rounding it to bf16 would add an error to the model.

    ranks: number of devices that the op has the columns of a row on, width / ranks on each.
    """

    dim: int
    width: int
    eps: float
    ranks: int = 1

    @property
    def epsilon(self) -> float:
        return self.eps * self.dim / self.width

    @property
    def weight_factor(self) -> float:
        return math.sqrt(self.dim / self.width)

    @property
    def weight_dtype(self):
        return ttnn.bfloat16 if self.dim == self.width else ttnn.float32

    @property
    def columns(self) -> int:
        """The columns of one device."""
        return self.width // self.ranks

    @property
    def weight_layout(self):
        return ttnn.ROW_MAJOR_LAYOUT if self.columns <= MAX_ROW_MAJOR_NORM else ttnn.TILE_LAYOUT

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """The shape in which the op takes a weight of this layout, on one device."""
        return self._weight_shape(self.columns)

    @property
    def host_shape(self) -> tuple[int, int, int, int]:
        """The shape of the weights of all devices together."""
        return self._weight_shape(self.width)

    def _weight_shape(self, columns: int) -> tuple[int, int, int, int]:
        is_row_major = self.weight_layout == ttnn.ROW_MAJOR_LAYOUT
        return (1, 1, columns // TILE, TILE) if is_row_major else (1, 1, 1, columns)

    @property
    def weight_split(self) -> int | None:
        """The dimension of the weight that the devices split; None if each has the whole weight."""
        if self.ranks == 1:
            return None
        return 2 if self.weight_layout == ttnn.ROW_MAJOR_LAYOUT else 3


@dataclass(frozen=True)
class NormConfig:
    """`cores`: number of cores that the decode output is width-sharded over, as the following matmul needs it."""

    chip: ChipLayout
    scale: NormScale
    cores: int

    @classmethod
    def resolve(cls, args, cores: int) -> "NormConfig":
        dim, placement = args.arch.dim, args.placement
        return cls(args.chip, NormScale(dim, placement.padded_dim(dim), args.arch.norm_eps, placement.input_ranks), cores)


# Sums of squares over thousands of columns need fp32 accumulation and all bits of the bf16 inputs.
_KERNEL = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, math_approx_mode=False, fp32_dest_acc_en=True, packer_l1_acc=True
)


def residual_norm(args, weights, name: str, cores: int, ccl):
    """The norm `name` of the residual stream: on a grid `FusedNorm`, or `SplitNorm` where a device's columns are too many
    for a row-major weight; else `DistributedNorm`."""
    config = NormConfig.resolve(args, cores)
    on_a_grid = FusedNorm if config.scale.weight_layout == ttnn.ROW_MAJOR_LAYOUT else SplitNorm
    return (on_a_grid if args.placement.is_grid else DistributedNorm)(config, weights.norm(name, config.scale), ccl)


class DistributedNorm:
    """Gathers x [1, 1, rows, dim / N] from all devices and normalises it; every device gets [1, 1, rows, dim].

    weight: as `Weights.norm` gives it.
    """

    def __init__(self, config: NormConfig, weight, ccl):
        self.config = config
        self.weight = weight
        self.ccl = ccl
        self._sharded = config.chip.width_sharded(config.scale.width, config.cores)
        self._decode_program = config.chip.decode_norm(config.scale.width, config.cores)

    def decode_forward(self, x):
        """x: L1 interleaved, at most 32 rows -> L1 width-sharded over `cores`."""
        x = ttnn.interleaved_to_sharded(self.ccl.gather_residual(x, ttnn.L1_MEMORY_CONFIG), self._sharded)
        return ttnn.rms_norm(
            x,
            epsilon=self.config.scale.epsilon,
            weight=self.weight,
            program_config=self._decode_program,
            memory_config=self._sharded,
            compute_kernel_config=_KERNEL,
        )

    def prefill_forward(self, x):
        """x: DRAM interleaved -> DRAM interleaved."""
        return ttnn.rms_norm(
            self.ccl.gather_residual(x, ttnn.DRAM_MEMORY_CONFIG),
            epsilon=self.config.scale.epsilon,
            weight=self.weight,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            compute_kernel_config=_KERNEL,
        )


class SplitNorm:
    """Normalises x [1, 1, rows, dim / N], whose rows are split over N devices, in its place.

    Each device sums the squares of its columns. The sums, in bf16, are gathered from all devices; the columns stay.
    weight: as `Weights.norm` gives it.
    """

    def __init__(self, config: NormConfig, weight, ccl):
        scale, chip = config.scale, config.chip
        self.ccl = ccl
        self._options = dict(epsilon=scale.epsilon, weight=weight, compute_kernel_config=_KERNEL)
        self._sharded = chip.width_sharded(scale.columns, config.cores)
        self._decode_program = chip.decode_norm(scale.columns, config.cores)
        # The op reads the sums of a sharded x from one core.
        self._statistics = chip.width_sharded(scale.ranks * TILE, 1)

    def decode_forward(self, x):
        """x: L1 interleaved, at most 32 rows -> L1 width-sharded over `cores`."""
        x = ttnn.interleaved_to_sharded(x, self._sharded)
        squares = ttnn.rms_norm_pre_all_gather(x, program_config=self._decode_program, compute_kernel_config=_KERNEL)
        return ttnn.rms_norm_post_all_gather(
            x,
            self.ccl.gather_statistics(squares, self._statistics),
            program_config=self._decode_program,
            memory_config=self._sharded,
            **self._options,
        )

    def prefill_forward(self, x):
        """x: DRAM interleaved -> DRAM interleaved."""
        squares = ttnn.rms_norm_pre_all_gather(x, compute_kernel_config=_KERNEL, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return ttnn.rms_norm_post_all_gather(
            x,
            self.ccl.gather_statistics(squares, ttnn.DRAM_MEMORY_CONFIG),
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            **self._options,
        )


class FusedNorm(SplitNorm):
    """The same by one op in decode, which exchanges the sums in fp32."""

    def __init__(self, config: NormConfig, weight, ccl):
        super().__init__(config, weight, ccl)
        self._sums = ccl.room_for_sums(config.chip)

    def decode_forward(self, x):
        """As `SplitNorm.decode_forward`."""
        return self.ccl.norm(
            ttnn.interleaved_to_sharded(x, self._sharded), self._sums, self._decode_program, memory_config=self._sharded, **self._options
        )


class HeadNorm:
    """Normalises each head of x over its head_dim columns.

    weight: as `Weights.norm` gives it; its order is that of the heads' columns (interleaved).
    """

    def __init__(self, scale: NormScale, weight):
        self._options = dict(epsilon=scale.epsilon, weight=weight, compute_kernel_config=_KERNEL)

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
