"""KV caches and attention on the emulator alone."""

import pytest
import torch
import ttnn
from torch.nn.functional import scaled_dot_product_attention

from models.common.pcc import pcc

HEAD_DIM, PAGE = 96, 32
TILE, ROWS = ttnn.TILE_LAYOUT, ttnn.ROW_MAJOR_LAYOUT


def on(device, values, dtype=ttnn.bfloat16, memory_config=None):
    layout = TILE if values.is_floating_point() else ROWS
    return ttnn.from_torch(values, dtype=dtype, layout=layout, device=device, memory_config=memory_config)


def ints(device, values):
    return on(device, torch.as_tensor(values, dtype=torch.int32), ttnn.int32)


def per_user(device, values):
    """`[1, B, heads, head_dim]` height-sharded, one user per core."""
    cores = ttnn.num_cores_to_corerangeset(values.shape[1], ttnn.CoreCoord(8, 8), row_wise=True)
    spec = ttnn.ShardSpec(cores, (32, values.shape[-1]), ttnn.ShardOrientation.ROW_MAJOR)
    config = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, spec)
    return on(device, values, memory_config=config)


def random(*shape):
    return torch.randn(shape).bfloat16()


class Pages:
    """A paged K and V cache for `users` with `pages` pages each, in shuffled or consecutive order."""

    def __init__(self, device, users, heads=8, pages=16, shuffled=True, dtype=ttnn.bfloat16):
        count = users * pages
        order = torch.randperm(count) if shuffled else torch.arange(count)
        self.device, self.order, self.dtype = device, order.view(users, pages).to(torch.int32), dtype
        self.table = ints(device, self.order)
        self.k, self.v = (on(device, torch.zeros(count, heads, PAGE, HEAD_DIM), dtype) for _ in "kv")

    def fill(self, user, k, v):
        for cache, values in ((self.k, k), (self.v, v)):
            rounded = on(self.device, values, self.dtype)
            ttnn.experimental.paged_fill_cache(cache, rounded, self.table, batch_idx=user)

    def update(self, positions, k, v):
        for cache, values in ((self.k, k), (self.v, v)):
            ttnn.experimental.paged_update_cache(
                cache, per_user(self.device, values), update_idxs_tensor=positions, page_table=self.table
            )

    def decode(self, q, positions, **options):
        return ttnn.transformer.paged_scaled_dot_product_attention_decode(
            per_user(self.device, q), self.k, self.v, self.table, cur_pos_tensor=positions, **options
        )

    def chunk(self, user, q, start, **options):
        row = ints(self.device, self.order[user : user + 1])
        return ttnn.transformer.chunked_scaled_dot_product_attention(
            on(self.device, q), self.k, self.v, row, start, **options
        )

    def read(self, cache, user):
        """`[heads, positions, head_dim]` of one user."""
        return ttnn.to_torch(cache)[self.order[user].long()].transpose(0, 1).flatten(1, 2)


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("length", [1, 32, 100, 512])
def test_filled_pages_hold_what_was_written_and_nothing_else(device, shuffled, length):
    pages = Pages(device, users=3, shuffled=shuffled)
    k, v = random(1, 8, length, HEAD_DIM), random(1, 8, length, HEAD_DIM)
    pages.fill(1, k, v)
    for cache, values in ((pages.k, k), (pages.v, v)):
        assert torch.equal(pages.read(cache, 1)[:, :length], values[0])
        assert not pages.read(cache, 1)[:, length:].any()
        assert not pages.read(cache, 0).any() and not pages.read(cache, 2).any()


def test_a_page_of_minus_one_is_skipped_when_filling(device):
    pages = Pages(device, users=1)
    rows = random(1, 8, 96, HEAD_DIM)
    table = pages.order.clone()
    table[0, 1] = -1
    ttnn.experimental.paged_fill_cache(pages.k, on(device, rows), ints(device, table))
    written = pages.read(pages.k, 0)
    assert torch.equal(written[:, :32], rows[0, :, :32]) and torch.equal(written[:, 64:96], rows[0, :, 64:])
    assert not written[:, 32:64].any()


@pytest.mark.parametrize("dtype", [ttnn.float32, ttnn.bfloat16, ttnn.bfloat8_b, ttnn.bfloat4_b])
def test_an_update_writes_one_rounded_row_per_user_and_skips_minus_one(device, dtype):
    pages = Pages(device, users=4, dtype=dtype)
    k, v = random(1, 4, 8, HEAD_DIM), random(1, 4, 8, HEAD_DIM)
    positions = [0, -1, 31, 300]
    pages.update(ints(device, positions), k, v)
    rounded = ttnn.to_torch(on(device, k, dtype)).bfloat16()
    for user, position in enumerate(positions):
        written = pages.read(pages.k, user).bfloat16()
        if position >= 0:
            assert torch.equal(written[:, position], rounded[0, user])
            written[:, position] = 0
        assert not written.any()


def test_an_update_past_the_page_table_is_refused(device):
    pages = Pages(device, users=2)
    with pytest.raises(RuntimeError, match="user 1's position 512"):
        pages.update(ints(device, [0, 512]), random(1, 2, 8, HEAD_DIM), random(1, 2, 8, HEAD_DIM))


