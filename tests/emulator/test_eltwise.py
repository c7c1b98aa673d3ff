"""Elementwise ops and reductions: behaviour that the golden functions do not cover."""

import pytest
import torch
import ttnn

from models.common.ttnn_emulator.bfp import round_bfp8


def put(device, values, dtype=ttnn.bfloat16):
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)


def test_output_is_rounded_to_its_dtype(device):
    a, b = torch.randn(1, 1, 32, 64), torch.randn(1, 1, 32, 64)
    output = ttnn.add(put(device, a), put(device, b), dtype=ttnn.bfloat8_b)
    exact = a.bfloat16() + b.bfloat16()
    assert torch.equal(ttnn.to_torch(output).bfloat16(), round_bfp8(exact))


def test_fused_silu_is_silu_then_multiply(device):
    gate, up = torch.randn(1, 1, 32, 256).bfloat16(), torch.randn(1, 1, 32, 256).bfloat16()
    fused = ttnn.mul(put(device, gate), put(device, up), input_tensor_a_activations=[ttnn.UnaryOpType.SILU])
    exact = torch.nn.functional.silu(gate.double()) * up.double()
    torch.testing.assert_close(ttnn.to_torch(fused).double(), exact, rtol=2**-7, atol=1e-30)


@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (1, 1, 32, 1), (64,), (2, 1, 1, 1)])
def test_sizes_of_one_are_broadcast(device, shape):
    a, b = torch.randn(1, 3, 32, 64).bfloat16(), torch.randn(shape).bfloat16()
    assert torch.equal(ttnn.to_torch(ttnn.multiply(put(device, a), put(device, b))), a * b)


def test_numbers_on_either_side(device):
    a = torch.randn(32, 64).abs().bfloat16() + 1
    x = put(device, a)
    assert torch.equal(ttnn.to_torch(3.0 - x), (3.0 - a.float()).bfloat16())
    assert torch.equal(ttnn.to_torch(ttnn.divide(1.7, x)), (1.7 / a.float()).bfloat16())
    assert torch.equal(ttnn.to_torch(x / 3), (a.float() / 3).bfloat16())


def test_in_place_ops_write_into_their_first_tensor(device):
    x = put(device, torch.ones(32, 64))
    address = x.buffer_address()
    assert ttnn.multiply_(ttnn.subtract_(ttnn.add_(x, 4.0), x), 3.0) is x
    assert ttnn.to_torch(x).abs().max() == 0 and x.buffer_address() == address


def test_output_tensor_is_written_in_its_own_dtype(device):
    x, out = put(device, torch.randn(32, 64)), put(device, torch.zeros(32, 64), ttnn.bfloat8_b)
    assert ttnn.silu(x, output_tensor=out) is out
    expected = round_bfp8(torch.nn.functional.silu(ttnn.to_torch(x)))
    assert torch.equal(ttnn.to_torch(out).bfloat16(), expected)


def test_plus_one_can_skip_negative_entries(device):
    positions = ttnn.from_torch(torch.tensor([-1, 0, 5], dtype=torch.int32), device=device)
    ttnn.plus_one(positions, skip_negative_entries=True)
    assert ttnn.to_torch(positions).tolist() == [-1, 1, 6]
    ttnn.plus_one(positions)
    assert ttnn.to_torch(positions).tolist() == [0, 2, 7]


def test_argmax_takes_the_first_of_equals(device):
    values = torch.zeros(1, 1, 4, 64).bfloat16()
    values[0, 0, 1, 7] = values[0, 0, 1, 9] = 3
    assert ttnn.to_torch(ttnn.argmax(put(device, values), dim=3)).to(torch.int64).tolist() == [[[0, 7, 0, 0]]]


def test_rows_do_not_depend_on_other_rows(device):
    """Users of a batch rely on this: a row alone gives the same bits as the row among others."""
    values = torch.randn(1, 1, 32, 3072).bfloat16()
    for function in (ttnn.silu, lambda t: ttnn.softmax(t, dim=-1), lambda t: ttnn.sum(t, dim=-1, keepdim=True)):
        together = ttnn.to_torch(function(put(device, values)))
        for row in (0, 17, 31):
            alone = ttnn.to_torch(function(put(device, values[:, :, row : row + 1])))
            assert torch.equal(alone[0, 0, 0], together[0, 0, row])
