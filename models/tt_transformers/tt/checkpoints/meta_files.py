"""A checkpoint directory in Meta's format: `consolidated.*.pth`, or the files that repack_weights makes of them.

Meta splits a large model over several files, one for each rank of its model parallelism. Each file holds a part of
every tensor. The parts are joined when a tensor is read, so that one tensor is in memory at a time.

Which dimension is split: Meta's `models/checkpoint.py` of llama-models, and Hugging Face's converters of Llama and
Llama 3.2 Vision (`get_concat_dim`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from models.tt_transformers.tt.checkpoints import pth_file
from models.tt_transformers.tt.checkpoints.safetensors_files import FLOATS, Layout, TensorInfo, listed

PARAMS = "params.json"

_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_CHUNK = re.compile(r"(?:vision-model-and-)?layers_(\d+)-(\d+)\.pth")
# Each rank has some of the output features: the first dimension is split.
_OUTPUT_SPLIT = re.compile(
    r"(^|\.)((attention|attn)\.w[qkv]\.weight|feed_forward\.w[13]\.weight|output\.weight|learnable_embedding\.weight"
    r"|mlp\.c_fc\.(weight|bias)|conv1\._linear\.weight|vision_projection\.(weight|bias))$"
)
# Each rank has some of the input features: the second dimension is split.
_INPUT_SPLIT = re.compile(r"(^|\.)((attention|attn)\.wo\.weight|feed_forward\.w2\.weight|mlp\.c_proj\.weight)$")
_EMBEDDING = re.compile(r"(^|\.)tok_embeddings\.weight$")


@dataclass(frozen=True)
class MetaTensor:
    """`parts`: the tensor's parts, rank by rank, split along `dim`. With `dim` None all ranks have the whole tensor."""

    parts: tuple[TensorInfo, ...]
    dim: int | None = None

    @property
    def file(self) -> str:
        """The files that hold it, for messages."""
        others = len(self.parts) - 1
        return f"{self.parts[0].file} and {others} more" if others else str(self.parts[0].file)

    @property
    def dtype(self) -> str:
        """BF16, F16, F32, or torch's name of another dtype."""
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the joined tensor."""
        return tuple(
            size * len(self.parts) if dim == self.dim else size for dim, size in enumerate(self.parts[0].shape)
        )


class MetaFiles:
    """The tensors of a directory in Meta's format, with the interface of `SafetensorsFiles`.

    The files that repack_weights made are read if there are any, else `consolidated.*.pth`.

    Attributes:
        files: the files that are read.
        tensors: Meta's name -> `MetaTensor`, with the shape of the joined tensor.
        note: which files are read and which are not, if the directory has both kinds; else None.

    Raises FileNotFoundError that names the missing files, ValueError if a file is truncated, holds more than tensors or
    does not fit the others.
    """

    config_name = PARAMS
    meta_names = True

    def __init__(self, directory: Path):
        self.directory = directory
        shards, chunks = consolidated_files(directory), repacked_files(directory)
        if not shards and not chunks:
            raise FileNotFoundError(f"{directory} has no consolidated.*.pth, the weights in Meta's format")
        self.files = tuple(chunks or shards)
        self.note = None
        if chunks and shards:
            names = [[file.name for file in files] for files in (chunks, shards)]
            self.note = f"weights are read from {listed(names[0])}, not from {listed(names[1])}"
        contents = {file: pth_file.tensors(file) for file in self.files}
        self.tensors: Mapping[str, MetaTensor] = MappingProxyType(_chunks(contents) if chunks else _joined(contents))

    def place(self, name: str, row: int) -> tuple[int, int]:
        """(index of the first file, byte in it) of a row of the tensor `name`: tensors in this order are read forwards."""
        part = self.tensors[name].parts[0]
        return self.files.index(part.file), part.byte(row)

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the joined tensor `name`, in the files' dtype. Only these rows are read.

        Raises ValueError if the files have different values of a tensor that all ranks have.
        """
        tensor = self.tensors[name]
        if tensor.dim is None:
            rows, *copies = (part.read(start, stop) for part in tensor.parts)
            if not all(torch.equal(rows, copy) for copy in copies):
                raise ValueError(f"{name} differs between the files of {self.directory}: they are of different models")
            return rows
        if tensor.dim == 1:
            return torch.cat([part.read(start, stop) for part in tensor.parts], dim=1)
        joined = torch.empty((stop - start, *tensor.shape[1:]), dtype=FLOATS[tensor.dtype])
        begin = 0  # of the part, in rows of the joined tensor
        for part in tensor.parts:
            end = begin + part.shape[0]
            first, last = max(start, begin), min(stop, end)
            if first < last:
                part.read(first - begin, last - begin, out=joined[first - start : last - start])
            begin = end
        return joined

    def layout(self, file: Path) -> Layout:
        """Where `file` has its description and its data."""
        parts = (part for tensor in self.tensors.values() for part in tensor.parts if part.file == file)
        start = pth_file.directory_start(file)
        return Layout((start, file.stat().st_size - start), tuple((part.start, part.size) for part in parts))


