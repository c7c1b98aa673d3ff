"""One decoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""

import ttnn

from models.tt_transformers.tt.config.precision import TensorGroup
from models.tt_transformers.tt.modules.attention import Attention, AttentionConfig
from models.tt_transformers.tt.modules.mlp import MLP, MLPConfig
from models.tt_transformers.tt.modules.norm import residual_norm


class Decoder:
    """The residual x: [1, 1, rows, dim / N]; decode in L1, prefill in DRAM, both interleaved."""

    def __init__(self, args, weights, layer: int, ccl):
        attention, mlp = AttentionConfig.resolve(args, layer), MLPConfig.resolve(args, layer)
        self.residual_dtype = args.precision.layer(layer).dtype(TensorGroup.ACTIVATION) or ttnn.bfloat16
        self.attention = Attention(attention, weights, layer, ccl)
        self.mlp = MLP(mlp, weights, layer, ccl)
        self.attention_norm = residual_norm(args, weights, f"layers.{layer}.attention_norm", attention.wqkv.cores, ccl)
        self.ffn_norm = residual_norm(args, weights, f"layers.{layer}.ffn_norm", mlp.ff1_3.cores, ccl)

    def decode_forward(self, x, rotate, kv_cache, positions, page_table):
        """x: [1, 1, users, dim / N] -> the same, in the layer's residual dtype; the rest as in
        `Attention.decode_forward`."""
        attended = self.attention.decode_forward(
            self.attention_norm.decode_forward(x), rotate, kv_cache, positions, page_table
        )
        x = ttnn.add(x, attended, dtype=self.residual_dtype, memory_config=ttnn.L1_MEMORY_CONFIG)
        fed_forward = self.mlp.decode_forward(self.ffn_norm.decode_forward(x))
        return ttnn.add(x, fed_forward, dtype=self.residual_dtype, memory_config=ttnn.L1_MEMORY_CONFIG)

    def prefill_forward(self, x, rotate, kv_cache, slots, page_table, prefix_page_table, chunk_start):
        """x: [1, 1, n_users * seq_len, dim / N] -> the same; the rest as in `Attention.prefill_forward`."""
        attended = self.attention.prefill_forward(
            self.attention_norm.prefill_forward(x), rotate, kv_cache, slots, page_table, prefix_page_table, chunk_start
        )
        x = ttnn.add(x, attended, dtype=self.residual_dtype, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        ttnn.deallocate(attended)
        fed_forward = self.mlp.prefill_forward(self.ffn_norm.prefill_forward(x))
        return ttnn.add(x, fed_forward, dtype=self.residual_dtype, memory_config=ttnn.DRAM_MEMORY_CONFIG)
