"""Runs the computations of several devices side by side, each in one thread."""

import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import torch

from .openmp import runtime


def side_by_side(compute, items) -> list:
    """The results of `compute` for each of `items`, in as many threads as torch has, this one included.

    Each thread takes one item at a time, and torch computes it in that thread alone. So a computation does not start
    threads of its own and wait for them, many times over. An exception is that of the first item that raises one. With
    fewer items than threads they are computed one after another, each by all threads.
    """
    threads = torch.get_num_threads()
    openmp = runtime()
    if openmp is None or not 1 < threads <= len(items):
        return list(map(compute, items))
    results, errors = [None] * len(items), {}
    indices, inference = iter(range(len(items))), torch.is_inference_mode_enabled()

    def take_items():
        with torch.inference_mode(inference):
            for index in indices:
                try:
                    results[index] = compute(items[index])
                except BaseException as error:
                    errors[index] = error
                    return

    helpers = [_helpers(threads - 1).submit(take_items) for _ in range(threads - 1)]
    openmp.omp_set_num_threads(1)  # of this thread only, unlike torch.set_num_threads
    take_items()
    openmp.omp_set_num_threads(threads)
    wait(helpers)
    if errors:
        raise errors[min(errors)]
    return results


@lru_cache(maxsize=None)
def _helpers(count: int):
    return ThreadPoolExecutor(count, initializer=_compute_alone)


os.register_at_fork(after_in_child=_helpers.cache_clear)  # threads do not survive a fork


def _compute_alone():
    torch.get_num_threads()  # torch sets a new thread's number of threads when that is first asked for
    runtime().omp_set_num_threads(1)
