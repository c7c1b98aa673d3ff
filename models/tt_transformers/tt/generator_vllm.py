"""The model classes that vLLM serves, by the interface of Tenstorrent's vLLM plugin (tenstorrent/vllm-tt-plugin).

vLLM keeps requests, pages and positions, and samples. These classes give its calls the form of `Runner` and `Slots`. A
slot is a row of vLLM's decode batch, 0 to max_batch_size - 1. The order of calls:

    initialize_vllm_model      checks everything that can be checked without weights
    get_max_tokens_all_users   how large the pool of pages may be
    allocate_kv_cache          makes the pool, then reads the weights
    warmup_model_prefill, warmup_model_decode
    prefill_forward, decode_forward   for every step of the scheduler

With `tt_data_parallel` N, vLLM's batch has N lanes of equally many rows, one after the other, and each lane has its own
pool of pages: page ids repeat from lane to lane. A lane's rows are served by a group of devices with a model of its own,
or, by the Galaxy's class, by a column of devices. A server that knows no lanes (1) on a mesh whose columns have own pages
(`Placement.pools`) gives every request other pages, must keep it in its slot, and cannot share prefixes.

A request that was preempted comes back as one prompt, its generated tokens included. With dynamic RoPE past the
original length, and with LongRoPE in families that do not compute keys again, its text is then that of the longer
prompt.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch

from models.common.mesh_names import is_line
from models.tt_transformers.tt.checkpoints.formats import model_config
from models.tt_transformers.tt.checkpoints.location import locate
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.program_configs import PREFILL_MULTIPLE
from models.tt_transformers.tt.config.rope import DefaultRope
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime import dram
from models.tt_transformers.tt.runtime.page_table import BLOCK_SIZES, PagedAttentionConfig
from models.tt_transformers.tt.runtime.slots import PendingStep


def prefix_caching_refusal(model: str, max_seq_len: int, mesh_name: str) -> str | None:
    """Why requests of up to `max_seq_len` tokens to a model (directory or org/name) cannot share cached pages on a mesh, by
    a server without lanes; None if they can. Reads the model's `config.json` only."""
    if not is_line(mesh_name):
        return _COLUMNS
    return _refusal(Architecture.from_hf_config(model_config(locate(model).directory)).rope, max_seq_len)


_COLUMNS = "prefix caching is not supported where each column of the mesh has its own pages and the server has no lanes for them"


def _refusal(rope: DefaultRope, max_seq_len: int) -> str | None:
    if rope.frequency_set(1) == rope.frequency_set(max_seq_len):
        return None
    return (
        f"prefix caching is not supported with RoPE type {rope.kind} and {max_seq_len} tokens: the keys of a prompt "
        "depend on its length, so those of a shared prefix are wrong in a longer prompt, or change when one of its users "
        "grows"
    )


