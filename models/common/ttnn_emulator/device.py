"""Meshes of emulated chips: opening and closing them, their grids and memory."""

import weakref
from collections.abc import Sequence
from contextlib import contextmanager

from . import machine
from .allocator import Allocator, MemoryView
from .cores import CoreCoord, CoreGrid
from .declaration import NoEffect, NotEmulated
from .dtypes import Arch, BufferType, DispatchCoreAxis, DispatchCoreType, FabricConfig, FabricReliabilityMode
from .memory import L1_ALIGNMENT
from .op import FUNCTIONS, op
from .shapes import MeshCoordinate, MeshShape

MAX_DEVICES = 32
DEFAULT_L1_SMALL_SIZE = 0
DEFAULT_TRACE_REGION_SIZE = 0
DEFAULT_WORKER_L1_SIZE = 0

_open_meshes = weakref.WeakSet()
_fabric_config = FabricConfig.DISABLED
_default_device = None
_shape_only = False


class DispatchCoreConfig:
    """The kind of core that sends commands. The emulator has no dispatch: all kinds leave the same grid."""

    def __init__(self, type: DispatchCoreType = None, axis: DispatchCoreAxis = None, fabric_tensix_config=None):
        self.type = DispatchCoreType.WORKER if type is None else type
        self.axis = DispatchCoreAxis.ROW if axis is None else axis
        if not isinstance(self.type, DispatchCoreType) or not isinstance(self.axis, DispatchCoreAxis):
            raise TypeError(f"DispatchCoreConfig: got type {type!r} and axis {axis!r}")
        if fabric_tensix_config is not None:
            raise ValueError("DispatchCoreConfig: the emulator has no fabric tensix config; pass None")


class MeshDevice:
    """Rows and columns of chips on which one op call runs. `open_mesh_device` makes it."""

    def __init__(
        self, shape: MeshShape, device_ids: list, allocator: Allocator, shape_only: bool, num_command_queues: int
    ):
        self.shape = shape
        self.allocator = allocator
        self.chip = allocator.chip
        self.shape_only = shape_only
        self.num_devices = shape.mesh_size()
        self.capture = None
        self.traces = {}
        self._device_ids = device_ids
        self._num_command_queues = num_command_queues
        self._submeshes = []
        self._open = True

    @property
    def core_grid(self) -> CoreGrid:
        columns, rows = self.chip.grid
        return CoreGrid(x=columns, y=rows)

    def arch(self) -> Arch:
        return Arch[self.chip.arch.upper()]

    def id(self) -> int:
        return self._device_ids[0]

    def compute_with_storage_grid_size(self) -> CoreCoord:
        return CoreCoord(self.chip.grid)

    def dram_grid_size(self) -> CoreCoord:
        return CoreCoord(self.chip.dram_banks, 1)

    def get_num_devices(self) -> int:
        return self.num_devices

    def get_device_ids(self) -> list:
        return list(self._device_ids)

    def get_device_id(self, coordinate: MeshCoordinate) -> int:
        row, column = coordinate
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            raise RuntimeError(f"get_device_id: {coordinate} is outside {self.shape}")
        return self._device_ids[row * self.shape[1] + column]

    def check_queue(self, cq_id: int) -> None:
        """Raises RuntimeError if the mesh has no command queue with this number. None is the first queue."""
        if cq_id is not None and cq_id not in range(self._num_command_queues):
            raise RuntimeError(f"cq_id {cq_id!r} is not one of the mesh's {self._num_command_queues} command queues")

    def enable_program_cache(self) -> None:
        """Nothing to do: there are no programs."""

    def clear_program_cache(self) -> None:
        """Nothing to do: there are no programs."""

    def num_program_cache_entries(self) -> int:
        return 0

    def reshape(self, new_shape: MeshShape) -> None:
        """Gives the same chips other rows and columns."""
        if new_shape.mesh_size() != self.num_devices:
            raise RuntimeError(f"MeshDevice.reshape: {self.shape} and {new_shape} differ in number of devices")
        self.shape = MeshShape(*new_shape)

    def create_submeshes(self, submesh_shape: MeshShape) -> list:
        """Divides the mesh into submeshes of `submesh_shape`, in row-major order."""
        rows, columns = submesh_shape
        if self.shape[0] % rows or self.shape[1] % columns:
            raise RuntimeError(f"create_submeshes: {submesh_shape} does not divide {self.shape}")
        return [
            self.create_submesh(submesh_shape, MeshCoordinate(row, column))
            for row in range(0, self.shape[0], rows)
            for column in range(0, self.shape[1], columns)
        ]

    def create_submesh(self, submesh_shape: MeshShape, offset: MeshCoordinate = None) -> "MeshDevice":
        """The submesh of `submesh_shape` whose first chip is at `offset` (row, column)."""
        top, left = (0, 0) if offset is None else offset
        rows, columns = submesh_shape
        if top + rows > self.shape[0] or left + columns > self.shape[1]:
            raise RuntimeError(f"create_submesh: {submesh_shape} at {offset} is outside {self.shape}")
        ids = [
            self._device_ids[row * self.shape[1] + column]
            for row in range(top, top + rows)
            for column in range(left, left + columns)
        ]
        allocator = Allocator.of_submesh(self.allocator)
        submesh = MeshDevice(MeshShape(rows, columns), ids, allocator, self.shape_only, self._num_command_queues)
        self._submeshes.append(submesh)
        return submesh

    def get_submeshes(self) -> list:
        return list(self._submeshes)

    def _close(self) -> None:
        for submesh in self._submeshes:
            submesh._close()
        self.traces.clear()
        self._open = False

    def __repr__(self):
        rows, columns = self.shape
        return f"MeshDevice({rows}x{columns} grid, {self.num_devices} devices)"


