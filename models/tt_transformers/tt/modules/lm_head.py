"""The output projection, its vocabulary split over the devices."""

import math
from dataclasses import dataclass

import ttnn

from models.tt_transformers.tt.config.precision import OpGroup, TensorGroup
from models.tt_transformers.tt.config.program_configs import MAX_DECODE_CORES, TILE
from models.tt_transformers.tt.modules.linear import Linear, LinearConfig

# Most output tiles of one matmul on one core. With more, the streamed bf16 weight tiles do not fit L1 beside them.
MAX_TILES_A_CORE = 16


@dataclass(frozen=True)
class LMHeadConfig:
    """`ranks`: number of devices that the vocabulary is split over. `splits`: matmuls that together make one device's
    columns. The weight's format is the precision group `lm_head`. The fidelity is that of the first layer's wqkv in
    decode."""

    ranks: int
    splits: tuple[LinearConfig, ...]

    @classmethod
    def resolve(cls, args) -> "LMHeadConfig":
        dim_tiles = args.dim // TILE
        cores = max(
            n for n in range(1, MAX_DECODE_CORES + 1) if dim_tiles % n == 0 and args.chip.rectangle(n)
        )
        # Whole tiles on every core; the columns past the vocabulary are zeros, cut off on the host.
        tiles_a_core = math.ceil(args.arch.vocab_size / (args.placement.model_ranks * cores * TILE))
        parts = math.ceil(tiles_a_core / MAX_TILES_A_CORE)
        precision = args.precision.layer(0)
        kernel = precision.kernel(OpGroup.LI_QKV_DECODE)
        return cls(
            args.placement.model_ranks,
            tuple(
                LinearConfig(
                    chip=args.chip, k=args.dim, n=tiles * cores * TILE, cores=cores,
                    weight_dtype=precision.dtype(TensorGroup.LM_HEAD), output_dtype=ttnn.bfloat16,
                    decode_kernel=kernel, prefill_kernel=kernel,
                )
                for tiles in _even_parts(tiles_a_core, parts)
            )
        )

    @property
    def columns(self) -> int:
        """Columns of one device, padding included."""
        return sum(split.n for split in self.splits)


class LMHead:
    """Only sees up to 32 rows, so it has no prefill_forward.

    x: [1, 1, <= 32, dim], L1 width-sharded -> logits [1, 1, <= 32, columns], bf16, DRAM interleaved. Device d has the
    logits of the tokens from d * columns on.
    """

    def __init__(self, config: LMHeadConfig, weights, ccl):
        self.ccl = ccl
        self.splits = []
        offset = 0
        for index, split in enumerate(config.splits):
            starts = [device * config.columns + offset for device in range(config.ranks)]
            self.splits.append(Linear(split, weights.vocabulary_columns(index, starts, split)))
            offset += split.n

    def decode_forward(self, x):
        logits = [
            ttnn.sharded_to_interleaved(split.decode_forward(x), ttnn.DRAM_MEMORY_CONFIG) for split in self.splits
        ]
        logits = ttnn.concat(logits, dim=3, memory_config=ttnn.DRAM_MEMORY_CONFIG)
        return self.ccl.sum_logits(logits, ttnn.DRAM_MEMORY_CONFIG)


def _even_parts(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
