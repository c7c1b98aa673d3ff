"""Collectives: all_gather, reduce_scatter, all_reduce over a whole mesh or along one of its axes.

Sums are taken in float32 in the order of the devices and rounded once; a card's order and roundings differ.
"""

import torch

from ..device import get_fabric_config
from ..dtypes import BLOCK_FLOAT, FLOATS, FabricConfig, Topology
from ..memory import MemoryConfig
from ..op import op, run
from ..tensor import Tensor, TensorSpec
from .common import check_tensor, config_for, normalise_dim


def _groups(name, tensor, cluster_axis, topology):
    """Device indices of each group that communicates, and the size of a group.

    `cluster_axis` 0 joins the devices of a column of the mesh, 1 those of a row, None all.
    """
    check_tensor(name, tensor)
    if tensor._device is None:
        raise RuntimeError(f"{name}: {tensor._describe()} must be on a device, it is on the host")
    if get_fabric_config() is FabricConfig.DISABLED:
        raise RuntimeError(
            f"{name}: there is no fabric; call set_fabric_config(FabricConfig.FABRIC_1D) before opening the mesh"
        )
    rows, columns = tensor._device.shape
    if topology is not None and not isinstance(topology, Topology):
        raise TypeError(f"{name}: topology must be a Topology, got {topology!r}")
    if cluster_axis is None:
        groups = [list(range(rows * columns))]
    elif cluster_axis == 0:
        groups = [list(range(column, rows * columns, columns)) for column in range(columns)]
    elif cluster_axis == 1:
        groups = [list(range(row * columns, (row + 1) * columns)) for row in range(rows)]
    else:
        raise RuntimeError(f"{name}: cluster_axis must be 0, 1 or None, got {cluster_axis}")
    if len(groups[0]) < 2:
        raise RuntimeError(f"{name}: needs more than one device along cluster_axis {cluster_axis} of {tensor._device}")
    return groups, len(groups[0])


def _total(parts):
    """The sum of tensors in float32, of the same object only once."""
    if all(part is parts[0] for part in parts):
        return parts[0].float() * len(parts)
    total = parts[0].float() + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _in_groups(groups, combine):
    """A collective kernel: `combine` makes from a group's tensors one output per member."""

    def kernel(shards):
        results = [None] * len(shards)
        for group in groups:
            for index, result in zip(group, combine([shards[index] for index in group])):
                results[index] = result
        return results

    return kernel


def _attributes(dim, cluster_axis, num_links, topology, memory_config):
    return {
        "dim": dim,
        "cluster_axis": cluster_axis,
        "num_links": num_links,
        "topology": topology,
        "memory_config": memory_config,
    }


@op("ttnn.all_gather")
def all_gather(
    input_tensor: Tensor,
    dim: int,
    *,
    cluster_axis: int = None,
    memory_config: MemoryConfig = None,
    subdevice_id=None,
    sub_core_grids=None,
    num_links: int = None,
    topology: Topology = None,
    chunks_per_sync: int = None,
    num_workers_per_link: int = None,
    num_buffers_per_channel: int = None,
    use_l1_small_for_semaphores: bool = False,
) -> Tensor:
    """On every device of a group the tensors of all of them, concatenated along `dim`."""
    groups, count = _groups("all_gather", input_tensor, cluster_axis, topology)
    dim = normalise_dim("all_gather", dim, len(input_tensor.shape))
    shape = list(input_tensor.shape)
    shape[dim] *= count
    config = config_for("all_gather", input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    kernel = _in_groups(groups, lambda parts: [torch.cat(parts, dim)] * count)
    exact = input_tensor.dtype not in BLOCK_FLOAT or dim != len(shape) - 1 or shape[dim] // count % 16 == 0
    attributes = _attributes(dim, cluster_axis, num_links, topology, config)
    return run("ttnn.all_gather", kernel, [input_tensor], [spec], attributes, collective=True, exact=exact)


@op("ttnn.reduce_scatter")
def reduce_scatter(
    input_tensor: Tensor,
    dim: int,
    *,
    cluster_axis: int = None,
    subdevice_id=None,
    memory_config: MemoryConfig = None,
    intermediate_memory_config: MemoryConfig = None,
    num_links: int = None,
    topology: Topology = None,
    chunks_per_sync: int = None,
    num_workers_per_link: int = None,
    num_buffers_per_channel: int = None,
    compute_kernel_config=None,
    use_l1_small_for_semaphores: bool = False,
) -> Tensor:
    """The sum over a group's tensors; each device keeps its part of dimension `dim`."""
    groups, count = _groups("reduce_scatter", input_tensor, cluster_axis, topology)
    _check_floats("reduce_scatter", input_tensor)
    dim = normalise_dim("reduce_scatter", dim, len(input_tensor.shape))
    shape = list(input_tensor.shape)
    if shape[dim] % count:
        raise RuntimeError(f"reduce_scatter: dimension {dim} of {shape} must be divisible by {count} devices")
    shape[dim] //= count
    config = config_for("reduce_scatter", input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    kernel = _in_groups(groups, lambda parts: _total(parts).chunk(count, dim))
    attributes = _attributes(dim, cluster_axis, num_links, topology, config)
    return run("ttnn.reduce_scatter", kernel, [input_tensor], [spec], attributes, collective=True)


@op("ttnn.all_reduce")
def all_reduce(
    input_tensor: Tensor,
    *,
    cluster_axis: int = None,
    subdevice_id=None,
    memory_config: MemoryConfig = None,
    num_links: int = None,
    topology: Topology = None,
) -> Tensor:
    """On every device of a group the sum of all their tensors."""
    groups, count = _groups("all_reduce", input_tensor, cluster_axis, topology)
    _check_floats("all_reduce", input_tensor)
    config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, config)
    kernel = _in_groups(groups, lambda parts: [_total(parts)] * count)
    attributes = _attributes(None, cluster_axis, num_links, topology, config)
    return run("ttnn.all_reduce", kernel, [input_tensor], [spec], attributes, collective=True)


def _check_floats(name, tensor):
    if tensor.dtype not in FLOATS:
        raise RuntimeError(f"{name}: {tensor.dtype} cannot be summed; accepted are floats")
