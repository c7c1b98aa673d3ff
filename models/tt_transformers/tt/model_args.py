"""`ModelArgs`: what one run is made of: architecture + mesh + limits + precision."""

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from loguru import logger

from models.common import backend, mesh
from models.common.library_errors import reported
from models.tt_transformers.tt.architecture import Architecture, read_config, token_ids
from models.tt_transformers.tt.ccl import check_mesh_shape
from models.tt_transformers.tt.checkpoint_identity import check_variable, checkpoint_identity
from models.tt_transformers.tt.hugging_face import load_config, quiet
from models.tt_transformers.tt.load_checkpoints import DummyStateDict, StateDict, to_hugging_face
from models.tt_transformers.tt.model_location import BUNDLED, MODEL_PARAMS, locate
from models.tt_transformers.tt.page_table import BATCH_SIZES, PagedAttentionConfig
from models.tt_transformers.tt.precision import DecodersPrecision, ModelOptimizations
from models.tt_transformers.tt.precision_config import resolve_precision
from models.tt_transformers.tt.prefill_chunks import prefill_chunk_size
from models.tt_transformers.tt.program_configs import ChipLayout
from models.tt_transformers.tt.weight_cache import WeightCache


class ModelArgs:
    """Everything the model and its caller need to know of a run.

    Args:
        mesh_device: the opened mesh; the model is split over all its devices (tensor parallel).
        max_batch_size: users at a time: 1, 2, 4, 8, 16 or 32.
        max_seq_len: tokens a user may have, prompt and generated ones together.
        cache_hf: keep the Hugging Face model of `reference_transformer` in memory.
        instruct: prompts go through the tokenizer's chat template.
        optimizations: "performance" (default), "accuracy", a precision_cfg/fidelity_cfg text, a `ModelOptimizations`
            or a `DecodersPrecision`.
        optimizations_base: the mode that a precision_cfg/fidelity_cfg text changes.
        decoder_config_file: JSON with the settings of single layers.
        dummy_weights: random weights; the model needs a `config.json` only.
        num_layers: use the first layers only.
        hf_model: directory or org/name; default is the environment's HF_MODEL, else the bundled checkpoint.
        page_params: `block_size` and `max_num_blocks` of a paged KV cache; None for one that is not paged.

    Raises ValueError, FileNotFoundError or RuntimeError that names what is wrong, before any weights are read.
    """

    def __init__(
        self,
        mesh_device,
        *,
        max_batch_size: int = 1,
        max_seq_len: int = 2048,
        cache_hf: bool = False,
        instruct: bool = False,
        optimizations: str | ModelOptimizations | DecodersPrecision | None = None,
        optimizations_base: str = "performance",
        decoder_config_file: str | Path | None = None,
        dummy_weights: bool = False,
        num_layers: int | None = None,
        hf_model: str | os.PathLike | None = None,
        page_params: Mapping[str, int] | None = None,
    ):
        requested = os.environ.get("HF_MODEL") if hf_model is None else hf_model
        location = locate(requested, dummy_weights=dummy_weights)
        self._location = location
        self.model_name = location.name
        self.model_dir = location.directory
        self.hf_config = read_config(location.directory / "config.json")
        arch = Architecture.from_hf_config(self.hf_config)
        self.arch = arch.with_layers(num_layers)

        self.mesh_device = mesh_device
        self.num_devices = mesh_device.get_num_devices()
        self.device_name = mesh.device_name(mesh_device)
        self.arch.check_mesh(self.num_devices)
        check_mesh_shape(mesh_device)

        if max_batch_size not in BATCH_SIZES:
            raise ValueError(f"max_batch_size {max_batch_size} is not supported; supported are {_listed(BATCH_SIZES)}")
        if not 1 <= max_seq_len <= self.arch.max_context_len:
            limit = self.arch.max_context_len
            raise ValueError(f"max_seq_len {max_seq_len} is outside 1 to {limit}, the context of {self.model_name}")
        if self.arch.sliding_window is not None and max_seq_len > self.arch.sliding_window:
            raise ValueError(
                f"max_seq_len {max_seq_len} is more than {self.model_name}'s sliding_window {self.arch.sliding_window}: "
                "attention over a window that slides is not supported; give a max_seq_len within it"
            )
        self.max_batch_size = max_batch_size
        self.max_seq_len = max_seq_len
        self.paged_attention_config = None if page_params is None else PagedAttentionConfig.from_params(page_params)
        self.prefill_chunk_size = prefill_chunk_size(
            self.model_name, self.device_name, paged=page_params is not None, max_seq_len=max_seq_len
        )

        self.precision = self._resolve_precision(optimizations, optimizations_base, decoder_config_file)
        self.dummy_weights = dummy_weights
        self.cache_hf = cache_hf
        self._hf_model = None
        location.cache_directory(self.device_name)  # refuses a TT_CACHE_PATH that is empty
        check_variable()
        self.notes: list[str] = []
        self._add_notes(arch.notes)
        if not dummy_weights and location.hub_name is None:
            self.load_state_dict()  # of files on disk, the headers can be checked at once
        self._generation_eos_token_ids = _generation_eos_token_ids(location.directory / "generation_config.json")
        self.instruct = instruct
        if instruct:
            self._check_chat_template()

    @cached_property
    def chip(self) -> ChipLayout:
        """The cores and DRAM banks that tensors are laid out on."""
        return ChipLayout.of(self.mesh_device)

    # Weights

    def load_state_dict(self) -> Mapping[str, torch.Tensor]:
        """The weights by Meta's names, read or made only when a tensor is asked for; see `load_checkpoints`.

        Downloads them if the model was given by name. All files are checked from their headers first.
        """
        if self.dummy_weights:
            # A mesh of the emulator without values, which only lays tensors out, has no use for the weights' values.
            shape_only = getattr(self.mesh_device, "shape_only", False)
            return DummyStateDict(self.arch, device="meta" if shape_only else "cpu")
        return self._checkpoint

    @cached_property
    def _checkpoint(self) -> StateDict:
        checkpoint = StateDict(self._location.weights_directory, self.arch)
        self._add_notes(checkpoint.notes)
        in_config = self.hf_config["num_hidden_layers"]
        if checkpoint.n_layers > in_config:
            self._add_notes([f"the files have {checkpoint.n_layers} layers; config.json says {in_config}, which are used"])
        return checkpoint

    def _add_notes(self, notes) -> None:
        """Keeps what a user should know of the checkpoint (`notes`), and warns of it."""
        self.notes += notes
        for note in notes:
            logger.warning(f"{self.model_name}: {note}")

    @property
    def weights_directory(self) -> Path:
        """Where the checkpoint's files are; they are downloaded if the model was given by name."""
        return self._location.weights_directory

    @cached_property
    def weight_cache(self) -> WeightCache:
        """The on-disk cache of converted weights. Random weights are not cached: to make them costs no more."""
        if self.dummy_weights or backend.name() == "lockstep":
            return WeightCache(None, {})
        config = self._location.weights_directory / "config.json"
        identity = {
            "model": self.model_name,
            "config": hashlib.blake2b(config.read_bytes(), digest_size=16).hexdigest(),
            "files": checkpoint_identity(self._checkpoint.files),
            "code": _digest_of_sources(Path(__file__).parent),
            "format": _file_format(),
        }
        return WeightCache(self._location.cache_directory(self.device_name), identity)

    def reference_transformer(self, dtype: torch.dtype = torch.bfloat16):
        """The Hugging Face model with the same weights and as many layers, in eval mode; kept if `cache_hf`.

        Raises ValueError, as `load_state_dict`, for files that do not hold the model, and for weights that are not finite.
        """
        if self._hf_model is not None and self._hf_model.dtype == dtype:
            return self._hf_model
        import transformers

        model_class = getattr(transformers, self.arch.architecture)
        config = load_config(self.model_dir)
        config.num_hidden_layers = self.arch.n_layers
        # Attention as torch has it everywhere, whatever the checkpoint asks for.
        options = dict(dtype=dtype, attn_implementation="sdpa")
        if self.dummy_weights:
            weights = to_hugging_face(DummyStateDict(self.arch), self.arch)
            model = model_class.from_pretrained(None, config=config, state_dict=weights, **options)
        else:
            directory = self.load_state_dict().files.directory
            model = model_class.from_pretrained(directory, config=config, local_files_only=True, **options)
            for name, weight in model.state_dict().items():
                if not weight.isfinite().all():
                    raise ValueError(f"{name} in {directory} holds NaN or infinity")
        model.eval()
        if self.cache_hf:
            self._hf_model = model
        return model

    # Text

    @cached_property
    def tokenizer_dir(self) -> Path:
        """Where the tokenizer is. A random model that has none uses the bundled one, if its tokens fit."""
        if any((self.model_dir / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            return self.model_dir
        if not self.dummy_weights:
            raise FileNotFoundError(f"{self.model_dir} has no tokenizer.json or tokenizer.model")
        bundled_vocab_size = read_config(BUNDLED / "config.json")["vocab_size"]
        if bundled_vocab_size > self.arch.vocab_size:
            raise ValueError(
                f"{self.model_dir} has no tokenizer, and the bundled one has {bundled_vocab_size} tokens, "
                f"more than the model's vocabulary of {self.arch.vocab_size}"
            )
        return BUNDLED

    @cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        # Given the config, the library does not read it by itself, and then blame the tokenizer for what it refuses.
        config = load_config(self.tokenizer_dir)
        with quiet(), reported(f"the tokenizer in {self.tokenizer_dir} cannot be read"):
            return AutoTokenizer.from_pretrained(self.tokenizer_dir, config=config, local_files_only=True)

    @property
    def tokenizer_is_stand_in(self) -> bool:
        """Whether the text goes through the bundled tokenizer, because the random model has none of its own."""
        return self.tokenizer_dir != self.model_dir

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end a text: of `config.json`, `generation_config.json` and the tokenizer."""
        ids = set(self.arch.eos_token_ids + self._generation_eos_token_ids)
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return frozenset(ids)

    def encode_prompt(self, text: str, instruct: bool | None = None) -> list[int]:
        """Token ids of a prompt; `instruct` (default: as constructed) puts it through the chat template first."""
        if not (self.instruct if instruct is None else instruct):
            return self._encode(text)
        self._check_chat_template()
        messages = [{"role": "user", "content": text}]
        with reported(f"the chat template in {self._chat_template_file} cannot be applied"):
            templated = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        # The template writes the special tokens itself.
        return self._encode(templated, add_special_tokens=False)

    def _encode(self, text: str, **options) -> list[int]:
        with reported(f"the tokenizer in {self.tokenizer_dir} cannot encode a text"):
            return self.tokenizer.encode(text, **options)

    @property
    def _chat_template_file(self) -> Path:
        in_its_own_file = self.tokenizer_dir / "chat_template.jinja"
        return in_its_own_file if in_its_own_file.is_file() else self.tokenizer_dir / "tokenizer_config.json"

    def decode(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def _check_chat_template(self) -> None:
        if self.tokenizer.chat_template is None:
            raise ValueError(f"instruct: the tokenizer in {self.tokenizer_dir} has no chat template")

    def _resolve_precision(self, optimizations, base, decoder_config_file) -> DecodersPrecision:
        n_layers = self.arch.n_layers
        if optimizations is None or isinstance(optimizations, str):
            return resolve_precision(
                n_layers,
                base if optimizations is None else optimizations,
                base=base,
                decoder_config_file=decoder_config_file,
                model_params_dir=MODEL_PARAMS / self.model_name,
            )
        if decoder_config_file is not None:
            raise ValueError("decoder_config_file needs optimizations as text; build a DecodersPrecision instead")
        if isinstance(optimizations, ModelOptimizations):
            return DecodersPrecision(n_layers, optimizations)
        if optimizations.num_decoders != n_layers:
            raise ValueError(f"optimizations are for {optimizations.num_decoders} decoders, the model has {n_layers}")
        return optimizations


def _generation_eos_token_ids(path: Path) -> tuple[int, ...]:
    return token_ids(read_config(path).get("eos_token_id"), path) if path.is_file() else ()


def _file_format() -> str:
    """What wrote a cache file: the emulator's format and rounding are its own."""
    import ttnn

    if backend.name() == "emulator":
        return f"emulator {_digest_of_sources(Path(ttnn.__file__).parent)}"
    return f"ttnn {backend.versions()['ttnn']}"


def _digest_of_sources(package: Path) -> str:
    """Changes with the code that makes the weights, so that no cache outlives it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _listed(values) -> str:
    return ", ".join(map(str, values))
