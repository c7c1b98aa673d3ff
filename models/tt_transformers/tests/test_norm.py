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
from models.tt_transformers.tt.modules.norm import residual_norm
from models.tt_transformers.tt.placement import Placement

ROWS, EPS = 32, 1e-5


@pytest.mark.parametrize(
    "mesh_name, dim, cores",
    [
        ("N150", 896, 28),  # not padded
        ("T3K", 896, 32),  # padded to 1024
        ("N150", 80, 3),  # padded to 96
        ("N150", 5120, 32),  # too wide for a row-major weight
        ("TG", 896, 7),  # 224 columns on each of a row's devices
        ("TG", 80, 1),  # padded to 128
        ("TG", 20480, 32),  # too wide for a row-major weight
    ],
)
def test_a_norm_is_within_half_a_bf16_step_of_the_exact_one(mesh_name, dim, cores):
    # Small enough that epsilon counts.
    x, weight = (torch.randn(ROWS, dim) * 0.003).bfloat16(), (1 + 0.2 * torch.randn(dim)).bfloat16()
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + EPS) * weight.double()
    with open_mesh(mesh_name) as mesh_device:
        placement = Placement.of(mesh_device)
        arch = SimpleNamespace(dim=dim, norm_eps=EPS)
        args = SimpleNamespace(arch=arch, placement=placement, chip=ChipLayout.of(mesh_device))
        weights = Weights(mesh_device, placement, SimpleNamespace(read=lambda names: [(names, weight)]), WeightCache(None, {}))
        norm = residual_norm(args, weights, "norm", cores, make_ccl(placement, weights.constants, max_batch_size=ROWS))
        weights.load()
        for forward, memory_config in (
            (norm.decode_forward, ttnn.L1_MEMORY_CONFIG), (norm.prefill_forward, ttnn.DRAM_MEMORY_CONFIG)
        ):  # fmt: skip
            y = forward(
                ttnn.from_torch(
                    pad(x, (0, placement.padded_dim(dim) - dim))[None, None], layout=ttnn.TILE_LAYOUT, device=mesh_device,
                    memory_config=memory_config, mesh_mapper=placement.mapper(mesh_device, residual=3),
                )  # fmt: skip
            )
            parts = [ttnn.to_torch(part)[0, 0] for part in ttnn.get_device_tensors(y)[: placement.input_ranks]]
            y = torch.cat(parts, dim=1).double()
            # Half a step is 2 ** -8 of the smallest number with the same exponent; fp32 sums add a little. Devices that
            # share a row exchange their sums in bf16.
            half_step = 2**-8 + (2**-10 if placement.is_grid else 0)
            assert ((y[:, :dim] - exact).abs() <= exact.abs() * half_step * 1.001).all()
            assert not y[:, dim:].any()
