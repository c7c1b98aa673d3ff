"""Phi-3-mini on a T3000: 1D tensor parallel over a 2x4 mesh of eight devices, in bf16 and in one file.

`build_model(hf_model, tt_device, max_seq_len)` returns a module that works with `transformers`' `generate`. README.md
lists the tensors that are split over the devices. Shapes in this file are those on one of N devices. `lanes` is the
head dimension that the rotary op needs (see `pad_heads`).
"""

import copy
import math
from typing import Optional

import torch
import torch.nn.functional as F
from transformers import Cache, GenerationMixin
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

import models  # noqa: F401  (before ttnn, because it chooses the backend)
import ttnn

TILE = 32
# The decode ops give each user one row of a tile and one core.
MAX_BATCH_SIZE = 32
ROPE_TYPES = ("default", "longrope")


def build_model(hf_model, tt_device, max_seq_len: int) -> "TtPhi3ForCausalLM":
    """Puts the weights of a `transformers` Phi3ForCausalLM on a mesh of devices.

    Args:
        hf_model: the loaded model. It is not changed.
        tt_device: an open `ttnn.MeshDevice`.
        max_seq_len: the most tokens of one sequence, prompt and generated together. It is the length of the KV cache.

    Raises ValueError for everything that `check_supported` refuses.
    """
    check_supported(hf_model.config, tt_device.get_num_devices(), max_seq_len)
    return TtPhi3ForCausalLM(hf_model, tt_device, max_seq_len)


def check_supported(config, num_devices: int, max_seq_len: int) -> None:
    """Raises ValueError if this file cannot run a checkpoint with this `transformers` config. Names all reasons."""
    if config.model_type != "phi3":
        raise ValueError(f"model_type {config.model_type!r} is not supported; supported is 'phi3'")
    rope, limit, window = config.rope_parameters, config.max_position_embeddings, config.sliding_window
    rope_type, rotated = rope["rope_type"], rope.get("partial_rotary_factor", 1.0)
    dim, head, act = config.hidden_size, head_dim(config), config.hidden_act
    quantized = getattr(config, "quantization_config", None)
    split = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    sizes = [(name, getattr(config, name)) for name in split]
    checks = (
        *((size % num_devices, f"{name} {size} does not divide by {num_devices} devices") for name, size in sizes),
        (dim % TILE or head % TILE, f"hidden_size {dim} and head_dim {head} have to be multiples of {TILE}"),
        (rope_type not in ROPE_TYPES, f"rope_type {rope_type!r} is not supported; supported are {ROPE_TYPES}"),
        (rotated != 1.0, f"partial_rotary_factor {rotated} is not supported; supported is 1.0"),
        (quantized, f"quantization_config {quantized} is not supported; supported are weights in bf16, fp16 or fp32"),
        (act != "silu", f"hidden_act {act!r} is not supported; supported is 'silu'"),
        (not 1 <= max_seq_len <= limit, f"max_seq_len {max_seq_len}: has to be 1 to max_position_embeddings {limit}"),
        (window and window < max_seq_len, f"max_seq_len {max_seq_len} is past sliding_window {window}: nothing slides"),
    )
    problems = [reason for refused, reason in checks if refused]
    if problems:
        raise ValueError("; ".join(problems))


