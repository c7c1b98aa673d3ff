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
from models.tt_transformers.tt.checkpoints.safetensors_files import Layout, listed

PARAMS, TOKENIZER = "params.json", "tokenizer.model"
DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}

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

    parts: tuple[torch.Tensor, ...]
    dim: int | None
    file: str  # for messages
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """BF16, F16, F32, or torch's name of another dtype."""
        dtype = self.parts[0].dtype
        return DTYPE_NAMES.get(dtype, str(dtype))


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
        contents = [pth_file.load(file) for file in self.files]
        tensors = _joined_chunks(self.files, contents) if chunks else _joined_shards(self.files, contents)
        self.tensors: Mapping[str, MetaTensor] = MappingProxyType(tensors)

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the joined tensor `name`, in the files' dtype. Only these rows are read.

        Raises ValueError if the files have different values of a tensor that all ranks have.
        """
        tensor = self.tensors[name]
        if tensor.dim is None:
            first, *copies = tensor.parts
            if not all(torch.equal(first, copy) for copy in copies):
                raise ValueError(f"{name} differs between the files of {self.directory}: they are of different models")
            return first[start:stop].clone()
        if tensor.dim == 1:
            return torch.cat([part[start:stop] for part in tensor.parts], dim=1)
        rows, pieces = 0, []
        for part in tensor.parts:
            pieces.append(part[max(start - rows, 0) : max(stop - rows, 0)])
            rows += len(part)
        return torch.cat(pieces)

    def layout(self, file: Path) -> Layout:
        """Where `file` has its description and its data."""
        start = pth_file.directory_start(file)
        return Layout((start, file.stat().st_size - start), tuple(pth_file.records(file).values()))


def consolidated_files(directory: Path) -> list[Path]:
    """Meta's files with weights, rank by rank. Raises FileNotFoundError that names the missing ranks."""
    by_rank = {int(match[1]): file for file in directory.iterdir() if (match := _SHARD.fullmatch(file.name))}
    missing = sorted(set(range(max(by_rank, default=-1) + 1)) - set(by_rank))
    if missing:
        raise FileNotFoundError(f"{directory} lacks {listed([f'consolidated.{rank:02}.pth' for rank in missing])}")
    return [by_rank[rank] for rank in sorted(by_rank)]


def repacked_files(directory: Path) -> list[Path]:
    """The files that repack_weights made, in the order of their layers. Raises FileNotFoundError if layers are missing."""
    chunks = sorted((int(match[1]), int(match[2]), file) for file in directory.iterdir() if (match := _CHUNK.fullmatch(file.name)))
    expected = 0
    for first, last, file in chunks:
        if first > expected:
            raise FileNotFoundError(
                f"{directory} lacks the repacked layers {expected}-{first - 1}, before {file.name}: "
                "repack the weights again, or move the repacked files away"
            )
        expected = last + 1
    return [file for _, _, file in chunks]


def _joined_chunks(files: Sequence[Path], contents: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, MetaTensor]:
    tensors: dict[str, MetaTensor] = {}
    for file, content in zip(files, contents):
        for name, tensor in content.items():
            if name in tensors:
                raise ValueError(f"{tensors[name].file} and {file.name} both hold {name}")
            tensors[name] = MetaTensor((tensor,), None, str(file), tuple(tensor.shape))
    return tensors


def _joined_shards(files: Sequence[Path], contents: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, MetaTensor]:
    first = contents[0]
    for file, content in zip(files, contents):
        if unlike := sorted(set(first) ^ set(content)):
            raise ValueError(f"{files[0]} and {file.name} hold different tensors: only one of them has {listed(unlike)}")
        for name, tensor in content.items():
            if (tensor.shape, tensor.dtype) != (first[name].shape, first[name].dtype):
                raise ValueError(
                    f"{name} is {list(first[name].shape)} {first[name].dtype} in {files[0]} and "
                    f"{list(tensor.shape)} {tensor.dtype} in {file.name}: they are of different models"
                )
    _check_number_of_shards(files, first)
    label = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    tensors = {}
    for name, tensor in first.items():
        dim = None if len(files) == 1 else _split_dim(name, first)
        shape = list(tensor.shape)
        if dim is not None:
            shape[dim] *= len(files)
        tensors[name] = MetaTensor(tuple(content[name] for content in contents), dim, label, tuple(shape))
    return tensors


def _split_dim(name: str, shard: Mapping[str, torch.Tensor]) -> int | None:
    if _OUTPUT_SPLIT.search(name):
        return 0
    if _INPUT_SPLIT.search(name):
        return 1
    if _EMBEDDING.search(name):  # Llama 3 splits the vocabulary, Llama 2 the width
        width = shard.get(name.replace("tok_embeddings", "norm"))
        return 0 if width is not None and shard[name].shape[1] == len(width) else 1
    return None


def _check_number_of_shards(files: Sequence[Path], shard: Mapping[str, torch.Tensor]) -> None:
    """Raises FileNotFoundError if the last ranks are missing: the joined wq of a Llama is a square."""
    for name, wq in shard.items():
        if name.endswith("layers.0.attention.wq.weight") and wq.ndim == 2 and len(wq):
            ranks, rest = divmod(wq.shape[1], len(wq))
            if rest == 0 and ranks > len(files):
                missing = [f"consolidated.{rank:02}.pth" for rank in range(len(files), ranks)]
                raise FileNotFoundError(
                    f"{files[0].parent} lacks {listed(missing)}: {files[0].name} holds one of {ranks} parts of each tensor"
                )
