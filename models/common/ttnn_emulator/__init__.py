"""An emulator of the ttnn ops that the models use, in torch. Its public names and signatures are ttnn's.

`README.md` lists what is exact and what is known to differ from a card. A name that the emulator lacks raises
AttributeError with the name. An unknown keyword raises TypeError.
"""

import importlib
from types import SimpleNamespace

from . import cluster
from .allocator import MemoryView
from .cores import (
    CoreCoord,
    CoreGrid,
    CoreRange,
    CoreRangeSet,
    corerange_to_cores,
    grid_to_cores,
    num_cores_to_corerangeset,
    num_cores_to_corerangeset_in_subcoregrids,
)
from .device import (
    Device,
    DispatchCoreConfig,
    MeshDevice,
    close_device,
    close_mesh_device,
    create_mesh_device,
    get_allocator_base_address,
    get_default_device as GetDefaultDevice,
    get_dram_alignment,
    get_fabric_config,
    get_l1_alignment,
    get_max_worker_l1_unreserved_size,
    get_memory_view,
    manage_device,
    open_device,
    open_mesh_device,
    read_device_profiler as ReadDeviceProfiler,
    set_default_device as SetDefaultDevice,
    set_fabric_config,
    synchronize_device,
)
from .distributed import (
    ConcatMesh2dToTensor,
    ConcatMeshToTensor,
    CppMeshToTensor,
    CppTensorToMesh,
    MeshMapperConfig,
    PlacementReplicate,
    PlacementShard,
    ReplicateTensorToMesh,
    ReplicateTensorToMeshWrapper,
    ShardTensor2dMesh,
    ShardTensorToMesh,
    from_host_shards,
    get_device_tensors,
)
from .dtypes import (
    TILE_SIZE,
    Arch,
    BufferType,
    DataType,
    DispatchCoreAxis,
    DispatchCoreType,
    FabricConfig,
    FabricReliabilityMode,
    Layout,
    ShardOrientation,
    ShardStrategy,
    StorageType,
    TensorMemoryLayout,
    Topology,
    element_size,
    tile_size,
    ttnn_dtype_to_torch_dtype,
)
from .machine import GetNumAvailableDevices, get_arch_name, get_device_ids, get_num_devices, using_distributed_env
from .memory import (
    DRAM_MEMORY_CONFIG,
    L1_BLOCK_SHARDED_MEMORY_CONFIG,
    L1_HEIGHT_SHARDED_MEMORY_CONFIG,
    L1_MEMORY_CONFIG,
    L1_WIDTH_SHARDED_MEMORY_CONFIG,
    MemoryConfig,
    ShardSpec,
    create_sharded_memory_config,
)
from .op import REGISTRY
from .program_config import (
    DeviceComputeKernelConfig,
    EmbeddingsType,
    LayerNormDefaultProgramConfig,
    LayerNormShardedMultiCoreProgramConfig,
    MathFidelity,
    MatmulMultiCoreReuseMultiCast1DProgramConfig,
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    MatmulMultiCoreReuseMultiCastProgramConfig,
    MatmulMultiCoreReuseProgramConfig,
    SDPAProgramConfig,
    ThrottleLevel,
    UnaryOpType,
    UnaryWithParam,
    WormholeComputeKernelConfig,
    init_device_compute_kernel_config,
)
from .semaphore import create_global_semaphore
from .shapes import MeshCoordinate, MeshShape, Shape
from .tensor import Tensor, TensorSpec
from .trace import (
    MeshEvent,
    MeshTraceId,
    begin_trace_capture,
    end_trace_capture,
    event_synchronize,
    execute_trace,
    is_trace_capture_active,
    record_event,
    release_trace,
    wait_for_event,
)

uint8, uint16, uint32, int32 = DataType.UINT8, DataType.UINT16, DataType.UINT32, DataType.INT32
float32, bfloat16 = DataType.FLOAT32, DataType.BFLOAT16
bfloat8_b, bfloat4_b = DataType.BFLOAT8_B, DataType.BFLOAT4_B
TILE_LAYOUT, ROW_MAJOR_LAYOUT = Layout.TILE, Layout.ROW_MAJOR
DEVICE_STORAGE_TYPE = StorageType.DEVICE


def get_memory_config(tensor: Tensor) -> MemoryConfig:
    """The memory config of a device tensor, None of a host tensor."""
    return None if tensor.storage_type() is StorageType.HOST else tensor.memory_config()


def is_sharded(tensor: Tensor) -> bool:
    return tensor.is_sharded()


def is_tensor_storage_on_device(tensor: Tensor) -> bool:
    return tensor.storage_type() is StorageType.DEVICE


class _Namespace(SimpleNamespace):
    """A group of ops, such as `ttnn.transformer`."""

    def __getattr__(self, name):
        raise AttributeError(f"the ttnn emulator has no `{object.__getattribute__(self, '_path')}.{name}`")


def _publish():
    """Makes every registered op available under its dotted public name."""
    for dotted, function in REGISTRY.items():
        _, *groups, name = dotted.split(".")
        target, path = globals(), "ttnn"
        for group in groups:
            path = f"{path}.{group}"
            target = target.setdefault(group, _Namespace(_path=path)).__dict__
        target[name] = function


_OP_MODULES = (
    "creation",
    "filling",
    "transfer",
    "files",
    "placement",
    "reshaping",
    "data_movement",
    "unary",
    "binary",
    "reduction",
    "ccl",
    "tensor_methods",
    "matmul",
    "normalization",
    "embedding",
    "experimental",
    "fused_ccl",
    "cache",
    "transformer",
)
for _module in _OP_MODULES:
    importlib.import_module(f"{__name__}.ops.{_module}")
_publish()


def __getattr__(name):
    raise AttributeError(f"the ttnn emulator has no `ttnn.{name}`")
