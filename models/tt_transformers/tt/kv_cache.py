"""Key and value caches of one layer, and the ops that read and write them.

`PagedKVCache` keeps pages of `block_size` tokens in a pool that users share; a page table says whose page is where.
`ContiguousKVCache` keeps `max_seq_len` tokens a user. Both have the same four methods.
"""

from dataclasses import dataclass

import ttnn

from .program_configs import PREFILL_MULTIPLE


@dataclass(frozen=True)
class KVCacheConfig:
    """Of one layer on one device. `scale` multiplies q k^T: 1 / sqrt(head_dim)."""

    n_kv_heads: int
    head_dim: int
    dtype: ttnn.DataType
    scale: float
    chip: object
    sdpa_decode_kernel: object
    sdpa_prefill_kernel: object


class _KVCache:
    def __init__(self, config: KVCacheConfig, shape: tuple, mesh_device):
        self.config = config
        self.keys, self.values = (
            ttnn.zeros(
                shape,
                dtype=config.dtype,
                layout=ttnn.TILE_LAYOUT,
                device=mesh_device,
                memory_config=ttnn.DRAM_MEMORY_CONFIG,
            )
            for _ in range(2)
        )
        self._decode = dict(
            scale=config.scale,
            program_config=config.chip.decode_sdpa(),
            compute_kernel_config=config.sdpa_decode_kernel,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )

    def attend_prompt(self, q, k, v):
        """Causal attention of prompts' first chunks over themselves: q, k, v [n_users, heads, seq_len, head_dim] -> like q."""
        return ttnn.transformer.scaled_dot_product_attention(
            q, k, v, is_causal=True, memory_config=ttnn.DRAM_MEMORY_CONFIG, **self._prefill(q)
        )

    def deallocate(self):
        ttnn.deallocate(self.keys)
        ttnn.deallocate(self.values)

    def _prefill(self, q):
        return dict(
            scale=self.config.scale,
            program_config=self.config.chip.prefill_sdpa(q.shape[2]),
            compute_kernel_config=self.config.sdpa_prefill_kernel,
        )


class PagedKVCache(_KVCache):
    """keys, values: [max_num_blocks, n_kv_heads, block_size, head_dim] on each device, DRAM interleaved."""

    def __init__(self, config: KVCacheConfig, paged, mesh_device):
        super().__init__(config, (paged.max_num_blocks, config.n_kv_heads, paged.block_size, config.head_dim), mesh_device)
        self.block_size = paged.block_size

    def fill(self, k, v, user, page_table):
        """Writes a prefill's k, v [n_users, n_kv_heads, seq_len, head_dim] into the pages of `page_table`, int32
        [n_users, pages], -1 for none.

        Rows past the last page (padding of the prefill) are left out.
        """
        rows = min(k.shape[2], page_table.shape[1] * self.block_size)
        for cache, new in ((self.keys, k), (self.values, v)):
            for index in range(new.shape[0]):
                ttnn.experimental.paged_fill_cache(cache, _rows_of(new, index, rows), page_table, batch_idx=index)

    def update(self, k, v, positions, page_table):
        """Writes one token a user: k, v [1, users, n_kv_heads, head_dim], one user a core, at `positions` [users]."""
        for cache, new in ((self.keys, k), (self.values, v)):
            ttnn.experimental.paged_update_cache(cache, new, update_idxs_tensor=positions, page_table=page_table)

    def attend(self, q, positions, page_table):
        """One query a user, q [1, users, n_heads, head_dim], over positions 0..`positions` of its pages -> like q."""
        return ttnn.transformer.paged_scaled_dot_product_attention_decode(
            q, self.keys, self.values, cur_pos_tensor=positions, page_table_tensor=page_table, **self._decode
        )

    def attend_chunk(self, q, page_table, chunk_start: int):
        """A later chunk of a prompt, q [1, n_heads, seq_len, head_dim] from position `chunk_start`, over the pages."""
        return ttnn.transformer.chunked_scaled_dot_product_attention(
            q, self.keys, self.values, page_table, chunk_start, **self._prefill(q)
        )


class ContiguousKVCache(_KVCache):
    """keys, values: [users, n_kv_heads, rows, head_dim] on each device, DRAM interleaved; rows: `max_seq_len` and
    what is missing to whole chunks of keys of the attention ops."""

    def __init__(self, config: KVCacheConfig, users: int, max_seq_len: int, mesh_device):
        rows = -(-max_seq_len // PREFILL_MULTIPLE) * PREFILL_MULTIPLE
        super().__init__(config, (users, config.n_kv_heads, rows, config.head_dim), mesh_device)

    def fill(self, k, v, user, page_table):
        rows = min(k.shape[2], self.keys.shape[2])
        for cache, new in ((self.keys, k), (self.values, v)):
            for index in range(new.shape[0]):
                ttnn.fill_cache(cache, _rows_of(new, index, rows), user + index)

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
