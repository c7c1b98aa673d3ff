"""The committed records: each exists, is of this checkpoint, and meets the project's aims."""

import itertools

import pytest

from models.common import cpu
from models.common.benchmark_record import medians
from models.common.mesh import open_mesh
from models.common.mesh_names import LINES
from models.tt_transformers.measure import accuracy, large_model, machine_limits, report
from models.tt_transformers.measure.accuracy import TOP1, TOP5
from models.tt_transformers.measure.benchmarks import BENCHMARKS, WAIT_POLICIES, record_name
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.reference import Reference, reference_path

BUNDLED_BENCHMARKS = ("bench-bundled-performance", "bench-bundled-bf16")


@pytest.fixture(scope="module")
def records():
    return report.read_records()


@pytest.fixture(scope="module")
def reference():
    """The committed reference, made from the committed checkpoint."""
    reference = Reference.load(reference_path(BUNDLED.name))
    with open_mesh("N150") as mesh_device:
        accuracy.make_args(mesh_device, reference, users=1)
    return reference


def values(record):
    return {name: value for name, (value, _) in medians(record).items()}


@pytest.mark.parametrize("mode", accuracy.MODES)
@pytest.mark.parametrize("mesh", LINES)
def test_token_accuracy_meets_its_aims(records, reference, mesh, mode):
    record = records[f"accuracy-{mesh}-{mode}"]
    assert (record["mesh"], record["model"], record["precision"]) == (mesh, BUNDLED.name, mode)
    assert record["facts"]["reference"] == reference.facts
    measured = values(record)
    assert measured["tokens"] == record["facts"]["users"] * reference.generated
    assert measured["top1"] >= TOP1[mode]
    assert measured["top5"] >= TOP5


@pytest.mark.parametrize("name", ["pareto", "prefill-N150", *BUNDLED_BENCHMARKS])
def test_what_was_measured_with_trained_weights_was_with_these(records, reference, name):
    assert records[name]["facts"]["identity"] == reference.facts["identity"]


@pytest.mark.parametrize("name", [name for name in report.read_records() if name.startswith("bench-") and "bf16" not in name])
def test_speed_and_memory_against_hugging_face_meet_their_aims(records, name):
    """Compares medians of the rounds' ratios, rounded to two places as in PERF.md."""
    measured = values(records[name])
    missed = set()
    for what, aim in BENCHMARKS[records[name]["case"].removeprefix("bench ")].aims.items():
        if f"{what}/ratio" in measured:
            ratio = round(measured[f"{what}/ratio"], 2)
            if ratio > aim if "memory" in what else ratio < aim:
                missed.add(what)
    assert not missed


@pytest.mark.parametrize("name", [name for name in report.read_records() if name.startswith("bench-")])
def test_a_benchmark_was_of_its_name_and_of_this_codes_workloads(records, name):
    record, facts = records[name], records[name]["facts"]
    model, limits = record["case"].removeprefix("bench "), record.get("cpu", {}).get("limits", {})
    assert name == record_name(model, record["precision"], limits, facts["wait_policy"])
    # With AVX2 only, Hugging Face takes minutes for 32 prompts: `make bench` measures them with one wait policy.
    users = (1,) if limits and facts["wait_policy"] == "active" else (1, 32)
    assert facts["workloads"] == [vars(workload) for workload in BENCHMARKS[model].workloads if workload.users in users]
    assert facts["layers"] == BENCHMARKS[model].settings.get("num_layers", facts["layers"])


def test_every_benchmark_was_measured_with_each_wait_policy_and_kind_of_processor(records):
    for model, benchmark in BENCHMARKS.items():
        whole = records[f"bench-{model}-performance"]
        kinds = [{}, cpu.AVX2_ONLY] if cpu.has_more_than_avx2(whole["cpu"]["features"]) else [{}]
        for limits, wait_policy in itertools.product(kinds, WAIT_POLICIES):
            record = records[record_name(model, "performance", limits, wait_policy)]
            assert set(values(record)) >= {machine_limits.READ, machine_limits.MATMUL}
            assert set(values(record)) >= {f"batch-1/decode/llama.cpp {kind}" for kind in benchmark.llama_cpp}
    assert records["large-model"]["facts"]["layers"] == large_model.LAYERS


@pytest.mark.parametrize("kv_cache", ["bfp8", "bfp4"])
def test_the_kv_caches_formats_were_measured_with_this_checkpoint(records, reference, kv_cache):
    record = records[f"kv-cache-N150-{kv_cache}"]
    assert record["facts"]["kv_cache"] == kv_cache
    assert record["facts"]["identity"] == reference.facts["identity"]
    assert values(record)["tokens"] == record["facts"]["users"] * reference.generated


@pytest.mark.parametrize("phase", ["prefill", "prefill CPU", "decode", "decode CPU"])
def test_a_galaxy_on_the_emulator_takes_at_most_1_6_times_the_time_of_one_device(records, phase):
    record = records["devices-TG"]
    facts = record["facts"]
    assert (record["mesh"], record["model"], facts["layers"], facts["users"], facts["prompt"]) == ("TG", "Llama-3.1-8B", 2, 32, 2048)
    assert values(record)[f"{phase}/ratio"] <= 1.6
