"""Timers of a run."""

import pytest

from models.common.profiler import Measurement, Profiler


def test_times_under_one_name_add_up_and_are_counted():
    ticks = iter([0.0, 1.0, 10.0, 10.5, 11.0, 20.0])
    profiler = Profiler(clock=lambda: next(ticks))
    with profiler.timed("decode"):
        pass
    with profiler.timed("generate"):
        with profiler.timed("decode"):
            pass
    assert profiler.seconds("decode") == 1.5 and profiler.count("decode") == 2
    assert profiler.seconds("generate") == 10.0


def test_a_body_that_raises_is_not_timed():
    profiler = Profiler()
    with pytest.raises(RuntimeError), profiler.timed("decode"):
        raise RuntimeError
    assert profiler.count("decode") == 0
    with pytest.raises(KeyError):
        profiler.seconds("decode")


def test_a_measurement_of_the_whole_run_has_no_batch():
    assert Measurement("load", 0.5, "s").as_json() == {"name": "load", "value": 0.5, "unit": "s"}
    assert Measurement("TTFT", 3.0, "ms", 0).as_json() == {"name": "TTFT", "value": 3.0, "unit": "ms", "batch": 0}
