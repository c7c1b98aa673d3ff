"""Program configs say how an op is divided over cores. Compute kernel configs say how exactly it computes.

They have the vendor's constructor keywords and are equally strict: an unknown keyword, a missing keyword or a
value of the wrong kind raises TypeError. The op checks whether the numbers fit its tensors.
"""

import enum
from dataclasses import dataclass, fields

from .cores import CoreCoord, CoreRangeSet
from .dtypes import Arch


class MathFidelity(enum.Enum):
    """How many passes a card's multiplier makes, and so how many mantissa bits of the operands count."""

    LoFi = 0
    HiFi2 = 2
    HiFi3 = 3
    HiFi4 = 4
    Invalid = 255


class ThrottleLevel(enum.Enum):
    """Idle cycles that a card inserts between matmul tiles."""

    NO_THROTTLE = 0
    LEVEL_1 = 1
    LEVEL_2 = 2
    LEVEL_3 = 3
    LEVEL_4 = 4
    LEVEL_5 = 5


class EmbeddingsType(enum.Enum):
    """Special cases of `embedding`. Only GENERIC is emulated."""

    GENERIC = 0
    PADDED = 1
    BINARY = 2


class UnaryOpType(enum.Enum):
    """Activations that can be fused into another op."""

    ABS = enum.auto()
    EXP = enum.auto()
    GELU = enum.auto()
    IDENTITY = enum.auto()
    NEG = enum.auto()
    RECIP = enum.auto()
    RELU = enum.auto()
    RSQRT = enum.auto()
    SIGMOID = enum.auto()
    SILU = enum.auto()
    SQRT = enum.auto()
    SQUARE = enum.auto()
    TANH = enum.auto()


class UnaryWithParam:
    """An activation and its parameters: `UnaryWithParam(UnaryOpType.GELU, 1.0)`."""

    def __init__(self, op_type, *params):
        if isinstance(op_type, tuple) and len(op_type) == 2 and not params:
            op_type, *params = op_type
        if not isinstance(op_type, UnaryOpType):
            raise TypeError(f"UnaryWithParam takes a UnaryOpType, not {op_type!r}")
        if len(params) > 2 or not all(isinstance(param, (int, float)) for param in params):
            raise TypeError(f"UnaryWithParam takes up to two numbers after {op_type}, not {params!r}")
        self.op_type = op_type
        self.params = [float(param) for param in params]

    def __eq__(self, other):
        if not isinstance(other, UnaryWithParam):
            return NotImplemented
        return (self.op_type, self.params) == (other.op_type, other.params)

    def __hash__(self):
        return hash((self.op_type, tuple(self.params)))

    def __repr__(self):
        params = f", params={self.params}" if self.params else ""
        return f"UnaryWithParam(op_type={self.op_type}{params})"


def _count(owner, name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{owner}: {name} takes a whole number from 0, not {value!r}")
    return value


def _flag(owner, name, value):
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} takes True or False, not {value!r}")
    return value


def _core_coord(owner, name, value):
    if isinstance(value, CoreCoord):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return CoreCoord(*(_count(owner, name, part) for part in value))
    raise TypeError(f"{owner}: {name} takes a CoreCoord or a pair of numbers, not {value!r}")


def _core_range_set(owner, name, value):
    if not isinstance(value, CoreRangeSet):
        raise TypeError(f"{owner}: {name} takes a CoreRangeSet, not {value!r}")
    return value


def _activation(owner, name, value):
    if isinstance(value, UnaryWithParam):
        return value
    if isinstance(value, UnaryOpType) or (isinstance(value, tuple) and len(value) == 2):
        return UnaryWithParam(value)
    raise TypeError(f"{owner}: {name} takes a UnaryWithParam or a UnaryOpType, not {value!r}")


def _fidelity(owner, name, value):
    if not isinstance(value, MathFidelity):
        raise TypeError(f"{owner}: {name} takes a MathFidelity, not {value!r}")
    return value


def _throttle(owner, name, value):
    if not isinstance(value, ThrottleLevel):
        raise TypeError(f"{owner}: {name} takes a ThrottleLevel, not {value!r}")
    return value


