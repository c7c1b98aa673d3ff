"""Ops that move elements give torch's values, also on shapes that do not fill whole tiles."""

import pytest
import torch
import ttnn

from models.common.ttnn_emulator.bfp import round_bfp8


def put(device, values, dtype=ttnn.bfloat16, **options):
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device, **options)


SHAPE = (2, 3, 40, 70)
OPS = {
    "reshape": (lambda t: ttnn.reshape(t, (3, -1, 35)), lambda v: v.reshape(3, -1, 35)),
    "view of fewer dimensions": (lambda t: ttnn.reshape(t, (6, 40, 70)), lambda v: v.reshape(6, 40, 70)),
    "permute": (lambda t: ttnn.permute(t, (2, 0, 3, 1)), lambda v: v.permute(2, 0, 3, 1)),
    "transpose": (lambda t: ttnn.transpose(t, -1, 1), lambda v: v.transpose(-1, 1)),
    "slice": (lambda t: ttnn.slice(t, (0, 1, 5, 0), (2, 3, 40, 69)), lambda v: v[:, 1:, 5:, :69]),
    "slice with steps": (lambda t: ttnn.slice(t, (0, 0, 0, 0), SHAPE, (1, 2, 3, 1)), lambda v: v[:, ::2, ::3]),
    "index": (lambda t: t[1, ..., -3:], lambda v: v[1, ..., -3:]),
    "concat": (lambda t: ttnn.concat([t, t], dim=2), lambda v: torch.cat([v, v], 2)),
    "pad": (
        lambda t: ttnn.pad(t, [(0, 24), (0, 26)], 1.5),
        lambda v: torch.nn.functional.pad(v, (0, 26, 0, 24), value=1.5),
    ),
    "repeat": (lambda t: ttnn.repeat(t, (1, 2, 1, 3)), lambda v: v.repeat(1, 2, 1, 3)),
    "repeat_interleave": (lambda t: ttnn.repeat_interleave(t, 2, 1), lambda v: v.repeat_interleave(2, 1)),
    "split": (lambda t: ttnn.split(t, [10, 30], dim=2)[1], lambda v: v[:, :, 10:]),
    "chunk": (lambda t: ttnn.chunk(t, 2, 3)[1], lambda v: v[..., 35:]),
    "squeeze": (lambda t: ttnn.squeeze(ttnn.unsqueeze(t, 1), 1), lambda v: v),
    "to_layout": (lambda t: ttnn.to_layout(t, ttnn.ROW_MAJOR_LAYOUT), lambda v: v),
    "untilize_with_unpadding": (
        lambda t: ttnn.untilize_with_unpadding(t, (1, 2, 4, 68)),
        lambda v: v[:, :, :5, :69],
    ),
    "to_memory_config": (lambda t: ttnn.to_memory_config(t, ttnn.L1_MEMORY_CONFIG), lambda v: v),
    "move": (lambda t: ttnn.move(t, memory_config=ttnn.L1_MEMORY_CONFIG), lambda v: v),
}


@pytest.mark.parametrize("name", OPS)
def test_elements_go_where_torch_puts_them(device, name):
    apply, reference = OPS[name]
    values = torch.randn(SHAPE).bfloat16()
    output = apply(put(device, values))
    expected = reference(values)
    assert output.shape == tuple(expected.shape)
    assert torch.equal(ttnn.to_torch(output), expected)


def test_block_float_is_rounded_again_where_blocks_change(device):
    values = torch.randn(1, 1, 64, 64) * torch.logspace(-3, 3, 64)
    tensor = put(device, values, ttnn.bfloat8_b)
    stored = ttnn.to_torch(tensor).bfloat16()
    turned = ttnn.to_torch(ttnn.transpose(tensor, -1, -2)).bfloat16()
    assert torch.equal(turned, round_bfp8(stored.mT.contiguous())) and not torch.equal(turned, stored.mT)
    rows = ttnn.to_torch(ttnn.permute(tensor, (0, 2, 1, 3))).bfloat16()
    assert torch.equal(rows, stored.permute(0, 2, 1, 3))


def test_reshape_with_padded_shape_shows_rows_of_the_padding(device):
    values = torch.randn(1, 1, 5, 64).bfloat16()
    shown = ttnn.reshape(put(device, values), (1, 1, 32, 64), (1, 1, 32, 64))
    assert torch.equal(ttnn.to_torch(shown)[:, :, :5], values) and ttnn.to_torch(shown)[:, :, 5:].abs().max() == 0
    hidden = ttnn.reshape(shown, (1, 1, 5, 64), (1, 1, 32, 64))
    assert torch.equal(ttnn.to_torch(hidden), values) and hidden.padded_shape == [1, 1, 32, 64]


@pytest.mark.parametrize(
    "source, target, values, expected",
    [
        (ttnn.float32, ttnn.int32, [1.7, -1.7, 3e9], None),
        (ttnn.float32, ttnn.uint16, [1.5, 1.4, -2.0], [2, 1, 0]),
        (ttnn.float32, ttnn.uint32, [1.7, -1.7, 3e9], [1, 0, 3_000_000_000]),
        (ttnn.int32, ttnn.bfloat16, [1, -7, 257], [1.0, -7.0, 256.0]),
        (ttnn.int32, ttnn.bfloat8_b, [1, -7, 64], [1.0, -7.0, 64.0]),
    ],
)
def test_typecast_converts_as_a_card_does(device, source, target, values, expected):
    tensor = put(device, torch.tensor([values], dtype=torch.float64).to(torch.float32), source)
    cast = ttnn.to_torch(ttnn.typecast(tensor, target)).tolist()[0]
    assert cast[:2] == [1, -1] if expected is None else cast == expected


def test_typecast_keeps_replicas_shared(mesh):
    tensor = put(mesh, torch.randn(32, 32))
    cast = ttnn.typecast(tensor, ttnn.bfloat4_b)
    assert len({id(shard) for shard in cast.shards}) == 1
