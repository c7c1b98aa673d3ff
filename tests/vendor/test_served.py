"""The vendor's checks accept what a server does with a model: the bundled checkpoint on the mock device."""

import pytest

CODE = """
import os, tempfile

import models
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from tests.support.serving import Request, Scheduler, open_served

os.environ["TT_CACHE_PATH"] = tempfile.mkdtemp()
with open_served(os.environ["MESH_DEVICE"], BUNDLED, "Phi3ForCausalLM", users=4, max_seq_len=1024) as (model, kv_cache):
    model.warmup_model_prefill(kv_cache, enable_trace=False)
    model.warmup_model_decode(kv_cache, enable_trace=True, max_batch_size=4, num_blocks=32)
    requests = [Request([3] * length, [4] * 3) for length in (20, 511, 512, 600, 130)]
    scheduler = Scheduler(model, kv_cache, chunk=300)
    scheduler.add(*requests)
    scheduler.run()
    print([len(request.logits) for request in requests], requests[0].logits[0].shape)
"""


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", ["N150", "N300", "T3K"])
def test_a_servers_prefill_and_decode_are_accepted(run_on_mock, mesh):
    """Prompts in pieces, rows that move, a decode step across LongRoPE's switch at 512 tokens."""
    assert run_on_mock(mesh, CODE).endswith("[3, 3, 3, 3, 3] torch.Size([4096])\n")
