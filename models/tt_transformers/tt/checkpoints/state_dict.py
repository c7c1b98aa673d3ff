"""Weights of a checkpoint under Meta's names, each tensor read when it is asked for.

Weights (`layers.0.attention.wq.weight`, ...) are [out_features, in_features] as in torch. Fused Hugging Face tensors
are split on read, and the rows of wq and wk are permuted from Hugging Face's half-split order
(all real parts of a head, then all imaginary ones) to the interleaved order that `rotary_embedding_llama` rotates. Rows
of a head that are not rotated stay at its end.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from models.tt_transformers.tt.checkpoints import meta_vision
from models.tt_transformers.tt.checkpoints.formats import checkpoint_files
from models.tt_transformers.tt.checkpoints.safetensors_files import FLOATS, listed
from models.tt_transformers.tt.checkpoints.source import Source
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.families.family import EMBEDDING, OUTPUT, SELF_ATTENTION

_LAYER = re.compile(r"(?:(?:language_model\.)?model\.)?layers\.(\d+)\.")


def reverse_permute(weight: torch.Tensor, n_heads: int, rotary_dim: int) -> torch.Tensor:
    """[n_heads * head_dim, ...] with the first `rotary_dim` rows of each head in Hugging Face's half-split order -> the
    interleaved order."""
    return _interchanged(weight, n_heads, rotary_dim, (2, rotary_dim // 2))


def permute(weight: torch.Tensor, n_heads: int, rotary_dim: int) -> torch.Tensor:
    """The inverse of `reverse_permute`."""
    return _interchanged(weight, n_heads, rotary_dim, (rotary_dim // 2, 2))


def _interchanged(weight: torch.Tensor, n_heads: int, rotary_dim: int, sizes: tuple[int, int]) -> torch.Tensor:
    """The first `rotary_dim` rows of each head as an array of `sizes`, transposed."""
    heads = weight.unflatten(0, (n_heads, -1))
    rotated = heads[:, :rotary_dim].unflatten(1, sizes).transpose(1, 2).flatten(1, 2)
    return torch.cat((rotated, heads[:, rotary_dim:]), dim=1).flatten(0, 1)


def sources(arch: Architecture) -> dict[str, Source]:
    """Where each of our tensors lies in a checkpoint, in the order in which the model is built."""
    rows = {name: shape[0] for name, shape in shapes(arch).items()}
    rotated = {
        f"layers.{layer}.attention.{part}.{tensor}": heads
        for layer, kind in zip(arch.layer_indices, arch.layer_kinds)
        if kind == SELF_ATTENTION
        for part, heads in (("wq", arch.n_heads), ("wk", arch.n_kv_heads), ("q_norm", 1), ("k_norm", 1))
        for tensor in ("weight", "bias")
    }
    found = {}
    for theirs, parts in arch.tensors().items():
        stop = 0
        for ours in parts:
            start, stop = stop, stop + rows[ours]
            n_heads = rotated.get(ours)
            found[ours] = Source(theirs, start, stop, rotated=n_heads and (n_heads, arch.rope.rotary_dim))
    if arch.tie_word_embeddings:
        found["output.weight"] = found["tok_embeddings.weight"]
    return found


def meta_sources(arch: Architecture, stored: Mapping) -> dict[str, Source]:
    """Where each of our tensors lies in a checkpoint in Meta's format: under its own name, in the interleaved order. A
    model that reads images has other names (`meta_vision`).

    `stored`: the tensors of the checkpoint by name. The LM head is the token embeddings if it is not among them.
    """
    if arch.prefix:
        return meta_vision.sources(arch, shapes(arch), stored)
    found = {name: Source(name, 0, shape[0]) for name, shape in shapes(arch).items()}
    if arch.tie_word_embeddings and "output.weight" not in stored:
        found["output.weight"] = found["tok_embeddings.weight"]
    return found


def shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the model, in the order in which the model is built."""
    q, kv = arch.n_heads * arch.head_dim, arch.n_kv_heads * arch.head_dim
    by_suffix = {
        "norm.weight": (arch.dim,),
        "attention_norm.weight": (arch.dim,),
        "ffn_norm.weight": (arch.dim,),
        "attention.wq.weight": (q, arch.dim),
        "attention.wk.weight": (kv, arch.dim),
        "attention.wv.weight": (kv, arch.dim),
        "attention.wo.weight": (arch.dim, q),
        "attention.q_norm.weight": (arch.head_dim,),
        "attention.k_norm.weight": (arch.head_dim,),
        "attention.gate": (1,),
        "feed_forward.gate": (1,),
        "feed_forward.w1.weight": (arch.hidden_dim, arch.dim),
        "feed_forward.w2.weight": (arch.dim, arch.hidden_dim),
        "feed_forward.w3.weight": (arch.hidden_dim, arch.dim),
        "tok_embeddings.weight": (arch.embeddings, arch.dim),
        "output.weight": (arch.vocab_size, arch.dim),
    }
    by_suffix |= {f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in by_suffix.items() if len(shape) == 2}
    vision = {} if arch.vision is None else arch.vision.shapes(arch.dim)
    return {name: vision.get(name) or by_suffix[_suffix(name)] for names in arch.tensors().values() for name in names}


