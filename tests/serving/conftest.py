"""Tests of vLLM on the models. They run in .venv-serving; elsewhere, where vLLM is not installed, none is collected.

A process has one platform. Where it is the vendor's plugin, every test here is marked `plugin`.
"""

import importlib.util

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.serving.server import PLUGIN, bundled_server  # noqa: F401

    def pytest_report_header():
        return "vLLM's platform: " + ("the vendor's plugin" if PLUGIN else "our own; the vendor's plugin is not used")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(items):
        for item in items:
            if PLUGIN and item.get_closest_marker("serving"):
                item.add_marker(pytest.mark.plugin)
