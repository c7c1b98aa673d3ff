from tests.support.fixtures import benchmarks, run_on_mock, warnings  # noqa: F401
