"""Key and value caches of one layer, and the ops that read and write them.

`PagedKVCache` keeps pages of `block_size` tokens in a pool that users share; a page table gives each user's pages.
`ContiguousKVCache` keeps `max_seq_len` tokens per user. Both have the same methods and get their two tensors from
outside: this project makes them in `make_kv_caches`, a server may bring its own from `allocate_kv_cache`.
"""

import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import ttnn

from models.common.chip import whole_tiles
from models.tt_transformers.tt.config.precision import OpGroup, TensorGroup
from models.tt_transformers.tt.config.program_configs import PREFILL_MULTIPLE
from models.tt_transformers.tt.families.family import CROSS_ATTENTION
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig


@dataclass(frozen=True)
class KVCacheConfig:
    """The KV cache of one layer on one device.

    `head_dim`: padded to whole tiles; `scale` multiplies q k^T: 1 / sqrt(head_dim without padding); `window`: how many
    positions a query attends to, its own included; None if that is never fewer than all; `tokens`: the most that the
    cache holds of one user; `paged`: its pages, None if it is not paged.
    """

    n_kv_heads: int
    head_dim: int
    dtype: ttnn.DataType
    scale: float
    chip: object
    sdpa_decode_kernel: object
    sdpa_prefill_kernel: object
    window: int | None
    tokens: int
    paged: PagedAttentionConfig | None

    @classmethod
    def resolve(cls, args, layer: int) -> "KVCacheConfig":
        arch, precision, window = args.arch, args.precision.layer(layer), args.arch.windows[layer]
        return cls(
            n_kv_heads=args.placement.heads(arch.n_heads, arch.n_kv_heads).n_kv_heads, head_dim=whole_tiles(arch.head_dim),
            dtype=precision.dtype(TensorGroup.KV_CACHE), scale=_float32(arch.head_dim**-0.5), chip=args.chip,
            sdpa_decode_kernel=precision.kernel(OpGroup.SDPA_DECODE),
            sdpa_prefill_kernel=precision.kernel(OpGroup.SDPA_PREFILL),
            window=None if window is None or window >= args.max_seq_len else window,
            **_room(args, layer),
        )

    def shape(self, args) -> tuple[int, int, int, int]:
        """Shape of the keys, and of the values, on each device, for the users and tokens that `args` sets up.

        Paged: [max_num_blocks, n_kv_heads, block_size, head_dim]. Unpaged: [users, n_kv_heads, rows, head_dim], where
        rows is `tokens` rounded up to a multiple of 128.
        """
        if self.paged is not None:
            return self.paged.max_num_blocks, self.n_kv_heads, self.paged.block_size, self.head_dim
        rows = -(-self.tokens // PREFILL_MULTIPLE) * PREFILL_MULTIPLE
        return args.max_batch_size, self.n_kv_heads, rows, self.head_dim


def _room(args, layer: int) -> dict:
    """The tokens and pages of a layer's cache: those of the text, or those of the images that the text attends to."""
    if args.arch.layer_kinds[layer] == CROSS_ATTENTION:
        return dict(tokens=args.max_image_tokens, paged=args.image_pages)
    return dict(tokens=args.max_seq_len, paged=args.paged_attention_config)


def allocate_kv_cache(shape, dtype, layers: int, mesh_device, zeros=ttnn.zeros) -> list[tuple]:
    """(keys, values) of each layer: zeros of `shape` on each device, tiled, DRAM interleaved.

    `zeros` makes each tensor; a replacement may allocate memory without writing values.
    """
    placement = dict(layout=ttnn.TILE_LAYOUT, device=mesh_device, memory_config=ttnn.DRAM_MEMORY_CONFIG)
    return [tuple(zeros(shape, dtype=dtype, **placement) for _ in range(2)) for _ in range(layers)]


def make_kv_caches(args, zeros=ttnn.zeros) -> list:
    """The empty cache of each layer, as `args` sets it up. If one does not fit, the caches made before it are freed."""
    paged = JointKVCache if args.placement.is_grid else PagedKVCache
    kind = ContiguousKVCache if args.paged_attention_config is None else paged
    kv_caches = []
    with ExitStack() as cleanup:
        for layer in range(args.arch.n_layers):
            config = KVCacheConfig.resolve(args, layer)
            ((keys, values),) = allocate_kv_cache(config.shape(args), config.dtype, 1, args.mesh_device, zeros)
            kv_caches.append(kind(config, keys, values))
            cleanup.callback(kv_caches[-1].deallocate)
        cleanup.pop_all()
    return kv_caches


class _KVCache:
    """Raises ValueError if the tensors' heads, head_dim or dtype differ from the layer's."""

    def __init__(self, config: KVCacheConfig, keys, values):
        for name, tensor in (("keys", keys), ("values", values)):
            given = tensor.shape[1], tensor.shape[3], tensor.dtype
            needed = config.n_kv_heads, config.head_dim, config.dtype
            if given != needed:
                raise ValueError(f"KV cache: {name} of (heads, head_dim, dtype) {given}, the layer needs {needed}")
        self.config = config
        self.keys, self.values = keys, values
        self._decode = dict(
            scale=config.scale,
            sliding_window_size=config.window,
            program_config=config.chip.decode_sdpa(),
            compute_kernel_config=config.sdpa_decode_kernel,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )

    def attend_prompt(self, q, k, v):
        """Causal attention of prompts' first chunks over themselves: q, k, v [n_users, heads, seq_len, head_dim] -> like q."""
        return ttnn.transformer.scaled_dot_product_attention(
            q, k, v, is_causal=True, memory_config=ttnn.DRAM_MEMORY_CONFIG, **self._prefill(q)
        )

    def attend_images(self, q, k, v, mask):
        """Attention of a prompt to the tokens of its images: q [1, n_heads, seq_len, head_dim], k and v [1, n_kv_heads,
        tokens, head_dim], mask [1, 1, seq_len, tokens] -> like q."""
        c = self.config
        return ttnn.transformer.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=False, scale=c.scale, memory_config=ttnn.DRAM_MEMORY_CONFIG,
            program_config=c.chip.prefill_sdpa(q.shape[2], c.head_dim, k.shape[2]),
            compute_kernel_config=c.sdpa_prefill_kernel,
        )  # fmt: skip

    def deallocate(self):
        ttnn.deallocate(self.keys)
        ttnn.deallocate(self.values)

    def _prefill(self, q, chunk_start: int = 0):
        return dict(
            scale=self.config.scale,
            sliding_window_size=self.config.window,
            program_config=self.config.chip.prefill_sdpa(q.shape[2], self.config.head_dim, chunk_start),
            compute_kernel_config=self.config.sdpa_prefill_kernel,
        )


