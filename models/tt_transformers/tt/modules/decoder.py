"""One decoder layer: x + attention(norm(x)), then x + mlp(norm(x)); a class for each kind of layer."""

from collections.abc import Mapping
from types import MappingProxyType

import ttnn

from models.tt_transformers.tt.config.precision import TensorGroup
from models.tt_transformers.tt.families.family import CROSS_ATTENTION, SELF_ATTENTION
from models.tt_transformers.tt.modules.attention import Attention, AttentionConfig
from models.tt_transformers.tt.modules.cross_attention import CrossAttention, CrossAttentionConfig
from models.tt_transformers.tt.modules.mlp import MLP, MLPConfig
from models.tt_transformers.tt.modules.norm import residual_norm


class Decoder:
    """The residual x: [1, 1, rows, dim / N]; decode in L1, prefill in DRAM, both interleaved."""

    attention_config, attention_class = AttentionConfig, Attention

    def __init__(self, args, weights, layer: int, ccl):
        attention, mlp = self.attention_config.resolve(args, layer), MLPConfig.resolve(args, layer)
        self.residual_dtype = args.precision.layer(layer).dtype(TensorGroup.ACTIVATION) or ttnn.bfloat16
        index = args.arch.layer_indices[layer]
        self.attention = self.attention_class(attention, weights, index, ccl)
        self.mlp = MLP(mlp, weights, index, ccl)
        self.attention_norm = residual_norm(args, weights, f"layers.{index}.attention_norm", attention.input.cores, ccl)
        self.ffn_norm = residual_norm(args, weights, f"layers.{index}.ffn_norm", mlp.ff1_3.cores, ccl)

    def decode_forward(self, x, rotate, kv_cache, positions, page_table, images=None):
        """x: [1, 1, users, dim / N] -> the same, in the layer's residual dtype; the rest as in
        `Attention.decode_forward`. `images` is for other kinds of layers."""
        attended = self.attention.decode_forward(
            self.attention_norm.decode_forward(x), rotate, kv_cache, positions, page_table
        )
        x = ttnn.add(x, attended, dtype=self.residual_dtype, memory_config=ttnn.L1_MEMORY_CONFIG)
        fed_forward = self.mlp.decode_forward(self.ffn_norm.decode_forward(x))
        return ttnn.add(x, fed_forward, dtype=self.residual_dtype, memory_config=ttnn.L1_MEMORY_CONFIG)

    def prefill_forward(self, x, rotate, kv_cache, slots, page_table, prefix_page_table, chunk_start, images=None):
        """x: [1, 1, n_users * seq_len, dim / N] -> the same; the rest as in `Attention.prefill_forward`. `images` is
        for other kinds of layers."""
        attended = self.attention.prefill_forward(
            self.attention_norm.prefill_forward(x), rotate, kv_cache, slots, page_table, prefix_page_table, chunk_start
        )
        x = ttnn.add(x, attended, dtype=self.residual_dtype, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        ttnn.deallocate(attended)
        fed_forward = self.mlp.prefill_forward(self.ffn_norm.prefill_forward(x))
        return ttnn.add(x, fed_forward, dtype=self.residual_dtype, memory_config=ttnn.DRAM_MEMORY_CONFIG)


class CrossDecoder(Decoder):
    """A layer that attends to images. It changes nothing of a user without images.

    The gates of attention and MLP are in their last weights. As in Hugging Face's MllamaCrossAttentionDecoderLayer, a
    position before a prompt's first image attends to all tokens of all images, and its MLP is left out.
    """

    attention_config, attention_class = CrossAttentionConfig, CrossAttention

    def decode_forward(self, x, rotate, kv_cache, positions, page_table, images=None):
        """x: [1, 1, users, dim / N] -> the same; images: `DecodeImages`; the rest is for other kinds of layers."""
        attended = self.attention.decode_forward(self.attention_norm.decode_forward(x), kv_cache, images)
        x = self._add(x, ttnn.mul(attended, images.sees, memory_config=ttnn.L1_MEMORY_CONFIG), ttnn.L1_MEMORY_CONFIG)
        fed_forward = self.mlp.decode_forward(self.ffn_norm.decode_forward(x))
        return self._add(x, ttnn.mul(fed_forward, images.sees, memory_config=ttnn.L1_MEMORY_CONFIG), ttnn.L1_MEMORY_CONFIG)

    def prefill_forward(self, x, rotate, kv_cache, slots, page_table, prefix_page_table, chunk_start, images=None):
        """x: [1, 1, seq_len, dim / N] -> the same; images: `PromptImages` of one user, None for users without images;
        the rest is for other kinds of layers."""
        if images is None:
            return x
        attended = self.attention.prefill_forward(self.attention_norm.prefill_forward(x), kv_cache, slots, images)
        x = self._add(x, attended, ttnn.DRAM_MEMORY_CONFIG)
        ttnn.deallocate(attended)
        fed_forward = self.mlp.prefill_forward(self.ffn_norm.prefill_forward(x))
        fed_forward = ttnn.mul(fed_forward, images.sees, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self._add(x, fed_forward, ttnn.DRAM_MEMORY_CONFIG)

    def _add(self, x, change, memory_config):
        return ttnn.add(x, change, dtype=self.residual_dtype, memory_config=memory_config)


DECODERS: Mapping[str, type[Decoder]] = MappingProxyType({SELF_ATTENTION: Decoder, CROSS_ATTENTION: CrossDecoder})
