"""Every op of the emulator agrees with the vendor's golden function, if the op has one."""

from pathlib import Path

import pytest


@pytest.mark.vendor
def test_every_op_with_a_golden_function_correlates_with_it(run_on_mock):
    output = run_on_mock("N150", Path(__file__).with_name("golden_values.py"))
    *comparisons, (last, *missing) = [line.split("\t") for line in output.strip().splitlines() if "\t" in line or line == "not compared"]
    assert (last, missing) == ("not compared", [])
    assert len(comparisons) > 200
    # 0.9999 only allows for differences in the rounding to bfloat16.
    assert [line for line in comparisons if not float(line[2]) >= 0.9999] == []
