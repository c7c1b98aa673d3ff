"""The compiled loops against torch, for cases that the tests of the ops do not reach."""

import importlib
import sys

import numba
import numpy
import pytest
import torch

from models.common.ttnn_emulator import compiled, openmp
from models.common.ttnn_emulator.bfp import round_bfp4, round_bfp8
from models.common.ttnn_emulator.loops import attention, functions, rows
from models.common.ttnn_emulator.loops.bf16 import halves


def addresses(*tensors):
    return [tensor.data_ptr() for tensor in tensors]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_share_the_rows_of_a_large_tensor(two_threads, monkeypatch):
    """Every row is taken once, and both threads are asked."""
    threads, call = [], openmp.call

    def watched(function, arguments, count):
        threads.append(count)
        call(function, arguments, count)

    monkeypatch.setattr(openmp, "call", watched)
    taken = numpy.zeros(4099, numpy.int16)
    compiled.in_threads(_count, 4099, taken.ctypes.data, 3, work=1 << 30)
    assert threads == [2] and (taken == 3).all()
    values = torch.randn(1 << 13, 512).bfloat16()
    assert torch.equal(round_bfp8(values), torch.cat([round_bfp8(part) for part in values.split(100)]))
    assert threads[1] == 2


@compiled.compiled()
def _count(start, stop, taken, added):
    for row in range(start, stop):
        halves(taken, stop)[row] += added