class PagedKVCache(_KVCache):
    """keys, values: [max_num_blocks, n_kv_heads, block_size, head_dim] on each device, DRAM interleaved."""

    def __init__(self, config: KVCacheConfig, keys, values):
        super().__init__(config, keys, values)
        self.paged = PagedAttentionConfig(block_size=keys.shape[2], max_num_blocks=keys.shape[0])

    def fill(self, k, v, slots, page_table):
        """Writes a prefill's k, v [n_users, n_kv_heads, seq_len, head_dim] into the pages of `page_table`, int32
        [n_users, pages], -1 for no page.

        Rows past the last page (padding of the prefill) are left out.
        """
        rows = min(k.shape[2], page_table.shape[1] * self.paged.block_size)
        for cache, new in ((self.keys, k), (self.values, v)):
            for index in range(new.shape[0]):
                ttnn.experimental.paged_fill_cache(cache, _rows_of(new, index, rows), page_table, batch_idx=index)

    def update(self, k, v, positions, page_table):
        """Writes one token per user: k, v [1, users, n_kv_heads, head_dim], one user per core, at `positions`."""
        for cache, new in ((self.keys, k), (self.values, v)):
            ttnn.experimental.paged_update_cache(cache, new, update_idxs_tensor=positions, page_table=page_table)

    def attend(self, q, positions, page_table):
        """Attends with one query per user, q [1, users, n_heads, head_dim], to positions 0..`positions` of its pages
        -> like q."""
        return ttnn.transformer.paged_scaled_dot_product_attention_decode(
            q, self.keys, self.values, cur_pos_tensor=positions, page_table_tensor=page_table, **self._decode
        )

    def attend_chunk(self, q, page_table, chunk_start: int):
        """Attends with a later chunk of a prompt, q [1, n_heads, seq_len, head_dim] from position `chunk_start`, to the
        pages -> like q."""
        return ttnn.transformer.chunked_scaled_dot_product_attention(
            q, self.keys, self.values, page_table, chunk_start, **self._prefill(q, chunk_start)
        )


class JointKVCache(PagedKVCache):
    """The same for keys and values of a decode step that lie on different cores, as those of `OwnUsersHeads`: one op writes
    both."""

    def update(self, k, v, positions, page_table):
        ttnn.experimental.paged_fused_update_cache(
            self.keys, k, self.values, v, update_idxs_tensor=positions, page_table=page_table
        )


class ContiguousKVCache(_KVCache):
    """keys, values: [users, n_kv_heads, rows, head_dim] on each device, DRAM interleaved."""

    paged = None

    def fill(self, k, v, slots: Sequence[int], page_table):
        """Writes a prefill's k, v [n_users, n_kv_heads, seq_len, head_dim] into the rows of the users `slots`."""
        rows = min(k.shape[2], self.keys.shape[2])
        for cache, new in ((self.keys, k), (self.values, v)):
            for index, slot in enumerate(slots):
                ttnn.fill_cache(cache, _rows_of(new, index, rows), slot)

    def update(self, k, v, positions, page_table):
        for cache, new in ((self.keys, k), (self.values, v)):
            ttnn.experimental.paged_update_cache(cache, new, update_idxs_tensor=positions)

    def attend(self, q, positions, page_table):
        return ttnn.transformer.scaled_dot_product_attention_decode(
            q, self.keys, self.values, cur_pos_tensor=positions, **self._decode
        )

    def attend_chunk(self, q, page_table, chunk_start: int):
        raise ValueError(f"chunk at {chunk_start}: only paged caches can be attended to in chunks")


def _rows_of(x, index: int, rows: int):
    """The first `rows` positions of one user: x [n_users, heads, seq_len, head_dim] -> [1, heads, rows, head_dim]."""
    return ttnn.slice(x, [index, 0, 0, 0], [index + 1, x.shape[1], rows, x.shape[3]])


def _float32(value: float) -> float:
    """`value` rounded to a float32: chunked_scaled_dot_product_attention refuses any other scale."""
    return struct.unpack("f", struct.pack("f", value))[0]
