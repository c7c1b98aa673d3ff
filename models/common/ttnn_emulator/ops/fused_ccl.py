"""Collectives fused with the op before or after them, for tensor parallel in two dimensions.

On a card, the devices write to a tensor that stays allocated between the calls (`buffer_tensor`, `stats`), and tell one
another by a semaphore. Here both are checked only.
"""

import torch

from ..cores import core_ranges, corerange_to_cores
from ..declaration import NoEffect, NotEmulated
from ..device import MeshDevice
from ..dtypes import TILE_SIZE, BufferType, DataType, Layout, ShardOrientation, TensorMemoryLayout, Topology, tile_size
from ..memory import MemoryConfig, ShardSpec
from ..op import op
from ..program import Program, rounding
from ..program_config import DeviceComputeKernelConfig, LayerNormShardedMultiCoreProgramConfig
from ..semaphore import GlobalSemaphore
from ..shapes import round_up
from ..tensor import Tensor, TensorSpec
from .ccl import groups_of, total_in_parts
from .checks import check_dtype, check_tiled, positive
from .heads import check_fused, head_dim_of
from .normalization import check_config, check_input, check_scale, output_config, scaled


@op("ttnn.experimental.all_reduce_create_qkv_heads")
def all_reduce_create_qkv_heads(
    input_tensor: Tensor,
    buffer_tensor: Tensor,
    batch_offset: Tensor,
    cluster_axis: int,
    mesh_device: NoEffect[MeshDevice],
    multi_device_global_semaphore: NoEffect[GlobalSemaphore],
    num_heads: int,
    *,
    memory_config: MemoryConfig = None,
    topology: Topology = Topology.Linear,
    num_links: NoEffect[positive] = None,
    subdevice_id: NotEmulated = None,
    num_kv_heads: int = None,
    slice_size: int = None,
    final_memory_config: MemoryConfig = None,
    dtype: DataType = None,
    use_noc1_only: NoEffect[bool] = False,
) -> tuple:
    """`all_reduce` of `[1, 1, B, q | k | v]`, width-sharded, and `nlp_create_qkv_heads_decode` of the sum.

    Returns the sum and q, k, v `[1, slice_size, heads, head_dim]` bf16, height-sharded in L1, one user per core, of the
    users from `batch_offset` (one integer on each device) on. Of the cores of `final_memory_config`, row by row, the
    first `slice_size` have q, the next k, the next v. `buffer_tensor`: on the cores of the sum, as wide as the parts of
    all devices of a group together.
    """
    groups, count, chosen = groups_of(input_tensor, cluster_axis, topology)
    check_dtype("dtype", input_tensor.dtype if dtype is None else dtype, (DataType.BFLOAT16,))
    if num_kv_heads is None:
        raise NotImplementedError("num_kv_heads must be given: without it, the vendor's shapes contradict one another")
    counts = (num_heads, num_kv_heads, num_kv_heads)
    check_fused("input_tensor", input_tensor)
    head_dim = head_dim_of(input_tensor, sum(counts))
    if num_heads > TILE_SIZE:
        raise RuntimeError(f"num_heads={num_heads} must be at most {TILE_SIZE}")
    batch = input_tensor.shape[2]
    users = batch if slice_size is None else slice_size
    sums = TensorSpec(
        input_tensor.shape, DataType.BFLOAT16, Layout.TILE,
        input_tensor.memory_config() if memory_config is None else memory_config,
    )  # fmt: skip
    _check_buffer(input_tensor, buffer_tensor, sums, count)
    specs = _heads_specs(counts, users, head_dim, final_memory_config)
    round_to = rounding(DataType.BFLOAT16)

    def kernel(parts, offsets):
        (summed,) = map(round_to, total_in_parts(parts, 0, 1, DataType.BFLOAT16))
        heads, made = summed.reshape(1, batch, sum(counts), head_dim), {}
        firsts = [int(offset.flatten()[0]) for offset in offsets]
        for first in firsts:
            made.setdefault(first, (summed, *heads[:, first : first + users].split(counts, dim=2)))
        return [made[first] for first in firsts]

    inputs = [input_tensor, batch_offset]
    return Program(kernel, inputs, (sums, *specs), groups=groups, exact=True, chosen=chosen)