def test_a_place_that_cannot_be_written_leaves_a_loop_uncached(monkeypatch):
    compile_ = numba.njit

    def njit(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(*args, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled.compiled()(lambda value: value + 1)(1) == 2


def test_a_change_in_a_file_beside_it_compiles_a_loop_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    header = "from models.common.ttnn_emulator.compiled import compiled\n"
    (tmp_path / "caller.py").write_text(f"{header}from called import factor\n@compiled()\ndef multiply(x):\n    return factor() * x")
    found = []
    for number in (2, None, 33):
        if number:
            (tmp_path / "called.py").write_text(f"{header}@compiled()\ndef factor():\n    return {number}")
        for name in ("called", "caller"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        loop = importlib.import_module("caller").multiply
        found.append((loop(3), sum(loop.stats.cache_hits.values())))
    assert found == [(6, 0), (6, 1), (99, 0)]


@pytest.mark.parametrize("value, expected", [(float("nan"), float("nan")), (float("inf"), float("nan")), (3e38, None)])
def test_rms_norm_of_a_row_that_is_not_finite_is_torchs(value, expected):
    values, weight = torch.randn(3, 64).bfloat16(), torch.rand(64).bfloat16()
    values[1, 5] = value
    normalised = torch.empty_like(values)
    rows.rms_norm(0, 3, *addresses(values, normalised, weight), 64, compiled.fp32_bits(1e-5))
    torch.testing.assert_close(
        normalised, torch.nn.functional.rms_norm(values, (64,), weight, 1e-5), equal_nan=True, rtol=2**-8, atol=0
    )
    if expected is not None:
        assert normalised[1, 5].isnan()


@pytest.mark.parametrize("shared_angles", [True, False])
def test_rotate_takes_any_matrix_of_each_user(shared_angles):
    values, matrices = torch.randn(3, 5, 96).bfloat16(), torch.randn(3, 32, 32).bfloat16()
    matrices[1] = matrices[0]
    angles = (1, 5, 96) if shared_angles else (3, 1, 96)
    cos, sin = torch.randn(angles).bfloat16(), torch.randn(angles).bfloat16()
    rotated = torch.empty_like(values)
    source, target, *angles_at, matrices_at = addresses(values, rotated, cos, sin, matrices)
    rows.rotate(0, 3, source, target, 5, 96, *angles_at, *angles[:2], int(not shared_angles), matrices_at, 3)
    turned = torch.einsum("brki,bij->brkj", values.double().unflatten(-1, (3, 32)), matrices.double()).flatten(-2)
    expected = values.double() * cos.double() + turned * sin.double()
    torch.testing.assert_close(rotated.double(), expected, rtol=2**-8, atol=1e-4)


def test_a_full_disk_leaves_a_loop_uncached(monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", fail)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert compiled.compiled()(_add_one)(1) == 2


def _add_one(value):
    return value + 1


@pytest.mark.parametrize("loop", ["rms_norm", "rotate"])
def test_threads_change_no_value(two_threads, loop):
    values = torch.randn(8, 700, 128).bfloat16()
    weight, cos, sin, matrix = (torch.randn(size).bfloat16() for size in ((128,), (700, 128), (700, 128), (32, 32)))
    shared, alone = torch.empty_like(values), torch.empty_like(values)
    source, target, expected, *others = addresses(values, shared, alone, weight, cos, sin, matrix)
    count, others = {
        "rms_norm": (5600, (others[0], 128, compiled.fp32_bits(1e-5))),
        "rotate": (8, (700, 128, others[1], others[2], 1, 700, 0, others[3], 1)),
    }[loop]
    compiled.in_threads(getattr(rows, loop), count, source, target, *others, work=1 << 30)
    getattr(rows, loop)(0, count, source, expected, *others)
    assert torch.equal(shared, alone)


def test_attend_reads_a_users_pages_in_their_order_within_its_window(two_threads):
    """Two query heads per key head, pages in any order, a skipped user. The reference is torch in float64."""
    users, kv_heads, group, page_size, pages_each, window = 3, 2, 2, 32, 4, 50
    q = torch.randn(users, kv_heads, group, 96).bfloat16()
    k, v = (torch.randn(kv_heads, users * pages_each * page_size, 96).bfloat16() for _ in "kv")
    pages = torch.randperm(users * pages_each).view(users, pages_each).int()
    positions = torch.tensor([127, -1, 70], dtype=torch.int32)
    attended = torch.full_like(q, 7)
    q_at, attended_at, k_at, v_at, pages_at, positions_at = addresses(q, attended, k, v, pages, positions)
    compiled.in_threads(
        attention.attend, users * kv_heads, q_at, attended_at, kv_heads, group, 96, k_at, v_at, k.shape[1], 1, page_size,
        pages_at, pages_each, positions_at, window, compiled.fp32_bits(0.1), 128, work=1 << 30,
    )  # fmt: skip
    pages, positions = pages.numpy(), positions.numpy()
    for user, position in enumerate(positions):
        if position == -1:
            assert not attended[user].any()
            continue
        places = [pages[user, p // page_size] * page_size + p % page_size for p in range(position + 1 - window, position + 1)]
        scores = torch.einsum("hgd,hnd->hgn", q[user].double(), k[:, places].double()) * 0.1
        expected = torch.einsum("hgn,hnd->hgd", scores.softmax(-1), v[:, places].double())
        torch.testing.assert_close(attended[user].double(), expected, rtol=2**-8, atol=1e-5)


def test_a_gate_has_torchs_bits_for_every_bf16():
    """Also for infinities, NaNs and both zeros, and where a block is too large or too small for the fast rounding."""
    gates = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    ups, product = torch.randn(gates.shape).bfloat16(), torch.empty_like(gates)
    expected = torch.nn.functional.silu(gates) * ups
    for magnitude_bits, round_to in ((0, torch.clone), (7, round_bfp8), (3, round_bfp4)):
        functions.gate(0, len(gates) // 16, *addresses(gates, ups, product), magnitude_bits)
        torch.testing.assert_close(product, round_to(expected), rtol=0, atol=0, equal_nan=True)
        zeros = (product == 0) & (magnitude_bits == 0)
        assert torch.equal(product[zeros].view(torch.int16), expected[zeros].view(torch.int16)), "a zero's sign"


def test_a_user_that_cannot_be_read_is_found():
    pages, positions = numpy.array([[0, 1], [1, 2]], numpy.int32), numpy.array([63, 40], numpy.int32)

    def found(window):
        longest, user = attention.longest(pages.ctypes.data, 2, 2, positions.ctypes.data, window, 32, 2)
        return user if user != -1 else f"{longest} positions"

    assert found(64) == 1
    pages[1, 1] = 0
    assert found(64) == "64 positions"
    pages[0, 0] = -1
    assert found(64) == 0
    assert found(32) == "64 positions", "what the window leaves out may be anywhere"
    for position in (64, -2):
        positions[1] = position
        assert found(32) == 1
    positions[:] = -1
    assert found(64) == "0 positions"