class ServedModel:
    """A model on a mesh, for a server that has own pages, positions and slots. Subclasses say which models they run.

    Page tables are int32 [rows, pages]; unused entries may be any page.
    """

    architectures: ClassVar[tuple[str, ...]]
    model_capabilities: ClassVar[Mapping[str, bool]] = MappingProxyType(
        dict(supports_prefix_caching=True, supports_async_decode=True, supports_sample_on_device=False)
    )

    # The one that `initialize_vllm_model` made last: the plugin asks the class, not the object, for the pool's size.
    _latest: ClassVar["ServedModel | None"] = None

    def __init__(self, args: ModelArgs, lanes: int = 1):
        self.args = args
        self.lanes = lanes
        self.generator: Generator | None = None
        self._kv_cache: list | None = None

    @classmethod
    def groups_of_devices(cls, mesh_device, lanes: int) -> int:
        """Into how many groups the mesh is cut, each with a model of its own, to serve `lanes`: one for each."""
        return lanes

    @classmethod
    def initialize_vllm_model(
        cls,
        hf_config,
        mesh_device,
        max_batch_size: int,
        max_seq_len: int,
        tt_data_parallel: int = 1,
        optimizations: str | None = None,
    ) -> "ServedModel":
        """The model that `hf_config._name_or_path` names, a directory or org/name, on an opened mesh.

        max_batch_size: users of all lanes together. max_seq_len: most tokens of a request. tt_data_parallel: lanes.
        optimizations: "performance" (None) or "accuracy". Raises ValueError for what `ModelArgs` refuses, for a
        max_seq_len that does not fit the devices' DRAM, and for lanes that the mesh does not have.
        """
        groups = cls.groups_of_devices(mesh_device, tt_data_parallel)
        if max_batch_size % tt_data_parallel:
            raise ValueError(f"max_batch_size {max_batch_size} does not divide into tt_data_parallel {tt_data_parallel} lanes")
        args = ModelArgs(
            mesh_device,
            data_parallel=groups,
            hf_model=hf_config._name_or_path,
            max_batch_size=max_batch_size // groups,
            max_seq_len=max_seq_len,
            optimizations=optimizations,
            # The smallest pool that a server may have. `allocate_kv_cache` brings the real one.
            page_params={"block_size": BLOCK_SIZES[0], "max_num_blocks": -(-max_seq_len // BLOCK_SIZES[0])},
        )
        if args.arch.architecture not in cls.architectures:
            raise ValueError(
                f"{args.model_name} is a {args.arch.architecture}; {cls.__name__} runs {', '.join(cls.architectures)}"
            )
        dram.check_context(args)
        ServedModel._latest = cls(args, tt_data_parallel)
        return ServedModel._latest

    @classmethod
    def get_max_tokens_all_users(
        cls, model_name: str, num_devices: int, tt_data_parallel: int, max_model_len: int, max_num_seqs: int
    ) -> int:
        """Most tokens of a lane's users together: what their sequences can need, or less if the devices' DRAM has less.

        The plugin adds a page for each user, which is allowed for. The arguments say again what `initialize_vllm_model`
        got, `max_num_seqs` being the users of a lane; ValueError if they differ from it.
        """
        served = ServedModel._latest
        if served is None:
            raise ValueError(f"{model_name}: call initialize_vllm_model first; its settings say what is left of the DRAM")
        args = served.args
        asked = num_devices, tt_data_parallel, max_model_len, max_num_seqs
        devices = args.data_parallel * args.placement.num_devices
        made = devices, served.lanes, args.max_seq_len, args.users // served.lanes
        if asked != made:
            names = "(devices, data parallel, max_model_len, max_num_seqs)"
            raise ValueError(f"{model_name}: {names} {asked}, but initialized for {made}")
        return min(max_num_seqs * max_model_len, dram.pool_tokens(args))

    def allocate_kv_cache(self, kv_cache_shape: Sequence[int], dtype, num_layers: int) -> list:
        """Makes each lane's pool of pages, reads the weights, and returns the caches: one for each layer, with several
        groups of devices a list of these for each group.

        kv_cache_shape: (pages of a lane, KV heads of a device, tokens of a page, head_dim). Pages and their size are kept.
        Heads and head_dim are as the model lies on the mesh, padding included, in the format of the precision mode; so
        the shape's heads and `dtype`, torch's, are not used. Raises ValueError for a pool that the model or its DRAM does not take.
        """
        pages, _, block_size, head_dim = kv_cache_shape
        arch = self.args.arch
        if (num_layers, head_dim) != (arch.n_layers, arch.head_dim):
            raise ValueError(
                f"a KV cache of {num_layers} layers and head_dim {head_dim}; "
                f"{self.args.model_name} has {arch.n_layers} and {arch.head_dim}"
            )
        self.args.paged_attention_config = PagedAttentionConfig(block_size, pages)
        dram.check_fits(self.args)
        self.generator = Generator.build(self.args)
        caches = [model.kv_caches for model in self.generator.models]
        self._kv_cache = caches if len(caches) > 1 else caches[0]
        return self._kv_cache

    def warmup_model_prefill(self, kv_cache, enable_trace: bool, can_sample_on_device: bool = False) -> None:
        """Compiles prefills of one user of each group of devices, of 128 tokens and every power of 2 up to a chunk. Prefills are never traced.

        Other shapes are compiled where they first occur.
        """
        self._check_cache(kv_cache)
        if enable_trace:
            return
        slots = range(0, self.args.users, self.args.max_batch_size)
        pages = torch.zeros(len(slots), self.generator.model.paged.pages_per_user(self.args.max_seq_len), dtype=torch.int32)
        length, longest = PREFILL_MULTIPLE, min(self.args.prefill_chunk_size, self.args.max_seq_len)
        while length <= longest:
            self.generator.runner.prefill([[0] * length] * len(slots), slots, page_table=pages)
            length *= 2

    def warmup_model_decode(
        self, kv_cache, enable_trace: bool, max_batch_size: int, num_blocks: int, can_sample_on_device: bool = False
    ) -> None:
        """Compiles the decode step and captures its trace, if `enable_trace`; else the first step compiles it. Its width
        is that of `initialize_vllm_model` and `allocate_kv_cache`."""
        self._check_cache(kv_cache)
        if enable_trace:
            self.generator.runner.compile_decode()

    def prefill_forward(
        self,
        tokens: torch.Tensor,
        page_table: torch.Tensor,
        kv_cache,
        prompt_lens: Sequence[int],
        start_pos: Sequence[int] | None = None,
        enable_trace: bool = False,
        empty_slots: Sequence[int] | None = None,
        sampling_params=None,
        lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Runs prompts, or pieces of them -> logits of each one's last token, float32 [n, 1, vocab_size].

        tokens: integers [n, longest], each row from its sequence's first token on.
        page_table: [n, pages], each row from the page of its first token on.
        prompt_lens: row i runs up to this position.
        start_pos: row i runs from this position on; earlier tokens are in its pages. None: all from 0. A row that
            starts inside a page runs the page's earlier tokens again.
        empty_slots: the slot of each row; None: 0 to n - 1.
        lengths: whole lengths of the prompts, if more pieces follow. With a RoPE kind whose frequencies depend on the
            length, every piece needs it, and a piece follows those of its own slot only.

        Raises ValueError, before anything runs, for what `Runner.prefill` refuses, and for pages of another request
        where `prefix_caching_refusal` has a reason against that.
        """
        self._check_cache(kv_cache)
        _check_sampled_by_host(sampling_params)
        slots = list(range(len(tokens)) if empty_slots is None else empty_slots)
        starts = [0] * len(slots) if start_pos is None else [int(start) for start in start_pos]
        block_size = self.generator.model.paged.block_size
        starts = [start - start % block_size for start in starts]
        sequences = [row[: int(end)] for row, end in zip(tokens.tolist(), prompt_lens)]
        refusal = self._prefix_refusal
        for slot, start, sequence in zip(slots, starts, sequences):
            if refusal and sequence[:start] != self.generator.sequences[slot][:start]:
                where = f"user {slot}: a prefill from position {start} after tokens that its slot does not have"
                raise ValueError(f"{where}: {refusal}")
        pieces = [sequence[start:] for sequence, start in zip(sequences, starts)]
        logits = self.generator.runner.prefill(pieces, slots, starts, page_table, lengths=lengths)
        for slot, sequence in zip(slots, sequences):
            self.generator.sequences[slot] = sequence
        return logits[:, None]

    def decode_forward(
        self,
        tokens: torch.Tensor,
        start_pos: Sequence[int],
        page_table: torch.Tensor,
        kv_cache,
        enable_trace: bool = True,
        read_from_device: bool = True,
        slot_remap: torch.Tensor | None = None,
        sampling_params=None,
    ) -> torch.Tensor | PendingStep:
        """Runs one token of each user -> logits, float32 [users, 1, vocab_size]; rows of users that do not run are
        invalid.

        tokens: integers [users, 1]; start_pos: [users], -1 for a user that does not run; page_table: [users, pages].
        read_from_device: False returns the submitted step. It is read by `process_decode_output_host`, before the next
            step is submitted.
        slot_remap: [users], before the step row i takes over the sequence of row `slot_remap[i]`.
        enable_trace: capture a trace, if the device can and no step has been compiled yet.

        Raises ValueError for what `Slots.submit_decode` refuses.
        """
        self._check_cache(kv_cache)
        _check_sampled_by_host(sampling_params)
        self.generator.runner.compile_decode(page_table, trace=enable_trace)
        if slot_remap is not None:
            self._move([int(source) for source in slot_remap])
        positions = [int(position) for position in start_pos]
        step = self.generator.slots.submit_decode(tokens.flatten().tolist(), positions, page_table)
        return self.process_decode_output_host(step) if read_from_device else step

    def read_decode_output(self, tt_out: PendingStep, async_read: bool = False):
        """The submitted step as it is, and with `async_read` the events to wait for: none. `process_decode_output_host`
        waits."""
        return (tt_out, []) if async_read else tt_out

    def process_decode_output_host(self, tt_out: PendingStep, is_tokens: bool = False) -> torch.Tensor:
        """Waits for a submitted step -> logits, as `decode_forward`."""
        if is_tokens:
            raise ValueError("is_tokens: the model gives logits; the server has to sample them on the host")
        return self.generator.slots.read(tt_out)[:, None]

    def close(self) -> None:
        """Releases the trace and frees weights and caches."""
        if self.generator is not None:
            self.generator.close()

    @property
    def _prefix_refusal(self) -> str | None:
        """Why requests cannot share cached pages; None if those of a lane can."""
        if self.lanes < self.args.data_parallel * self.args.placement.pools:
            return _COLUMNS
        return _refusal(self.args.arch.rope, self.args.max_seq_len)

    def _move(self, sources: list[int]) -> None:
        users_of_pool = self.args.placement.users(self.args.max_batch_size)
        for row, source in enumerate(sources):
            if self.generator.sequences[source] and source // users_of_pool != row // users_of_pool:
                raise ValueError(
                    f"slot_remap: the sequence of slot {source} cannot move to slot {row}, of other devices with other pages; "
                    f"serve them as lanes (tt_data_parallel {len(sources) // users_of_pool})"
                )
        self.generator.slots.move(sources)

    def _check_cache(self, kv_cache) -> None:
        if self.generator is None or kv_cache is not self._kv_cache:
            raise ValueError("kv_cache: it must be what allocate_kv_cache of this model returned")


def _check_sampled_by_host(sampling_params) -> None:
    if sampling_params is not None:
        raise ValueError("sampling_params: sampling on the device is not supported; sample the logits on the host")


class LlamaForCausalLM(ServedModel):
    architectures = ("LlamaForCausalLM",)


class QwenForCausalLM(ServedModel):
    architectures = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")


class MistralForCausalLM(ServedModel):
    architectures = ("MistralForCausalLM",)


class Phi3ForCausalLM(ServedModel):
    """Its LongRoPE computes keys again at the switch, which would overwrite pages that other requests share."""

    architectures = ("Phi3ForCausalLM",)
    model_capabilities = MappingProxyType({**ServedModel.model_capabilities, "supports_prefix_caching": False})


# The versions of Llama that TT_LLAMA_TEXT_VER names, as in the vendor's plugin, and the modules of their classes.
LLAMA_VERSIONS = {"tt_transformers": __name__, "llama3_70b_galaxy": "models.demos.llama3_70b_galaxy.tt.generator_vllm"}


def class_of(architectures: Sequence[str]) -> type[ServedModel]:
    """The class that runs the first of a checkpoint's `architectures`, of a Llama the version that TT_LLAMA_TEXT_VER names.

    Raises ValueError if there is none.
    """
    version = os.environ.get("TT_LLAMA_TEXT_VER", "tt_transformers")
    if version not in LLAMA_VERSIONS:
        raise ValueError(f"TT_LLAMA_TEXT_VER={version!r} is not known; known are {', '.join(LLAMA_VERSIONS)}")
    if architectures[0] in LlamaForCausalLM.architectures:
        return importlib.import_module(LLAMA_VERSIONS[version]).LlamaForCausalLM
    for served in (QwenForCausalLM, MistralForCausalLM, Phi3ForCausalLM):
        if architectures[0] in served.architectures:
            return served
    raise ValueError(f"architecture {architectures[0]} is not supported")
