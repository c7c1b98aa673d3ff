"""`op_costs` counts ops by name, and bytes as computed by hand in these tests."""

import pytest
import torch
import ttnn

from models.common import backend, op_costs
from models.common.mesh import open_mesh

TILE = 32 * 32
BFP8_TILE, BFP4_TILE = TILE + 64, TILE // 2 + 64


def on_device(shape, dtype, device, layout=ttnn.TILE_LAYOUT):
    return ttnn.from_torch(torch.ones(shape), dtype=dtype, layout=layout, device=device)


def test_a_linear_reads_its_inputs_and_writes_its_output_with_tile_padding():
    with open_mesh("N150") as device:
        x = on_device((1, 1, 3, 64), ttnn.bfloat16, device)
        weight = on_device((64, 96), ttnn.bfloat4_b, device)
        with op_costs.recording() as records:
            ttnn.linear(x, weight)
            ttnn.add(x, x)
    costs = op_costs.OpCosts.of(records, context_len=1)
    assert costs.ops == {"ttnn.linear": 1, "ttnn.add": 1} and costs.op_count == 2
    assert costs.weight_bytes == 6 * BFP4_TILE
    assert costs.bytes_moved == (2 * TILE * 2 + 6 * BFP4_TILE + 3 * TILE * 2) + 3 * (2 * TILE * 2)


def test_an_embedding_reads_the_rows_that_it_returns_only():
    with open_mesh("N150") as device:
        table = on_device((4096, 64), ttnn.bfloat16, device, ttnn.ROW_MAJOR_LAYOUT)
        ids = ttnn.from_torch(torch.tensor([[1, 2]]), dtype=ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT, device=device)
        with op_costs.recording() as records:
            ttnn.embedding(ids, table, layout=ttnn.ROW_MAJOR_LAYOUT)
    assert op_costs.OpCosts.of(records, context_len=1).bytes_moved == 2 * 4 + 2 * (2 * 64 * 2)


def test_decode_attention_reads_the_context_not_the_whole_cache():
    users, heads, block, head_dim, context = 2, 4, 32, 96, 64
    with open_mesh("N150") as device:
        query = on_device((1, users, heads, head_dim), ttnn.bfloat16, device)
        cache = on_device((16, heads, block, head_dim), ttnn.bfloat8_b, device)
        pages = torch.arange(16, dtype=torch.int32).view(users, 8)
        page_table = ttnn.from_torch(pages, dtype=ttnn.int32, layout=ttnn.ROW_MAJOR_LAYOUT, device=device)
        positions = ttnn.from_torch(
            torch.full((users,), context - 1), dtype=ttnn.int32, layout=ttnn.ROW_MAJOR_LAYOUT, device=device
        )
        with op_costs.recording() as records:
            ttnn.transformer.paged_scaled_dot_product_attention_decode(
                query, cache, cache, page_table_tensor=page_table, cur_pos_tensor=positions
            )
    cached = 2 * users * heads * (context // 32) * (head_dim // 32) * BFP8_TILE
    query_bytes = users * (head_dim // 32) * TILE * 2
    assert op_costs.OpCosts.of(records, context).bytes_moved == 2 * query_bytes + cached + 4 * 16 + 4 * users


def test_a_profile_counts_each_replay_of_a_trace():
    with open_mesh("N150") as device:
        x = on_device((1, 1, 32, 32), ttnn.bfloat16, device)
        trace = ttnn.begin_trace_capture(device, cq_id=0)
        ttnn.add(x, x)
        ttnn.end_trace_capture(device, trace, cq_id=0)
        with op_costs.profiling() as profile, op_costs.recording() as records:
            for _ in range(3):
                ttnn.execute_trace(device, trace, cq_id=0)
    calls, seconds = profile["ttnn.add"]
    assert calls == 3 and seconds > 0
    assert records == [], "a replayed op is not called by Python"


def test_other_backends_have_no_op_log(monkeypatch):
    monkeypatch.setattr(backend, "name", lambda: "mock")
    with pytest.raises(RuntimeError, match="the backend is mock"):
        op_costs.profiling()
