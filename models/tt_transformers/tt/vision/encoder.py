"""The layers of the image encoder: attention over all tiles of an image, and an MLP with GELU.

The residual x is [1, 1, rows, dim / N], DRAM interleaved, split over the devices by columns as in the language model.
"""

from dataclasses import replace

import ttnn

from models.tt_transformers.tt.modules.linear import Linear
from models.tt_transformers.tt.modules.norm import NormScale
from models.tt_transformers.tt.vision.config import VisionConfig

# Sums over a thousand columns need fp32 accumulation and all bits of the bf16 inputs.
_NORM_KERNEL = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, math_approx_mode=False, fp32_dest_acc_en=True, packer_l1_acc=True
)


class LayerNorm:
    """Gathers x [1, 1, rows, dim / N] from all devices and normalises it; every device gets [1, 1, rows, dim]."""

    def __init__(self, scale: NormScale, weights, name: str, ccl):
        self.ccl = ccl
        self._options = dict(
            epsilon=scale.epsilon,
            weight=weights.norm(name, scale),
            bias=weights.norm(name, scale, "bias"),
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            compute_kernel_config=_NORM_KERNEL,
        )

    def forward(self, x):
        return ttnn.layer_norm(self.ccl.gather_residual(x, ttnn.DRAM_MEMORY_CONFIG), **self._options)


class VisionAttention:
    """wq, wk and wv are one matrix, split over the devices by heads; wo is split by rows."""

    def __init__(self, config: VisionConfig, weights, name: str, ccl, gated: bool):
        self.config = config
        self.ccl = ccl
        wo = replace(config.wo, gated=gated)
        self.wqkv = Linear(config.wqkv, *weights.fused_qkv(name, config.wqkv, config.heads))
        self.wo = Linear(wo, *weights.attention_output(name, wo, config.heads))
        self._sdpa = dict(
            is_causal=False,
            scale=config.arch.head_dim**-0.5,
            program_config=config.chip.prefill_sdpa(config.rows, config.head_dim),
            compute_kernel_config=config.sdpa_kernel,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )

    def forward(self, x, mask):
        """x: [1, 1, rows, dim]; mask: [1, 1, rows, rows], added to the scores -> [1, 1, rows, dim / N]."""
        c = self.config
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            self.wqkv.prefill_forward(x),
            num_heads=c.heads.n_heads,
            num_kv_heads=c.heads.n_kv_heads,
            transpose_k_heads=False,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )
        ttnn.deallocate(x)
        x = ttnn.transformer.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self._sdpa)
        x = ttnn.experimental.nlp_concat_heads(x, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.sum_residual(self.wo.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)


class VisionMLP:
    """w2(gelu(w1 x)), with biases: w1 is split by columns over the devices, w2 by rows."""

    def __init__(self, config: VisionConfig, weights, name: str, ccl, gated: bool):
        self.ccl = ccl
        w2 = replace(config.w2, gated=gated)
        self.w1 = Linear(config.w1, *weights.column_parallel(f"{name}.w1", config.w1))
        self.w2 = Linear(w2, *weights.row_parallel(f"{name}.w2", w2))

    def forward(self, x):
        """x: [1, 1, rows, dim] -> [1, 1, rows, dim / N]."""
        hidden = self.w1.prefill_forward(x)
        ttnn.deallocate(x)
        hidden = ttnn.gelu(hidden, fast_and_approximate_mode=False, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.sum_residual(self.w2.prefill_forward(hidden), ttnn.DRAM_MEMORY_CONFIG)


class VisionLayer:
    """x + attention(norm(x)), then x + mlp(norm(x)). Of a gated layer, tanh of the two gates is in wo and w2."""

    def __init__(self, config: VisionConfig, weights, name: str, ccl, gated: bool):
        norm = config.norm(config.arch.norm_eps)
        self.attention = VisionAttention(config, weights, f"{name}.attention", ccl, gated)
        self.mlp = VisionMLP(config, weights, f"{name}.feed_forward", ccl, gated)
        self.attention_norm = LayerNorm(norm, weights, f"{name}.attention_norm", ccl)
        self.ffn_norm = LayerNorm(norm, weights, f"{name}.ffn_norm", ccl)

    def forward(self, x, mask):
        """x: [1, 1, rows, dim / N]; mask: [1, 1, rows, rows] -> like x."""
        x = ttnn.add(x, self.attention.forward(self.attention_norm.forward(x), mask), memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return ttnn.add(x, self.mlp.forward(self.ffn_norm.forward(x)), memory_config=ttnn.DRAM_MEMORY_CONFIG)
