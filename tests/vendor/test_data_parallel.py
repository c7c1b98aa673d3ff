"""Data parallel on the vendor's mock device, and in lockstep: groups of one and of several devices."""

import pytest

from tests.support.wide import some_of

# Two users in each group: a prefill, then a decode step.
PROGRAM = """
import sys

import models
import torch
from models.common.mesh import open_mesh
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs

with open_mesh() as mesh_device:
    pages = {"block_size": 32, "max_num_blocks": 16}
    args = ModelArgs(
        mesh_device, data_parallel=int(sys.argv[1]), num_layers=1, max_batch_size=2, max_seq_len=256, page_params=pages
    )
    with Generator.build(args) as generator:
        generator.prefill([[3] * 40, [4] * 50] * args.data_parallel)
        logits = generator.decode([3, 4] * args.data_parallel)
print(all(torch.equal(logits[0], row) for row in logits[::2]))
"""


@pytest.mark.vendor
@pytest.mark.parametrize(
    "backend, mesh, groups",
    some_of(
        [("lockstep", "N300", 2), ("lockstep", "T3K", 4), ("lockstep", "T3K", 8), ("mock", "TG", 4), ("mock", "TG", 32)],
        ("lockstep", "N300", 2), ("mock", "TG", 4),
    ),
)
def test_the_vendor_accepts_every_op_of_every_group(run_on_mock, backend, mesh, groups):
    assert run_on_mock(mesh, PROGRAM, str(groups), backend=backend).endswith("True\n")
