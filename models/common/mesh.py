"""Opening and closing a mesh of devices: which mesh, its fabric, and where commands are dispatched from."""

import os
from contextlib import contextmanager
from typing import Optional

import ttnn

from models.common import backend
from models.common.mesh_names import MESH_SHAPES, check_mesh_name, requested_mesh_name

ETH_DISPATCH_YAML = "wormhole_b0_80_arch_eth_dispatch.yaml"

# Room for the trace of one decode step, out of each device's DRAM.
TRACE_REGION_SIZE = 50_000_000

_ON_HARDWARE = ("silicon", "simulator")
_MESH_OF_CLUSTER = {"N150": "N150", "N300": "N300", "T3K": "T3K", "GALAXY": "TG"}


def mesh_name_from_environment() -> str:
    """The mesh that MESH_DEVICE (alias FAKE_DEVICE) names; unset, all devices on hardware and N150 elsewhere.

    Raises ValueError for an unknown name, if the two variables differ, or for an unsupported machine.
    """
    return requested_mesh_name() or (_machine_name() if backend.name() in _ON_HARDWARE else "N150")


def dispatch_core_kind(backend_name: str, machine: str, wh_arch_yaml: Optional[str]) -> str:
    """Where a machine's commands are dispatched from: "eth" or "worker" cores.

    Args:
        backend_name: one of `backend.BACKENDS`.
        machine: N150, N300, T3K or TG, whole, even where a mesh of fewer devices is opened on it.
        wh_arch_yaml: value of WH_ARCH_YAML, None if unset.

    On hardware N300 and T3K dispatch from ethernet cores, because a row of workers would leave 8x7 of them;
    an N150 does when WH_ARCH_YAML asks for it. The mock device validates ethernet dispatch against too small
    a grid, so there (and on the emulator) it is always a row of workers, which leaves the same 8x8.

    Raises ValueError for a WH_ARCH_YAML other than `ETH_DISPATCH_YAML`, or if a TG is asked for it: all
    its ethernet cores carry links.
    """
    if wh_arch_yaml not in (None, ETH_DISPATCH_YAML):
        raise ValueError(f"WH_ARCH_YAML={wh_arch_yaml!r} is not supported: unset it, or set it to {ETH_DISPATCH_YAML}")
    if backend_name not in _ON_HARDWARE:
        return "worker"
    if machine == "TG":
        if wh_arch_yaml is not None:
            raise ValueError(f"WH_ARCH_YAML={wh_arch_yaml}: a TG dispatches from worker cores; unset it")
        return "worker"
    return "eth" if machine in ("N300", "T3K") or wh_arch_yaml is not None else "worker"


@contextmanager
def open_mesh(name: Optional[str] = None, shape: Optional[tuple] = None, **overrides):
    """Opens a mesh, yields its `ttnn.MeshDevice`, and closes it whatever happens.

    Args:
        name: N150, N300, T3K or TG; what the environment asks for if None.
        shape: other rows and columns for the same number of devices, such as (2, 4) for T3K.
        overrides: further arguments of `ttnn.open_mesh_device`, or others than the ones chosen here.

    Raises ValueError for an unknown name, a shape with another number of devices, or a mesh larger than
    the machine.
    """
    name = mesh_name_from_environment() if name is None else check_mesh_name(name)
    rows, cols = mesh_shape(name, shape)
    check_devices_exist(name, available_devices())
    options = {
        "dispatch_core_config": _dispatch_core_config(name),
        "trace_region_size": TRACE_REGION_SIZE,
        "num_command_queues": 1,
        "l1_small_size": 0,
        **overrides,
    }
    with _fabric(needed=rows * cols > 1):
        mesh_device = ttnn.open_mesh_device(mesh_shape=ttnn.MeshShape(rows, cols), **options)
        try:
            yield mesh_device
        finally:
            ttnn.close_mesh_device(mesh_device)


def mesh_shape(name: str, shape: Optional[tuple] = None) -> tuple:
    """Rows and columns of mesh `name`, or `shape` where it has as many devices; ValueError where it has not."""
    rows, cols = MESH_SHAPES[check_mesh_name(name)]
    if shape is None:
        return rows, cols
    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != rows * cols:
        raise ValueError(f"Mesh shape {tuple(shape)} does not fit {name}, which has {rows * cols} devices")
    return tuple(shape)


def dram_capacity(mesh_device) -> int:
    """Bytes of DRAM that each device of an opened mesh has for tensors: all banks, less the trace region."""
    view = ttnn.get_memory_view(mesh_device, ttnn.BufferType.DRAM)
    return view.total_bytes_per_bank * view.num_banks


def available_devices() -> Optional[int]:
    """How many devices the machine has; None on the emulator, which has as many as are asked for."""
    return None if backend.name() == "emulator" else ttnn.get_num_devices()


def check_devices_exist(name: str, available: Optional[int]) -> None:
    """Raises ValueError if mesh `name` has more devices than the `available` ones (None: any number)."""
    rows, cols = MESH_SHAPES[name]
    if available is not None and rows * cols > available:
        on_mock = "" if backend.name() in _ON_HARDWARE else f" (the mock machine is made at start: set MESH_DEVICE={name})"
        raise ValueError(f"Mesh {name} needs {rows * cols} devices, and there are {available}{on_mock}")


@contextmanager
def _fabric(needed: bool):
    """The fabric that collectives run over, for meshes of more than one device."""
    if not needed:
        yield
        return
    ttnn.set_fabric_config(ttnn.FabricConfig.FABRIC_1D)
    try:
        yield
    finally:
        ttnn.set_fabric_config(ttnn.FabricConfig.DISABLED)


def _dispatch_core_config(name: str):
    machine = _machine_name() if backend.name() in _ON_HARDWARE else name
    if dispatch_core_kind(backend.name(), machine, os.environ.get("WH_ARCH_YAML")) == "eth":
        return ttnn.DispatchCoreConfig(ttnn.DispatchCoreType.ETH)
    return ttnn.DispatchCoreConfig(ttnn.DispatchCoreType.WORKER, ttnn.DispatchCoreAxis.ROW)


def _machine_name() -> str:
    """The mesh that all devices of this machine make."""
    cluster = ttnn.cluster.get_cluster_type().name
    if cluster not in _MESH_OF_CLUSTER:
        raise ValueError(f"Machines of type {cluster} are not supported; supported are {', '.join(_MESH_OF_CLUSTER)}")
    return _MESH_OF_CLUSTER[cluster]
