"""Packed weights: what they keep, what their products are, and who may write to them."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import ttnn

from models.common.ttnn_emulator.bfp import round_bfp4, round_bfp8
from models.common.ttnn_emulator.packed import PackedMatrix, packed

ROOT = Path(__file__).resolve().parents[2]
ROUND = {8: round_bfp8, 4: round_bfp4}
DTYPE = {8: ttnn.bfloat8_b, 4: ttnn.bfloat4_b}
SHAPES = [(64, 64), (4, 16), (68, 80), (260, 208), (32, 4112)]


def weight(depth, width, seed=0):
    """[depth, width], in memory as torch keeps a Linear's weight; the scales of blocks differ widely, and some are 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(width, depth, generator=generator)
    values *= torch.exp2(torch.randint(-40, 40, (width // 16, 1, depth), generator=generator)).expand(-1, 16, -1).reshape(
        width, depth
    )
    values[:16, : depth // 2] = 0
    return values.bfloat16().t()


def rows_of(count, depth, seed=1):
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_keeps_every_value_in_the_bytes_of_the_format(shape, bits):
    for values in (weight(*shape), weight(*shape).contiguous(), weight(*shape).float()):
        matrix = packed(values[None, None], DTYPE[bits])
        assert type(matrix) is PackedMatrix and matrix.shape == (1, 1, *shape) and matrix.dtype is torch.bfloat16
        assert torch.equal(matrix.plain()[0, 0], ROUND[bits](values))
        columns = -(-shape[1] // 64) * 64
        assert matrix.mantissas.nbytes + matrix.exponents.nbytes == shape[0] * columns * (bits + 0.5) / 8


@pytest.mark.parametrize("bits", [8, 4])
def test_values_that_do_not_fit_are_not_packed(bits):
    for values in (torch.ones(2, 64, 64), torch.ones(6, 64), torch.ones(64, 24), torch.ones(64), torch.ones(0, 64)):
        assert packed(values.bfloat16(), DTYPE[bits]) is None
    for value in (float("nan"), float("inf"), 2.0**-97):
        values = torch.ones(64, 64).bfloat16()
        values[:, 16:32] = value
        assert packed(values, DTYPE[bits]) is None
    smallest = torch.full((64, 64), 2.0**-96).bfloat16()
    assert torch.equal(packed(smallest, DTYPE[bits]).plain(), smallest)
    largest = torch.full((64, 64), 3e38)
    assert torch.equal(packed(largest, DTYPE[bits]).plain(), ROUND[bits](largest))


def chain(rows, matrix):
    """The product as `loops/packed.py` describes it: fp32 sums, rounded after each product, over k = 1, 0, 3, 2, ..."""
    rows, matrix = rows.double().numpy(), matrix.double().numpy()
    total = numpy.zeros((rows.shape[0], matrix.shape[1]), numpy.float32)
    for k in numpy.arange(rows.shape[1]) ^ 1:
        # fp64 holds the exact product, and its sum with an fp32 but for rare cases of two roundings.
        total = (total + rows[:, k, None] * matrix[k]).astype(numpy.float32)
    return torch.from_numpy(total).bfloat16()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_one_chain_of_sums_in_fp32(shape, bits):
    rounded = ROUND[bits](weight(*shape))
    rows = rows_of(35, shape[0])
    assert torch.equal(packed(rounded, DTYPE[bits]).multiply(rows), chain(rows, rounded))


@pytest.mark.parametrize("bits, magnitude_bits", [(8, 7), (4, 3), (4, 7)])
@pytest.mark.parametrize("rows", [1, 2, 35, 600])
def test_a_product_rounds_itself_as_it_would_be_rounded(bits, magnitude_bits, rows):
    matrix, rows = packed(weight(132, 208), DTYPE[bits]), rows_of(rows, 132)
    rows[-1] *= 2.0**-120  # too small for the fast way
    assert torch.equal(matrix.multiply(rows, magnitude_bits), ROUND[magnitude_bits + 1](matrix.multiply(rows)))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_has_the_same_bits_among_any_number_of_rows_and_threads(bits):
    matrix = packed(weight(2052, 2000), DTYPE[bits])
    rows = rows_of(600, 2052)
    together = matrix.multiply(rows)
    for start, end in ((0, 1), (7, 8), (0, 2), (5, 8), (3, 36), (255, 258), (0, 257)):
        assert torch.equal(matrix.multiply(rows[start:end]), together[start:end]), (start, end)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        assert torch.equal(matrix.multiply(rows), together) and torch.equal(matrix.multiply(rows[:1]), together[:1])
    finally:
        torch.set_num_threads(threads)


def test_torch_reads_an_unpacked_copy_and_cannot_write():
    rounded = round_bfp8(weight(64, 96))
    matrix = packed(rounded, ttnn.bfloat8_b)
    assert torch.equal(matrix * 2, rounded * 2) and torch.equal(torch.cat([matrix, matrix], 1)[:, 96:], rounded)
    assert torch.equal(matrix.mT.float(), rounded.mT.float()) and torch.equal(matrix.clone(), rounded)
    for write in (lambda: matrix.zero_(), lambda: matrix.copy_(rounded), lambda: torch.add(rounded, 1, out=matrix)):
        with pytest.raises(RuntimeError, match=r"cannot write to a packed matrix \[64, 96\]"):
            write()


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("dtype, bits", [(ttnn.bfloat8_b, 8), (ttnn.bfloat4_b, 4)])
def test_a_matmul_reads_the_packed_weight(device, monkeypatch, dtype, bits, rows):
    given = weight(128, 160) * 2.0**-30
    x, w = rows_of(rows, 128), ttnn.from_torch(given[None, None], dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)
    monkeypatch.setattr(PackedMatrix, "plain", lambda self: pytest.fail("the whole weight was unpacked"))
    activation = ttnn.from_torch(x[None, None], layout=ttnn.TILE_LAYOUT, device=device)
    product = ttnn.linear(activation, w, activation="silu")
    expected = torch.nn.functional.silu(chain(x, ROUND[bits](given)).float()).bfloat16()
    assert torch.equal(ttnn.to_torch(product)[0, 0], expected)


def test_an_op_that_writes_to_a_packed_tensor_changes_that_tensor_only(device):
    values = round_bfp8(torch.randn(64, 96))[None, None]
    host = ttnn.from_torch(values, dtype=ttnn.bfloat8_b)
    kept, written = ttnn.to_device(host, device), ttnn.from_torch(values, dtype=ttnn.bfloat8_b, device=device)
    for tensor in (ttnn.to_device(host, device), written):
        ttnn.copy(ttnn.from_torch(2 * values, dtype=ttnn.bfloat8_b, device=device), tensor)
        assert torch.equal(ttnn.to_torch(tensor), 2 * values.float())
    assert torch.equal(ttnn.to_torch(kept), values.float())


@pytest.mark.parametrize("dtype, bits", [(ttnn.bfloat8_b, 8), (ttnn.bfloat4_b, 4)])
def test_a_file_holds_the_packed_form(tmp_path, dtype, bits):
    path = tmp_path / "w.tensorbin"
    host = ttnn.from_torch(weight(256, 208)[None, None], dtype=dtype)
    ttnn.dump_tensor(path, host)
    assert path.stat().st_size < 256 * 256 * (bits + 0.5) / 8 + 1000
    read = ttnn.load_tensor(path)
    assert read.spec == host.spec and type(read.shards[0]) is PackedMatrix
    assert torch.equal(ttnn.to_torch(read), ttnn.to_torch(host))
    assert torch.equal(read.shards[0].mantissas, host.shards[0].mantissas)


def test_devices_share_a_packed_weight_and_each_part_is_packed(mesh):
    values = round_bfp8(weight(64, 512))[None, None]
    parts = ttnn.from_torch(values, dtype=ttnn.bfloat8_b, device=mesh, mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=3))
    assert all(type(shard) is PackedMatrix and shard.shape == (1, 1, 64, 64) for shard in parts.shards)
    assert torch.equal(ttnn.to_torch(parts, mesh_composer=ttnn.ConcatMeshToTensor(mesh, dim=3)), values.float())
    whole = ttnn.from_torch(values, dtype=ttnn.bfloat8_b, device=mesh, mesh_mapper=ttnn.ReplicateTensorToMesh(mesh))
    assert len(set(map(id, whole.shards))) == 1


@pytest.mark.parametrize("order", [("sentencepiece", "torch"), ("torch", "sentencepiece")])
def test_products_run_in_the_threads_of_torch(order):
    """sentencepiece brings an OpenMP runtime of its own. The process has loaded both."""
    code = f"""
import {order[0]}, {order[1]}
import torch
from models.common.ttnn_emulator.openmp import runtime
assert len({{line.split()[-1] for line in open("/proc/self/maps") if "/libgomp" in line}}) == 2
torch.set_num_threads(5)
found = [torch.get_num_threads(), runtime().omp_get_max_threads()]
runtime().omp_set_num_threads(3)
print(*found, torch.get_num_threads())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (found.stdout.split(), found.stderr) == (["5", "5", "3"], "")
