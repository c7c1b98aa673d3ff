"""The measuring commands run from end to end on a small random model, and each run writes its benchmark record."""

import sys
import time

import pytest
import torch
import yaml

from models.common import backend, model_targets
from models.common.benchmark_record import medians, read
from models.common.mesh import open_mesh
from models.tt_transformers.measure import accuracy, machine_limits, pareto, regression, speed, start_up
from models.tt_transformers.measure.benchmarks import SYSTEMS, Benchmark, Workload
from models.tt_transformers.tt import reference
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.tiny_phi3 import SWITCH_LEN, save_tiny_phi3

pytestmark = pytest.mark.skipif(backend.name() != "emulator", reason="measured on the emulator")

PREFILL, GENERATED, USERS = SWITCH_LEN - 8, 24, 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    return directory, save_tiny_phi3(directory, vocab_size=1024)


@pytest.fixture(scope="module")
def texts(checkpoint, tmp_path_factory):
    """A reference file with texts that the model itself generated. They cross the LongRoPE switch."""
    directory, model = checkpoint
    prompts = torch.randint(3, 1024, (4, PREFILL), generator=torch.Generator().manual_seed(0))
    rope = Architecture.from_hf_config(read_config(directory / "config.json")).rope
    tokens = reference.continue_greedily(model, prompts, GENERATED, rope)
    with open_mesh("N150") as mesh_device:
        identity = reference.model_identity(ModelArgs(mesh_device, max_seq_len=128, hf_model=directory))
    facts = {"model": "tiny", "identity": identity, "text": "random", "dtype": "bf16", "versions": {}}
    path = tmp_path_factory.mktemp("reference") / "tiny.safetensors"
    predicted = reference.predictions(model, tokens, PREFILL, rope)
    reference.Reference(tokens.int(), *predicted, PREFILL, facts).save(path)
    return path