def consolidated_files(directory: Path) -> list[Path]:
    """Meta's files with weights, rank by rank. Raises FileNotFoundError that names the missing ranks."""
    by_rank = {int(match[1]): file for file in directory.iterdir() if (match := _SHARD.fullmatch(file.name))}
    missing = sorted(set(range(max(by_rank, default=-1) + 1)) - set(by_rank))
    if missing:
        raise FileNotFoundError(f"{directory} lacks {listed([f'consolidated.{rank:02}.pth' for rank in missing])}")
    return [by_rank[rank] for rank in sorted(by_rank)]


def repacked_files(directory: Path) -> list[Path]:
    """The files that repack_weights made, in the order of their layers. Raises FileNotFoundError if layers are missing."""
    names = {file: match for file in directory.iterdir() if (match := _CHUNK.fullmatch(file.name))}
    chunks = sorted((int(match[1]), int(match[2]), file) for file, match in names.items())
    expected = 0
    for first, last, file in chunks:
        if first > expected:
            raise FileNotFoundError(
                f"{directory} lacks the repacked layers {expected}-{first - 1}, before {file.name}: "
                "repack the weights again, or move the repacked files away"
            )
        expected = last + 1
    return [file for _, _, file in chunks]


def _chunks(contents: Mapping[Path, Mapping[str, TensorInfo]]) -> dict[str, MetaTensor]:
    found: dict[str, MetaTensor] = {}
    for file, tensors in contents.items():
        for name, info in tensors.items():
            if name in found:
                raise ValueError(f"{found[name].file} and {file.name} both hold {name}")
            found[name] = MetaTensor((info,))
    return found


def _joined(contents: Mapping[Path, Mapping[str, TensorInfo]]) -> dict[str, MetaTensor]:
    (first_file, first), *_ = contents.items()
    for file, tensors in contents.items():
        if unlike := sorted(set(first) ^ set(tensors)):
            raise ValueError(f"{first_file} and {file.name} hold different tensors: only one of them has {listed(unlike)}")
        for name, info in tensors.items():
            if (info.shape, info.dtype) != (first[name].shape, first[name].dtype):
                raise ValueError(
                    f"{name} is {first[name].dtype} {list(first[name].shape)} in {first_file} and {info.dtype} "
                    f"{list(info.shape)} in {file.name}: they are of different models"
                )
    _check_number_of_shards(list(contents), first)
    dims = {name: _split_dim(name, first) for name in first}
    return {name: MetaTensor(tuple(tensors[name] for tensors in contents.values()), dims[name]) for name in first}


def _split_dim(name: str, shard: Mapping[str, TensorInfo]) -> int | None:
    if _OUTPUT_SPLIT.search(name):
        return 0
    if _INPUT_SPLIT.search(name):
        return 1
    if _EMBEDDING.search(name):  # Llama 3 splits the vocabulary, Llama 2 the width
        norm = shard.get(name.replace("tok_embeddings", "norm"))
        return 0 if norm is not None and shard[name].shape[1:] == norm.shape else 1
    return None


def _check_number_of_shards(files: Sequence[Path], shard: Mapping[str, TensorInfo]) -> None:
    """Raises FileNotFoundError if the last ranks are missing: the joined wq of a Llama is a square."""
    for name, wq in shard.items():
        if name.endswith("layers.0.attention.wq.weight") and len(wq.shape) == 2 and wq.shape[0]:
            ranks, rest = divmod(wq.shape[1], wq.shape[0])
            if rest == 0 and ranks > len(files):
                missing = [f"consolidated.{rank:02}.pth" for rank in range(len(files), ranks)]
                raise FileNotFoundError(
                    f"{files[0].parent} lacks {listed(missing)}: {files[0].name} holds one of {ranks} parts of each tensor"
                )
