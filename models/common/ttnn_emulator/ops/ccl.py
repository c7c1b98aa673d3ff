"""Collectives: all_gather, reduce_scatter, all_reduce over a whole mesh or along one of its axes.

Sums are computed in float32 in the order of the devices and rounded once. A card's order and rounding differ.
"""

import torch

from ..declaration import NoEffect, NotEmulated
from ..device import get_fabric_config
from ..dtypes import BLOCK_FLOAT, FabricConfig, Topology
from ..memory import MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import DeviceComputeKernelConfig
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


def total(parts):
    """The sum of tensors in float32. If all are one object, it is converted once and multiplied."""
    if all(part is parts[0] for part in parts):
        return parts[0].float() * len(parts)
    result = parts[0].float() + parts[1]
    for part in parts[2:]:
        result += part
    return result


def in_groups(groups, combine):
    """A collective kernel. `combine` takes the tensors of a group, a list for each input, and makes one output per member.

    Groups with the same tensors get the same outputs, so that later ops compute once for all of them.
    """

    def kernel(*inputs):
        results, combined = [None] * len(inputs[0]), {}
        for group in groups:
            parts = [[shards[index] for index in group] for shards in inputs]
            key = tuple(id(part) for each in parts for part in each)
            if key not in combined:
                combined[key] = combine(*parts)
            for index, result in zip(group, combined[key]):
                results[index] = result
        return results

    return kernel


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
    kernel = in_groups(groups, lambda parts: [torch.cat(parts, dim)] * count)
    exact = input_tensor.dtype not in BLOCK_FLOAT or dim != len(shape) - 1 or shape[dim] // count % 16 == 0
    return Program(kernel, [input_tensor], spec, collective=True, exact=exact, chosen=chosen)


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
    kernel = in_groups(groups, lambda parts: total(parts).chunk(count, dim))
    return Program(kernel, [input_tensor], spec, collective=True, chosen=chosen)


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
    kernel = in_groups(groups, lambda parts: [total(parts)] * count)
    return Program(kernel, [input_tensor], spec, collective=True, chosen=chosen)