@pytest.fixture
def command(monkeypatch, tmp_path, checkpoint, texts, benchmarks):
    """Runs a module's command on the small model. Returns the benchmark records that it wrote, by path."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))

    def run(module, *arguments, model=checkpoint[0]):
        given = [*map(str, arguments), "--model", str(model), "--reference", str(texts)]
        monkeypatch.setattr(sys, "argv", [module.__name__, *given])
        before = set(benchmarks.glob("*.json"))
        module.main()
        return {path: read(path) for path in sorted(set(benchmarks.glob("*.json")) - before)}

    return run


def value(record, name):
    return medians(record)[name][0]


def test_accuracy_leaves_a_record_for_each_mesh_and_mode(command, tmp_path, texts):
    kept = command(accuracy, "--mesh", "N150", "N300", "--mode", "bf16", "performance", "--users", USERS, "--output", tmp_path / "out")
    written = {path.name: read(path) for path in (tmp_path / "out").iterdir()}
    assert set(written) == {f"accuracy-{mesh}-{mode}.json" for mesh in ("N150", "N300") for mode in ("bf16", "performance")}
    assert sorted(map(str, kept.values())) == sorted(map(str, written.values()))
    for name, record in written.items():
        assert name == f"accuracy-{record['mesh']}-{record['precision']}.json"
        assert value(record, "tokens") == USERS * GENERATED
        assert record["facts"]["reference"]["identity"] == record["facts"]["identity"]
    one, two = (written[f"accuracy-{mesh}-bf16.json"] for mesh in ("N150", "N300"))
    assert value(one, "top1") > 80 and value(one, "top5") > 95
    assert value(two, "weight bytes") < value(one, "weight bytes")
    assert value(written["accuracy-N150-performance.json"], "weight bytes") < value(one, "weight bytes")


def test_accuracy_without_output_leaves_its_records_in_generated(command, benchmarks):
    (path,) = command(accuracy, "--mesh", "N150", "--mode", "bf16", "--users", "1")
    assert path.parent == benchmarks


def test_accuracy_of_kv_cache_formats(command, tmp_path):
    kept = command(accuracy, "--mesh", "N150", "--kv_cache", "bfp8", "bfp4", "--users", USERS, "--output", tmp_path)
    assert len(kept) == 2
    bfp8, bfp4 = (read(tmp_path / f"kv-cache-N150-{name}.json") for name in ("bfp8", "bfp4"))
    assert (bfp8["facts"]["kv_cache"], bfp4["facts"]["kv_cache"]) == ("bfp8", "bfp4")
    assert bfp4["precision"] == "performance, KV cache bfp4"
    assert value(bfp4, "decode bytes") < value(bfp8, "decode bytes")
    assert value(bfp4, "weight bytes") == value(bfp8, "weight bytes")
    assert value(bfp4, "perplexity") != value(bfp8, "perplexity")


def test_modes_and_kv_cache_formats_are_not_mixed(command, capsys):
    with pytest.raises(SystemExit):
        command(accuracy, "--mode", "bf16", "--kv_cache", "bfp4")
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("module", [accuracy, pareto, regression])
def test_a_reference_of_another_model_is_refused(module, command, tmp_path, capsys, benchmarks):
    save_tiny_phi3(tmp_path / "other", vocab_size=1024, num_hidden_layers=1)
    before = set(benchmarks.iterdir())
    needed = ("--configurations", configurations(tmp_path / "configurations")) if module is pareto else ()
    with pytest.raises(SystemExit):
        command(module, *needed, model=tmp_path / "other")
    assert "the reference is of another model" in capsys.readouterr().err
    assert set(benchmarks.iterdir()) == before


def configurations(folder):
    folder.mkdir()
    for name in ("bf16", "bfp4"):
        groups = ", ".join(f'"{group}": "{name}"' for group in ("ff1_3", "ff2", "wqkv", "wo"))
        (folder / f"all_{name}.json").write_text(f'{{"precision_cfg": {{{groups}}}}}')
    return folder


def test_pareto_leaves_a_record_and_a_plot(command, tmp_path, capsys, texts):
    given = ("--configurations", configurations(tmp_path / "configurations"), "--users", USERS)
    ((path, record),) = command(pareto, *given, "--output", tmp_path / "out").items()
    assert path.with_suffix(".png").is_file() and (tmp_path / "out" / "pareto.png").is_file()
    assert read(tmp_path / "out" / "pareto.json") == record
    points = pareto.points_of(record)
    assert set(points) == {"all_bf16", "all_bfp4"} and points["all_bfp4"][2] < points["all_bf16"][2]
    assert record["model"] == "tiny" and record["facts"]["identity"] == reference.Reference.load(texts).facts["identity"]
    assert "| all_bfp4 |" in capsys.readouterr().out

    ((path, _),) = command(pareto, *given).items()
    assert path.with_suffix(".png").is_file()


def test_regression_leaves_records_and_prints_targets_that_they_meet(command, tmp_path, monkeypatch, capsys):
    for name, size in (("TOKENS", GENERATED), ("ROUNDS", 1), ("STEPS", 2)):
        monkeypatch.setattr(regression, name, size)
    kept = command(regression, "--mesh", "N150", "N300", "--mode", "performance")
    path = tmp_path / "targets.yaml"
    path.write_text(capsys.readouterr().out)
    targets = model_targets.load(path)
    assert [(target.key[2], {metric.name for metric in target.metrics}) for target in targets.values()] == [
        (mesh, regression.metrics_of(mesh)) for mesh in ("N150", "N300")
    ]
    assert len(kept) == 2 and {record["case"] for record in kept.values()} == {"regression-4"}
    for record in kept.values():
        key = ("emulator", "tiny", record["mesh"], "performance", "regression-4")
        measured = {name: round(number, 3) for name, (number, _) in medians(record).items()}
        assert targets[key].failures(measured) == []
    assert len(yaml.safe_load(path.read_text())) == 2


def small_benchmark(checkpoint):
    return Benchmark({"hf_model": checkpoint[0]}, (Workload(1, 16, 2), Workload(2, 16, 2)))


def test_bench_measures_both_systems_at_every_batch(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    lines = []
    monkeypatch.setattr(machine_limits, "COLUMNS", 256)
    args, found, work = speed.measure_speed(small_benchmark(checkpoint), "performance", 1, lines.append)
    assert args.model_name == "tiny" and len(lines) == 4
    limits = [entry for entry in found if entry["name"] in (machine_limits.READ, machine_limits.MATMUL)]
    assert [entry["iteration"] for entry in limits] == [0, 0, 1, 1, 2, 2] and all(entry["value"] > 0 for entry in limits)
    # The linears and the head, which decode reads once a step: in bf16, and in 1.0625 or 0.5625 bytes with some padding.
    assert work["weight_bytes"]["hugging_face"] == 2 * sum(work["parameters"].values()) > work["weight_bytes"]["emulator"]
    values = {entry["name"]: entry["value"] for entry in found if entry not in limits}
    for batch in (1, 2):
        for phase in ("prefill", "decode"):
            ours, theirs, ratio = (values.pop(f"batch-{batch}/{phase}/{name}") for name in (*SYSTEMS, "ratio"))
            assert ours > 0 and theirs > 0 and ratio == pytest.approx(ours / theirs)
    assert values == {}


def test_bench_alone_says_when_its_first_token_was_there_and_its_peak_memory(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    start = time.time()
    answer = start_up.run_alone(small_benchmark(checkpoint), "performance")
    assert start < answer["first_token"] < time.time()
    assert answer["peak_bytes"] > 100e6