Device = MeshDevice


@op("ttnn.open_mesh_device", registry=FUNCTIONS)
def open_mesh_device(
    mesh_shape: Sequence[int] = None,
    l1_small_size: int = DEFAULT_L1_SMALL_SIZE,
    trace_region_size: int = DEFAULT_TRACE_REGION_SIZE,
    num_command_queues: int = 1,
    dispatch_core_config: NoEffect[DispatchCoreConfig] = None,
    offset: MeshCoordinate = None,
    physical_device_ids: Sequence[int] = (),
    worker_l1_size: int = DEFAULT_WORKER_L1_SIZE,
) -> MeshDevice:
    """Opens an emulated mesh of at most 32 chips. Sizes are in bytes, as for the vendor's function.

    Raises RuntimeError for a larger mesh. Collectives need `set_fabric_config` before the mesh is opened.
    """
    shape = MeshShape(1, 1) if mesh_shape is None else MeshShape(*mesh_shape)
    if shape.dims() != 2 or shape.mesh_size() > MAX_DEVICES:
        raise RuntimeError(f"{shape} is not rows and columns of at most {MAX_DEVICES} devices")
    visible = machine.visible_devices()
    if visible is not None and shape.mesh_size() > len(visible):
        raise RuntimeError(f"{shape} has {shape.mesh_size()} devices, TT_VISIBLE_DEVICES leaves {len(visible)}")
    if num_command_queues not in (1, 2):
        raise RuntimeError(f"num_command_queues must be 1 or 2, got {num_command_queues}")
    if offset is not None and tuple(offset) != (0, 0):
        raise RuntimeError(f"the emulator opens meshes at offset (0, 0) only, got {offset}")
    ids = list(physical_device_ids) or list(range(shape.mesh_size()))
    if len(ids) != shape.mesh_size():
        raise RuntimeError(f"{len(ids)} physical_device_ids for {shape}")
    allocator = Allocator(_take_chip(), l1_small_size, trace_region_size, worker_l1_size)
    mesh = MeshDevice(shape, ids, allocator, _shape_only, num_command_queues)
    _open_meshes.add(mesh)
    return mesh


def _take_chip():
    """The machine's chip, which stays the same while meshes are open. RuntimeError if the open ones have another."""
    chip = machine.own_chip()
    if any(mesh.chip != chip for mesh in _open_meshes):
        raise RuntimeError(f"a mesh of {chip} cannot be opened beside meshes of other chips: {list(_open_meshes)}")
    machine.hold_chip(chip)
    return chip