def head_dim(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class Placement:
    """Puts tensors on the mesh, replicated or split, and multiplies with them."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.num_devices = mesh.get_num_devices()
        self.compute_kernel = ttnn.WormholeComputeKernelConfig(
            math_fidelity=ttnn.MathFidelity.HiFi4, math_approx_mode=False, fp32_dest_acc_en=True, packer_l1_acc=True
        )

    def replicated(self, tensor: torch.Tensor, dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT):
        mapper = ttnn.ReplicateTensorToMesh(self.mesh)
        return ttnn.from_torch(tensor.detach(), dtype=dtype, layout=layout, device=self.mesh, mesh_mapper=mapper)

    def split_weight(self, weight: torch.Tensor, dim: int):
        """The weight [out, in] of a `torch.nn.Linear` as [1, 1, in, out], split by columns (dim 3) or rows (dim 2)."""
        mapper = ttnn.ShardTensorToMesh(self.mesh, dim=dim)
        placed = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=self.mesh, mesh_mapper=mapper)
        return ttnn.from_torch(weight.detach().T[None, None], **placed)

    def column_parallel(self, x, weight):
        """Each device computes its columns: x [1, 1, rows, in] -> [1, 1, rows, out / N]."""
        return ttnn.linear(x, weight, compute_kernel_config=self.compute_kernel)

    def row_parallel(self, x, weight):
        """Each device computes partial sums, and the mesh adds them: x [1, 1, rows, in / N] -> [1, 1, rows, out]."""
        x = ttnn.linear(x, weight, compute_kernel_config=self.compute_kernel)
        # A single device has the complete sums, and has no fabric.
        return x if self.num_devices == 1 else ttnn.all_reduce(x, topology=ttnn.Topology.Linear)


def pad_heads(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Lengthens `dim` from head_dim to lanes, the next multiple of 64 (96 -> 128), for the rotary op.

    The op rotates lane i together with lane i + lanes / 2. So each half is padded with zeros: [a, b] -> [a, 0, b, 0].
    Weights and angles are padded once, before they go to the devices. `slice_back` removes the padding after the op.
    """
    halves = tensor.movedim(dim, -1).unflatten(-1, (2, -1))
    return F.pad(halves, (0, -halves.shape[-1] % TILE)).flatten(-2).movedim(-1, dim)


def slice_back(x, rows: int, width: int):
    """[1, n, >= rows, lanes] -> [1, n, rows, width]. The rotary op also pads the rows to whole tiles."""
    n, half, middle = x.shape[1], width // 2, x.shape[3] // 2
    halves = [ttnn.slice(x, [0, 0, 0, start], [1, n, rows, start + half]) for start in (0, middle)]
    return ttnn.concat(halves, dim=3)


class RotaryTables:
    """cos and sin of every position, for the short and for the long factors of LongRoPE (arXiv 2402.13753).

    They come from Hugging Face's own module, which also multiplies them by its attention factor.
    """

    def __init__(self, hf_model, placement: Placement, max_seq_len: int):
        self.placement = placement
        rope = hf_model.config.rope_parameters
        # Sequences up to this length use the short factors.
        self.switch_len = rope["original_max_position_embeddings"] if rope["rope_type"] == "longrope" else max_seq_len
        self._short = self._table(hf_model, min(max_seq_len, self.switch_len))
        self._long = self._table(hf_model, max_seq_len) if max_seq_len > self.switch_len else None

    def _table(self, hf_model, length: int):
        """cos and sin, [length, lanes] each. Hugging Face uses the long factors if `length` exceeds the switch."""
        angles = hf_model.model.rotary_emb(torch.empty(0, dtype=torch.bfloat16), torch.arange(length)[None])
        return [self.placement.replicated(pad_heads(angle[0], dim=1)) for angle in angles]

    def rows(self, positions: torch.Tensor, use_long: bool):
        """positions [rows] -> cos and sin, [1, 1, rows, lanes] each."""
        index = self.placement.replicated(positions[None], dtype=ttnn.uint32)
        table = self._long if use_long else self._short
        return [ttnn.unsqueeze_to_4D(ttnn.embedding(index, angle, layout=ttnn.TILE_LAYOUT)) for angle in table]


class KVCache(Cache):
    """Keys and values of up to 32 sequences, on the devices, and the tokens of these sequences, on the host.

    keys, values: for each layer [users, n_kv_heads / N, max_seq_len rounded up to whole tiles, head_dim].
    tokens: the tokens of each user. LongRoPE changes all keys when a sequence grows past the switch, so the keys have
    to be computed again from the tokens.
    """

    def __init__(self, config, mesh, users: int, max_seq_len: int):
        super().__init__(layers=[])
        self.users, self.max_seq_len = users, max_seq_len
        n_kv_heads = config.num_key_value_heads // mesh.get_num_devices()
        shape = (users, n_kv_heads, math.ceil(max_seq_len / TILE) * TILE, head_dim(config))
        placed, layers = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT), range(config.num_hidden_layers)
        self.keys, self.values = ([ttnn.zeros(shape, device=mesh, **placed) for _ in layers] for _ in range(2))
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens. Old keys and values on the devices are overwritten before they are read."""
        self.tokens = [torch.empty(0, dtype=torch.long)] * self.users
        self.columns = 0
        self.uses_long = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of columns of `input_ids` so far, padding included."""
        return self.columns

    def get_max_length(self, layer_idx: Optional[int] = None) -> int:
        return self.max_seq_len

    def __len__(self) -> int:
        return len(self.keys)

    def _refuse(self, *args, **kwargs):
        raise NotImplementedError("a KV cache on the devices can be filled, continued and reset, nothing else")

    update = crop = reorder_cache = batch_repeat_interleave = batch_select_indices = _refuse


