"""Devices that differ are computed side by side, with the values of one after another."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import ttnn

from models.common.ttnn_emulator.side_by_side import side_by_side

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=[2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _torchs_threads(_=None):
    return torch.get_num_threads()


def test_torch_computes_each_item_in_one_thread_and_then_in_all_again(threads):
    assert side_by_side(_torchs_threads, range(5)) == [1] * 5
    seen = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [threads, threads]


def test_threads_that_rest_do_not_spin():
    code = """
import time
import torch
from models.common.ttnn_emulator import openmp

def busy():
    before = time.process_time()
    time.sleep(0.5)
    return time.process_time() - before

torch.set_num_threads(2)
values = torch.randn(1 << 20)
values.exp()
spinning = busy()
openmp.rest()
resting = busy()
assert torch.equal(values.exp(), values.exp())
print(spinning, resting)
"""
    environment = {**os.environ, "OMP_WAIT_POLICY": "active", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    spinning, resting = map(float, found.stdout.split())
    assert resting < spinning / 10


def test_too_few_items_are_computed_by_all_threads_each(threads):
    assert side_by_side(_torchs_threads, range(threads - 1)) == [threads] * (threads - 1)


def test_all_threads_take_items(threads):
    """Each item waits until as many are being computed as there are threads."""
    barrier = threading.Barrier(threads)
    assert side_by_side(lambda item: (item, barrier.wait(60) < threads), range(2 * threads)) == [
        (item, True) for item in range(2 * threads)
    ]


def test_the_first_items_exception_is_raised_and_threads_are_given_back(threads):
    def fail(item):
        if item in (1, 4):
            raise ArithmeticError(f"of item {item}")

    with pytest.raises(ArithmeticError, match="of item 1"):
        side_by_side(fail, range(6))
    assert torch.get_num_threads() == threads


def test_an_item_may_compute_items_itself(threads):
    assert side_by_side(lambda _: sum(side_by_side(abs, range(6))), range(4)) == [15] * 4


@pytest.mark.parametrize("inference", [True, False])
def test_inference_mode_is_that_of_the_caller(threads, inference):
    with torch.inference_mode(inference):
        assert side_by_side(lambda _: torch.is_inference_mode_enabled(), range(6)) == [inference] * 6


@pytest.mark.parametrize("dtype", [ttnn.bfloat16, ttnn.bfloat8_b])
def test_devices_have_the_values_that_one_thread_gives(grid, threads, dtype):
    """A weight split in both dimensions, its partial products summed and scattered."""
    x = ttnn.from_torch(
        torch.randn(1, 1, 32, 1024), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=grid,
        mesh_mapper=ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(None, 3)),
    )  # fmt: skip
    weight = ttnn.from_torch(
        torch.randn(1, 1, 1024, 2048), dtype=dtype, layout=ttnn.TILE_LAYOUT, device=grid,
        mesh_mapper=ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(3, 2)),
    )  # fmt: skip

    def product():
        scattered = ttnn.reduce_scatter(ttnn.linear(x, weight, dtype=dtype), dim=3, cluster_axis=1)
        return torch.cat([ttnn.to_torch(part) for part in ttnn.get_device_tensors(ttnn.gelu(scattered))])

    side_by_side_values = product()
    torch.set_num_threads(1)
    assert torch.equal(side_by_side_values, product())
