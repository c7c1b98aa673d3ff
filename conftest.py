"""For every test and demo: `models` is imported first, so that `import ttnn` gives the chosen backend."""

import os

import pytest

import models  # noqa: F401
from models.common.mock import runtime_root


def pytest_runtest_setup(item):
    if item.get_closest_marker("vendor") is None:
        return
    missing = runtime_root.missing_package()
    if missing is None:
        return
    reason = f"the vendor's mock device needs the package {missing}"
    if os.environ.get("TT_REQUIRE_VENDOR") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
