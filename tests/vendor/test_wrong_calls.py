"""The emulator refuses every call that the vendor's checks refuse."""

import json
from pathlib import Path

import pytest

from . import wrong_calls


@pytest.fixture(scope="module")
def outcomes(run_on_mock):
    return json.loads(run_on_mock("N300", Path(wrong_calls.__file__), backend="lockstep").splitlines()[-1])


@pytest.mark.vendor
@pytest.mark.parametrize("what", wrong_calls.CASES)
def test_both_refuse(outcomes, what):
    assert outcomes[what].startswith("both refuse it")
