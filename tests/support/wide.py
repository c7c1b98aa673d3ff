"""Sweeps: `make test` runs a few of a test's parameters, `make test-wide` the others."""

import pytest


def some_of(values, *chosen) -> list:
    """Parameters for `pytest.mark.parametrize`: `values`, of which those that are not `chosen` are marked `wide`."""
    if missing := [value for value in chosen if value not in values]:
        raise ValueError(f"{missing[0]!r} is not among the parameters {list(values)}")
    return [value if value in chosen else _wide(value) for value in values]


def _wide(value):
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.wide)
