"""The columns of a grid of devices, served as the lanes of Tenstorrent's vLLM plugin: own users, pages and prefixes."""

import pytest
import torch

from models.common.pcc import pcc
from models.demos.llama3_70b_galaxy.tt import generator_vllm as galaxy
from models.tt_transformers.tt.generator_vllm import prefix_caching_refusal
from tests.support.generation import random_tokens
from tests.support.serving import served  # noqa: F401
from tests.support.tiny_models import save_tiny

PROMPTS = [random_tokens(length, seed=length) for length in (70, 45, 70, 33)]
# Users 0 and 1 are of the first column, 2 and 3 of the second.
PAGES = torch.tensor([[0, 1, 2, 7], [3, 4, 7, 7], [2, 1, 0, 7], [4, 3, 7, 7]], dtype=torch.int32)


@pytest.fixture
def model(tmp_path):
    save_tiny("Llama", tmp_path / "model")
    return tmp_path / "model"


def padded(rows):
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def prefill(made, kv_cache, slots, start_pos=None, pages=PAGES):
    rows = [PROMPTS[slot] for slot in slots]
    return made.prefill_forward(padded(rows), pages[slots], kv_cache, list(map(len, rows)), start_pos, empty_slots=slots)[:, 0]


def decode(made, kv_cache, slot_remap=None):
    positions = [len(prompt) for prompt in PROMPTS] + [-1] * 4
    pages = torch.cat([PAGES, torch.zeros_like(PAGES)])
    return made.decode_forward(torch.full((8, 1), 7), positions, pages, kv_cache, slot_remap=slot_remap)[:4, 0]


def test_lanes_use_the_same_page_numbers_for_different_requests(served, model):
    made, kv_cache = served("TG", model, "LlamaForCausalLM", users=8, max_seq_len=128, lanes=4, pages=8, module=galaxy)
    logits = torch.stack([prefill(made, kv_cache, [0, 1, 2, 3]), decode(made, kv_cache)])
    expected = torch.stack([made.generator.prefill(PROMPTS), made.generator.decode([7] * 4)])
    assert torch.equal(logits, expected)


def test_a_prefix_is_shared_within_a_lane_only(served, model):
    made, kv_cache = served("TG", model, "LlamaForCausalLM", users=8, max_seq_len=128, lanes=4, pages=8, module=galaxy)
    whole = prefill(made, kv_cache, [0])[0]
    (again,) = made.prefill_forward(torch.tensor([PROMPTS[0]]), PAGES[:1], kv_cache, [70], [64], empty_slots=[1])[:, 0]
    assert pcc(again, whole) >= 0.9999
    (elsewhere,) = made.prefill_forward(torch.tensor([PROMPTS[0]]), PAGES[:1], kv_cache, [70], [64], empty_slots=[2])[:, 0]
    assert pcc(elsewhere, whole) < 0.9  # the pages of these numbers in the second column are empty


def test_a_server_without_lanes_keeps_requests_in_their_columns_and_shares_no_prefixes(served, model):
    made, kv_cache = served("TG", model, "LlamaForCausalLM", users=8, max_seq_len=128, pages=8)
    prefill(made, kv_cache, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="user 1: a prefill from position 64 .* prefix caching is not supported where each column"):
        made.prefill_forward(torch.tensor([PROMPTS[0]]), PAGES[:1], kv_cache, [70], [64], empty_slots=[1])
    with pytest.raises(ValueError, match="the sequence of slot 2 cannot move to slot 0, .*tt_data_parallel 4"):
        decode(made, kv_cache, slot_remap=torch.tensor([2, 1, 0, 3, 4, 5, 6, 7]))
    assert "no lanes" in prefix_caching_refusal(str(model), 128, "TG")
    assert prefix_caching_refusal(str(model), 128, "T3K") is None
