"""Matmul, norms and embedding on the emulator alone."""

import pytest
import torch
import ttnn

TILE, ROWS = ttnn.TILE_LAYOUT, ttnn.ROW_MAJOR_LAYOUT


def on(device, values, dtype=ttnn.bfloat16, layout=TILE):
    return ttnn.from_torch(values, dtype=dtype, layout=layout, device=device)


@pytest.mark.parametrize("inner, columns", [(512, 2304), (3072, 3072), (1024, 512)])
def test_a_row_of_a_product_does_not_depend_on_the_other_rows(device, inner, columns):
    rows = torch.randn(1, 1, 32, inner).bfloat16()
    weight = on(device, torch.randn(1, 1, inner, columns), ttnn.bfloat8_b)
    together = ttnn.to_torch(ttnn.linear(on(device, rows), weight))
    for count in (1, 2, 5, 8):
        alone = ttnn.to_torch(ttnn.linear(on(device, rows[:, :, :count]), weight))
        assert torch.equal(alone, together[:, :, :count]), f"{count} rows"


def test_a_product_is_rounded_once_to_bf16(device):
    a, b = torch.randn(1, 1, 32, 512).bfloat16(), torch.randn(1, 1, 512, 64).bfloat16()
    exact = a.double() @ b.double()
    error = (ttnn.to_torch(ttnn.linear(on(device, a), on(device, b))).double() - exact).abs()
    # Half a unit in the last of 8 bits, plus the error of fp32 accumulation.
    assert (error <= exact.abs() * 2**-8 * 1.01 + 1e-4).all()


def test_block_float_outputs_have_values_of_their_dtype(device):
    a, b = on(device, torch.randn(1, 1, 32, 512)), on(device, torch.randn(1, 1, 512, 64))
    plain = ttnn.to_torch(ttnn.linear(a, b))
    rounded = ttnn.to_torch(ttnn.linear(a, b, dtype=ttnn.bfloat8_b)).float()
    expected = ttnn.to_torch(ttnn.from_torch(plain, dtype=ttnn.bfloat8_b, layout=TILE)).float()
    assert torch.equal(rounded, expected)


def test_a_weight_keeps_its_values_and_its_memory_when_it_is_used(device):
    values = torch.randn(1, 1, 512, 96).bfloat16()
    weight = on(device, values)
    ttnn.linear(on(device, torch.randn(1, 1, 32, 512)), weight)
    assert torch.equal(ttnn.to_torch(weight), values)


@pytest.mark.parametrize("name, function", [("silu", torch.nn.functional.silu), ("relu", torch.relu)])
def test_fused_activations_are_applied(device, name, function):
    a, b = on(device, torch.randn(1, 1, 32, 512)), on(device, torch.randn(1, 1, 512, 64))
    plain = ttnn.to_torch(ttnn.linear(a, b))
    assert torch.equal(ttnn.to_torch(ttnn.linear(a, b, activation=name)), function(plain))


def test_replicated_inputs_are_multiplied_once(mesh):
    a, b = on(mesh, torch.randn(1, 1, 32, 512)), on(mesh, torch.randn(1, 1, 512, 64))
    assert len({id(shard) for shard in ttnn.linear(a, b).shards}) == 1


def test_rms_norm_over_devices_is_rms_norm_of_the_whole_row(device):
    values, weight = torch.randn(1, 1, 32, 1024).bfloat16(), torch.randn(1, 1, 1, 1024).bfloat16()
    whole = ttnn.to_torch(ttnn.rms_norm(on(device, values), epsilon=1e-5, weight=on(device, weight)))
    halves = [(on(device, values[..., part]), on(device, weight[..., part])) for part in (slice(512), slice(512, None))]
    stats = ttnn.concat([ttnn.rms_norm_pre_all_gather(half, dtype=ttnn.float32) for half, _ in halves], dim=3)
    split = [
        ttnn.to_torch(ttnn.rms_norm_post_all_gather(half, stats, epsilon=1e-5, weight=scale)) for half, scale in halves
    ]
    assert (torch.cat(split, -1) != whole).float().mean() < 1e-3


def test_an_id_that_is_not_in_the_vocabulary_is_named(device):
    ids = on(device, torch.tensor([[3, 100]]), ttnn.uint32, ROWS)
    with pytest.raises(IndexError, match=r"\[100\].*vocabulary of 100"):
        ttnn.embedding(ids, on(device, torch.randn(100, 64), layout=ROWS))


def test_arguments_that_only_a_card_has_are_refused_by_name(device):
    a, b = on(device, torch.randn(1, 1, 32, 512)), on(device, torch.randn(1, 1, 512, 64))
    with pytest.raises(NotImplementedError, match="global_cb"):
        ttnn.linear(a, b, global_cb=object())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"in0_block_w": "2"}, "in0_block_w"),
        ({"per_core_M": -1}, "per_core_M"),
        ({"transpose_mcast": 0}, "transpose_mcast"),
        ({"fused_activation": "silu"}, "fused_activation"),
        ({"compute_with_storage_grid_size": 8}, "compute_with_storage_grid_size"),
        ({"out_subblock_x": 1}, "out_subblock_x"),
    ],
)
def test_program_configs_refuse_wrong_values_by_name(arguments, message):
    right = {
        "compute_with_storage_grid_size": (8, 8), "in0_block_w": 1, "out_subblock_h": 1, "out_subblock_w": 1,
        "per_core_M": 1, "per_core_N": 1, "transpose_mcast": False,
    }  # fmt: skip
    with pytest.raises(TypeError, match=message):
        ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(**{**right, **arguments})
