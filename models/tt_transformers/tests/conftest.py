from tests.conftest import benchmarks  # noqa: F401
