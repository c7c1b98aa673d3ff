"""The options of the text demo, from `models/tt_transformers/demo/conftest.py`."""

from models.tt_transformers.demo import conftest
from models.tt_transformers.demo.conftest import settings  # noqa: F401


def pytest_addoption(pluginmanager):
    # Under the name that pytest gives it itself, so that a run of both demos adds the options once.
    if not pluginmanager.is_registered(conftest):
        pluginmanager.register(conftest, conftest.__file__)
