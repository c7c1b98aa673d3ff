"""The compiled loops against torch, where the ops' own tests do not reach."""

import numba
import numpy
import pytest
import torch

from models.common.ttnn_emulator import loops
from models.common.ttnn_emulator.bfp import round_bfp8
from models.common.ttnn_emulator.loops import bits


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_share_the_rows_of_a_large_tensor(two_threads, monkeypatch):
    values = torch.randn(4099, 256).bfloat16()
    called = []
    pool = loops._pool()
    monkeypatch.setattr(pool, "submit", lambda *arguments: called.append(1) or type(pool).submit(pool, *arguments))
    whole = round_bfp8(values)
    assert len(called) == 2
    assert torch.equal(whole, torch.cat([round_bfp8(part) for part in values.split(100)]))


def test_what_a_loop_raises_in_a_thread_is_raised(two_threads):
    def loop(values):
        raise ArithmeticError("in a thread")

    with pytest.raises(ArithmeticError, match="in a thread"):
        loops.in_threads(loop, [numpy.zeros((1 << 20, 1))])


def test_a_place_that_cannot_be_written_leaves_a_loop_uncached(monkeypatch):
    compile_ = numba.njit

    def njit(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(*args, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert loops._compiled()(lambda value: value + 1)(1) == 2


@pytest.mark.parametrize("value, expected", [(float("nan"), float("nan")), (float("inf"), float("nan")), (3e38, None)])
def test_rms_norm_of_a_row_that_is_not_finite_is_torchs(value, expected):
    values, weight = torch.randn(3, 64).bfloat16(), torch.rand(64).bfloat16()
    values[1, 5] = value
    normalised = torch.empty_like(values)
    loops.rms_norm(bits(values), bits(normalised), bits(weight), 1e-5)
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
    loops.rotate(bits(values), bits(rotated), bits(cos), bits(sin), bits(matrices))
    turned = torch.einsum("brki,bij->brkj", values.double().unflatten(-1, (3, 32)), matrices.double()).flatten(-2)
    expected = values.double() * cos.double() + turned * sin.double()
    torch.testing.assert_close(rotated.double(), expected, rtol=2**-8, atol=1e-4)


def test_attend_names_the_user_whose_page_is_not_in_the_cache():
    q, cache = torch.randn(2, 1, 1, 32).bfloat16(), torch.randn(1, 64, 32).bfloat16()
    pages, positions = numpy.array([[0, 1], [1, 2]], numpy.int32), numpy.array([63, 40], numpy.int32)

    def attend():
        attended = torch.empty_like(q)
        return loops.attend(
            bits(q), bits(cache), bits(cache), 0, 32, pages, positions, 64, numpy.float32(1), bits(attended)
        )

    assert attend() == 1
    pages[1, 1] = 0
    assert attend() == -1
    pages[0, 0] = -1
    assert attend() == 0
