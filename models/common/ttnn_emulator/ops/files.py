"""Tensors in files: a safetensors file with the shards as entries, and all other facts of the tensor as metadata.

A file holds one host tensor. Each different shard is one entry, in the storage dtype.
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..declaration import NotEmulated
from ..device import MeshDevice
from ..dtypes import DataType, Layout, storage_dtype
from ..kept import KeptTensor
from ..op import op
from ..packed import PackedMatrix
from ..shapes import volume
from ..table import TableInFile
from ..tensor import Replicated, Storage, Tensor, TensorSpec, is_transposed
from .transfer import from_device, to_device

_FORMAT = "ttnn-emulator-3"
_TRANSPOSED, _PACKED = "transposed", "packed"
_SMALLEST_TABLE = 1 << 20  # values; a smaller one is read whole by an op as fast


@op("ttnn.dump_tensor")
def dump_tensor(file_name: str | os.PathLike, tensor: Tensor, *, mode: NotEmulated = ...) -> None:
    """Writes a tensor, with the shards of all devices, to a `.tensorbin` file.

    The file has the emulator's own format, not the vendor's. The memory config is not stored. Raises RuntimeError if
    the file cannot be written, e.g. on a full disk.
    """
    path = _checked(file_name)
    shards = from_device(tensor).shards
    names, stored = {}, {}
    for shard in shards:
        if id(shard) not in names:
            # A weight is written as it lies in memory, so that it can be mapped and used in this order.
            if type(shard) is PackedMatrix:
                kind, parts = _PACKED, {"": shard.mantissas, "_exponents": shard.exponents}
            elif is_transposed(shard):
                kind, parts = _TRANSPOSED, {"": shard.mT}
            else:
                kind, parts = "shard", {"": shard.plain() if isinstance(shard, KeptTensor) else shard.contiguous()}
            name = names[id(shard)] = f"{kind}_{len(names)}"
            stored |= {name + part: values for part, values in parts.items()}
    facts = {
        "format": _FORMAT,
        "dtype": tensor.dtype.name,
        "layout": tensor.layout.name,
        "shape": json.dumps(list(shards[0].shape)),
        "shards": json.dumps([names[id(shard)] for shard in shards]),
    }
    try:
        save_file(stored, str(path), metadata=facts)
    except SafetensorError as error:
        raise RuntimeError(f"{path} cannot be written: {error}") from error


@op("ttnn.load_tensor")
def load_tensor(file_name: str | os.PathLike, *, device: MeshDevice = None) -> Tensor:
    """A tensor that `dump_tensor` wrote, on the mesh if `device` is given (DRAM, interleaved).

    Its values are mapped from the file. Those of a large table (bf16, ROW_MAJOR) are read when they are needed.

    Raises RuntimeError if the file is missing, truncated or not in the emulator's format.
    """
    path = _checked(file_name)
    if not path.is_file():
        raise RuntimeError(f"{path} does not exist or is not a file")
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != _FORMAT:
                raise RuntimeError(f"{path} is not a tensor file of the emulator ({_FORMAT})")
            spec = TensorSpec(json.loads(facts["shape"]), DataType[facts["dtype"]], Layout[facts["layout"]])
            names = json.loads(facts["shards"])
            different = {name: _shard(name, spec, path, file) for name in names}
    except RuntimeError:
        raise
    except Exception as error:
        raise RuntimeError(f"{path} cannot be read: {error}") from error
    shards = [different[name] for name in names]
    shards = Replicated(shards) if len(different) == 1 else shards
    tensor = Tensor(spec, Storage(shards))
    return tensor if device is None else to_device(tensor, device)


def _shard(name, spec, path, file):
    if name.startswith(_PACKED):
        return PackedMatrix(file.get_tensor(name), file.get_tensor(f"{name}_exponents"), spec.shape)
    if name.startswith(_TRANSPOSED):
        return file.get_tensor(name).mT
    if _is_table(spec):
        return TableInFile(path, _offset(path, name), tuple(spec.shape), storage_dtype(spec.dtype))
    return file.get_tensor(name)


def _is_table(spec) -> bool:
    if spec.dtype is not DataType.BFLOAT16 or spec.layout is not Layout.ROW_MAJOR:
        return False
    return _SMALLEST_TABLE <= volume(spec.shape) == volume(tuple(spec.shape)[-2:])


def _offset(path, name) -> int:
    """Where an entry of a safetensors file begins: 8 bytes of the header's length, the header, then the entries."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 8 + length + json.loads(file.read(length))[name]["data_offsets"][0]


def _checked(file_name) -> Path:
    path = Path(file_name)
    if path.suffix != ".tensorbin":
        raise RuntimeError(f"{path} must have the extension .tensorbin")
    return path
