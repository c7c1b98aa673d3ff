"""`make bench`: what it runs and refuses, its figures, and the table that is made from them."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from models.common import backend, benchmark_record, cpu
from models.common.benchmark_record import measurement
from models.tt_transformers.measure import bench_report, large_model, machine_limits, speed, systems
from models.tt_transformers.measure.benchmarks import Workload, record_name
from models.tt_transformers.tt.checkpoints.state_dict import DummyStateDict
from tests.support.tiny_phi3 import save_tiny_phi3

WIDTHS = {
    "hidden_size": 64, "intermediate_size": 128, "vocab_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture
def command(monkeypatch):
    """Runs `measure.speed` with these arguments; a benchmark that it begins fails the test."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["speed", *map(str, arguments)])
        monkeypatch.setattr(speed, "run_benchmark", lambda *_: pytest.fail("a benchmark began"))
        speed.main()

    return run


def test_llama_cpp_that_is_not_installed_is_told_before_long_work(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(systems, "BENCH_ENVIRONMENT", tmp_path)
    with pytest.raises(SystemExit):
        command("--model", "full-width")
    assert "make setup-bench" in capsys.readouterr().err.splitlines()[-1]


def test_avx2_alone_is_not_measured_where_there_is_no_more(command, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "features", lambda: ["avx2", "fma", "f16c"])
    command("--avx2")
    assert "nothing wider than AVX2" in capsys.readouterr().out


def test_avx2_alone_runs_in_a_process_with_its_variables(command, monkeypatch):
    class Replaced(Exception):
        pass

    def execve(program, arguments, environment):
        raise Replaced(arguments, environment)

    monkeypatch.setattr(cpu, "features", lambda: ["avx2", "avx512f"])
    for name in cpu.AVX2_ONLY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(Replaced) as replaced:
        command("--avx2", "--model", "bundled")
    arguments, environment = replaced.value.args
    assert arguments == [sys.executable, "-m", speed.__name__, "--avx2", "--model", "bundled"]
    assert cpu.AVX2_ONLY.items() <= environment.items()


@pytest.mark.parametrize(
    "limits, wait_policy, name",
    [
        ({}, "passive", "bench-bundled-bf16"),
        ({}, "active", "bench-bundled-bf16-active"),
        (cpu.AVX2_ONLY, "passive", "bench-bundled-bf16-avx2"),
        (cpu.AVX2_ONLY, "active", "bench-bundled-bf16-avx2-active"),
    ],
)
def test_a_record_is_named_for_its_processor_and_wait_policy(limits, wait_policy, name):
    assert record_name("bundled", "bf16", limits, wait_policy) == name


def test_a_ratio_to_llama_cpp_is_of_bytes_in_decode_and_of_tokens_in_prefill():
    results = [{"emulator": (2.0, 4.0), "hugging_face": (1.0, 8.0), "llama.cpp q8_0": (1.0, 2.0)}]
    found = speed.speeds(Workload(1, 10, 6), results, {"emulator": 300, "llama.cpp q8_0": 400})
    values = {entry["name"]: entry["value"] for entry in found}
    assert values["batch-1/prefill/ratio to llama.cpp q8_0"] == 0.5
    assert values["batch-1/decode/ratio to llama.cpp q8_0"] == 0.5 * 300 / 400


def record_of(**facts):
    """A full-width record: 40 t/s in decode where Hugging Face has 20 and llama.cpp 80, and a machine's limits."""
    values = {
        "batch-1/prefill/emulator": 400.0, "batch-1/prefill/hugging_face": 500.0, "batch-1/prefill/ratio": 0.8,
        "batch-1/decode/emulator": 40.0, "batch-1/decode/hugging_face": 20.0, "batch-1/decode/ratio": 2.0,
        "batch-1/decode/llama.cpp q8_0": 80.0, "batch-1/decode/ratio to llama.cpp q8_0": 0.5,
        "batch-1/peak memory/emulator": 500.0, "batch-1/peak memory/hugging_face": 1000.0, "batch-1/peak memory/ratio": 0.5,
        machine_limits.READ: 10.0, machine_limits.MATMUL: 0.5,
    }  # fmt: skip
    return benchmark_record.make(
        mesh="N150", model="a", precision="performance", case="bench full-width", wait_policy="passive", layers=8, threads=2,
        rounds=1, load_average=1.0, random_weights=True, workloads=[vars(Workload(1, 100, 8))],
        parameters={"layers": 200e6, "head": 100e6}, weight_bytes={"emulator": 150e6}, **facts,
        measurements=[measurement(name, value, "x", 0) for name, value in values.items()],
    )  # fmt: skip


def cells_of(record, what):
    (row,) = [line for line in bench_report.section({"r": record}).splitlines() if line.startswith("| a, 8 layers") and what in line]
    header = next(line for line in bench_report.section({"r": record}).splitlines() if line.startswith("| model"))
    return dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (header, row))))


