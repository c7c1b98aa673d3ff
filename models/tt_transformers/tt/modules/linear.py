"""One weight matrix on the mesh, used by both prefill and decode."""

from dataclasses import dataclass

import ttnn

from models.tt_transformers.tt.config.program_configs import ChipLayout, prefill_rows


@dataclass(frozen=True)
class LinearConfig:
    """A matmul [rows, k] x [k, n] on each device; k and n are one device's share.

    `cores`: number of cores that the decode activations are width-sharded over. `output_dtype`: dtype of the product.
    `bias`: whether a bias is added to the product. `gated`: whether the sum is multiplied by tanh of a learnt number, the
    `gate` beside the weight; it is multiplied into weight and bias when they are loaded.
    """

    chip: ChipLayout
    k: int
    n: int
    cores: int
    weight_dtype: ttnn.DataType
    output_dtype: ttnn.DataType
    decode_kernel: object
    prefill_kernel: object
    bias: bool = False
    gated: bool = False


class Linear:
    """weight: [1, 1, k, n] on each device, its columns split over the DRAM banks.

    Decode: `x` [1, 1, users, k], L1 width-sharded over `cores` -> [1, 1, users, n], L1 width-sharded;
    a DRAM-sharded matmul, bound by reading the weight.
    Prefill: `x` [1, 1, seq_len, k], DRAM interleaved -> [1, 1, seq_len, n]; a 2D multicast matmul on the whole grid.

    bias: [1, 1, 1, n] bf16 twice, for decode with its columns split over the DRAM banks, for prefill interleaved: each
    matmul reads it in this form only. (None, None) for no bias.
    """

    def __init__(self, config: LinearConfig, weight, bias=(None, None)):
        self.config = config
        self.weight = weight
        self._decode_bias, self._prefill_bias = bias
        self._decode_program = config.chip.decode_matmul(
            config.k, config.n, config.cores, config.weight_dtype, config.output_dtype, config.bias
        )

    def decode_forward(self, x):
        return ttnn.linear(
            x,
            self.weight,
            bias=self._decode_bias,
            program_config=self._decode_program,
            memory_config=ttnn.L1_WIDTH_SHARDED_MEMORY_CONFIG,
            dtype=self.config.output_dtype,
            compute_kernel_config=self.config.decode_kernel,
        )

    def prefill_forward(self, x):
        c, seq_len = self.config, x.shape[2]
        rows = prefill_rows(seq_len)
        x = ttnn.linear(
            ttnn.reshape(x, (1, seq_len // rows, rows, c.k)),
            self.weight,
            bias=self._prefill_bias,
            program_config=c.chip.prefill_matmul(
                rows, rows == seq_len, c.k, c.n, c.weight_dtype, c.output_dtype, c.bias
            ),
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            dtype=c.output_dtype,
            compute_kernel_config=c.prefill_kernel,
        )
        return ttnn.reshape(x, (1, 1, seq_len, c.n))
