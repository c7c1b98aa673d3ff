"""Rounding to block floating point."""

import copy
from pathlib import Path

import pytest
import torch

from models.common.ttnn_emulator.bfp import BLOCK, round_bfp4, round_bfp8

ROUND = {"bfloat8_b": round_bfp8, "bfloat4_b": round_bfp4}


def bits(values):
    """The bit patterns of bf16 values, any NaN as one pattern."""
    return values.bfloat16().view(torch.int16).masked_fill(values.isnan(), 0x7FC0)


@pytest.mark.vendor
def test_rounding_is_the_vendors_bit_for_bit(run_on_mock, tmp_path):
    path = tmp_path / "rounded.pt"
    run_on_mock("N150", Path(__file__).with_name("bfp_of_vendor.py"), str(path))
    saved = torch.load(path)
    assert sum(values.numel() for _, values, _ in saved) > 1_000_000
    for what, values, rounded in saved:
        for name, expected in rounded.items():
            assert torch.equal(expected, expected.bfloat16().float()) or expected.isnan().any(), f"{what} {name}"
            differing = bits(ROUND[name](values)) != bits(expected)
            assert not differing.any(), f"{what} {name}: {values[differing][:4]} to {expected[differing][:4]}"


@pytest.mark.parametrize("name", ROUND)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rounded_values_round_to_themselves(name, dtype):
    values = (torch.randn(64, 256) * torch.exp2(torch.randint(-20, 20, (64, 256)).float())).to(dtype)
    once = ROUND[name](values)
    assert torch.equal(once, ROUND[name](once))


@pytest.mark.parametrize("name, magnitudes", [("bfloat8_b", 127), ("bfloat4_b", 7)])
def test_a_block_has_one_exponent_and_so_many_magnitudes(name, magnitudes):
    rounded = ROUND[name](torch.randn(1000, BLOCK)).float()
    _, exponent = torch.frexp(rounded.abs().amax(-1, keepdim=True))
    quanta = rounded / torch.exp2((exponent - (magnitudes + 1).bit_length() + 1).float())
    assert torch.equal(quanta, quanta.round())
    assert quanta.abs().max() == magnitudes


def test_blocks_do_not_reach_over_the_end_of_a_row():
    values = torch.full((2, 17), 2.0**-10)
    values[:, 0] = 1.0
    rounded = round_bfp8(values)
    assert rounded[:, 16].tolist() == [2.0**-10] * 2
    assert rounded[:, 1].tolist() == [0.0] * 2


def test_bf16_and_fp32_of_the_same_values_round_alike():
    values = torch.randn(64, 128).bfloat16()
    assert torch.equal(round_bfp8(values), round_bfp8(values.float()))


def test_what_is_rounded_in_pieces_is_rounded_as_a_whole():
    values = torch.randn(1100, 512).bfloat16()
    rows = torch.cat([round_bfp8(row[None]) for row in values[:8]])
    assert torch.equal(round_bfp8(values)[:8], rows)


def test_rounding_leaves_its_input_alone():
    values = torch.randn(64, 128).bfloat16()
    before = copy.deepcopy(values)
    round_bfp8(values)
    assert torch.equal(values, before)


def test_only_floats_are_rounded():
    with pytest.raises(TypeError, match="int32"):
        round_bfp8(torch.ones(16, dtype=torch.int32))


def test_shapes_without_values_keep_their_shape():
    assert round_bfp8(torch.empty(3, 21, device="meta")).shape == (3, 21)
    assert round_bfp4(torch.empty(0, 16)).shape == (0, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e38])
@pytest.mark.parametrize("shape", [(64, 32), (3, 48, 1000), (1, 1, 32, 1040)])
def test_a_transposed_matrix_is_rounded_alike_and_stays_transposed_in_memory(dtype, scale, shape):
    matrix = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    for round_to in (round_bfp8, round_bfp4):
        rounded = round_to(matrix.mT)
        assert torch.equal(rounded, round_to(matrix.mT.contiguous()))
        assert rounded.mT.is_contiguous()
