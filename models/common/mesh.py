"""Opens and closes a mesh of devices: chooses the mesh, its fabric, and the cores that dispatch commands."""

import os
from contextlib import contextmanager, nullcontext
from typing import Optional

import ttnn

from models.common import backend, links
from models.common.chip import Chip, chip_with
from models.common.mesh_names import MESH_SHAPES, MESHES, check_mesh_name, requested_mesh_name

ETH_DISPATCH_YAML = "wormhole_b0_80_arch_eth_dispatch.yaml"

# Bytes of each device's DRAM that are reserved for the trace of one decode step.
TRACE_REGION_SIZE = 50_000_000

_ON_HARDWARE = ("silicon", "simulator")
_MESH_OF_CLUSTER = {
    "N150": "N150", "N300": "N300", "T3K": "T3K", "GALAXY": "TG", "P100": "P100", "P150": "P150", "P150_X4": "P150x4"
}  # fmt: skip
# Machines with links from the last chip of each row and column to the first.
_RINGS = ("TG",)
# Dispatch takes a row of worker cores of a Wormhole, and a column of a Blackhole.
_DISPATCH_AXIS = {"wormhole_b0": "ROW", "blackhole": "COL"}


def mesh_name_from_environment() -> str:
    """The mesh that MESH_DEVICE (alias FAKE_DEVICE) names. If unset: all devices on hardware, N150 elsewhere.

    Raises ValueError for an unknown name, for two variables that differ, and for an unsupported machine.
    """
    return requested_mesh_name() or (_machine_name() if backend.name() in _ON_HARDWARE else "N150")


def dispatch_core_kind(backend_name: str, machine: str, wh_arch_yaml: Optional[str]) -> str:
    """The kind of core that dispatches a machine's commands: "eth" or "worker".

    Args:
        backend_name: one of `backend.BACKENDS`.
        machine: a name of `MESHES`: the whole machine, even if the mesh opened on it has fewer devices.
        wh_arch_yaml: value of WH_ARCH_YAML, None if unset.

    On hardware, N300 and T3K dispatch from ethernet cores, because dispatch from a row of workers would leave only
    8x7 of them. An N150 dispatches from ethernet cores if WH_ARCH_YAML asks for it. The mock device validates
    ethernet dispatch against too small a grid. So the mock device and the emulator always dispatch from a row of
    workers, which leaves the same 8x8 grid there. A Blackhole always dispatches from worker cores.

    Raises ValueError for a WH_ARCH_YAML other than `ETH_DISPATCH_YAML`, for any WH_ARCH_YAML on a TG, whose ethernet
    cores all carry links, and on a Blackhole.
    """
    if wh_arch_yaml not in (None, ETH_DISPATCH_YAML):
        raise ValueError(f"WH_ARCH_YAML={wh_arch_yaml!r} is not supported: unset it, or set it to {ETH_DISPATCH_YAML}")
    if backend_name not in _ON_HARDWARE:
        return "worker"
    if machine == "TG" or MESHES[machine].arch == "blackhole":
        if wh_arch_yaml is not None:
            raise ValueError(f"WH_ARCH_YAML={wh_arch_yaml}: a {machine} dispatches from worker cores; unset it")
        return "worker"
    return "eth" if machine in ("N300", "T3K") or wh_arch_yaml is not None else "worker"


