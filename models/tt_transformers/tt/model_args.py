"""`ModelArgs`: the settings of one run: architecture, mesh, limits, precision."""

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from loguru import logger

from models.common import backend
from models.common.mesh_names import mesh_name_of
from models.tt_transformers.tt.checkpoints.cache import WeightCache
from models.tt_transformers.tt.checkpoints.formats import is_meta, model_config
from models.tt_transformers.tt.checkpoints.hugging_face import load_model
from models.tt_transformers.tt.checkpoints.identity import check_variable, random_weights_identity, weights_identity
from models.tt_transformers.tt.checkpoints.location import in_environment, locate
from models.tt_transformers.tt.checkpoints.meta_tokenizer import is_named_for_chat
from models.tt_transformers.tt.checkpoints.state_dict import DummyStateDict, StateDict
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.mlp_width import mlp_width
from models.tt_transformers.tt.config.model_params import Limits, overrides_folder
from models.tt_transformers.tt.config.precision import DecodersPrecision, ModelOptimizations
from models.tt_transformers.tt.config.precision_config import resolve_precision
from models.tt_transformers.tt.config.prefill_chunks import IMAGE_CHUNK, prefill_chunk_size
from models.tt_transformers.tt.config.program_configs import ChipLayout
from models.tt_transformers.tt.placement import Placement, create_submeshes, group_shape
from models.tt_transformers.tt.runtime.page_table import BATCH_SIZES, PagedAttentionConfig
from models.tt_transformers.tt.text import Text
from models.tt_transformers.tt.vision.images import ImageProcessor