class Attention:
    """The heads are split over the devices. One matmul gives q, k and v."""

    def __init__(self, hf_attention, config, placement: Placement):
        n, self.head_dim = placement.num_devices, head_dim(config)
        self.placement = placement
        self.heads = dict(num_heads=config.num_attention_heads // n, num_kv_heads=config.num_key_value_heads // n)
        self.attention = dict(scale=self.head_dim**-0.5, compute_kernel_config=placement.compute_kernel)
        # Reorders the rows: from all heads of q, then k, then v, to each device's heads of q, k and v in turn.
        heads = pad_heads(hf_attention.qkv_proj.weight.unflatten(0, (-1, self.head_dim)), dim=1)
        q, k, v = heads.split((config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads))
        per_device = torch.cat([part.unflatten(0, (n, -1)) for part in (q, k, v)], dim=1)
        self.wqkv = placement.split_weight(per_device.flatten(0, 2), dim=3)
        self.wo = placement.split_weight(hf_attention.o_proj.weight, dim=2)

    def prefill_forward(self, x, cos, sin, keys, values, user: int):
        """x: [1, 1, seq_len, dim], all tokens of one user; cos, sin: [1, 1, seq_len, lanes]. Fills the user's cache."""
        seq_len = x.shape[2]
        # [1, heads, seq_len, lanes]
        qkv = self.placement.column_parallel(x, self.wqkv)
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(qkv, transpose_k_heads=False, **self.heads)
        q, k = (ttnn.experimental.rotary_embedding(heads, cos, sin) for heads in (q, k))
        q, k, v = (slice_back(heads, seq_len, self.head_dim) for heads in (q, k, v))
        ttnn.fill_cache(keys, k, user)
        ttnn.fill_cache(values, v, user)
        x = ttnn.transformer.scaled_dot_product_attention(q, k, v, is_causal=True, **self.attention)
        return self.placement.row_parallel(ttnn.experimental.nlp_concat_heads(x), self.wo)

    def decode_forward(self, x, cos, sin, keys, values, positions):
        """x: [1, 1, users, dim], one token per user; cos, sin: [1, 1, users, lanes]; positions: [users], int32."""
        # [1, users, heads, lanes], one user per core
        qkv, sharded = self.placement.column_parallel(x, self.wqkv), ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
        q, k, v = ttnn.experimental.nlp_create_qkv_heads_decode(qkv, memory_config=sharded, **self.heads)
        q, k = (self._rotate(heads, cos, sin) for heads in (q, k))
        v = slice_back(ttnn.sharded_to_interleaved(v), v.shape[2], self.head_dim)
        for cache, new in ((keys, k), (values, v)):
            new = ttnn.to_memory_config(new, self._user_on_each_core(x.shape[2]))
            ttnn.experimental.paged_update_cache(cache, new, update_idxs_tensor=positions)
        x = ttnn.transformer.scaled_dot_product_attention_decode(
            q, keys, values, cur_pos_tensor=positions, **self.attention
        )
        x = ttnn.experimental.nlp_concat_heads(ttnn.transpose(x, 1, 2))
        return self.placement.row_parallel(x, self.wo)

    def _rotate(self, heads, cos, sin):
        """[1, users, heads, lanes], one user per core -> [1, users, heads, head_dim], interleaved.

        The rotary op has one angle per row, and the users' positions differ. So the users become the rows.
        """
        users = heads.shape[1]
        x = ttnn.transpose(ttnn.sharded_to_interleaved(heads), 1, 2)
        x = slice_back(ttnn.experimental.rotary_embedding(x, cos, sin), users, self.head_dim)
        return ttnn.transpose(x, 1, 2)

    def _user_on_each_core(self, users: int):
        grid = self.placement.mesh.compute_with_storage_grid_size()
        cores = ttnn.num_cores_to_corerangeset(users, grid, row_wise=True)
        shard, strategy = (TILE, self.head_dim), ttnn.ShardStrategy.HEIGHT
        return ttnn.create_sharded_memory_config(shard, cores, strategy, use_height_and_width_as_shard_shape=True)


class MLP:
    """down(silu(gate(x)) * up(x)), with the hidden columns split over the devices."""

    def __init__(self, hf_mlp, placement: Placement):
        self.placement = placement
        gate, up = hf_mlp.gate_up_proj.weight.chunk(2)
        self.gate, self.up = placement.split_weight(gate, dim=3), placement.split_weight(up, dim=3)
        self.down = placement.split_weight(hf_mlp.down_proj.weight, dim=2)

    def forward(self, x):
        gate, up = self.placement.column_parallel(x, self.gate), self.placement.column_parallel(x, self.up)
        x = ttnn.mul(gate, up, input_tensor_a_activations=[ttnn.UnaryOpType.SILU])
        return self.placement.row_parallel(x, self.down)


class RMSNorm:
    """Root mean square norm (arXiv 1910.07467). Every device computes all of it."""

    def __init__(self, hf_norm, placement: Placement):
        self.weight = placement.replicated(hf_norm.weight[None, None, None], layout=ttnn.TILE_LAYOUT)
        self.settings = dict(epsilon=hf_norm.variance_epsilon, compute_kernel_config=placement.compute_kernel)

    def forward(self, x):
        return ttnn.rms_norm(x, weight=self.weight, **self.settings)


class DecoderLayer:
    def __init__(self, hf_layer, config, placement: Placement):
        self.attention_norm = RMSNorm(hf_layer.input_layernorm, placement)
        self.attention = Attention(hf_layer.self_attn, config, placement)
        self.mlp_norm = RMSNorm(hf_layer.post_attention_layernorm, placement)
        self.mlp = MLP(hf_layer.mlp, placement)

    def forward(self, x, attend, *arguments):
        """x: [1, 1, rows, dim] -> same shape. `attend` is `prefill_forward` or `decode_forward` of the attention."""
        x = ttnn.add(x, attend(self.attention, self.attention_norm.forward(x), *arguments))
        return ttnn.add(x, self.mlp.forward(self.mlp_norm.forward(x)))


class TtPhi3ForCausalLM(torch.nn.Module, GenerationMixin):
    """The model on the devices. `generate` runs it, greedy or sampled, for up to 32 sequences."""

    main_input_name = "input_ids"
    base_model_prefix = ""
    _is_stateful = False
    _supported_generation_modes = [GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE]
    # The device and dtype of the tensors that `generate` sees.
    device, dtype = torch.device("cpu"), torch.bfloat16

    def __init__(self, hf_model, mesh, max_seq_len: int):
        super().__init__()
        self.config, self.generation_config = hf_model.config, copy.deepcopy(hf_model.generation_config)
        self.mesh, self.max_seq_len = mesh, max_seq_len
        self.placement = Placement(mesh)
        self.embedding = self.placement.replicated(hf_model.model.embed_tokens.weight)
        self.rotary = RotaryTables(hf_model, self.placement, max_seq_len)
        self.layers = [DecoderLayer(layer, self.config, self.placement) for layer in hf_model.model.layers]
        self.norm = RMSNorm(hf_model.model.norm, self.placement)
        self.lm_head = self.placement.split_weight(hf_model.lm_head.weight, dim=3)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: Optional[torch.Tensor] = None,
        past_key_values: Optional[KVCache] = None,
        use_cache: bool = True,
        logits_to_keep: int = 0,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """The logits of new tokens, and the cache for the next call.

        Args:
            input_ids: [batch, new], batch up to 32. Shorter prompts are padded on the left.
            attention_mask: [batch, columns so far + new], 0 for padding. None: no padding, or that of the last call.
            past_key_values: the cache that the last call returned. This call changes it. None starts new sequences.
            use_cache: whether to return the cache.
            logits_to_keep: the number of last columns to return; 0 returns all.
            return_dict: must be True.

        Returns logits [batch, columns kept, vocab_size], bfloat16, 0 at padding.

        As in Hugging Face, the short factors rotate all tokens while the longest sequence of the batch is within the
        switch, and the long factors do so afterwards. The call that crosses the switch computes the cache again.

        Raises ValueError for other shapes or padding, and for a sequence past max_seq_len, before any work.
        """
        if not return_dict or logits_to_keep < 0:
            raise ValueError(f"return_dict={return_dict}, logits_to_keep={logits_to_keep}: accepted are True, 0 or more")
        cache, new = past_key_values, input_ids.shape[-1]
        prompts = self._strip_padding(input_ids, attention_mask, cache)
        sequences = prompts if cache is None else [torch.cat(parts) for parts in zip(cache.tokens, prompts)]
        longest = max(map(len, sequences))
        self._check_length(longest)
        kept = min(logits_to_keep, new) or new
        use_long = longest > self.rotary.switch_len

        if cache is None:
            cache = KVCache(self.config, self.mesh, len(sequences), self.max_seq_len)
        if cache.columns and cache.uses_long == use_long:
            steps = [self._decode_step(sequences, back, cache) for back in range(new, 0, -1)]
            logits = torch.stack(steps[-kept:], dim=1)
        else:
            logits = torch.zeros(len(sequences), kept, self.config.vocab_size, dtype=self.dtype)
            for user, prompt in enumerate(prompts):
                rows = min(kept, len(prompt))
                logits[user, kept - rows :] = self._prefill_user(sequences[user], rows, use_long, cache, user)
        cache.tokens, cache.uses_long, cache.columns = sequences, use_long, cache.columns + new
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache if use_cache else None)

    def _prefill_user(self, tokens, rows: int, use_long: bool, cache: KVCache, user: int) -> torch.Tensor:
        """Runs a user's tokens [seq_len] from position 0, in whole tiles. Logits [rows, vocab_size] of the last."""
        seq_len, padding = len(tokens), (0, -len(tokens) % TILE)
        cos, sin = self.rotary.rows(F.pad(torch.arange(seq_len), padding), use_long)
        x = self._embed(F.pad(tokens, padding))
        for layer, keys, values in zip(self.layers, cache.keys, cache.values):
            x = layer.forward(x, Attention.prefill_forward, cos, sin, keys, values, user)
        first = (seq_len - rows) // TILE * TILE
        x = ttnn.slice(x, [0, 0, first, 0], list(x.shape))
        return self._logits(x)[seq_len - rows - first : seq_len - first]

    def _decode_step(self, sequences, back: int, cache: KVCache) -> torch.Tensor:
        """Runs one token per user, the one `back` places from the end of its sequence. Logits [users, vocab_size]."""
        positions = torch.tensor([len(tokens) - back for tokens in sequences])
        cos, sin = self.rotary.rows(positions, cache.uses_long)
        x = self._embed(torch.stack([tokens[-back] for tokens in sequences]))
        positions = self.placement.replicated(positions, dtype=ttnn.int32)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values):
            x = layer.forward(x, Attention.decode_forward, cos, sin, keys, values, positions)
        return self._logits(x)

    def _embed(self, tokens):
        """[rows] -> [1, 1, rows, dim]"""
        tokens = self.placement.replicated(tokens[None], dtype=ttnn.uint32)
        return ttnn.unsqueeze_to_4D(ttnn.embedding(tokens, self.embedding, layout=ttnn.TILE_LAYOUT))

    def _logits(self, x) -> torch.Tensor:
        """[1, 1, rows, dim] -> [rows, vocab_size] on the host, where the devices' columns are joined."""
        x = self.placement.column_parallel(self.norm.forward(x), self.lm_head)
        return ttnn.to_torch(x, mesh_composer=ttnn.ConcatMeshToTensor(self.mesh, dim=3))[0, 0]

    def _strip_padding(self, input_ids, mask, cache) -> list:
        """The new tokens of each sequence, without padding. Raises ValueError as described in `forward`."""
        shape, vocab_size = list(input_ids.shape), self.config.vocab_size
        if len(shape) != 2 or not 1 <= shape[0] <= MAX_BATCH_SIZE or shape[1] == 0:
            raise ValueError(f"input_ids {shape} have to be [1 to {MAX_BATCH_SIZE} sequences, at least 1 token]")
        if input_ids.min() < 0 or input_ids.max() >= vocab_size:
            raise ValueError(f"input_ids {input_ids.min()} to {input_ids.max()} are not within vocab_size {vocab_size}")
        if cache is not None and (not isinstance(cache, KVCache) or cache.users != shape[0]):
            kind = f"of {cache.users} sequences" if isinstance(cache, KVCache) else f"a {type(cache).__name__}"
            raise ValueError(f"past_key_values are {kind}, not what an earlier call with {shape[0]} sequences gave")
        if mask is None:
            return list(input_ids)
        before = torch.tensor([0] * shape[0] if cache is None else [len(tokens) for tokens in cache.tokens])
        columns = shape[1] + (0 if cache is None else cache.columns)
        if list(mask.shape) != [shape[0], columns]:
            raise ValueError(f"attention_mask {list(mask.shape)} has to be {[shape[0], columns]}, the past included")
        lengths = mask.sum(dim=1)
        if not lengths.all() or not torch.equal(mask.bool(), torch.arange(columns) >= columns - lengths[:, None]):
            raise ValueError("attention_mask has to be 0s, for padding on the left, then 1s, one at least, everywhere")
        if before.any() and not torch.equal(lengths, before + shape[1]):
            raise ValueError("attention_mask does not continue the one of the call that gave past_key_values")
        return [tokens[-count:] for tokens, count in zip(input_ids, (lengths - before).tolist())]

    def _check_length(self, length: int) -> None:
        if length > self.max_seq_len:
            raise ValueError(f"a sequence of {length} tokens is past max_seq_len {self.max_seq_len} of this model")

    # The other methods that `generate` needs.

    def _prepare_cache_for_generation(self, generation_config, *_) -> None:
        # `forward` makes the cache. But here, before any work, `generate` tells the length of the sequences.
        if (kind := generation_config.cache_implementation) is not None:
            raise ValueError(f"cache_implementation {kind!r} is not supported: the KV cache is on the devices")
        self._check_length(generation_config.max_length)

    def can_generate(self) -> bool:
        return True

    def is_remote_code(self) -> bool:
        return False

    def get_experts_implementation(self) -> dict:
        return {}
