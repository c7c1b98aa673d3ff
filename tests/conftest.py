"""For all tests: what a test run measures is no benchmark of the project's."""

import pytest

from models.common import benchmark_record


@pytest.fixture(scope="module", autouse=True)
def benchmarks(tmp_path_factory):
    """The folder, a temporary one, where runs in this process leave their benchmark records."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("benchmarks")
        patch.setattr(benchmark_record, "FOLDER", folder)
        yield folder