@contextmanager
def open_mesh(name: Optional[str] = None, shape: Optional[tuple] = None, **overrides):
    """Opens a mesh, yields its `ttnn.MeshDevice`, and always closes it, also after an error.

    Args:
        name: a name of `MESHES`. None takes the mesh that the environment asks for.
        shape: other rows and columns for the same number of devices, such as (2, 4) for T3K.
        overrides: arguments of `ttnn.open_mesh_device`; they replace the ones chosen here.

    Raises ValueError for an unknown name, for a shape with another number of devices, for a mesh larger than the
    machine, for one of other chips, and for settings of its links that cannot be followed (see `links`).
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
    with _chips(MESHES[name].chip), _fabric(_fabric_config(name) if rows * cols > 1 else None):
        mesh_device = ttnn.open_mesh_device(mesh_shape=ttnn.MeshShape(rows, cols), **options)
        try:
            if chip_of(mesh_device) != MESHES[name].chip:
                wanted, found = MESHES[name].chip, chip_of(mesh_device)
                raise ValueError(f"Mesh {name} is of {wanted}, this machine of {found}{_hint(name)}")
            yield mesh_device
        finally:
            for submesh in mesh_device.get_submeshes():
                ttnn.close_mesh_device(submesh)
            ttnn.close_mesh_device(mesh_device)


def without_values():
    """Context manager: meshes opened inside lay tensors out and check calls, but hold no values, so they take little memory.

    Raises ValueError on a backend other than the emulator.
    """
    if backend.name() != "emulator":
        raise ValueError(f"shape-only runs are the emulator's; the backend is {backend.name()}")
    from models.common.ttnn_emulator.device import shape_only

    return shape_only()


def mesh_shape(name: str, shape: Optional[tuple] = None) -> tuple:
    """Rows and columns of mesh `name`, or `shape` if given. ValueError if `shape` has another number of devices."""
    rows, cols = MESH_SHAPES[check_mesh_name(name)]
    if shape is None:
        return rows, cols
    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != rows * cols:
        raise ValueError(f"Mesh shape {tuple(shape)} does not fit {name}, which has {rows * cols} devices")
    return tuple(shape)


def chip_of(mesh_device) -> Chip:
    """The chip that each device of an opened mesh is. ValueError if it is not a known one."""
    banks = mesh_device.dram_grid_size()
    return chip_with(mesh_device.arch().name, banks.x * banks.y)


def dram_capacity(mesh_device) -> int:
    """Bytes of DRAM for tensors on each device of an opened mesh: all banks, without the trace region."""
    view = ttnn.get_memory_view(mesh_device, ttnn.BufferType.DRAM)
    return view.total_bytes_per_bank * view.num_banks


def available_devices() -> Optional[int]:
    """How many devices the machine has. None on the emulator, which gives as many as requested, unless TT_VISIBLE_DEVICES
    is set."""
    everything = backend.name() == "emulator" and "TT_VISIBLE_DEVICES" not in os.environ
    return None if everything else ttnn.get_num_devices()


def check_devices_exist(name: str, available: Optional[int]) -> None:
    """Raises ValueError if mesh `name` needs more than `available` devices (None: no limit)."""
    rows, cols = MESH_SHAPES[name]
    if available is not None and rows * cols > available:
        raise ValueError(f"Mesh {name} needs {rows * cols} devices, and there are {available}{_hint(name)}")


def _hint(name: str) -> str:
    return "" if backend.name() in _ON_HARDWARE else f" (the mock machine is made at start: set MESH_DEVICE={name})"


def _chips(chip: Chip):
    """Context manager: on the emulator, meshes are opened of this chip. Elsewhere the machine has the chips it has."""
    if backend.name() != "emulator":
        return nullcontext()
    from models.common.ttnn_emulator.machine import with_chip

    return with_chip(chip)


@contextmanager
def _fabric(config: Optional[str]):
    """Context manager: sets up the fabric that collectives run over; None for a mesh of one device, which has none."""
    if config is None:
        yield
        return
    ttnn.set_fabric_config(getattr(ttnn.FabricConfig, config))
    try:
        yield
    finally:
        ttnn.set_fabric_config(ttnn.FabricConfig.DISABLED)


def _fabric_config(name: str) -> str:
    return "FABRIC_1D_RING" if name in _RINGS and not links.gathers_in_line() else "FABRIC_1D"


def _dispatch_core_config(name: str):
    machine = _machine_name() if backend.name() in _ON_HARDWARE else name
    if dispatch_core_kind(backend.name(), machine, os.environ.get("WH_ARCH_YAML")) == "eth":
        return ttnn.DispatchCoreConfig(ttnn.DispatchCoreType.ETH)
    axis = _DISPATCH_AXIS[MESHES[machine].arch]
    return ttnn.DispatchCoreConfig(ttnn.DispatchCoreType.WORKER, getattr(ttnn.DispatchCoreAxis, axis))


def _machine_name() -> str:
    """The name of the mesh that consists of all devices of this machine."""
    cluster = ttnn.cluster.get_cluster_type().name
    if cluster not in _MESH_OF_CLUSTER:
        raise ValueError(f"Machines of type {cluster} are not supported; supported are {', '.join(_MESH_OF_CLUSTER)}")
    # The vendor calls a line of N150 boards as it calls one board.
    is_line = cluster == "N150" and ttnn.get_num_devices() == 4
    return "N150x4" if is_line else _MESH_OF_CLUSTER[cluster]