def _check_buffer(tensor, buffer, sums, count):
    for argument, config in (
        ("input_tensor", tensor.memory_config()), ("buffer_tensor", buffer.memory_config()), ("memory_config", sums.memory_config)
    ):  # fmt: skip
        if config.memory_layout is not TensorMemoryLayout.WIDTH_SHARDED:
            raise RuntimeError(f"{argument} must be width-sharded, got {config}")
    held, output = buffer.memory_config().shard_spec, sums.memory_config.shard_spec
    if not held.grid.contains(output.grid):
        raise RuntimeError(f"buffer_tensor must lie on the cores of the sum, {output.grid}, got {held.grid}")
    needed, tiles = output.shape[1] * count, held.shape[1] // TILE_SIZE
    if tiles * tile_size(buffer.dtype) < needed // TILE_SIZE * tile_size(DataType.BFLOAT16):
        raise RuntimeError(
            f"buffer_tensor must have room for {needed} columns of bf16 on each core, "
            f"got {held.shape[1]} of {buffer.dtype.name}"
        )


def _heads_specs(counts, users, head_dim, config):
    if config is None or config.shard_spec is None:
        raise RuntimeError(f"final_memory_config must have a shard_spec, got {config}")
    cores = corerange_to_cores(config.shard_spec.grid, row_wise=True)
    if len(cores) < len(counts) * users:
        raise RuntimeError(
            f"final_memory_config must have {len(counts) * users} cores for {users} users, got {len(cores)}"
        )
    specs = []
    for part, heads in enumerate(counts):
        grid = core_ranges(cores[part * users : (part + 1) * users])
        shard = ShardSpec(grid, (round_up(heads, TILE_SIZE), head_dim), ShardOrientation.ROW_MAJOR)
        sharded = MemoryConfig(TensorMemoryLayout.HEIGHT_SHARDED, BufferType.L1, shard)
        specs.append(TensorSpec([1, users, heads, head_dim], DataType.BFLOAT16, Layout.TILE, sharded))
    return specs


@op("ttnn.fused_rms_minimal")
def fused_rms_minimal(
    input_tensor: Tensor,
    program_config: LayerNormShardedMultiCoreProgramConfig,
    cluster_axis: int,
    mesh_device: NoEffect[MeshDevice],
    global_semaphore: NoEffect[GlobalSemaphore],
    *,
    persistent_output_tensor: NotEmulated = None,
    num_links: NoEffect[positive] = None,
    topology: Topology = Topology.Linear,
    subdevice_id: NotEmulated = None,
    dtype: NotEmulated = None,
    compute_kernel_config: DeviceComputeKernelConfig = None,
    memory_config: MemoryConfig = None,
    residual_input_tensor: NotEmulated = None,
    epsilon: float = 1e-12,
    weight: Tensor = None,
    stats: Tensor = None,
    use_noc1_only: NoEffect[bool] = False,
) -> Tensor:
    """`rms_norm` of rows that are split over the devices of a group: `rms_norm_pre_all_gather`, `all_gather` and
    `rms_norm_post_all_gather` in one.

    x and the output are width-sharded, at most 32 rows; `weight` is in ROW_MAJOR layout. `stats` holds the sums of
    squares that the devices exchange: on one core, fp32 if the compute kernel accumulates in fp32, else bf16.
    """
    groups, count, chosen = groups_of(input_tensor, cluster_axis, topology)
    check_input(input_tensor, None)
    if not input_tensor.memory_config().is_sharded():
        raise RuntimeError(f"input_tensor must be sharded, got {input_tensor.memory_config()}")
    check_config(input_tensor, program_config)
    if weight is None or weight.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"weight must be a tensor in ROW_MAJOR layout, got {weight and weight._describe()}")
    check_scale("weight", weight, input_tensor)
    _check_stats(stats, compute_kernel_config)
    round_to, made, width = rounding(stats.dtype), input_tensor.dtype, input_tensor.shape[-1] * count

    def kernel(parts, weights):
        values = [part.float() for part in parts]
        squares = sum(round_to(each.square().sum(-1, keepdim=True)).float() for each in values)
        factor = torch.rsqrt(squares / width + epsilon)
        return [scaled(each * factor, scale, None, made) for each, scale in zip(values, weights)]

    spec = TensorSpec(input_tensor.shape, made, Layout.TILE, output_config(input_tensor, memory_config))
    return Program(kernel, [input_tensor, weight], spec, groups=groups, chosen=chosen)


def _check_stats(stats, compute_kernel_config):
    if stats is None:
        raise RuntimeError("stats must be given: the devices exchange the sums of squares in it")
    check_tiled("stats", stats)
    in_fp32 = compute_kernel_config is not None and compute_kernel_config.fp32_dest_acc_en
    check_dtype("stats", stats.dtype, (DataType.FLOAT32 if in_fp32 else DataType.BFLOAT16,))
    if not stats.memory_config().is_sharded():
        raise RuntimeError(f"stats must be sharded, got {stats.memory_config()}")
