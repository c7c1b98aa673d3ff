"""The options of the text demo, from `models/tt_transformers/demo/conftest.py`, and those of the decode demo."""

import pytest

from models.demos.llama3_70b_galaxy.demo.defaults import with_defaults
from models.tt_transformers.demo import conftest


def pytest_addoption(pluginmanager):
    # Under the name that pytest gives it itself, so that a run of several demos adds the options once.
    if not pluginmanager.is_registered(conftest):
        pluginmanager.register(conftest, conftest.__file__)


@pytest.fixture
def settings(case, request, monkeypatch):
    """The test's case with the given options, and this model's defaults for the others."""
    return with_defaults(case, conftest.given_options(request.config), monkeypatch)
