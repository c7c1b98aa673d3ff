from tests.support.fixtures import benchmarks, recorded_pcc, run_on_mock, warnings  # noqa: F401