@pytest.mark.parametrize("heads", [8, 2])
def test_decode_attention_is_torchs(device, heads):
    pages = Pages(device, users=3, heads=heads)
    lengths = [1, 100, 512]
    q = random(1, 3, 8, HEAD_DIM)
    expected = []
    for user, length in enumerate(lengths):
        k, v = random(1, heads, length, HEAD_DIM), random(1, heads, length, HEAD_DIM)
        pages.fill(user, k, v)
        query = q[:, user, :, None].float()
        expected.append(scaled_dot_product_attention(query, k.float(), v.float(), enable_gqa=True)[:, :, 0])
    actual = ttnn.to_torch(pages.decode(q, ints(device, [length - 1 for length in lengths])))
    assert pcc(actual.float(), torch.stack(expected, dim=1)) >= 0.9999


@pytest.mark.parametrize("heads", [8, 1])
def test_a_users_decode_attention_does_not_depend_on_the_other_users(device, heads):
    pages = Pages(device, users=8, heads=heads)
    for user in range(8):
        pages.fill(user, random(1, heads, 500, HEAD_DIM), random(1, heads, 500, HEAD_DIM))
    q = random(1, 8, 8, HEAD_DIM)
    positions = [0, 31, 32, 100, 127, 128, 400, 499]
    together = ttnn.to_torch(pages.decode(q, ints(device, positions)))
    for user, position in enumerate(positions):
        others = [-1 if user != each else position for each in range(8)]
        alone = ttnn.to_torch(pages.decode(q, ints(device, others)))
        assert torch.equal(alone[:, user], together[:, user]), f"user {user}"
        assert not alone[:, [each for each in range(8) if each != user]].any()


def test_pages_in_any_order_give_the_same_attention(device):
    k, v, q = random(1, 8, 500, HEAD_DIM), random(1, 8, 500, HEAD_DIM), random(1, 1, 8, HEAD_DIM)
    results = []
    for shuffled in (True, False):
        pages = Pages(device, users=1, shuffled=shuffled)
        pages.fill(0, k, v)
        results.append(ttnn.to_torch(pages.decode(q, ints(device, [499]))))
    unpaged = ttnn.transformer.scaled_dot_product_attention_decode(
        per_user(device, q), on(device, pages.read(pages.k, 0)[None]), on(device, pages.read(pages.v, 0)[None]), cur_pos=[499]
    )
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], ttnn.to_torch(unpaged))


def test_decode_attention_over_many_pages_is_torchs(device):
    pages = Pages(device, users=1, heads=32, pages=64)
    k, v, q = random(1, 32, 2000, HEAD_DIM), random(1, 32, 2000, HEAD_DIM), random(1, 1, 32, HEAD_DIM)
    pages.fill(0, k, v)
    expected = scaled_dot_product_attention(q[:, 0, :, None].float(), k.float(), v.float())[:, :, 0]
    assert pcc(ttnn.to_torch(pages.decode(q, ints(device, [1999])))[:, 0].float(), expected) >= 0.9999


@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("chunk", [32, 64, 128, 256, 1024])
def test_attention_does_not_depend_on_how_a_prompt_is_cut(device, chunk, kv_heads):
    length = 1100
    q, k, v = random(1, 8, length, HEAD_DIM), random(1, kv_heads, length, HEAD_DIM), random(1, kv_heads, length, HEAD_DIM)
    whole = ttnn.transformer.scaled_dot_product_attention(on(device, q), on(device, k), on(device, v))
    pages = Pages(device, users=2, heads=kv_heads, pages=40)
    pages.fill(1, k, v)
    parts = [
        ttnn.to_torch(pages.chunk(1, q[:, :, start : start + chunk], start)) for start in range(0, length, chunk)
    ]
    assert torch.equal(torch.cat(parts, dim=2), ttnn.to_torch(whole))


def test_a_window_limits_what_prefill_chunks_and_decode_see(device):
    length, window = 700, 100
    q, k, v = (random(1, 8, length, HEAD_DIM) for _ in "qkv")
    seen = torch.ones(length, length).tril() - torch.ones(length, length).tril(-window)
    expected = scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=seen.bool())
    whole = ttnn.transformer.scaled_dot_product_attention(
        on(device, q), on(device, k), on(device, v), sliding_window_size=window
    )
    assert pcc(ttnn.to_torch(whole).float(), expected) >= 0.9999
    pages = Pages(device, users=1, pages=32)
    pages.fill(0, k, v)
    last = pages.chunk(0, q[:, :, 512:], 512, sliding_window_size=window)
    assert pcc(ttnn.to_torch(last).float(), expected[:, :, 512:]) >= 0.9999
    one = pages.decode(q[:, :, -1][:, None], ints(device, [length - 1]), sliding_window_size=window)
    assert pcc(ttnn.to_torch(one)[:, 0].float(), expected[:, :, -1]) >= 0.9999


