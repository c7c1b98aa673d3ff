"""The DRAM of a full-size Phi-3-mini: as laid out without values, by the vendor's allocator, and in the limits."""

import json
import sys
from itertools import product

import pytest

from models.common.mesh import open_mesh
from models.common.mesh_names import LINES
from models.common.ttnn_emulator.device import shape_only
from models.tt_transformers.measure import capacity
from models.tt_transformers.measure import long_context_report as report
from models.tt_transformers.tt.config.prefill_chunks import VARIABLE
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime import dram
from tests.support.wide import some_of

pytestmark = pytest.mark.whole

BFP4_CACHE = {"optimizations": "precision_cfg = {kv_cache: bfp4}"}


@pytest.fixture(autouse=True)
def default_chunks(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize("mesh", LINES)
@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_what_is_laid_out_is_what_the_model_holds(mesh, mode):
    usage = capacity.measure(mesh, 4096, chunks=1, num_layers=2, optimizations=mode)
    with shape_only(), open_mesh(mesh) as mesh_device:
        args = ModelArgs(
            mesh_device,
            max_seq_len=4096,
            hf_model=capacity.MODEL,
            dummy_weights=True,
            num_layers=2,
            optimizations=mode,
            page_params={"block_size": capacity.BLOCK_SIZE, "max_num_blocks": 4096 // capacity.BLOCK_SIZE},
        )
        with Generator.build(args):
            assert usage.weights + usage.kv_cache == capacity.allocated_bytes(mesh_device)
        assert capacity.allocated_bytes(mesh_device) == 0


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", some_of(LINES, "N150", "T3K"))
@pytest.mark.parametrize(
    "mode, optimizations, contexts",
    [
        ("performance", None, (45056, 102400, 131072)),
        ("accuracy", None, (18432, 49152, 131072)),
        ("performance", "precision_cfg = {kv_cache: bfp4}", (81920, 131072, 131072)),
    ],
    ids=["performance", "accuracy", "bfp4-cache"],
)
def test_weights_and_caches_take_what_the_vendors_allocator_says(run_on_mock, tmp_path, mesh, mode, optimizations, contexts):
    """On the mock device, in a process of its own; the vendor's allocator has no peaks to compare activations with."""
    context = contexts[LINES.index(mesh)]
    output = tmp_path / "usage.json"
    code = "import sys; from models.tt_transformers.measure.capacity import main; main()"
    changes = [] if optimizations is None else ["--optimizations", optimizations]
    run_on_mock(mesh, code, "--mesh", mesh, "--context", str(context), "--mode", mode, *changes, "--output", str(output))
    vendors = json.loads(output.read_text())
    usage = capacity.measure(mesh, context, chunks=2, optimizations=optimizations, optimizations_base=mode)
    assert vendors["backend"] == "mock"
    assert usage.weights == pytest.approx(vendors["weights"], rel=0.01)
    assert usage.kv_cache == pytest.approx(vendors["kv_cache"], rel=0.01)
    assert usage.capacity == pytest.approx(vendors["capacity"], rel=0.01)


def test_every_mesh_and_mode_was_run_at_the_whole_context_in_less_than_a_minute():
    records = report.read("capacity-*.json")
    assert {(record["mesh"], record["optimizations_base"]) for record in records} == set(product(LINES, ("performance", "accuracy")))
    assert {(record["backend"], record["context"]) for record in records} == {("emulator", 131072)}
    assert max(record["seconds"] for record in records) < 60


@pytest.mark.parametrize(
    "name, promised",
    [("N150-performance", 45056), ("N300-performance", 102400), ("N300-performance-bfp4-cache", 131072), ("T3K-performance", 131072)],
)
def test_the_largest_committed_contexts_are_at_least_those_promised(name, promised):
    (record,) = report.read(f"capacity-{name}.json")
    assert ("bfp4" in name) == (record["optimizations"] is not None)
    largest = record["largest"]
    assert largest["context"] >= promised
    assert sum(largest[part] for part in ("weights", "kv_cache", "activations")) <= largest["capacity"]


@pytest.mark.parametrize(
    "mesh, context, precision",
    [("N150", 44 * 1024, {}), ("N300", 100 * 1024, {}), ("N300", 128 * 1024, BFP4_CACHE), ("T3K", 128 * 1024, {})],
)
def test_a_context_that_is_promised_fits(mesh, context, precision):
    usage = capacity.measure(mesh, context, chunks=2, **precision)
    assert usage.fits, capacity.describe(usage)


@pytest.mark.parametrize("model, context", [("meta-llama/Llama-3.1-70B", 131072), ("Qwen/Qwen2.5-72B", 32768)])
def test_the_largest_models_fit_a_t3k_with_their_whole_context(model, context, monkeypatch):
    measured, measure = [], capacity.measure
    monkeypatch.setattr(capacity, "measure", lambda *args, **options: measured.append(args) or measure(*args, **options))
    record = capacity.run("T3K", context, True, {"model": model, "optimizations": None, "optimizations_base": "performance"})
    assert record["largest"]["context"] == context and record["weights"] > 6e9
    assert measured == [("T3K", context)]  # where all of it fits, nothing is left to search


@pytest.mark.parametrize("mesh", LINES)
@pytest.mark.parametrize("optimizations", ["performance", "accuracy", "precision_cfg = {kv_cache: bfp4}"])
def test_what_is_needed_by_arithmetic_is_at_most_what_is_allocated_and_nearly_that(mesh, optimizations):
    context = 8192
    usage = capacity.measure(mesh, context, chunks=1, optimizations=optimizations)
    with shape_only(), open_mesh(mesh) as mesh_device:
        pages = {"block_size": capacity.BLOCK_SIZE, "max_num_blocks": context // capacity.BLOCK_SIZE}
        args = ModelArgs(
            mesh_device, max_seq_len=context, hf_model=capacity.MODEL, dummy_weights=True, page_params=pages, optimizations=optimizations
        )
        weights, kv_cache = dram.needed(args)
        unpaged = ModelArgs(mesh_device, max_seq_len=context, hf_model=capacity.MODEL, dummy_weights=True, optimizations=optimizations)
        assert dram.needed(unpaged) == (weights, kv_cache)
        dram.check_fits(args)
    assert kv_cache == usage.kv_cache
    assert 0.93 * usage.weights <= weights <= usage.weights  # RoPE tables make the difference


def test_what_is_needed_counts_padding():
    """Qwen2.5-0.5B on T3K: each device holds a KV head of its own and 1024 / 8 columns of the residual stream."""
    context, model = 8192, "Qwen/Qwen2.5-0.5B"
    usage = capacity.measure("T3K", context, chunks=1, model=model)
    with shape_only(), open_mesh("T3K") as mesh_device:
        weights, kv_cache = dram.needed(ModelArgs(mesh_device, max_seq_len=context, hf_model=model, dummy_weights=True))
    assert kv_cache == 2 * 24 * (context // 32) * 2 * 1088
    assert 0.99 * usage.kv_cache <= kv_cache <= usage.kv_cache
    assert 0.85 * usage.weights <= weights <= usage.weights  # RoPE tables and the padding of banks make the difference


@pytest.mark.parametrize(
    "mesh, model, optimizations",
    [
        ("N150", "meta-llama/Llama-3.1-8B", "performance"),
        ("N300", "Qwen/Qwen3-32B", "accuracy"),
        ("T3K", "mistralai/Mistral-7B-v0.1", "performance"),
        ("T3K", "microsoft/Phi-3-mini-128k-instruct", "accuracy"),
    ],
)
def test_a_pool_of_pages_leaves_the_dram_that_a_prefill_takes_and_wastes_little(mesh, model, optimizations):
    usage = capacity.measure(mesh, 8192, chunks=2, model=model, optimizations=optimizations, num_layers=4)
    with shape_only(), open_mesh(mesh) as mesh_device:
        args = ModelArgs(
            mesh_device, max_seq_len=8192, hf_model=model, dummy_weights=True, optimizations=optimizations, num_layers=4,
            page_params={"block_size": capacity.BLOCK_SIZE, "max_num_blocks": 8192 // capacity.BLOCK_SIZE},
        )
        pool, bytes_a_token = dram.pool_tokens(args) + 128, dram.needed(args)[1] / 8192
    rest = usage.capacity - usage.weights - pool * bytes_a_token
    assert usage.activations <= rest <= 2 * usage.activations


def test_a_context_whose_pool_does_not_fit_is_refused_with_the_largest_that_does():
    def check(max_seq_len):
        with shape_only(), open_mesh("N150") as mesh_device:
            pages = {"block_size": 32, "max_num_blocks": max_seq_len // 32}
            args = ModelArgs(
                mesh_device, max_seq_len=max_seq_len, max_batch_size=4, hf_model=capacity.MODEL, dummy_weights=True, page_params=pages
            )
            dram.check_context(args)

    with pytest.raises(ValueError, match=r"on N150: max_seq_len 65536 does not fit DRAM; the largest .* with 4 users is \d+") as error:
        check(65536)
    largest = int(str(error.value).split()[-1])
    check(largest)
    assert 40000 < largest < 47104  # one user alone has 46080, in steps of 1024


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    with shape_only(), open_mesh("N150") as mesh_device:
        args = ModelArgs(mesh_device, max_seq_len=65536, hf_model=capacity.MODEL, dummy_weights=True)
        with pytest.raises(ValueError, match=r"does not fit N150: 2\.\d\d GB of weights and 13.69 GB of KV cache a device, which has 12.82 GB"):
            dram.check_fits(args)


def test_a_bfp8_cache_takes_208896_bytes_a_token():
    """Keys and values of 32 layers and 32 heads of 96, in tiles of 1088 bytes."""
    assert capacity.measure("N150", 8192, chunks=1).kv_cache == 8192 * 208896


def test_two_chunks_show_the_peak_of_a_long_prefill():
    short, whole = (capacity.measure("N150", 8192, chunks=chunks, num_layers=2) for chunks in (2, None))
    assert whole.activations == pytest.approx(short.activations, rel=0.01)


def test_the_largest_context_fits_and_a_step_more_does_not():
    options = {"model": capacity.MODEL, "optimizations_base": "accuracy"}
    best = capacity.largest("N150", 20480, **options)
    more = capacity.measure("N150", best.context + capacity.STEP, chunks=2, **options)
    assert best.fits and not more.fits


def test_what_does_not_fit_a_card_is_refused_by_its_allocator():
    """The limit is not lifted here, as in every run but `measure`'s. The tensors made before the refusal are freed."""
    with shape_only(), open_mesh("N150") as mesh_device:
        args = ModelArgs(
            mesh_device,
            max_seq_len=131072,
            hf_model=capacity.MODEL,
            dummy_weights=True,
            page_params={"block_size": 64, "max_num_blocks": 2048},
        )
        with pytest.raises(RuntimeError, match="Out of Memory"):
            Generator.build(args)
        assert capacity.allocated_bytes(mesh_device) == 0


def test_the_command_prints_and_records_the_figures(monkeypatch, capsys, tmp_path):
    output = tmp_path / "usage.json"
    arguments = ["capacity", "--mesh", "N300", "--context", "2048", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    capacity.main()
    record = json.loads(output.read_text())
    assert (record["mesh"], record["context"], record["backend"]) == ("N300", 2048, "emulator")
    assert f"weights {record['weights'] / 1e9:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--context", "131073"], "max_seq_len 131073 is outside 1 to 131072"),
        (["--context", "512", "--largest"], "in steps of 1024 tokens, up to --context 512, which is less than one"),
        (["--context", "1024", "--output", "missing/usage.json"], "--output missing/usage.json: cannot write to missing"),
    ],
)
def test_what_cannot_be_laid_out_or_kept_is_refused_with_its_limit(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["capacity", *arguments])
    with pytest.raises(SystemExit):
        capacity.main()
    assert message in capsys.readouterr().err


def test_a_decode_step_over_the_longrope_switch_runs_without_values():
    """The prompt ends at the switch, at 4096 tokens."""
    assert capacity.measure("N150", 8192, chunks=4, num_layers=1).chunk * 4 == 4096
