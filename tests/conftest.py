from tests.support.fixtures import benchmarks, run_on_mock  # noqa: F401
