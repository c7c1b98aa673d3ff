"""The sizes of the vision model on one device."""

from dataclasses import dataclass
from functools import partial

import ttnn

from models.common.chip import TILE, whole_tiles
from models.tt_transformers.tt.config.precision import OpGroup, TensorGroup
from models.tt_transformers.tt.config.program_configs import ChipLayout, padded_prefill_length
from models.tt_transformers.tt.config.vision import VisionArchitecture
from models.tt_transformers.tt.modules.linear import LinearConfig
from models.tt_transformers.tt.modules.norm import NormScale
from models.tt_transformers.tt.placement import HeadSplit


@dataclass(frozen=True)
class VisionConfig:
    """The vision model on one device. Its weights have the format and fidelity of the first layer's wqkv, activations are
    bf16: a block format of four bits would lose what distinguishes images.

    `rows`: rows of an image in the encoder: those of all tiles, padded for the ops; `heads`, `head_dim`: padded.
    """

    arch: VisionArchitecture
    chip: ChipLayout
    ranks: int
    rows: int
    heads: HeadSplit
    head_dim: int
    sdpa_kernel: object
    patch: LinearConfig
    wqkv: LinearConfig
    wo: LinearConfig
    w1: LinearConfig
    w2: LinearConfig
    projector: LinearConfig

    @classmethod
    def resolve(cls, args) -> "VisionConfig":
        """Raises ValueError for a width that does not split over the devices in whole tiles."""
        arch, placement, precision = args.arch.vision, args.placement, args.precision.layer(0)
        unit = TILE * placement.residual_ranks
        if arch.dim % unit:
            raise ValueError(
                f"vision_config: hidden_size {arch.dim} does not split over {args.device_name} in whole tiles; "
                f"it must be a multiple of {unit}"
            )
        heads, head_dim = placement.heads(arch.n_heads, arch.n_heads), whole_tiles(arch.head_dim)
        hidden, local_dim = placement.model_width(arch.hidden_dim), placement.residual_width(arch.dim)
        kernel = precision.kernel(OpGroup.LI_QKV_PREFILL)
        linear = partial(
            _linear, args.chip, weight_dtype=precision.dtype(TensorGroup.WQKV), output_dtype=ttnn.bfloat16,
            decode_kernel=kernel, prefill_kernel=kernel,
        )  # fmt: skip
        return cls(
            arch=arch, chip=args.chip, ranks=placement.residual_ranks,
            rows=padded_prefill_length(arch.max_tiles * arch.rows_a_tile), heads=heads, head_dim=head_dim,
            sdpa_kernel=precision.kernel(OpGroup.SDPA_PREFILL),
            patch=linear(whole_tiles(arch.patch_features), local_dim),
            wqkv=linear(arch.dim, (heads.n_heads + 2 * heads.n_kv_heads) * head_dim),
            wo=linear(heads.n_heads * head_dim, arch.dim),
            w1=linear(arch.dim, hidden, bias=True), w2=linear(hidden, arch.dim, bias=True),
            projector=linear(local_dim * (1 + len(arch.intermediate_layers)), args.dim, bias=True),
        )  # fmt: skip

    @property
    def linears(self) -> list[LinearConfig]:
        """Every matrix of the vision model."""
        arch, layer = self.arch, [self.wqkv, self.wo, self.w1, self.w2]
        return [self.patch, self.projector, *layer * (arch.n_layers + arch.n_global_layers)]

    def norm(self, eps: float) -> NormScale:
        """A layer norm over the whole width."""
        return NormScale(self.arch.dim, self.arch.dim, eps)


def _linear(chip: ChipLayout, k: int, n: int, **options) -> LinearConfig:
    return LinearConfig(chip=chip, k=k, n=n, cores=chip.decode_cores(k, n), **options)