def close_mesh_device(mesh_device: MeshDevice) -> None:
    """Closes the mesh and its submeshes. Its tensors must not be used afterwards."""
    global _default_device
    mesh_device._close()
    _open_meshes.discard(mesh_device)
    if not _open_meshes:
        machine.hold_chip(None)
    if _default_device is mesh_device:
        _default_device = None


@contextmanager
def create_mesh_device(*args, **kwargs):
    """`open_mesh_device` as a context manager."""
    mesh = open_mesh_device(*args, **kwargs)
    try:
        yield mesh
    finally:
        close_mesh_device(mesh)


@op("ttnn.open_device", registry=FUNCTIONS)
def open_device(
    *,
    device_id: int,
    l1_small_size: int = DEFAULT_L1_SMALL_SIZE,
    trace_region_size: int = DEFAULT_TRACE_REGION_SIZE,
    dispatch_core_config: DispatchCoreConfig = None,
    worker_l1_size: int = DEFAULT_WORKER_L1_SIZE,
) -> MeshDevice:
    """Opens a 1x1 mesh."""
    return open_mesh_device(
        MeshShape(1, 1),
        l1_small_size,
        trace_region_size,
        dispatch_core_config=dispatch_core_config,
        physical_device_ids=[device_id],
        worker_l1_size=worker_l1_size,
    )


close_device = close_mesh_device


@contextmanager
def manage_device(device_id: int):
    """`open_device` as a context manager."""
    device = open_device(device_id=device_id)
    try:
        yield device
    finally:
        close_device(device)


@contextmanager
def shape_only():
    """Context manager: meshes opened inside hold no values. Every tensor is a torch `meta` tensor, only a shape.

    Calls are still validated and memory is still counted. So a full-size model can be laid out in seconds.
    """
    global _shape_only
    before, _shape_only = _shape_only, True
    try:
        yield
    finally:
        _shape_only = before


@op("ttnn.set_fabric_config", registry=FUNCTIONS)
def set_fabric_config(
    config: FabricConfig,
    reliability_mode: NoEffect[FabricReliabilityMode] = FabricReliabilityMode.STRICT_INIT,
    num_planes: NotEmulated = None,
    fabric_tensix_config: NotEmulated = ...,
    fabric_udm_mode: NotEmulated = ...,
    fabric_manager_mode: NotEmulated = ...,
    router_config: NotEmulated = ...,
) -> None:
    """Chooses the links between chips, which collectives need. Raises RuntimeError while a mesh is open."""
    global _fabric_config
    if _open_meshes and config is not _fabric_config:
        raise RuntimeError(f"{config} cannot be set while meshes are open: {list(_open_meshes)}")
    _fabric_config = config


def get_fabric_config() -> FabricConfig:
    return _fabric_config


@op("ttnn.synchronize_device", registry=FUNCTIONS)
def synchronize_device(device: MeshDevice, cq_id: int = None, sub_device_ids: NotEmulated = ()) -> None:
    """Nothing to wait for: every op is finished when its call returns."""
    device.check_queue(cq_id)


@op("ttnn.SetDefaultDevice", registry=FUNCTIONS)
def set_default_device(device: MeshDevice = None) -> None:
    """Keeps a device for `GetDefaultDevice`. The emulator's ops do not take it: theirs is that of their arguments."""
    global _default_device
    _default_device = device


def get_default_device() -> MeshDevice | None:
    """The device that `SetDefaultDevice` kept, None after it was closed."""
    return _default_device


@op("ttnn.ReadDeviceProfiler", registry=FUNCTIONS)
def read_device_profiler(device: NoEffect[MeshDevice]) -> None:
    """Nothing to read: there is no profiler on the devices."""


@op("ttnn.get_memory_view", registry=FUNCTIONS)
def get_memory_view(device: MeshDevice, buffer_type: BufferType) -> MemoryView:
    """Bytes per bank of one kind of memory (total, allocated, free), and the number of banks."""
    return device.allocator.view(buffer_type)


def get_allocator_base_address(device: MeshDevice, buffer_type: BufferType) -> int:
    return device.allocator.base_address(buffer_type)


def get_dram_alignment() -> int:
    return machine.chip().dram_alignment


def get_l1_alignment() -> int:
    return L1_ALIGNMENT


def get_max_worker_l1_unreserved_size() -> int:
    return machine.chip().max_worker_l1_bytes