class StateDict(Mapping[str, torch.Tensor]):
    """The weights of a checkpoint directory, in Hugging Face's or Meta's format. Nothing is kept: every access reads from disk.

    The constructor reads headers only. It raises ValueError if a file is missing, truncated or corrupt, or if a tensor
    is missing, has another shape, is not bf16, fp16 or fp32, or belongs to no part of the model; the message names it.
    Reading a tensor raises ValueError if it holds NaN, infinity or a number that bf16 cannot hold.

    `notes`: for the user, on each choice that was made where the files are ambiguous or contradict `config.json`. The
    choices are Hugging Face's.
    """

    def __init__(self, directory: Path, arch: Architecture):
        self.files = checkpoint_files(directory)
        stored = self.files.tensors
        self.notes = [] if self.files.note is None else [self.files.note]
        if arch.tie_word_embeddings and OUTPUT in stored and EMBEDDING in stored:
            self.notes.append(f"config.json has tie_word_embeddings true, but the stored {OUTPUT} is used, because there is one")
            arch = replace(arch, tie_word_embeddings=False)
        self._shapes = shapes(arch)
        self._sources = meta_sources(arch, stored) if self.files.meta_names else sources(arch)
        if arch.tie_word_embeddings and OUTPUT in stored:  # one tensor, under the other of its two names
            for name in ("tok_embeddings.weight", "output.weight"):
                self._sources[name] = replace(self._sources[name], name=OUTPUT)
        self._check(arch)

    def __getitem__(self, name: str) -> torch.Tensor:
        source = self._sources[name]
        weight = self.files.read(source.name, source.start, source.stop)
        if source.appended is not None:
            weight = torch.cat([weight, self.files.read(source.appended[0], 0, source.appended[1])])
        # Both are NaN if a value is. Rounding keeps the order, so no other value is larger in bf16. Nothing is copied.
        if not all(extreme.bfloat16().isfinite() for extreme in weight.aminmax()):
            file = self.files.tensors[source.name].file
            raise ValueError(f"{source.name} in {file} holds NaN, infinity or a number that is too large for bf16")
        weight = weight if source.convert is None else source.convert(weight)
        return weight if source.rotated is None else reverse_permute(weight, *source.rotated)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._shapes[name]

    def read(self, names: Iterable[str]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Reads the tensors `names`, each byte once, in the order of the files.

        Yields each tensor with its names: two for tied embeddings if both are asked for.
        """
        by_source = _grouped(names, self._sources.__getitem__)
        for source in sorted(by_source, key=lambda source: self.files.place(source.name, source.start)):
            yield by_source[source], self[by_source[source][0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def n_layers(self) -> int:
        """The number of layers in the files; `config.json` may have another."""
        return max((layer + 1 for name in self.files.tensors if (layer := _layer(name)) is not None), default=0)

    def _check(self, arch: Architecture) -> None:
        directory, found = self.files.directory, self.files.tensors
        expected = hugging_face_shapes(self._sources, arch)
        if missing := [name for name in expected if name not in found]:
            raise ValueError(f"{directory} lacks {len(missing)} tensors of the model: {listed(missing)}")
        for name, shape in expected.items():
            info = found[name]
            if info.shape != shape:
                raise ValueError(
                    f"{name} in {info.file} has shape {list(info.shape)}; {self.files.config_name} implies {list(shape)}"
                )
            if info.dtype not in FLOATS:
                raise ValueError(f"{name} in {info.file} has dtype {info.dtype}; supported are {', '.join(FLOATS)}")
        if unknown := [name for name in found if name not in expected and not _has_no_use(name, arch)]:
            raise ValueError(f"{directory} holds tensors that {arch.architecture} does not have: {listed(unknown)}")


class DummyStateDict(Mapping[str, torch.Tensor]):
    """Random weights and biases in bf16 under the same names: normal with a standard deviation of 0.02; norms and gates
    all ones, so that images change the text.

    A tensor depends on its name, its shape and `seed` only, and is made again on every access. On the device "meta"
    the tensors have shapes but no values.
    """

    def __init__(self, arch: Architecture, seed: int = 0, device: str = "cpu"):
        self._shapes = shapes(arch)
        self._tied = arch.tie_word_embeddings
        self._seed, self._device = seed, device

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if self._device == "meta" or _is_one(name):
            return torch.ones(shape, dtype=torch.bfloat16, device=self._device)
        digest = hashlib.blake2b(f"{self._seed}:{self._drawn(name)}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        weight = torch.empty(shape, dtype=torch.bfloat16)
        # Drawn in fp32, because draws in bf16 have few distinct values; in parts, to need little extra memory.
        for rows in weight.split(1024):
            rows.copy_(torch.empty(rows.shape).normal_(0.0, 0.02, generator=generator))
        return weight

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without making it."""
        return self._shapes[name]

    def read(self, names: Iterable[str]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Makes the tensors `names` one after the other, tied embeddings once. Yields each with its names."""
        for same in _grouped(names, self._drawn).values():
            yield same, self[same[0]]

    def _drawn(self, name: str) -> str:
        return "tok_embeddings.weight" if self._tied and name == "output.weight" else name

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def hugging_face_shapes(sources: Mapping[str, Source], arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Hugging Face's name -> shape of each tensor that a checkpoint with these `sources` must have."""
    ours, result = shapes(arch), {}
    for name, source in sources.items():
        rows = max(source.stop, result.get(source.name, (0,))[0])
        result[source.name] = source.stored_shape or (rows, *ours[name][1:])
        if source.appended is not None:
            result[source.appended[0]] = (source.appended[1], *ours[name][1:])
    return result


def to_hugging_face(state_dict: Mapping[str, torch.Tensor], arch: Architecture) -> dict[str, torch.Tensor]:
    """The same weights under Hugging Face's names, in Hugging Face's order, fused as in its checkpoints."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for name, source in sources(arch).items():
        weight = state_dict[name]
        if source.rotated is not None:
            weight = permute(weight, *source.rotated)
        parts.setdefault(source.name, {})[source.start] = weight
    weights = {}
    for name in list(parts):
        by_row = parts.pop(name)
        pieces = [by_row[start] for start in sorted(by_row)]
        weights[name] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return weights


def _is_one(name: str) -> bool:
    return name.endswith((".gate", "norm.weight", "norm_pre.weight", "norm_post.weight"))


def _grouped(names: Iterable[str], key) -> dict:
    """Key -> the names that have it, in their order."""
    groups = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _suffix(name: str) -> str:
    return name.split(".", 2)[2] if name.startswith("layers.") else name


def _layer(name: str) -> int | None:
    """The layer of a tensor with Hugging Face's or Meta's name; None for one outside of the layers."""
    match = _LAYER.match(name)
    return None if match is None else int(match[1])


def _has_no_use(name: str, arch: Architecture) -> bool:
    """Whether a tensor is of a part that `arch` leaves out (layers after num_layers, those for images), or a table that is
    computed from the config."""
    layer = _layer(name)
    is_left_out = layer is not None and layer not in arch.layer_indices
    is_of_images = arch.vision is None and name.startswith(("vision_model.", "multi_modal_projector."))
    is_table = name.endswith(("rotary_emb.inv_freq", "rope.freqs"))
    return is_left_out or is_table or bool(arch.prefix) and (is_of_images or meta_vision.is_of_other_layers(name, arch))
