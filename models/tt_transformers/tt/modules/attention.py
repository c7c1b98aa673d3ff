"""Multi-head attention with rotary positions; heads split over the devices."""

from collections.abc import Sequence
from dataclasses import dataclass

import ttnn

from models.common.chip import whole_tiles
from models.tt_transformers.tt.config.precision import OpGroup, TensorGroup
from models.tt_transformers.tt.config.program_configs import ChipLayout
from models.tt_transformers.tt.modules.heads import decode_heads, joined_cores
from models.tt_transformers.tt.modules.linear import Linear, LinearConfig
from models.tt_transformers.tt.modules.norm import HeadNorm, NormScale
from models.tt_transformers.tt.placement import HeadSplit
from models.tt_transformers.tt.runtime.kv_cache import KVCacheConfig


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of one layer on one device.

    `heads`: the heads of each device; `head_dim`: padded to whole tiles; `users`: those of the device in a decode step of
    `rows` users; `head_norm`: the norm of each head's query and key, None for a model without one.
    """

    chip: ChipLayout
    heads: HeadSplit
    head_dim: int
    users: int
    rows: int
    wqkv: LinearConfig
    wo: LinearConfig
    cache: KVCacheConfig
    head_norm: NormScale | None

    @classmethod
    def resolve(cls, args, layer: int) -> "AttentionConfig":
        arch, precision, chip, placement = args.arch, args.precision.layer(layer), args.chip, args.placement
        heads = placement.heads(arch.n_heads, arch.n_kv_heads)
        head_dim, dim = whole_tiles(arch.head_dim), args.dim
        qkv_width, heads_width = (heads.n_heads + 2 * heads.n_kv_heads) * head_dim, heads.n_heads * head_dim
        residual_dtype = precision.dtype(TensorGroup.ACTIVATION) or ttnn.bfloat16
        wqkv = LinearConfig(
            chip=chip, k=dim, n=qkv_width, cores=chip.decode_cores(dim, qkv_width),
            # The head-splitting and rotary ops work in bf16.
            weight_dtype=precision.dtype(TensorGroup.WQKV), output_dtype=ttnn.bfloat16,
            decode_kernel=precision.kernel(OpGroup.LI_QKV_DECODE), prefill_kernel=precision.kernel(OpGroup.LI_QKV_PREFILL),
            bias=arch.qkv_bias,
        )
        wo = LinearConfig(
            chip=chip, k=heads_width, n=dim, cores=joined_cores(chip, heads, head_dim),
            weight_dtype=precision.dtype(TensorGroup.WO), output_dtype=residual_dtype,
            decode_kernel=precision.kernel(OpGroup.LI_O_DECODE), prefill_kernel=precision.kernel(OpGroup.LI_O_PREFILL),
            bias=arch.output_bias,
        )
        return cls(
            chip, heads, head_dim, placement.users(args.max_batch_size), placement.decode_rows(args.max_batch_size), wqkv, wo,
            KVCacheConfig.resolve(args, layer),
            head_norm=NormScale(arch.head_dim, head_dim, arch.norm_eps) if arch.qk_norm else None,
        )

    @property
    def input(self) -> LinearConfig:
        """The linear that the normalised residual goes into."""
        return self.wqkv

    @property
    def linears(self) -> tuple[LinearConfig, ...]:
        return self.wqkv, self.wo


class Attention:
    """wq, wk and wv are one matrix, split over the devices by heads; wo is split by rows. On a grid both are also split the
    other way.

    `rotate` (a `Rotation` of `embedding.py`) rotates q and k by the angles of the current tokens.
    """

    def __init__(self, config: AttentionConfig, weights, layer: int, ccl):
        self.config = config
        self.ccl = ccl
        name = f"layers.{layer}.attention"
        self.wqkv = Linear(config.wqkv, *weights.fused_qkv(name, config.wqkv, config.heads))
        self.wo = Linear(config.wo, *weights.attention_output(name, config.wo, config.heads))
        self._head_norms = [] if config.head_norm is None else [
            HeadNorm(config.head_norm, weights.norm(f"{name}.{head_norm}", config.head_norm))
            for head_norm in ("q_norm", "k_norm")
        ]
        self._decode_heads = decode_heads(
            config.chip, config.heads, config.head_dim, config.users, config.rows, config.wqkv.cores, ccl
        )

    def decode_forward(self, x, rotate, kv_cache, positions, page_table):
        """x: [1, 1, rows, dim], L1 width-sharded over `wqkv.cores`; positions: [users] int32, -1 skips a user.

        Returns [1, 1, rows, dim / N], L1 interleaved.
        """
        x = self._decode_heads.placed(self.wqkv.decode_forward(x))
        q, k, v = self._decode_heads.split(x)
        if self._head_norms:
            q, k = (norm.decode_forward(heads) for norm, heads in zip(self._head_norms, (q, k)))
        rotated = rotate.keys_then_queries(q, k)
        del q, k
        kv_cache.update(next(rotated), v, positions, page_table)
        x = self._decode_heads.join(kv_cache.attend(next(rotated), positions, page_table))
        x = ttnn.sharded_to_interleaved(self.wo.decode_forward(x), ttnn.L1_MEMORY_CONFIG)
        return self.ccl.sum_residual(x, ttnn.L1_MEMORY_CONFIG)

    def prefill_forward(
        self, x, rotate, kv_cache, slots: Sequence[int], page_table, prefix_page_table, chunk_start: int
    ):
        """x: [1, 1, n_users * seq_len, dim], DRAM interleaved, for the users in `slots`: tokens of one user's sequence
        from position `chunk_start` on, or the whole sequences of several users, padded to one length.

        page_table: the pages that each user's tokens fill, [n_users, pages] int32, -1 for no page: for padding, and on
        devices that do not serve the user; prefix_page_table:
        the pages of a single user up to the chunk's end, [1, pages].
        Returns [1, 1, n_users * seq_len, dim / N], DRAM interleaved.
        """
        c, rows, n_users = self.config, x.shape[2], len(slots)
        qkv = self.ccl.sum_qkv(self.wqkv.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            ttnn.reshape(qkv, (n_users, 1, rows // n_users, c.wqkv.n)),
            num_heads=c.heads.n_heads,
            num_kv_heads=c.heads.n_kv_heads,
            transpose_k_heads=False,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )
        ttnn.deallocate(x)
        del qkv
        if self._head_norms:
            q, k = (norm.prefill_forward(heads) for norm, heads in zip(self._head_norms, (q, k)))
        q = rotate(q)
        # Attention reads k and v in the cache's format, so that the result does not depend on where chunks were cut.
        k, v = ttnn.typecast(rotate(k), c.cache.dtype), ttnn.typecast(v, c.cache.dtype)
        kv_cache.fill(k, v, slots, page_table)
        if chunk_start == 0:
            x = kv_cache.attend_prompt(q, k, v)
        else:
            x = self.ccl.from_column_of(slots[0], kv_cache.attend_chunk(q, prefix_page_table, chunk_start))
        x = ttnn.experimental.nlp_concat_heads(x, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        x = ttnn.reshape(x, (1, 1, rows, c.wo.k))
        return self.ccl.sum_residual(self.wo.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)
