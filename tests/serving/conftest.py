"""Tests of vLLM on the models. They run in .venv-serving; elsewhere, where vLLM is not installed, none is collected."""

import importlib.util

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.serving.server import bundled_server  # noqa: F401