def test_a_row_says_whether_its_aims_are_met():
    record = record_of()
    assert (cells_of(record, "decode")["aim"], cells_of(record, "decode")["met"]) == ("2", "yes")
    assert (cells_of(record, "prefill")["aim"], cells_of(record, "prefill")["met"]) == ("1", "no")
    assert (cells_of(record, "peak memory")["aim"], cells_of(record, "peak memory")["met"]) == ("0.5", "yes")
    assert cells_of(record, "decode")["to llama.cpp q8_0"] == "0.50 of 80 t/s, missed"
    assert cells_of(record, "decode")["to llama.cpp q4_0"] == "-"


def test_a_row_says_what_bounds_it():
    """Decode reads 40 * 150 MB of 10 GB/s; a prefill's last token alone needs the head: 400 * 2 * (200 M + 1 M) operations."""
    decode, prefill = (cells_of(record_of(), what) for what in ("decode", "prefill"))
    assert (decode["weights read"], decode["matmuls"], decode["bound by"]) == ("6 GB/s, 60%", "0.024 TFLOP/s, 5%", "memory")
    assert (prefill["weights read"], prefill["matmuls"], prefill["bound by"]) == ("-", "0.161 TFLOP/s, 32%", "other work")


def test_a_row_says_which_instructions_were_used():
    record = record_of()
    record["cpu"] = {"features": ["avx2", "avx512f"], "limits": cpu.AVX2_ONLY}
    assert cells_of(record, "decode")["processor"] == "AVX2"
    record["cpu"]["limits"] = {}
    assert cells_of(record, "decode")["processor"] == "AVX-512"


@pytest.mark.skipif(backend.name() != "emulator", reason="measured on the emulator")
def test_a_large_models_second_start_makes_no_weights(tmp_path, monkeypatch):
    save_tiny_phi3(tmp_path / "tiny", vocab_size=1024)
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    first = large_model.start_alone(1, tmp_path / "tiny")
    assert first["making weights"] > 0 and first["decode"] > 0 and first["weight_bytes"] > 0
    monkeypatch.setattr(DummyStateDict, "__getitem__", lambda *_: pytest.fail("a weight was made"))
    second = large_model.start_alone(1, tmp_path / "tiny")
    assert second["weight_bytes"] == first["weight_bytes"] and second["weights made"] == 0 < first["weights made"]


def test_the_8b_is_reported_with_its_memory_aim():
    figures = {"start-up": (60.0, 5.0), "making weights": (50.0, 0.0), "decode": (2.0, 4.0), "peak memory": (8000.0, 6000.0)}
    found = [measurement(f"{kind}/{name}", figures[name][i], "x") for i, kind in enumerate(large_model.STARTS) for name in figures]
    found += [measurement("weight cache", 5000, "MB"), measurement(machine_limits.READ, 20.0, "GB/s", 0)]
    record = benchmark_record.make(
        mesh="N150", model="8B", precision="performance", case="large-model", measurements=found, layers=32,
        workload=vars(large_model.WORKLOAD), weight_bytes=5e9, load_average=1.0,
    )  # fmt: skip
    rows = [line for line in bench_report.large_model(record).splitlines() if line.startswith(("| cold", "| warm"))]
    assert rows == [
        "| cold | 60.0 | 50.0 | 2.00 | 10 GB/s, 50% | 8000 | 7500 | no |",
        "| warm | 5.0 | 0.0 | 4.00 | 20 GB/s, 100% | 6000 | 7500 | yes |",
    ]


@pytest.mark.bench
@pytest.mark.parametrize("kind, bytes_a_block", [("q8_0", 34), ("q4_0", 18)])
def test_llama_cpp_runs_random_weights_of_given_widths(kind, bytes_a_block, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(WIDTHS))
    args = SimpleNamespace(model_dir=tmp_path, arch=SimpleNamespace(n_layers=2), max_seq_len=64)
    with systems.llama_cpp(args, kind, threads=1) as llama:
        assert all(seconds > 0 for seconds in systems.timed_generation(llama, [[3, 4, 5]], 2))
    weights = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128) + 64 * 96
    norms = 4 * 64 * (2 * 2 + 1)
    assert llama.facts["weight_bytes"] == weights // 32 * bytes_a_block + norms
