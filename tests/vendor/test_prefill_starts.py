"""The vendor's checks accept a prefill from any page on: Phi-3-mini at full width, 1 layer, on the mock device."""

import pytest

CODE = """
import sys

import models
import torch
from models.common.mesh import open_mesh
from models.tt_transformers.measure.capacity import MODEL, AllocatedWeights, allocate
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches

block_size = int(sys.argv[1])
with open_mesh() as mesh_device:
    args = ModelArgs(
        mesh_device, max_seq_len=4096, hf_model=MODEL, dummy_weights=True, num_layers=1,
        page_params={"block_size": block_size, "max_num_blocks": 4096 // block_size},
    )
    pages = torch.arange(4096 // block_size, dtype=torch.int32)[None]
    with Generator.build(args, AllocatedWeights(args), make_kv_caches(args, allocate)) as generator:
        for start in range(block_size, 512 + block_size, block_size):
            generator.runner.prefill([[1] * 100], [0], [start], pages)
        args.prefill_chunk_size = 4096
        generator.runner.prefill([[1] * (4095 - 3 * block_size)], [0], [3 * block_size], pages)
        print(generator.runner.prefill([[1] * 64], [0], [4032 // block_size * block_size], pages).shape)
"""


@pytest.mark.vendor
@pytest.mark.parametrize("mesh, block_size", [("N150", 32), ("N300", 64), ("T3K", 128)])
def test_a_prefill_starts_at_any_page(run_on_mock, mesh, block_size):
    assert run_on_mock(mesh, CODE, str(block_size)).endswith("torch.Size([1, 32064])\n")
