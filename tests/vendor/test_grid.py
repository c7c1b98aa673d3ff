"""Tensor parallel in two dimensions passes the vendor's checks: Llama-3.1-70B at full width, 2 layers, on a Galaxy."""

from itertools import product

import pytest

from tests.support.wide import some_of

# Whole prompts, up to the context, one in chunks, and decode steps. With `users`, those of all columns.
CODE = """
import sys
import models
from models.common.mesh import open_mesh
from models.tt_transformers.measure.capacity import AllocatedWeights, allocate
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches

mode, users, *lengths = sys.argv[1:]
with open_mesh() as mesh_device:
    args = ModelArgs(
        mesh_device, hf_model="meta-llama/Llama-3.1-70B", dummy_weights=True, num_layers=2, optimizations=mode,
        max_batch_size=int(users), max_seq_len=131072, page_params={"block_size": 64, "max_num_blocks": 2048},
    )
    with Generator.build(args, AllocatedWeights(args), make_kv_caches(args, allocate)) as generator:
        for length in map(int, lengths):
            generator.prefill([[1] * length])
        generator.decode([1])
        args.prefill_chunk_size = 1024
        generator.prefill([[1] * 2100] + [[1] * 128] * (int(users) - 1))
        generator.decode([1] * int(users))
        args.prefill_chunk_size = 16384
        generator.prefill([[1] * 131071])
        generator.decode([1])
print("accepted")
"""
LENGTHS = ("128", "1024", "2048", "4096", "8192", "131071")
LINKS = {"ring": {}, "line": {"LINE_AG": "1", "LINE_RS": "1"}, "sums in line": {"LINE_RS": "1"}}


@pytest.mark.vendor
@pytest.mark.parametrize(
    "links, mode, users", some_of(list(product(LINKS, ("performance", "accuracy"), ("1", "32"))), ("ring", "performance", "32"))
)
def test_a_70b_model_is_accepted_on_a_galaxy(run_on_mock, monkeypatch, links, mode, users):
    for variable, value in LINKS[links].items():
        monkeypatch.setenv(variable, value)
    assert run_on_mock("TG", CODE, mode, users, *LENGTHS).splitlines()[-1] == "accepted"
