"""The emulator agrees with the vendor's package on its mock device: specs, refusals, memory and values."""

from pathlib import Path

import pytest

from tests.support.wide import some_of

HERE = Path(__file__).parent
pytestmark = pytest.mark.vendor


@pytest.mark.parametrize(
    "mesh, program, calls, refused",
    some_of(
        [
            *((mesh, "specs_like_vendor.py", 490, 150) for mesh in ("N150", "P100", "P150")),
            *((mesh, "mesh_specs_like_vendor.py", 76, 20) for mesh in ("T3K", "N150x4", "P150x4")),
        ],
        ("N150", "specs_like_vendor.py", 490, 150),
        ("T3K", "mesh_specs_like_vendor.py", 76, 20),
    ),
)
def test_outputs_and_refusals_are_the_vendors(run_on_mock, mesh, program, calls, refused):
    output = run_on_mock(mesh, HERE / program)
    assert "DISAGREE" not in output, output
    summary = output.strip().splitlines()[-1].replace(",", "").split()
    assert int(summary[0]) >= calls and int(summary[2]) >= refused


def test_values_are_the_golden_functions(run_on_mock):
    output = run_on_mock("N150", HERE / "values_like_golden.py")
    lines = [line.split("\t") for line in output.strip().splitlines()]
    assert len(lines) >= 60
    # 0.9999 only allows for differences in the rounding to bfloat16.
    assert [line for line in lines if not float(line[2]) >= 0.9999] == []
