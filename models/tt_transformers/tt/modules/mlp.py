"""Gated MLP: w2(silu(w1 x) * w3 x)."""

from dataclasses import dataclass

import ttnn

from models.tt_transformers.tt.config.precision import OpGroup, TensorGroup
from models.tt_transformers.tt.families.family import CROSS_ATTENTION
from models.tt_transformers.tt.modules.linear import Linear, LinearConfig


@dataclass(frozen=True)
class MLPConfig:
    """One layer on one device: `ff1_3` is [dim, hidden / N], for both w1 and w3; `ff2` is [hidden / N, dim]."""

    ff1_3: LinearConfig
    ff2: LinearConfig

    @classmethod
    def resolve(cls, args, layer: int) -> "MLPConfig":
        precision = args.precision.layer(layer)
        dim, hidden = args.dim, args.mlp_width
        hidden_dtype = precision.dtype(TensorGroup.ACTIVATION) or ttnn.bfloat8_b
        residual_dtype = precision.dtype(TensorGroup.ACTIVATION) or ttnn.bfloat16
        cores = args.chip.decode_cores(dim, hidden)
        ff1_3 = LinearConfig(
            chip=args.chip, k=dim, n=hidden, cores=cores,
            weight_dtype=precision.dtype(TensorGroup.FF1_FF3), output_dtype=hidden_dtype,
            decode_kernel=precision.kernel(OpGroup.LI_FF1_FF3), prefill_kernel=precision.kernel(OpGroup.LI_FF1_FF3),
            bias=args.arch.mlp_bias,
        )
        ff2 = LinearConfig(
            chip=args.chip, k=hidden, n=dim, cores=cores,
            weight_dtype=precision.dtype(TensorGroup.FF2), output_dtype=residual_dtype,
            decode_kernel=precision.kernel(OpGroup.LI_FF2), prefill_kernel=precision.kernel(OpGroup.LI_FF2),
            bias=args.arch.mlp_bias, gated=args.arch.layer_kinds[layer] == CROSS_ATTENTION,
        )
        return cls(ff1_3, ff2)


class MLP:
    """w1 (gate) and w3 (up) are split by columns over the devices, w2 (down) by rows; on a grid, also the other way.

    Decode: x [1, 1, users, dim], L1 width-sharded over `ff1_3.cores` -> [1, 1, users, dim / N], L1 interleaved.
    Prefill: x [1, 1, seq_len, dim] -> [1, 1, seq_len, dim / N], DRAM interleaved.
    """

    def __init__(self, config: MLPConfig, weights, layer: int, ccl):
        self.config = config
        self.ccl = ccl
        name = f"layers.{layer}.feed_forward"
        self.w1 = Linear(config.ff1_3, *weights.column_parallel(f"{name}.w1", config.ff1_3))
        self.w3 = Linear(config.ff1_3, *weights.column_parallel(f"{name}.w3", config.ff1_3))
        self.w2 = Linear(config.ff2, *weights.row_parallel(f"{name}.w2", config.ff2))
        self._hidden = config.ff2.chip.width_sharded(config.ff2.k, config.ff2.cores)

    def decode_forward(self, x):
        gate = self.ccl.scatter_hidden(self.w1.decode_forward(x), ttnn.L1_MEMORY_CONFIG)
        up = self.ccl.scatter_hidden(self.w3.decode_forward(x), ttnn.L1_MEMORY_CONFIG)
        x = self.ccl.gather_hidden(self._gated(gate, up), self._hidden)
        x = ttnn.sharded_to_interleaved(self.w2.decode_forward(x), ttnn.L1_MEMORY_CONFIG)
        return self.ccl.sum_residual(x, ttnn.L1_MEMORY_CONFIG)

    def prefill_forward(self, x):
        gate = self.ccl.scatter_hidden(self.w1.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)
        up = self.ccl.scatter_hidden(self.w3.prefill_forward(x), ttnn.DRAM_MEMORY_CONFIG)
        ttnn.deallocate(x)
        hidden = self._gated(gate, up)
        ttnn.deallocate(gate)
        ttnn.deallocate(up)
        x = self.w2.prefill_forward(self.ccl.gather_hidden(hidden, ttnn.DRAM_MEMORY_CONFIG))
        return self.ccl.sum_residual(x, ttnn.DRAM_MEMORY_CONFIG)

    def _gated(self, gate, up):
        return ttnn.mul(
            gate,
            up,
            input_tensor_a_activations=[ttnn.UnaryOpType.SILU],
            dtype=self.config.ff1_3.output_dtype,
            memory_config=gate.memory_config(),
        )
