"""Causal attention of prompts against float64, and the independence of its rows."""

import pytest
import torch

from models.common.ttnn_emulator.ops.transformer import _causal

CASES = [  # batch, heads, kv_heads, queries, width, start, window
    (1, 8, 8, 128, 96, 0, None),
    (2, 4, 2, 70, 80, 0, None),
    (1, 4, 1, 33, 24, 95, None),
    (1, 4, 4, 300, 64, 100, 77),
    (1, 2, 2, 513, 128, 0, 1),
    (1, 1, 1, 1, 32, 0, 9),
    (1, 2, 1, 260, 8, 64, 64),
    (3, 6, 2, 257, 256, 511, 200),
]


def tensors(batch, heads, kv_heads, queries, width, start, *_):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, queries, width), *[(batch, kv_heads, start + queries, width)] * 2]
    return [2 * torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def in_float64(q, k, v, start, scale, window):
    group, end = q.shape[1] // k.shape[1], start + q.shape[2]
    k, v = (each.double().repeat_interleave(group, 1) for each in (k, v))
    query, key = torch.arange(start, end)[:, None], torch.arange(end)
    hidden = (key > query) | (key <= query - (end if window is None else window))
    return (q.double() @ k.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("case", CASES)
def test_it_is_that_of_float64_to_the_rounding_of_bf16(case):
    q, k, v = tensors(*case)
    start, window, scale = case[5], case[6], case[4] ** -0.5
    found, expected = _causal(q, k, v, start, scale, window).double(), in_float64(q, k, v, start, scale, window)
    assert (found - expected).norm() < 2**-8.5 * expected.norm()
    # A weight is rounded too, so what is nearly cancelled can be off by a part of the largest value.
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=2**-7 * v.abs().max().item())


def test_a_row_has_the_same_bits_alone_in_any_chunk_and_with_any_threads():
    q, k, v = tensors(2, 4, 2, 400, 80, 0)
    whole = _causal(q, k, v, 0, 0.1)
    for first, last in ((0, 1), (0, 37), (37, 291), (291, 400), (399, 400)):
        part = _causal(q[1:, :, first:last], k[1:, :, :last], v[1:, :, :last], first, 0.1)
        assert torch.equal(part, whole[1:, :, first:last])
    assert torch.equal(_causal(q[:, 2:], k[:, 1:], v[:, 1:], 0, 0.1), whole[:, 2:])
    turned = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in (q, k, v)]
    assert torch.equal(_causal(*turned, 0, 0.1), whole), "heads may lie in any order in memory"
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        assert torch.equal(_causal(q, k, v, 0, 0.1), whole)
    finally:
        torch.set_num_threads(threads)


def test_large_scores_choose_and_what_is_not_a_number_stays_in_its_row():
    q, k, v = tensors(1, 2, 2, 130, 72, 0)
    q[0, 0, 100] = 1e4 * k[0, 0, 7]
    q[0, 0, 5] = torch.nan
    found = _causal(q, k, v, 0, 1.0)
    assert torch.equal(found[0, 0, 100], v[0, 0, 7])
    assert found[0, 0, 5].isnan().all() and not found[0, 0, torch.arange(130) != 5].isnan().any()
    assert not found[0, 1].isnan().any()
