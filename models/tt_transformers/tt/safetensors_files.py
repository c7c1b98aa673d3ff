"""The safetensors files of a checkpoint directory: checked from their headers alone, then read by rows.

Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, a JSON header, then the data).
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Mapping

import torch
from safetensors import safe_open

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # what a clone without Git LFS has in place of a file
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class TensorInfo:
    file: Path
    dtype: str
    shape: tuple[int, ...]


class SafetensorsFiles:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.

    Raises FileNotFoundError if there is no such file or a shard is missing (all missing ones are named), ValueError if
    a file is truncated or corrupt.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.files = _files_of(directory)
        tensors: dict[str, TensorInfo] = {}
        for file in self.files:
            tensors |= _read_header(file)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        self._open = {}

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the tensor `name`, in the file's dtype. Only these rows are read."""
        file = self.tensors[name].file
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file].get_slice(name)[start:stop]


def _files_of(directory: Path) -> tuple[Path, ...]:
    index = directory / INDEX
    if not index.is_file():
        if (directory / SINGLE).is_file():
            return (directory / SINGLE,)
        others = sorted(path.name for path in directory.glob("*") if path.suffix in (".bin", ".pth", ".pt", ".gguf"))
        found = f"; found {', '.join(others)}, which is not read: convert it to safetensors" if others else ""
        raise FileNotFoundError(f"{directory} has neither {SINGLE} nor {INDEX}{found}")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is corrupt: it must be a JSON object with a 'weight_map' ({error})") from error
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise FileNotFoundError(f"{directory} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}")
    return tuple(directory / name for name in names)


def _read_header(file: Path) -> dict[str, TensorInfo]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{file} is a pointer of Git LFS, not the weights: run `git lfs pull` in {file.parent}")
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"{file} is truncated or not a safetensors file: {size} bytes, header of {length} bytes")
        header = stream.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors, end = {}, 0
        for name, entry in entries.items():
            info = TensorInfo(file, entry["dtype"], tuple(entry["shape"]))
            begin, tensor_end = entry["data_offsets"]
            if tensor_end - begin != prod(info.shape) * ITEM_BYTES.get(info.dtype, 1):
                raise ValueError(f"{name} takes {tensor_end - begin} bytes; {info.shape} of {info.dtype} differs")
            tensors[name] = info
            end = max(end, tensor_end)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is corrupt: its header cannot be read ({error})") from error
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "corrupt"
        raise ValueError(f"{file} is {state}: it has {size} bytes, its header describes {8 + length + end}")
    return tensors
