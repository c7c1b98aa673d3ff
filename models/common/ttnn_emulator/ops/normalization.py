"""Root mean square and layer normalisation."""

import torch

from ..compiled import fp32_bits, in_memory, in_threads
from ..cores import CoreCoord, CoreRange, CoreRangeSet
from ..declaration import NoEffect, NotEmulated
from ..dtypes import (
    TILE_SIZE,
    BufferType,
    DataType,
    Layout,
    ShardOrientation,
    TensorMemoryLayout,
)
from ..loops import rows as loops
from ..memory import MemoryConfig, ShardSpec
from ..op import op
from ..program import Program
from ..program_config import (
    DeviceComputeKernelConfig,
    LayerNormDefaultProgramConfig,
    LayerNormShardedMultiCoreProgramConfig,
)
from ..shapes import volume
from ..tensor import Tensor, TensorSpec
from .checks import check_dtype, check_grid, check_tiled

_ProgramConfig = LayerNormDefaultProgramConfig | LayerNormShardedMultiCoreProgramConfig
_NORMALISED = (DataType.BFLOAT16, DataType.FLOAT32, DataType.BFLOAT8_B)


@op("ttnn.rms_norm")
def rms_norm(
    input_tensor: Tensor,
    *,
    epsilon: float = 1e-12,
    weight: Tensor = None,
    bias: Tensor = None,
    residual_input_tensor: Tensor = None,
    memory_config: MemoryConfig = None,
    program_config: _ProgramConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight + bias over the last dimension (Zhang and Sennrich, 2019), in fp32.

    `weight` and `bias` have one value per column: `[1, 1, width / 32, 32]` in ROW_MAJOR or `[1, 1, 1, width]` in
    TILE layout. `residual_input_tensor` is added to the input first. A sharded input needs a sharded output.
    """
    return _norm(_rms, input_tensor, epsilon, weight, bias, residual_input_tensor, memory_config, program_config)


@op("ttnn.layer_norm")
def layer_norm(
    input_tensor: Tensor,
    *,
    epsilon: float = 1e-12,
    weight: Tensor = None,
    bias: Tensor = None,
    residual_input_tensor: Tensor = None,
    memory_config: MemoryConfig = None,
    program_config: _ProgramConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    recip_tensor: NotEmulated = None,
) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias over the last dimension. Otherwise as `rms_norm`."""
    return _norm(_layer, input_tensor, epsilon, weight, bias, residual_input_tensor, memory_config, program_config)


@op("ttnn.rms_norm_pre_all_gather")
def rms_norm_pre_all_gather(
    input_tensor: Tensor,
    *,
    dtype: DataType = DataType.BFLOAT16,
    residual_input_tensor: Tensor = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    program_config: _ProgramConfig = None,
    memory_config: MemoryConfig = None,
    use_2d_core_grid: NoEffect[bool] = None,
    fast_and_approximate_mode: NoEffect[bool] = False,
) -> Tensor:
    """The sum of squares of each row, in column 0 of a tile: `[..., rows, width]` to `[..., rows, 32]`."""
    check_input(input_tensor, residual_input_tensor)
    check_config(input_tensor, program_config)
    held = input_tensor.memory_config()
    memory_config = output_config(input_tensor, memory_config)
    if held.is_sharded():
        core = CoreRangeSet([CoreRange(CoreCoord(0, 0), CoreCoord(0, 0))])
        spec = ShardSpec(core, (volume(tuple(input_tensor.padded_shape)[:-1]), TILE_SIZE), ShardOrientation.ROW_MAJOR)
        memory_config = MemoryConfig(TensorMemoryLayout.WIDTH_SHARDED, BufferType.L1, spec)

    def kernel(values, residual):
        values = values.float() if residual is None else values.float() + residual.float()
        return torch.nn.functional.pad(values.square().sum(-1, keepdim=True), (0, TILE_SIZE - 1))

    spec = TensorSpec((*tuple(input_tensor.shape)[:-1], TILE_SIZE), dtype, Layout.TILE, memory_config)
    return Program(kernel, [input_tensor, residual_input_tensor], spec)


@op("ttnn.rms_norm_post_all_gather")
def rms_norm_post_all_gather(
    input_tensor: Tensor,
    stats: Tensor,
    *,
    epsilon: float = 1e-12,
    weight: Tensor = None,
    bias: Tensor = None,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    program_config: _ProgramConfig = None,
    dtype: DataType = None,
    use_2d_core_grid: NoEffect[bool] = None,
) -> Tensor:
    """RMS norm of rows that are split over devices. `stats` is the gathered output of `rms_norm_pre_all_gather`.

    `stats` is `[..., rows, 32 * devices]`. The full width of a row is the input's width times the number of devices.
    """
    check_input(input_tensor, None)
    check_tiled("stats", stats)
    if stats.padded_shape[-1] % TILE_SIZE or tuple(stats.padded_shape)[:-1] != tuple(input_tensor.padded_shape)[:-1]:
        raise RuntimeError(
            f"stats {list(stats.shape)} must be [..., 32 * devices] with the rows of {list(input_tensor.shape)}"
        )
    check_config(input_tensor, program_config)
    check_scale("weight", weight, input_tensor)
    check_scale("bias", bias, input_tensor)
    devices = stats.padded_shape[-1] // TILE_SIZE
    width = input_tensor.shape[-1] * devices
    dtype = input_tensor.dtype if dtype is None else dtype

    def kernel(values, stats, weight, bias):
        squares = stats[..., ::TILE_SIZE].float().sum(-1, keepdim=True)
        result = values.float() * torch.rsqrt(squares / width + epsilon)
        return scaled(result, weight, bias, dtype)

    spec = TensorSpec(input_tensor.shape, dtype, Layout.TILE, output_config(input_tensor, memory_config))
    return Program(kernel, [input_tensor, stats, weight, bias], spec)


def _rms(values, weight, epsilon):
    return torch.nn.functional.rms_norm(values, values.shape[-1:], weight, epsilon)


_WORK = 2  # elements in the time that `in_threads` takes one to need


def _rms_of_bf16(values, weight, epsilon):
    result = torch.empty_like(values, memory_format=torch.contiguous_format)
    if not values.is_meta:
        values, weight = in_memory(values), in_memory(weight)
        size, width = values.numel(), values.shape[-1]
        addresses = values.data_ptr(), result.data_ptr(), weight.data_ptr()
        in_threads(loops.rms_norm, size // width, *addresses, width, fp32_bits(epsilon), work=_WORK * size)
    return result


def _layer(values, weight, epsilon):
    return torch.nn.functional.layer_norm(values, values.shape[-1:], weight, None, epsilon)


def _norm(normalise, tensor, epsilon, weight, bias, residual, memory_config, program_config):
    check_input(tensor, residual)
    check_scale("weight", weight, tensor)
    check_scale("bias", bias, tensor)
    check_config(tensor, program_config)
    dtype = tensor.dtype

    def kernel(values, weight, bias, residual):
        if normalise is _rms and residual is None and bias is None and weight is not None:
            if values.dtype is torch.bfloat16 and weight.dtype is torch.bfloat16:
                return _rms_of_bf16(values, weight, epsilon)
        values = values.float()
        if residual is not None:
            values = values + residual.float()
        scale = None if weight is None else weight.reshape(-1).float()
        return scaled(normalise(values, scale, epsilon), None, bias, dtype)

    spec = TensorSpec(tensor.shape, dtype, Layout.TILE, output_config(tensor, memory_config))
    return Program(kernel, [tensor, weight, bias, residual], spec)


def scaled(values, weight, bias, dtype):
    if weight is not None:
        values = values * weight.reshape(-1).float()
    if bias is not None:
        values = values + bias.reshape(-1).float()
    return values if dtype is DataType.FLOAT32 else values.bfloat16()


def check_input(tensor, residual):
    check_tiled("input_tensor", tensor)
    check_dtype("input_tensor", tensor.dtype, _NORMALISED)
    if tensor.memory_config().memory_layout is TensorMemoryLayout.HEIGHT_SHARDED:
        raise RuntimeError("input_tensor must not be height-sharded")
    if residual is not None:
        check_tiled("residual_input_tensor", residual)
        if residual.shape != tensor.shape:
            raise RuntimeError(
                f"residual_input_tensor must be {list(tensor.shape)}, got {list(residual.shape)}"
            )


def check_scale(argument, scale, tensor):
    if scale is None:
        return
    width = tensor.padded_shape[-1]
    if scale.layout is Layout.ROW_MAJOR:
        too_small = volume(scale.shape) < tensor.shape[-1]  # its logical shape may leave some out
        if scale.padded_shape[-1] != TILE_SIZE or volume(scale.padded_shape) != width or too_small:
            raise RuntimeError(
                f"{argument} in ROW_MAJOR layout must be [1, 1, {width // TILE_SIZE}, {TILE_SIZE}], "
                f"got {list(scale.shape)}"
            )
    elif scale.padded_shape[-1] != width or scale.shape[-1] < tensor.shape[-1] or volume(scale.shape) != scale.shape[-1]:
        raise RuntimeError(f"{argument} in TILE layout must be [1, 1, 1, {tensor.shape[-1]}], got {list(scale.shape)}")


def check_config(tensor, config):
    if not isinstance(config, LayerNormShardedMultiCoreProgramConfig):
        return
    kind = "LayerNormShardedMultiCoreProgramConfig"
    held = tensor.memory_config()
    if not held.is_sharded():
        raise RuntimeError(f"{kind} takes a sharded input_tensor, got {held}")
    grid = config.compute_with_storage_grid_size
    check_grid(f"{kind} compute_with_storage_grid_size", grid)
    height, width = (size // TILE_SIZE for size in held.shard_spec.shape)
    if config.block_w != width or config.block_h != height:
        raise RuntimeError(
            f"{kind} block_h={config.block_h}, block_w={config.block_w} must be the shard's tiles, "
            f"{height} and {width}"
        )
    if config.subblock_w == 0 or config.block_w % config.subblock_w:
        raise RuntimeError(f"{kind} subblock_w={config.subblock_w} must divide block_w={config.block_w}")
    if config.inplace:
        raise NotImplementedError(f"{kind} inplace=True is not emulated; use False")


def output_config(tensor, memory_config):
    held = tensor.memory_config()
    if memory_config is None:
        return held
    if held.is_sharded():
        if not memory_config.is_sharded():
            raise RuntimeError(f"a sharded input needs a sharded output, got {memory_config}")
        if memory_config.memory_layout is not held.memory_layout or memory_config.buffer_type is not held.buffer_type:
            raise RuntimeError(f"the output must be sharded as the input, {held}, got {memory_config}")
        return held if memory_config.shard_spec is None else memory_config
    if memory_config.is_sharded():
        raise RuntimeError(f"an interleaved input needs an interleaved output, got {memory_config}")
    return memory_config
