"""The compiled loops against torch, for cases that the tests of the ops do not reach."""

import gc
import importlib
import sys
import threading
import weakref

import numba
import numpy
import pytest
import torch

from models.common.ttnn_emulator import compiled
from models.common.ttnn_emulator.bfp import round_bfp8
from models.common.ttnn_emulator.compiled import bits
from models.common.ttnn_emulator.loops import attention, rows


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_share_the_rows_of_a_large_tensor(two_threads):
    """Each part waits until both are being computed."""
    barrier, seen = threading.Barrier(2), []

    def loop(values, other):
        barrier.wait(60)
        seen.append((threading.get_native_id(), len(values), other))

    compiled.in_threads(loop, [numpy.zeros((4099, 256))], "other", work=1 << 30)
    assert len({thread for thread, _, _ in seen}) == 2
    assert sorted(rows for _, rows, _ in seen) == [2049, 2050] and {other for _, _, other in seen} == {"other"}
    values = torch.randn(1 << 13, 512).bfloat16()
    assert torch.equal(round_bfp8(values), torch.cat([round_bfp8(part) for part in values.split(100)]))


def test_threads_let_go_of_the_arrays(two_threads):
    """At once, not when Python next looks for cycles: they may be large."""
    gc.disable()
    try:
        array = numpy.zeros((1 << 20, 2)).view(_Watched)
        watched = weakref.ref(array)
        compiled.in_threads(lambda values: None, [array], work=1 << 30)
        del array
        assert watched() is None
    finally:
        gc.enable()


class _Watched(numpy.ndarray):
    """An array that a weak reference can watch."""


def test_what_a_loop_raises_in_a_thread_is_raised(two_threads):
    def loop(values):
        raise ArithmeticError("in a thread")

    with pytest.raises(ArithmeticError, match="in a thread"):
        compiled.in_threads(loop, [numpy.zeros((1 << 20, 1))], work=1 << 30)


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
    rows.rms_norm(bits(values), bits(normalised), bits(weight), 1e-5)
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
    rows.rotate(bits(values), bits(rotated), bits(cos), bits(sin), bits(matrices))
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
    others = {
        "rms_norm": [bits(torch.rand(128).bfloat16()), 1e-5],
        "rotate": [*(bits(torch.randn(1, 700, 128).bfloat16()) for _ in "cs"), bits(torch.randn(1, 32, 32).bfloat16())],
    }[loop]
    shared, alone = torch.empty_like(values), torch.empty_like(values)
    shape = (-1, 128) if loop == "rms_norm" else (8, 700, 128)
    arrays = [bits(tensor).reshape(shape) for tensor in (values, shared, alone)]
    compiled.in_threads(getattr(rows, loop), arrays[:2], *others, work=1 << 30)
    getattr(rows, loop)(arrays[0], arrays[2], *others)
    assert torch.equal(shared, alone)


def test_attend_reads_a_users_pages_in_their_order_within_its_window(two_threads):
    """Two query heads per key head, pages in any order, a skipped user. The reference is torch in float64."""
    users, kv_heads, group, page_size, pages_each, window = 3, 2, 2, 32, 4, 50
    q = torch.randn(users, kv_heads, group, 96).bfloat16()
    k, v = (torch.randn(kv_heads, users * pages_each * page_size, 96).bfloat16() for _ in "kv")
    pages = torch.randperm(users * pages_each).view(users, pages_each).int().numpy()
    positions = numpy.array([127, -1, 70], numpy.int32)
    attended = torch.full_like(q, 7)
    owners, heads = numpy.divmod(numpy.arange(users * kv_heads), kv_heads)
    parts = [bits(q).reshape(-1, group, 96), bits(attended).reshape(-1, group, 96), owners, heads]
    others = [bits(k), bits(v), page_size, pages, positions, window, numpy.float32(0.1)]
    compiled.in_threads(attention.attend, parts, *others, work=1 << 30)
    for user, position in enumerate(positions):
        if position == -1:
            assert not attended[user].any()
            continue
        places = [pages[user, p // page_size] * page_size + p % page_size for p in range(position + 1 - window, position + 1)]
        scores = torch.einsum("hgd,hnd->hgn", q[user].double(), k[:, places].double()) * 0.1
        expected = torch.einsum("hgn,hnd->hgd", scores.softmax(-1), v[:, places].double())
        torch.testing.assert_close(attended[user].double(), expected, rtol=2**-8, atol=1e-5)


def test_a_user_that_cannot_be_read_is_found():
    pages, positions = numpy.array([[0, 1], [1, 2]], numpy.int32), numpy.array([63, 40], numpy.int32)

    def found(window):
        longest, user = attention.longest(pages, positions, window, 32, 2)
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
