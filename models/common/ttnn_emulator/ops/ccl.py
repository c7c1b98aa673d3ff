"""Collectives: all_gather, reduce_scatter, all_reduce over a whole mesh or along one of its axes.

Sums are computed in float32 in the order of the devices and rounded once. A card's order and rounding differ.
"""

import operator
from functools import reduce

import torch

from ..compiled import bits
from ..declaration import NoEffect, NotEmulated
from ..device import get_fabric_config
from ..dtypes import BLOCK_FLOAT, DataType, FabricConfig, Topology
from ..loops import rows as loops
from ..memory import MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import DeviceComputeKernelConfig
from ..shapes import volume
from ..tensor import Tensor, TensorSpec
from .checks import check_dtype, interleaved, positive, worker_cores
from .common import config_for, normalise_dim


def groups_of(tensor, cluster_axis, topology):
    """The device indices of each communicating group, the size of a group, and the topology of its links.

    `cluster_axis` 0 groups the devices of each column of the mesh, 1 those of each row, None all devices.
    """
    if tensor._device is None:
        raise RuntimeError(f"{tensor._describe()} must be on a device, it is on the host")
    fabric = get_fabric_config()
    if fabric is FabricConfig.DISABLED:
        raise RuntimeError("there is no fabric; call set_fabric_config(FabricConfig.FABRIC_1D) before opening the mesh")
    if topology is None:
        topology = Topology.Ring if fabric is FabricConfig.FABRIC_1D_RING else Topology.Linear
    rows, columns = tensor._device.shape
    if cluster_axis is None:
        groups = [list(range(rows * columns))]
    elif cluster_axis == 0:
        groups = [list(range(column, rows * columns, columns)) for column in range(columns)]
    elif cluster_axis == 1:
        groups = [list(range(row * columns, (row + 1) * columns)) for row in range(rows)]
    else:
        raise RuntimeError(f"cluster_axis must be 0, 1 or None, got {cluster_axis}")
    if len(groups[0]) < 2:
        raise RuntimeError(f"needs more than one device along cluster_axis {cluster_axis} of {tensor._device}")
    return groups, len(groups[0]), {"topology": topology}


def total_in_parts(parts, dim, count, dtype):
    """The sum of tensors, added in float32 and cut into `count` parts along `dim`: bf16 if `dtype` is BFLOAT16."""
    if all(part is parts[0] for part in parts):
        return (parts[0].float() * len(parts)).chunk(count, dim)
    if parts[0].dtype is not torch.bfloat16 or parts[0].is_meta:
        return reduce(operator.add, [part.float() for part in parts]).chunk(count, dim)
    shape = list(parts[0].shape)
    shape[dim] //= count
    total = torch.empty(count, *shape, dtype=torch.bfloat16 if dtype is DataType.BFLOAT16 else torch.float32)
    rows = volume(shape[:dim])
    flat = total.numpy() if total.dtype is torch.float32 else bits(total)
    loops.add_up(tuple([bits(part).reshape(rows, count, -1) for part in parts]), flat.reshape(count, rows, -1))
    return total.unbind(0)


@op("ttnn.all_gather")
def all_gather(
    input_tensor: Tensor,
    dim: int,
    *,
    cluster_axis: int = None,
    memory_config: MemoryConfig = None,
    output_tensor: NotEmulated = None,
    subdevice_id: NotEmulated = None,
    sub_core_grids: NoEffect[worker_cores] = None,
    num_links: NoEffect[positive] = None,
    topology: Topology = None,
    chunks_per_sync: NoEffect[positive] = None,
    num_workers_per_link: NoEffect[positive] = None,
    num_buffers_per_channel: NoEffect[positive] = None,
    use_l1_small_for_semaphores: NotEmulated = False,
) -> Tensor:
    """Gives every device of a group the tensors of the whole group, concatenated along `dim`."""
    groups, count, chosen = groups_of(input_tensor, cluster_axis, topology)
    dim = normalise_dim(dim, len(input_tensor.shape))
    shape = list(input_tensor.shape)
    shape[dim] *= count
    config = config_for(input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    exact = input_tensor.dtype not in BLOCK_FLOAT or dim != len(shape) - 1 or shape[dim] // count % 16 == 0
    return Program(
        lambda parts: [torch.cat(parts, dim)] * count, [input_tensor], spec, groups=groups, exact=exact, chosen=chosen
    )


@op("ttnn.reduce_scatter")
def reduce_scatter(
    input_tensor: Tensor,
    dim: int,
    *,
    cluster_axis: int = None,
    subdevice_id: NotEmulated = None,
    memory_config: MemoryConfig = None,
    intermediate_memory_config: NoEffect[interleaved] = None,
    output_tensor: NotEmulated = None,
    num_links: NoEffect[positive] = None,
    topology: Topology = None,
    chunks_per_sync: NoEffect[positive] = None,
    num_workers_per_link: NoEffect[positive] = None,
    num_buffers_per_channel: NoEffect[positive] = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    use_l1_small_for_semaphores: NotEmulated = False,
) -> Tensor:
    """Sums the tensors of a group. Each device keeps its part of dimension `dim` of the sum."""
    groups, count, chosen = groups_of(input_tensor, cluster_axis, topology)
    check_dtype("input_tensor", input_tensor.dtype)
    dim = normalise_dim(dim, len(input_tensor.shape))
    shape = list(input_tensor.shape)
    if shape[dim] % count:
        raise RuntimeError(f"dimension {dim} of {shape} must be divisible by {count} devices")
    shape[dim] //= count
    config = config_for(input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    return Program(
        lambda parts: total_in_parts(parts, dim, count, spec.dtype), [input_tensor], spec, groups=groups, chosen=chosen
    )


@op("ttnn.all_reduce")
def all_reduce(
    input_tensor: Tensor,
    *,
    cluster_axis: int = None,
    subdevice_id: NotEmulated = None,
    memory_config: MemoryConfig = None,
    num_links: NoEffect[positive] = None,
    topology: Topology = None,
) -> Tensor:
    """Gives every device of a group the sum of the group's tensors."""
    groups, count, chosen = groups_of(input_tensor, cluster_axis, topology)
    check_dtype("input_tensor", input_tensor.dtype)
    config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, config)
    return Program(
        lambda parts: total_in_parts(parts, 0, 1, spec.dtype) * count, [input_tensor], spec, groups=groups, chosen=chosen
    )
