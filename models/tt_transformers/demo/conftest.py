"""Adds the options of options.py to pytest, and checks their values before any test starts."""

import argparse
import sys

import pytest
from loguru import logger

from models.common import console
from models.tt_transformers.demo.options import ALIASES, OPTIONS

_OUTPUT = pytest.StashKey[console.Output]()


def pytest_addoption(parser):
    group = parser.getgroup("simple_text_demo", "options of simple_text_demo.py")
    for option in OPTIONS:
        group.addoption(
            f"--{option.name}",
            type=_argument_type(option),
            metavar=option.metavar,
            help=f"{option.help} (default: {option.default})",
        )


def pytest_configure(config):
    # The terminal's stdout, which pytest writes to as well.
    config.stash[_OUTPUT] = console.Output(sys.stdout)
    # loguru's own handler keeps the stderr that it found at import, which is pytest's capture. The demo's warnings
    # would then be seen only if it fails. This handler writes to the current stderr, the terminal's during the demo.
    logger.configure(handlers=[{"sink": _to_stderr, "level": "WARNING", "format": "{level}: {message}"}])


def _to_stderr(message):
    sys.stderr.write(message)


def _argument_type(option):
    def parse(text):
        try:
            return option.parse(text)
        except ValueError as error:
            # argparse shows the text of this exception alone, and hides that of a ValueError.
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def given_options(config):
    """The options that the user gave, by their first names. UsageError for one that is given under two names."""
    values = {option.name: config.getoption(option.name) for option in OPTIONS}
    given = {name: value for name, value in values.items() if value is not None}
    for alias, name in ALIASES.items():
        if alias in given and name in given:
            raise pytest.UsageError(f"--{alias} and --{name} are the same option; give one of them")
        if alias in given:
            given[name] = given.pop(alias)
    return given


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Ends with exit status 1, like a failed test, if some of the printed text could not be written."""
    result = yield
    if not session.config.stash[_OUTPUT].is_whole() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Checks the selected cases with the given options, so that wrong settings are an error before any run."""
    cases = [item for item in items if "case" in getattr(getattr(item, "callspec", None), "params", {})]
    given = given_options(config)
    if "output_json" in given and len(cases) > 1:
        raise pytest.UsageError(f"--output_json is for one case, but {len(cases)} are selected; select one with -k")
    for item in cases:
        try:
            item.callspec.params["case"].with_options(given).check()
        except ValueError as error:
            raise pytest.UsageError(f"{item.name}: {error}") from error


@pytest.fixture
def settings(case, request):
    """The test's case with the given options."""
    return case.with_options(given_options(request.config))
