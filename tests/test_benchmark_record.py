"""Benchmark records can be read back, errors name the bad record, and a comparison lists the changes."""

import json
import subprocess
import sys

import pytest

from models.common import benchmark_record
from models.common.benchmark_record import measurement
from models.common.whole_file import NotWritten


def record(*values, **facts):
    entries = [measurement("decode", value, "t/s", iteration) for iteration, value in enumerate(values)]
    return benchmark_record.make(
        mesh="N150", model="a/b", precision="performance", case="batch-1", measurements=entries, **facts
    )


def test_a_record_reads_back_and_states_where_it_was_made(tmp_path):
    made = record(1.0, 2.0, 4.0, threads=2)
    path = benchmark_record.write(made, tmp_path / "r.json")
    assert benchmark_record.read(path) == made
    assert made["backend"] == "emulator" and "cores" in made["machine"] and made["facts"] == {"threads": 2}
    assert benchmark_record.medians(made) == {"decode": (2.0, "t/s")}


def test_a_record_states_the_processors_instructions_and_an_older_one_need_not(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_record.cpu, "features", lambda: ["avx2"])
    monkeypatch.setattr(benchmark_record.cpu, "limits", lambda: {"ATEN_CPU_CAPABILITY": "avx2"})
    made = record(1.0)
    assert made.pop("cpu") == {"features": ["avx2"], "limits": {"ATEN_CPU_CAPABILITY": "avx2"}}
    assert benchmark_record.read(benchmark_record.write(made, tmp_path / "r.json")) == made


def test_without_a_path_each_record_gets_a_file_in_generated(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_record, "FOLDER", tmp_path / "generated")
    path = benchmark_record.write(record(1.0))
    assert path.parent == tmp_path / "generated" and "_a-b_N150_performance_batch-1_" in path.name


def test_records_of_one_kind_and_second_do_not_overwrite_each_other(benchmarks):
    made = record(1.0)
    paths = {benchmark_record.write(made) for _ in range(3)}
    assert len(paths) == 3 == len(list(benchmarks.iterdir()))


def test_a_kept_record_is_in_generated_and_where_it_was_asked_for(tmp_path, benchmarks):
    made = record(1.0)
    path = benchmark_record.keep(made, tmp_path / "r.json")
    assert path.parent == benchmarks and benchmark_record.read(path) == benchmark_record.read(tmp_path / "r.json") == made


def test_a_record_that_cannot_be_kept_is_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(benchmark_record, "FOLDER", tmp_path / "file" / "benchmarks")
    made = record(1.0)
    with pytest.raises(NotWritten, match="^benchmark record .*file/benchmarks: Not a directory"):
        benchmark_record.keep(made, tmp_path / "r.json")
    assert json.loads(capsys.readouterr().out) == made == benchmark_record.read(tmp_path / "r.json")


def test_the_revision_is_gits():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=benchmark_record.ROOT, capture_output=True, text=True)
    if head.returncode:
        assert benchmark_record.git_revision() == "unknown"
    else:
        assert head.stdout.startswith(benchmark_record.git_revision().removesuffix("+changes"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mesh": None}, "field 'mesh' is None; expected str"),
        ({"speed": 3}, "field 'speed' is not known"),
        ({"cpu": "AVX2"}, "field 'cpu' is 'AVX2'; expected dict"),
        ({"schema": "benchmark 0"}, "schema 'benchmark 1'"),
        ({"measurements": [{"name": "x"}]}, "expected name, value, unit, iteration"),
        ({"measurements": [{"name": "x", "value": "12", "unit": "s", "iteration": 0}]}, "expected texts, a number, and a count or null"),
        ({"measurements": [{"name": "x", "value": None, "unit": "s", "iteration": 0}]}, "expected texts, a number"),
        ({"measurements": [{"name": "x", "value": 1, "unit": "s", "iteration": 0.5}]}, "a count or null"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused(tmp_path, change, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(record(1.0) | change))
    with pytest.raises(ValueError, match=message):
        benchmark_record.read(path)


def test_compare_prints_what_moved_largest_first(tmp_path):
    before = record(10.0, 20.0, 30.0)
    after = record(5.0, 10.0, 15.0) | {"mesh": "N300"}
    before["measurements"] += [measurement("ops", 100, "ops"), measurement("gone", 1, "s"), measurement("TTFT", 12, "ms")]
    after["measurements"] += [measurement("ops", 101, "ops"), measurement("TTFT", 0.012, "s")]
    paths = [benchmark_record.write(r, tmp_path / name) for r, name in ((before, "a.json"), (after, "b.json"))]
    result = subprocess.run(
        [sys.executable, "-m", "models.common.benchmark_record", "compare", *map(str, paths)],
        cwd=benchmark_record.ROOT, capture_output=True, text=True, check=True,
    )
    assert result.stdout.splitlines()[-5:] == [
        "mesh: N150 -> N300",
        "TTFT: 12 ms -> 0.012 s, another unit",
        "decode: 20 -> 10 t/s (-50.0%)",
        "ops: 100 -> 101 ops (+1.0%)",
        "gone: only in the first",
    ]


def test_compare_names_a_file_that_is_not_there(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "models.common.benchmark_record", "compare", str(tmp_path / "no.json"), "x"],
        cwd=benchmark_record.ROOT, capture_output=True, text=True,
    )
    assert result.returncode == 1 and "no.json: No such file" in result.stderr
