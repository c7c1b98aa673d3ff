"""Matmul, norms, embedding, heads, rotary embedding, caches and attention agree with the vendor's package."""

from pathlib import Path

import pytest

from tests.support.wide import some_of

pytestmark = pytest.mark.vendor

HERE = Path(__file__).parent


@pytest.mark.parametrize("mesh", some_of(("N150", "P100", "P150"), "N150", "P150"))
def test_outputs_and_refusals_are_the_vendors(run_on_mock, mesh):
    lines = run_on_mock(mesh, HERE / "nn_specs_like_vendor.py").splitlines()
    disagreements = [line for line in lines if "critical" not in line][:-1]
    assert not disagreements, "\n".join(disagreements)
    calls, refused = lines[-1].removesuffix(" refused").split(" calls, ")
    # Agreement means something only if there were both accepted and refused calls.
    assert int(calls) > 300 and 100 < int(refused) < int(calls) - 100


def test_values_correlate_with_the_golden_functions(run_on_mock):
    lines = [line.split("\t") for line in run_on_mock("N150", HERE / "nn_values_like_golden.py").splitlines()]
    correlations = {(name, dtype): float(value) for name, dtype, value in (line for line in lines if len(line) == 3)}
    assert len(correlations) > 50
    low = {case: value for case, value in correlations.items() if not value >= 0.9999}
    assert not low
