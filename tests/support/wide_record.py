"""A pytest plugin for `make test-wide`: `--wide_record FILE` keeps which tests of a run passed, if all did."""

from pathlib import Path

import pytest

from models.common import benchmark_record, whole_file

FILE = Path(__file__).resolve().parents[1] / "records" / "wide.json"


def pytest_addoption(parser):
    parser.addoption("--wide_record", metavar="FILE", help="write the tests that passed to FILE, if all did")


def pytest_configure(config):
    if config.getoption("wide_record") and not hasattr(config, "workerinput"):  # once, not in every worker process
        config.pluginmanager.register(_Recorder(config.getoption("wide_record")))


class _Recorder:
    def __init__(self, file: str):
        self._file, self._passed = file, set()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def pytest_sessionfinish(self, exitstatus):
        if exitstatus == pytest.ExitCode.OK:
            whole_file.write_json(self._file, {**benchmark_record.origin(), "passed": sorted(self._passed)})