class _Config:
    """Checks each field with its annotation, one of the functions above. None is accepted where it is the default."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, field.type(type(self).__name__, field.name, value))


@dataclass(kw_only=True)
class MatmulMultiCoreReuseProgramConfig(_Config):
    compute_with_storage_grid_size: _core_coord
    in0_block_w: _count
    out_subblock_h: _count
    out_subblock_w: _count
    per_core_M: _count
    per_core_N: _count
    allowed_worker_cores: _core_range_set = None


class _OutBlocks(_Config):
    """A config whose output block defaults to everything that one core computes."""

    def __post_init__(self):
        super().__post_init__()
        if self.out_block_h is None:
            self.out_block_h = self.per_core_M
        if self.out_block_w is None:
            self.out_block_w = self.per_core_N


@dataclass(kw_only=True)
class MatmulMultiCoreReuseMultiCastProgramConfig(_OutBlocks):
    compute_with_storage_grid_size: _core_coord
    in0_block_w: _count
    out_subblock_h: _count
    out_subblock_w: _count
    out_block_h: _count = None
    out_block_w: _count = None
    per_core_M: _count
    per_core_N: _count
    transpose_mcast: _flag
    fused_activation: _activation = None
    fuse_batch: _flag = True
    allowed_worker_cores: _core_range_set = None


@dataclass(kw_only=True)
class MatmulMultiCoreReuseMultiCast1DProgramConfig(_OutBlocks):
    compute_with_storage_grid_size: _core_coord
    in0_block_w: _count
    out_subblock_h: _count
    out_subblock_w: _count
    out_block_h: _count = None
    out_block_w: _count = None
    per_core_M: _count
    per_core_N: _count
    fuse_batch: _flag
    fused_activation: _activation = None
    mcast_in0: _flag
    gather_in0: _flag = False
    hop_cores: _core_range_set = None
    num_global_cb_receivers: _count = 1
    untilize_out: _flag = False
    allowed_worker_cores: _core_range_set = None
    stream_in1: _flag = False


@dataclass(kw_only=True)
class MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(_Config):
    in0_block_w: _count
    per_core_M: _count
    per_core_N: _count
    fused_activation: _activation = None
    num_workers_per_dram_bank: _count = 1


@dataclass(kw_only=True)
class SDPAProgramConfig(_Config):
    compute_with_storage_grid_size: _core_coord
    sub_core_grids: _core_range_set = None
    q_chunk_size: _count
    k_chunk_size: _count
    exp_approx_mode: _flag = None
    max_cores_per_head_batch: _count = 16
    max_k_splits: _count = 1
    matmul_math_fidelity: _fidelity = None
    segmented_accumulation: _flag = False


@dataclass(kw_only=True)
class LayerNormDefaultProgramConfig(_Config):
    legacy_reduction: _flag = False
    legacy_rsqrt: _flag = False
    use_welford: _flag = False


@dataclass(kw_only=True)
class LayerNormShardedMultiCoreProgramConfig(_Config):
    compute_with_storage_grid_size: _core_coord
    subblock_w: _count
    block_h: _count
    block_w: _count
    inplace: _flag
    legacy_reduction: _flag = False
    legacy_rsqrt: _flag = False
    use_welford: _flag = False


@dataclass(kw_only=True)
class WormholeComputeKernelConfig(_Config):
    math_fidelity: _fidelity = MathFidelity.Invalid
    math_approx_mode: _flag = True
    fp32_dest_acc_en: _flag = False
    packer_l1_acc: _flag = False
    dst_full_sync_en: _flag = False
    throttle_level: _throttle = ThrottleLevel.NO_THROTTLE


DeviceComputeKernelConfig = WormholeComputeKernelConfig


def init_device_compute_kernel_config(
    arch,
    device_kernel_config=None,
    *,
    math_fidelity=MathFidelity.LoFi,
    math_approx_mode=True,
    fp32_dest_acc_en=False,
    packer_l1_acc=False,
    dst_full_sync_en=False,
    throttle_level=ThrottleLevel.NO_THROTTLE,
):
    """Returns `device_kernel_config` if given, else a config made from the keywords, as the vendor's function does."""
    if not isinstance(arch, Arch):
        raise TypeError(f"init_device_compute_kernel_config: arch takes an Arch, not {arch!r}")
    if device_kernel_config is not None:
        return device_kernel_config
    return WormholeComputeKernelConfig(
        math_fidelity=math_fidelity,
        math_approx_mode=math_approx_mode,
        fp32_dest_acc_en=fp32_dest_acc_en,
        packer_l1_acc=packer_l1_acc,
        dst_full_sync_en=dst_full_sync_en,
        throttle_level=throttle_level,
    )
