"""RMS norm of rows that zeros pad: it divides by the true width, and is as exact as without padding."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import pad

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.common.mesh import open_mesh
from models.tt_transformers.tt.checkpoints.cache import WeightCache
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.program_configs import ChipLayout
from models.tt_transformers.tt.modules.ccl import make_ccl
from models.tt_transformers.tt.modules.norm import DistributedNorm, NormConfig, NormScale
from models.tt_transformers.tt.placement import Placement

ROWS, EPS = 32, 1e-5


@pytest.mark.parametrize(
    "mesh_name, dim, cores",
    [
        ("N150", 896, 28),  # not padded
        ("T3K", 896, 32),  # padded to 1024
        ("N150", 80, 3),  # padded to 96
        ("N150", 5120, 32),  # too wide for a row-major weight
    ],
)
def test_a_norm_is_within_half_a_bf16_step_of_the_exact_one(mesh_name, dim, cores):
    # Small enough that epsilon counts.
    x, weight = (torch.randn(ROWS, dim) * 0.003).bfloat16(), (1 + 0.2 * torch.randn(dim)).bfloat16()
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + EPS) * weight.double()
    with open_mesh(mesh_name) as mesh_device:
        placement = Placement.of(mesh_device)
        scale = NormScale(dim, placement.padded_dim(dim), EPS)
        weights = Weights(mesh_device, placement, SimpleNamespace(read=lambda names: [(names, weight)]), WeightCache(None, {}))
        config = NormConfig(ChipLayout.of(mesh_device), scale, cores)
        norm = DistributedNorm(config, weights.norm("norm", scale), make_ccl(placement))
        weights.load()
        for forward, memory_config in (
            (norm.decode_forward, ttnn.L1_MEMORY_CONFIG), (norm.prefill_forward, ttnn.DRAM_MEMORY_CONFIG)
        ):  # fmt: skip
            y = forward(
                ttnn.from_torch(
                    pad(x, (0, scale.width - dim))[None, None], layout=ttnn.TILE_LAYOUT, device=mesh_device,
                    memory_config=memory_config, mesh_mapper=placement.mapper(mesh_device, residual=3),
                )  # fmt: skip
            )
            y = ttnn.to_torch(ttnn.get_device_tensors(y)[0])[0, 0].double()
            # Half a step is 2 ** -8 of the smallest number with the same exponent; fp32 sums add a little.
            assert ((y[:, :dim] - exact).abs() <= exact.abs() * 2**-8 * 1.001).all()
            assert not y[:, dim:].any()
