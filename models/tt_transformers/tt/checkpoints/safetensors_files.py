"""The safetensors files of a checkpoint directory: checked from their headers alone, then read by rows.

Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, a JSON header, then the data).
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Mapping, Sequence

import torch

from models.tt_transformers.tt.config.architecture import read_config

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
INDEX_ENDING = ".safetensors.index.json"
# Names of files with weights, including files that are not read.
WEIGHTS = ("*.safetensors", f"*{INDEX_ENDING}", "pytorch_model*.bin", "consolidated*", "*.gguf")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # a clone without Git LFS has a pointer in place of the file
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# Errors of reading a header or an index that has another form.
_NOT_PARSED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class TensorInfo:
    """`start` and `size`: where the tensor's bytes lie in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def byte(self, row: int) -> int:
        """The first byte of a row in `file`."""
        return self.start + row * (self.size // self.shape[0])

    def read(self, start: int, stop: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """Rows [start, stop), in `out` if it is given. Only these rows are read. The dtype is one of `FLOATS`.

        They are copied, not mapped: pages of a mapped file would count as this process's memory until it unmaps them.
        """
        rows = torch.empty((stop - start, *self.shape[1:]), dtype=FLOATS[self.dtype]) if out is None else out
        with self.file.open("rb") as stream:
            stream.seek(self.byte(start))
            count = stream.readinto(rows.view(torch.uint8).numpy())
        if count != rows.nbytes:
            raise ValueError(f"{self.file} is truncated: it ends {rows.nbytes - count} bytes before the end of a tensor")
        return rows


@dataclass(frozen=True)
class Layout:
    """Where a file lies on disk, as (first byte, number of bytes): its `description` and each block of its `data`."""

    description: tuple[int, int]
    data: tuple[tuple[int, int], ...]


class SafetensorsFiles:
    """The tensors of a checkpoint directory, from the files that Hugging Face would read.

    The first of these that is there is read: the file named by `transformers_weights` in `config.json`,
    `model.safetensors`, the shards named by `model.safetensors.index.json`.

    Attributes:
        files: the files that are read.
        tensors: name -> `TensorInfo`.
        note: which files are read and which are not, if the directory has others with weights; else None.

    Raises FileNotFoundError if there is no such file or a shard is missing (all missing ones are named), ValueError if
    a file is truncated or corrupt, if two files hold the same tensor, or if the directory holds an adapter.
    """

    config_name = "config.json"
    meta_names = False

    def __init__(self, directory: Path):
        self.directory = directory
        refuse_adapter(directory)
        first = _first_file(directory)
        self.files = _shards(first) if first.name.endswith(INDEX_ENDING) else (first,)
        others = _other_weights(directory, {first, *self.files})
        read = [file.name for file in self.files]
        self.note = f"weights are read from {listed(read)}, not from {listed(others)}" if others else None
        tensors: dict[str, TensorInfo] = {}
        for file in self.files:
            for name, info in _read_header(file).items():
                if name in tensors:
                    raise ValueError(f"{directory}: {tensors[name].file.name} and {file.name} both hold {name}")
                tensors[name] = info
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)

    def place(self, name: str, row: int) -> tuple[int, int]:
        """(index of the file, byte in it) of a row of the tensor `name`: tensors in this order are read forwards."""
        info = self.tensors[name]
        return self.files.index(info.file), info.byte(row)

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the tensor `name`, in the file's dtype. Only these rows are read."""
        return self.tensors[name].read(start, stop)

    def layout(self, file: Path) -> Layout:
        """Where `file` has its description and its data."""
        data = tuple((info.start, info.size) for info in self.tensors.values() if info.file == file)
        return Layout((0, min((start for start, _ in data), default=0)), data)


def listed(names: Sequence[str], limit: int = 8) -> str:
    """The names, the first `limit` of them if there are more, for a message."""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def refuse_git_lfs_pointer(file: Path) -> None:
    """Raises ValueError if `file` is not there but its pointer of Git LFS."""
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{file} is a pointer of Git LFS, not the weights: run `git lfs pull` in {file.parent}")


def refuse_adapter(directory: Path) -> None:
    """Raises ValueError if there is an adapter: Hugging Face adds it to the weights only if peft is installed."""
    if not (directory / ADAPTER).is_file():
        return
    base = read_config(directory / ADAPTER).get("base_model_name_or_path")
    raise ValueError(
        f"{directory} holds an adapter ({ADAPTER}) for {base}: adapters are not supported. Merge it into the weights "
        "and save those without it, or move it away to run the weights beside it"
    )


def _first_file(directory: Path) -> Path:
    """The file that Hugging Face would open first: one with tensors, or an index."""
    name = _named_in_config(directory) or next((name for name in (SINGLE, INDEX) if (directory / name).is_file()), None)
    if name is None:
        others = _other_weights(directory, set())
        # Such as links into a Hugging Face cache that was cleaned.
        if no_files := [name for name in others if not (directory / name).is_file()]:
            raise FileNotFoundError(f"{directory}: {', '.join(no_files)} is no file, or a link to one that is not there")
        found = f"; found {', '.join(others)}, which is not read: convert it to {SINGLE}" if others else ""
        raise FileNotFoundError(f"{directory} has neither {SINGLE} nor {INDEX}{found}")
    return directory / name


def _named_in_config(directory: Path) -> str | None:
    config = directory / "config.json"
    name = read_config(config).get("transformers_weights") if config.is_file() else None
    if name is None:
        return None
    if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", INDEX_ENDING)):
        accepted = f"the name of a file in {directory} that ends in .safetensors or {INDEX_ENDING}"
        raise ValueError(f"{config}: transformers_weights is {name!r}; accepted: {accepted}")
    if not (directory / name).is_file():
        raise FileNotFoundError(f"{config}: transformers_weights names {name}, which is not in {directory}")
    return name


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = tuple(index.parent / name for name in names)
    except _NOT_PARSED as error:
        raise ValueError(f"{index} is corrupt: it must be a JSON object with a 'weight_map' ({error})") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{index.parent} lacks {len(missing)} of {len(files)} shards: {', '.join(missing)}")
    return files


def _other_weights(directory: Path, read: set[Path]) -> tuple[str, ...]:
    found = {path for pattern in WEIGHTS for path in directory.glob(pattern)}
    return tuple(sorted(path.name for path in found - read))


def _read_header(file: Path) -> dict[str, TensorInfo]:
    refuse_git_lfs_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"{file} is truncated or not a safetensors file: {size} bytes, header of {length} bytes")
        header = stream.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors, end = {}, 0
        for name, entry in entries.items():
            begin, tensor_end = entry["data_offsets"]
            size_of_tensor = tensor_end - begin
            info = TensorInfo(file, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, size_of_tensor)
            if size_of_tensor != prod(info.shape) * ITEM_BYTES.get(info.dtype, 1):
                raise ValueError(f"{name} takes {size_of_tensor} bytes; {info.shape} of {info.dtype} differs")
            tensors[name] = info
            end = max(end, tensor_end)
    except _NOT_PARSED as error:
        raise ValueError(f"{file} is corrupt: its header cannot be read ({error})") from error
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "corrupt"
        raise ValueError(f"{file} is {state}: it has {size} bytes, its header describes {8 + length + end}")
    return tensors