def test_a_replayed_trace_reads_positions_and_pages_as_they_are_then(device):
    pages = Pages(device, users=2)
    k, v, q = random(1, 2, 8, HEAD_DIM), random(1, 2, 8, HEAD_DIM), random(1, 2, 8, HEAD_DIM)
    for user in range(2):
        pages.fill(user, random(1, 8, 300, HEAD_DIM), random(1, 8, 300, HEAD_DIM))
    positions = ints(device, [200, 10])
    pages.update(positions, k, v)
    expected = ttnn.to_torch(pages.decode(q, positions))

    moved = ints(device, [0, 0])
    q_on = per_user(device, q)
    trace = ttnn.begin_trace_capture(device, cq_id=0)
    out = ttnn.transformer.paged_scaled_dot_product_attention_decode(
        q_on, pages.k, pages.v, pages.table, cur_pos_tensor=moved
    )
    ttnn.end_trace_capture(device, trace, cq_id=0)
    host = ttnn.from_torch(torch.tensor([200, 10], dtype=torch.int32), dtype=ttnn.int32)
    ttnn.copy_host_to_device_tensor(host, moved)
    ttnn.execute_trace(device, trace, cq_id=0, blocking=True)
    assert torch.equal(ttnn.to_torch(out), expected)


def test_shapes_without_values_pass_through(device):
    meta = torch.empty(1, 8, 4096, HEAD_DIM, dtype=torch.bfloat16, device="meta")
    q = ttnn.from_torch(meta, dtype=ttnn.bfloat16, layout=TILE, device=device)
    assert ttnn.transformer.scaled_dot_product_attention(q, q, q).shards[0].is_meta


@pytest.mark.parametrize("dtype", [ttnn.float32, ttnn.bfloat16, ttnn.bfloat8_b])
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dims", [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_a_cache_that_is_a_transpose_is_written_where_it_reads(device, dims, traced, dtype):
    """Its elements lie in another order in memory. In a trace, paged caches are not put in order before."""
    shape = [4, 8, 32, 64]
    shape[dims[0]], shape[dims[1]] = shape[dims[1]], shape[dims[0]]
    source, rows, filled = on(device, random(*shape), dtype), random(1, 4, 8, 64), random(1, 8, 40, 64)
    inputs = [per_user(device, rows), on(device, filled, dtype)]
    positions, pages, table = ints(device, [0, 5, -1, 31]), ints(device, [[2], [1], [0], [3]]), ints(device, [[2, 1], [0, 3]])
    trace = ttnn.begin_trace_capture(device, cq_id=0) if traced else None
    caches = [ttnn.transpose(source, *dims) for _ in range(3)]
    ttnn.experimental.paged_update_cache(caches[0], inputs[0], update_idxs_tensor=positions)
    ttnn.experimental.paged_update_cache(caches[1], inputs[0], update_idxs_tensor=positions, page_table=pages)
    ttnn.experimental.paged_fill_cache(caches[2], inputs[1], table, batch_idx=1)
    if traced:
        ttnn.end_trace_capture(device, trace, cq_id=0)
        ttnn.execute_trace(device, trace, cq_id=0)
    start = ttnn.to_torch(source).transpose(*dims)
    start = ttnn.to_torch(on(device, start, dtype)) if dims[1] == 3 else start  # rounded along another dimension
    rounded, rounded_fill = (ttnn.to_torch(on(device, each, dtype)) for each in (rows, filled))
    for cache, order in zip(caches, ([0, 1, 2, 3], [2, 1, 0, 3])):
        expected = start.clone()
        for user, position in ((0, 0), (1, 5), (3, 31)):
            expected[order[user], :, position] = rounded[0, user]
        assert torch.equal(ttnn.to_torch(cache), expected)
    start[0], start[3, :, :8] = rounded_fill[0, :, :32], rounded_fill[0, :, 32:]
    assert torch.equal(ttnn.to_torch(caches[2]), start)


def test_causal_attention_takes_packed_tensors_and_a_window_of_any_size(device):
    q, k, v = (on(device, random(1, 1, 64, 64), dtype) for dtype in (ttnn.bfloat8_b, ttnn.bfloat4_b, ttnn.bfloat8_b))
    values = [ttnn.to_torch(each).float() for each in (q, k, v)]
    expected = scaled_dot_product_attention(*values, is_causal=True)
    for window in (None, 2**32 + 100):
        found = ttnn.transformer.scaled_dot_product_attention(q, k, v, is_causal=True, sliding_window_size=window)
        torch.testing.assert_close(ttnn.to_torch(found).float(), expected, atol=0.04, rtol=0)


def test_a_norms_weight_must_have_an_element_for_each_column(device):
    weight = ttnn.from_torch(random(1, 1, 2, 32), dtype=ttnn.bfloat16, layout=ROWS, device=device)
    weight = ttnn.reshape(weight, [1, 1, 2, 20], [1, 1, 2, 32])
    with pytest.raises(RuntimeError, match=r"must be \[1, 1, 2, 32\], got \[1, 1, 2, 20\]"):
        ttnn.rms_norm(on(device, random(1, 1, 32, 64)), weight=weight)
