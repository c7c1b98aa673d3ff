"""Settings of every test and demo: imports `models` first, so that `import ttnn` gives the chosen backend.

Tests marked `vendor` are skipped where the vendor's mock device cannot be opened. With TT_REQUIRE_VENDOR=1
a skipped `vendor` test fails, whatever the reason for the skip.
"""

import os
import sys

import pytest

try:
    import models  # noqa: F401
except (RuntimeError, ValueError) as error:
    # TT_BACKEND or the mesh is not available here. pytest would add the traceback of every import on the way.
    print(f"ERROR: {error}", file=sys.stderr)
    sys.exit(pytest.ExitCode.USAGE_ERROR)

from models.common.vendor.mock import runtime_root

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: a thread each, so that they do not wait for each other. Child processes take this over.
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


# The ids of the tests marked `wide` among those that were collected, whether they are selected or not.
WIDE = pytest.StashKey[list]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    config.stash[WIDE] = [item.nodeid for item in items if item.get_closest_marker("wide")]


def _is_vendor_test(item) -> bool:
    return item.get_closest_marker("vendor") is not None


def pytest_runtest_setup(item):
    missing = runtime_root.missing_package() if _is_vendor_test(item) else None
    if missing is not None:
        pytest.skip(f"the vendor's mock device needs the package {missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    required = os.environ.get("TT_REQUIRE_VENDOR") == "1"
    if report.skipped and required and _is_vendor_test(item) and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}, and TT_REQUIRE_VENDOR=1 allows no skip"
    return report