class ModelArgs:
    """Everything the model and its caller need to know about a run.

    Args:
        mesh_device: the opened mesh; the model is split over all its devices (tensor parallel).
        data_parallel: cuts the mesh into so many groups of devices, each with a model and users of its own. Everything
            else here, the attribute `mesh_device` too, is of the first group; `groups` gives all.
        max_batch_size: users of a group at a time: 1, 2, 4, 8, 16 or 32.
        max_seq_len: most tokens of a user, prompt and generated tokens together.
        cache_hf: keep the Hugging Face model of `reference_transformer` in memory.
        instruct: apply the tokenizer's chat template to prompts; None: if it has one, and a model in Meta's format is
            named as a chat model.
        enable_thinking: the value of the chat template's switch of this name; None: the template's default.
        optimizations: "performance" (default), "accuracy", a precision_cfg/fidelity_cfg text, a `ModelOptimizations`
            or a `DecodersPrecision`.
        optimizations_base: the mode that a precision_cfg/fidelity_cfg text changes.
        decoder_config_file: JSON with the settings of single layers.
        dummy_weights: random weights; the model needs a `config.json` only.
        num_layers: use the first layers only.
        hf_model: directory in Hugging Face's format, or org/name.
        llama_dir: directory in Meta's format. With neither, the environment's HF_MODEL or LLAMA_DIR names the model, else
            it is the bundled checkpoint.
        max_images: most images of a user. With 0, the default, a model that reads images runs as a model of text, without
            the layers and weights for images.
        page_params: `block_size` and `max_num_blocks` of a paged KV cache; None for one that is not paged.

    Raises ValueError, FileNotFoundError or RuntimeError that names the wrong value or file, before weights are read.
    """

    def __init__(
        self,
        mesh_device,
        *,
        data_parallel: int = 1,
        max_batch_size: int = 1,
        max_seq_len: int = 2048,
        cache_hf: bool = False,
        instruct: bool | None = False,
        enable_thinking: bool | None = None,
        optimizations: str | ModelOptimizations | DecodersPrecision | None = None,
        optimizations_base: str = "performance",
        decoder_config_file: str | Path | None = None,
        dummy_weights: bool = False,
        num_layers: int | None = None,
        hf_model: str | os.PathLike | None = None,
        llama_dir: str | os.PathLike | None = None,
        page_params: Mapping[str, int] | None = None,
        max_images: int = 0,
    ):
        named = {"hf_model": hf_model, "llama_dir": llama_dir}
        if hf_model is None and llama_dir is None:
            named = in_environment()
        location = locate(**named, dummy_weights=dummy_weights)
        self._location = location
        self.model_name = location.name
        self.model_dir = location.directory
        self.hf_config = model_config(location.directory)
        arch = Architecture.from_hf_config(self.hf_config)
        self.model_layers = arch.n_layers
        self.num_layers = num_layers
        self._whole_arch = arch.with_layers(num_layers)
        if max_images and arch.vision is None:
            raise ValueError(f"max_images {max_images}: {location.name} ({arch.architecture}) reads no images")
        self.max_images = max_images
        self.arch = self._whole_arch if max_images else self._whole_arch.text_only()

        self._whole_mesh = mesh_device
        self._submeshes = create_submeshes(mesh_device, data_parallel)
        self.mesh_device = self._submeshes[0]

        if max_batch_size not in BATCH_SIZES:
            raise ValueError(f"max_batch_size {max_batch_size} is not supported; supported are {_listed(BATCH_SIZES)}")
        if not 1 <= max_seq_len <= self.arch.max_context_len:
            limit = self.arch.max_context_len
            raise ValueError(f"max_seq_len {max_seq_len} is outside 1 to {limit}, the context of {self.model_name}")
        self.max_batch_size = max_batch_size
        self.max_seq_len = max_seq_len
        self.paged_attention_config = None if page_params is None else PagedAttentionConfig.from_params(page_params)
        try:
            self._place(Placement.of(self.mesh_device))
        except ValueError as error:
            fewer = self.fewer_groups(lambda args: True)
            raise ValueError(f"{error}{fewer}") from error

        precision = resolve_precision(
            self._whole_arch.n_layers,
            optimizations_base if optimizations is None else optimizations,
            base=optimizations_base,
            decoder_config_file=decoder_config_file,
            model_params_dir=overrides_folder(self.model_name),
            model_layers=arch.n_layers,
        )
        self.precision = precision.of_layers(self.arch.layer_indices)
        self.dummy_weights = dummy_weights
        self.cache_hf = cache_hf
        self._hf_model = None
        location.cache_directory(self.device_name)  # refuses a TT_CACHE_PATH that is empty
        check_variable()
        self.notes: list[str] = []
        self._add_notes(arch.notes)
        if not dummy_weights and location.hub_name is None:
            self.load_state_dict()  # the headers of files on disk can be checked at once
        if instruct is None and is_meta(location.directory):
            instruct = is_named_for_chat(location.name)
            if not instruct:
                self._add_notes(["not named Instruct or chat: prompts are plain text; --instruct 1 gives the chat format"])
        self.text = Text(
            location.directory, self.arch, stand_in=dummy_weights, instruct=instruct, enable_thinking=enable_thinking
        )

    @property
    def device_name(self) -> str:
        """The name of a group's mesh, such as N300: of the whole mesh without data parallel."""
        return self.placement.name

    @property
    def mesh_name(self) -> str:
        """The name of the whole mesh, such as T3K."""
        return mesh_name_of(self._whole_mesh.shape, self.placement.chip)

    @property
    def data_parallel(self) -> int:
        return len(self._submeshes)

    @property
    def users(self) -> int:
        """Users at a time, of all groups together."""
        return self.data_parallel * self.max_batch_size

    def groups(self) -> list["ModelArgs"]:
        """These settings for each group of devices, the first one's own first. They differ in `mesh_device` only, and share
        what was read."""
        groups = [self]
        for submesh in self._submeshes[1:]:
            groups.append(copy.copy(self))
            groups[-1].mesh_device = submesh
        return groups

    def _place(self, placement: Placement) -> None:
        """Sets what depends on the mesh of a group. ValueError for a mesh that the model does not run on."""
        placement.heads(self.arch.n_heads, self.arch.n_kv_heads)
        if self.max_images and placement.is_grid:
            raise ValueError(f"max_images {self.max_images}: images need devices in a line; {placement.name} is a grid")
        self.placement = placement
        self.mlp_width = mlp_width(
            self.chip, self.dim, self.placement.model_width(self.arch.hidden_dim), self.placement.hidden_unit
        )
        if self.paged_attention_config is None and self.placement.pools > 1:
            raise ValueError(
                f"{self.device_name} splits the users over its columns, which needs paged attention: give page_params "
                "(block_size, max_num_blocks); a line of devices has unpaged KV caches too"
            )
        self.prefill_chunk_size = prefill_chunk_size(
            self.model_name,
            Limits.of(self.model_name, self.hf_config),
            self.device_name,
            paged=self.paged_attention_config is not None,
            max_seq_len=self.max_seq_len,
        )
        if self.max_images:
            self.prefill_chunk_size = min(self.prefill_chunk_size or IMAGE_CHUNK, IMAGE_CHUNK)

    def fewer_groups(self, fits: Callable[["ModelArgs"], bool]) -> str:
        """The end of a message that refuses these settings: smaller numbers of groups that work, if there are any.

        `fits` gets the settings with another number of groups. Their `mesh_device` is still this one's.
        """
        works = []
        for data_parallel in range(1, self.data_parallel):
            other = copy.copy(self)
            try:
                other._place(self._placement_of(data_parallel))
            except ValueError:
                continue
            if fits(other):
                works.append(str(data_parallel))
        if not works:
            return ""
        return f"; data_parallel {self.data_parallel} leaves groups that are too small, numbers that work: {', '.join(works)}"

    def _placement_of(self, data_parallel: int) -> Placement:
        shape = group_shape(tuple(self._whole_mesh.shape), data_parallel)
        if data_parallel == 1:
            return Placement.of(self._whole_mesh)
        return replace(Placement.of(self.mesh_device), mesh_shape=(1, math.prod(shape)))

    @cached_property
    def chip(self) -> ChipLayout:
        """The cores and DRAM banks that tensors are laid out on."""
        return ChipLayout.of(self.mesh_device)

    @property
    def dim(self) -> int:
        """Columns of the residual stream in one device's matmuls; those after the model's `arch.dim` are zeros."""
        return self.placement.matmul_width(self.arch.dim)

    # Images

    @property
    def reads_images(self) -> bool:
        """Whether the checkpoint has parts for images; with a `max_images` of 0 they are left out."""
        return self._whole_arch.vision is not None

    @property
    def max_image_tokens(self) -> int:
        """The most image tokens that decoded text of one user attends to."""
        return self.max_images * self.arch.vision.tokens_an_image

    @property
    def image_pages(self) -> PagedAttentionConfig | None:
        """The pages of the image tokens, enough for all users; None if the KV caches are not paged."""
        paged = self.paged_attention_config
        if paged is None:
            return None
        return replace(paged, max_num_blocks=self.max_batch_size * paged.blocks_for(self.max_image_tokens))

    @cached_property
    def image_processor(self) -> ImageProcessor:
        """Hugging Face's image processor of the model."""
        return ImageProcessor(self.model_dir, self.arch.vision)

    # Weights

    def load_state_dict(self) -> Mapping[str, torch.Tensor]:
        """The weights by Meta's names, each read or made only when it is asked for; see `StateDict`.

        Downloads them if the model was given by name. All files are checked from their headers first.
        """
        if self.dummy_weights:
            # A shape-only mesh of the emulator lays tensors out and computes nothing, so weights need no values.
            shape_only = getattr(self.mesh_device, "shape_only", False)
            return DummyStateDict(self.arch, device="meta" if shape_only else "cpu")
        return self._checkpoint

    @cached_property
    def _checkpoint(self) -> StateDict:
        checkpoint = StateDict(self._location.weights_directory, self.arch)
        self._add_notes(checkpoint.notes)
        if checkpoint.n_layers > self.model_layers:
            config_name = checkpoint.files.config_name
            self._add_notes([f"the files have {checkpoint.n_layers} layers; {config_name} says {self.model_layers}, which are used"])
        return checkpoint

    def _add_notes(self, notes) -> None:
        """Keeps notes on the checkpoint for the user, and logs each as a warning."""
        self.notes += notes
        for note in notes:
            logger.warning(f"{self.model_name}: {note}")

    @property
    def weights_directory(self) -> Path:
        """Where the checkpoint's files are; they are downloaded if the model was given by name."""
        return self._location.weights_directory

    @cached_property
    def weight_cache(self) -> WeightCache:
        """The on-disk cache of converted weights. Random weights are kept only where TT_CACHE_PATH says, in a folder of
        their own; making them costs hardly more, but a kept weight takes no memory until it is used."""
        if backend.name() == "lockstep":
            return WeightCache(None, {})
        if not self.dummy_weights:
            return WeightCache(self._location.cache_directory(self.device_name), weights_identity(self._checkpoint.files))
        if "TT_CACHE_PATH" not in os.environ or getattr(self.mesh_device, "shape_only", False):
            return WeightCache(None, {})
        directory = self._location.cache_directory(self.device_name) / "random"
        return WeightCache(directory, random_weights_identity(self.arch))

    def reference_transformer(self, dtype: torch.dtype = torch.bfloat16):
        """The Hugging Face model with the same weights and as many layers, in eval mode; kept if `cache_hf`.

        Raises ValueError for files that do not hold the model, as `load_state_dict`, and for NaN or infinity.
        """
        if self._hf_model is None or self._hf_model.dtype != dtype:
            arch = self._whole_arch  # Hugging Face's model has the parts for images in any case
            weights = DummyStateDict(arch) if self.dummy_weights else StateDict(self._location.weights_directory, arch)
            model = load_model(self.model_dir, arch, weights, dtype)
            if not self.cache_hf:
                return model
            self._hf_model = model
        return self._hf_model

    # Text: see the class `Text`

    @property
    def tokenizer(self):
        """Hugging Face's tokenizer of the model."""
        return self.text.tokenizer

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self.text.stop_token_ids

    def encode_prompt(self, text: str, instruct: bool | None = None) -> list[int]:
        """Token ids of a prompt; `instruct` (default: as constructed) applies the chat template first."""
        return self.text.encode_prompt(text, instruct)

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.text.decode(token_ids)


def _listed(values) -> str:
    return ", ".join(map(str, values))
