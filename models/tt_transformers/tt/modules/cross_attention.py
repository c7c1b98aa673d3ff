"""Multi-head attention of text to the tokens of images; heads split over the devices. Nothing is rotated."""

from dataclasses import dataclass
from typing import Any

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
class PromptImages:
    """What the layers need of the images of one user, for one chunk of its prompt.

    Attributes:
        tokens: [1, 1, keys, dim], the images' tokens, on every device.
        mask: [1, 1, seq_len, keys], added to the scores: 0, or a very negative number.
        sees: [1, 1, seq_len, 1], 1 for a position that sees an image, 0 for one before the first image.
        page_table: [1, pages] int32, the pages of the tokens that decoded text attends to; None if unpaged.
    """

    tokens: Any
    mask: Any
    sees: Any
    page_table: Any


@dataclass(frozen=True)
class DecodeImages:
    """What the layers need of all users' images in a decode step.

    Attributes:
        positions: [users] int32, the position of each user's last image token in its cache; 0 without images.
        sees: [1, 1, users, 1], 1 for a user with images, else 0.
        page_table: [users, pages] int32; None if unpaged.
    """

    positions: Any
    sees: Any
    page_table: Any


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Cross-attention of one layer on one device; see `AttentionConfig`."""

    chip: ChipLayout
    heads: HeadSplit
    head_dim: int
    users: int
    wq: LinearConfig
    wkv: LinearConfig
    wo: LinearConfig
    cache: KVCacheConfig
    head_norm: NormScale

    @classmethod
    def resolve(cls, args, layer: int) -> "CrossAttentionConfig":
        arch, precision, chip = args.arch, args.precision.layer(layer), args.chip
        heads = args.placement.heads(arch.n_heads, arch.n_kv_heads)
        head_dim, dim = whole_tiles(arch.head_dim), args.dim
        q_width, kv_width = heads.n_heads * head_dim, 2 * heads.n_kv_heads * head_dim

        def inputs(width):
            return LinearConfig(
                chip=chip, k=dim, n=width, cores=chip.decode_cores(dim, width),
                weight_dtype=precision.dtype(TensorGroup.WQKV), output_dtype=ttnn.bfloat16,
                decode_kernel=precision.kernel(OpGroup.LI_QKV_DECODE),
                prefill_kernel=precision.kernel(OpGroup.LI_QKV_PREFILL),
            )  # fmt: skip

        wo = LinearConfig(
            chip=chip, k=q_width, n=dim, cores=joined_cores(chip, heads, head_dim),
            weight_dtype=precision.dtype(TensorGroup.WO),
            output_dtype=precision.dtype(TensorGroup.ACTIVATION) or ttnn.bfloat16,
            decode_kernel=precision.kernel(OpGroup.LI_O_DECODE), prefill_kernel=precision.kernel(OpGroup.LI_O_PREFILL),
            gated=True,
        )  # fmt: skip
        return cls(
            chip, heads, head_dim, args.max_batch_size, inputs(q_width), inputs(kv_width), wo,
            KVCacheConfig.resolve(args, layer), NormScale(arch.head_dim, head_dim, arch.norm_eps),
        )  # fmt: skip

    @property
    def input(self) -> LinearConfig:
        """The linear that the normalised residual goes into."""
        return self.wq

    @property
    def linears(self) -> tuple[LinearConfig, ...]:
        return self.wq, self.wkv, self.wo


class CrossAttention:
    """wq, and wk and wv as one matrix, are split over the devices by heads; wo is split by rows and holds tanh of the gate.

    The keys and values of a user's images are computed once, in prefill. Its decoded tokens attend to the first of them
    in the cache, up to `DecodeImages.positions`.
    """

    def __init__(self, config: CrossAttentionConfig, weights, layer: int, ccl):
        self.config = config
        self.ccl = ccl
        name, heads = f"layers.{layer}.attention", config.heads
        self.wq = Linear(config.wq, *weights.by_heads(name, {"wq": heads.query}, config.wq))
        self.wkv = Linear(config.wkv, *weights.by_heads(name, {"wk": heads.kv, "wv": heads.kv}, config.wkv))
        self.wo = Linear(config.wo, *weights.attention_output(name, config.wo, heads))
        self.q_norm, self.k_norm = (
            HeadNorm(config.head_norm, weights.norm(f"{name}.{norm}", config.head_norm)) for norm in ("q_norm", "k_norm")
        )
        self._decode_heads = decode_heads(config.chip, heads, config.head_dim, config.users, config.users, config.wq.cores, ccl)

    def decode_forward(self, x, kv_cache, images: DecodeImages):
        """x: [1, 1, users, dim], L1 width-sharded over `wq.cores` -> [1, 1, users, dim / N], L1 interleaved."""
        q = ttnn.sharded_to_interleaved(self.wq.decode_forward(x), ttnn.L1_MEMORY_CONFIG)
        q = ttnn.transpose(self.q_norm.prefill_forward(self._query_heads(q)), 1, 2)
        x = self._decode_heads.join(kv_cache.attend(q, images.positions, images.page_table))
        x = ttnn.sharded_to_interleaved(self.wo.decode_forward(x), ttnn.L1_MEMORY_CONFIG)
        return self.ccl.sum_residual(x, ttnn.L1_MEMORY_CONFIG)

    def prefill_forward(self, x, kv_cache, slots, images: PromptImages):
        """x: [1, 1, seq_len, dim], DRAM interleaved, of the user in `slots` -> [1, 1, seq_len, dim / N]."""
        k, v = self._keys_and_values(images.tokens)
        kv_cache.fill(k, v, slots, images.page_table)
        q = self.q_norm.prefill_forward(self._query_heads(self.wq.prefill_forward(x)))
        x = kv_cache.attend_images(q, k, v, images.mask)
        x = ttnn.experimental.nlp_concat_heads(x, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.sum_residual(self.wo.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)

    def _query_heads(self, q):
        """q: [1, 1, rows, n_heads * head_dim], interleaved -> [1, n_heads, rows, head_dim], DRAM."""
        heads, _, _ = ttnn.experimental.nlp_create_qkv_heads(
            q,
            num_heads=self.config.heads.n_heads,
            num_kv_heads=0,
            transpose_k_heads=False,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )
        return heads

    def _keys_and_values(self, tokens):
        """tokens: [1, 1, keys, dim] -> k, v: [1, n_kv_heads, keys, head_dim], in the cache's dtype."""
        c, kv = self.config, self.wkv.prefill_forward(tokens)
        # The op wants heads of queries too, so it gets keys and values as these, and its copy of them is dropped.
        _, k, v = ttnn.experimental.nlp_create_qkv_heads(
            kv,
            kv,
            num_heads=2 * c.heads.n_kv_heads,
            num_kv_heads=c.heads.n_kv_heads,
            transpose_k_heads=False,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )
        return ttnn.typecast(self.k_norm.prefill_forward(k), c.cache.dtype), ttnn.typecast(v, c.cache.dtype)
