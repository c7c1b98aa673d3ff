"""Performance regressions are found: the bundled model meets its targets, and a planted regression of each kind fails.

The planted regressions use a small random model. Its targets are its own unchanged measurements, with the tolerances
of `models/model_targets.yaml`.
"""

import contextlib
import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import ttnn
import yaml

from models.common import backend, model_targets
from models.common.mesh import open_mesh
from models.common.mesh_names import LINES
from models.tt_transformers.measure import regression
from models.tt_transformers.tt import reference
from models.tt_transformers.tt.checkpoints.cache import WeightCache
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import Reference, reference_path
from tests.support.tiny_phi3 import save_tiny_phi3

# A planted slow-down is this many times slower, and is measured over this many rounds.
SLOWER = 3
ROUNDS = 9

KEY = ("emulator", "tiny", "N150", "performance", "regression")
PREFILL, GENERATED, USERS = 40, 60, 4


@pytest.fixture(scope="session")
def emulator():
    if backend.name() != "emulator":
        pytest.skip(f"op counts are the emulator's; the backend is {backend.name()}")


@pytest.mark.parametrize("mode", regression.DEMO_MODES)
@pytest.mark.parametrize(
    "mesh", [pytest.param(mesh, marks=pytest.mark.alone) if mesh == "N150" else mesh for mesh in LINES]
)
def test_the_bundled_model_meets_its_targets(emulator, mesh, mode):
    """N300 and T3K are measured without the ratios to Hugging Face, which would say the same as those of N150."""
    key, measured = regression.measure_on(mesh, mode, Reference.load(reference_path(BUNDLED.name)))
    target = model_targets.load()[key]
    assert {metric.name for metric in target.metrics} == regression.metrics_of(mesh) == set(measured)
    assert target.failures(measured) == []


@pytest.fixture(scope="module")
def mesh_device(emulator):
    with open_mesh("N150") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    return directory, save_tiny_phi3(directory, vocab_size=1024)


@pytest.fixture(scope="module")
def texts(checkpoint):
    """A reference with texts that the model itself generated, so that its predictions are sure."""
    directory, model = checkpoint
    prompts = torch.randint(3, 1024, (USERS, PREFILL), generator=torch.Generator().manual_seed(0))
    rope = Architecture.from_hf_config(read_config(directory / "config.json")).rope
    tokens = reference.continue_greedily(model, prompts, GENERATED, rope)
    return reference.Reference(tokens.int(), *reference.predictions(model, tokens, PREFILL, rope), PREFILL, facts={})


@pytest.fixture(scope="module")
def measure(mesh_device, checkpoint, texts, tmp_path_factory):
    """A function that measures the small model, also with a worse `Generator` class or changed `ModelArgs`.

    0 rounds leave out the ratios.
    """

    def run(kind=Generator, rounds=0, **changes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TT_CACHE_PATH", str(tmp_path_factory.mktemp("cache")))
            settings = dict(
                max_batch_size=USERS,
                max_seq_len=128,
                hf_model=checkpoint[0],
                page_params={"block_size": 32, "max_num_blocks": 16},
            )

            def make_args():
                return ModelArgs(mesh_device, **{**settings, **changes})

            return regression.measure(make_args, texts, kind.build, rounds=rounds, steps=8)

    return run


@pytest.fixture(scope="module")
def target(measure, tmp_path_factory):
    path = tmp_path_factory.mktemp("targets") / "targets.yaml"
    path.write_text(yaml.safe_dump([regression.as_target(KEY, measure(rounds=ROUNDS))]))
    return model_targets.load(path)[KEY]


def missed(target, measured, *but):
    """The names of the metrics that fall short, without those in `but`."""
    names = [line.split(": ")[1] for line in target.failures(measured)]
    return [name for name in names if name not in but]


class SlowDecode(Generator):
    def decode(self, tokens):
        start = time.perf_counter()
        logits = super().decode(tokens)
        time.sleep((SLOWER - 1) * (time.perf_counter() - start))
        return logits


class SlowPrefill(Generator):
    def prefill(self, prompts):
        start = time.perf_counter()
        logits = super().prefill(prompts)
        time.sleep((SLOWER - 1) * (time.perf_counter() - start))
        return logits


class WrongWeights(Generator):
    """A generator in which one layer has a weight of another layer."""

    @classmethod
    def build(cls, args, weights):
        right = weights.state_dict

        def read(names):
            for same, weight in right.read(names):
                is_wrong = "layers.0.attention.wo.weight" in same
                yield same, right["layers.1.attention.wo.weight"].flip(0) * 4 if is_wrong else weight

        wrong = SimpleNamespace(shape=right.shape, read=read)
        return super().build(args, Weights(args.mesh_device, args.placement, wrong, WeightCache(None, {})))


class OneMoreOp(Generator):
    """A generator whose decode step ends with a useless op."""

    def __init__(self, models):
        super().__init__(models)
        (model,) = models
        forward = model.decode_forward
        model.decode_forward = lambda *inputs, **options: ttnn.add(forward(*inputs, **options), 0.0)


class NoWeightCache(Generator):
    @classmethod
    def build(cls, args, weights):
        return super().build(args, Weights(args.mesh_device, args.placement, weights.state_dict, WeightCache(None, {})))


def test_a_run_without_a_regression_is_accepted(target, measure):
    assert missed(target, measure(), *regression.RATIOS) == []


@pytest.mark.alone
@pytest.mark.parametrize("system, metric", [(SlowDecode, "decode_ratio"), (SlowPrefill, "prefill_ratio")])
def test_slower_than_before_beside_hugging_face_is_caught(target, measure, system, metric):
    assert metric in missed(target, measure(system, rounds=ROUNDS))


def test_wrong_weights_are_caught_by_both_accuracies(target, measure):
    assert {"top1", "top5"} <= set(missed(target, measure(WrongWeights)))


def test_one_more_op_in_a_decode_step_is_caught(target, measure):
    assert "decode_ops" in missed(target, measure(OneMoreOp))


def test_wider_weights_are_caught_by_the_bytes_that_a_step_moves(target, measure):
    cfg = "precision_cfg = {ff2: bfp8}"
    names = missed(target, measure(optimizations=cfg), *regression.RATIOS)
    assert names == ["decode_bytes"]


def test_a_weight_cache_that_keeps_nothing_is_caught(target, measure):
    assert missed(target, measure(NoWeightCache), *regression.RATIOS) == ["weight_cache_misses"]


def test_a_decode_step_without_its_trace_is_caught(target, measure, monkeypatch):
    monkeypatch.setattr(backend, "supports_trace", lambda: False)
    assert missed(target, measure(), *regression.RATIOS) == ["trace_misses"]


def test_a_metric_that_was_not_measured_is_a_failure_that_names_it(target):
    measured = {metric.name: metric.expected for metric in target.metrics}
    assert target.failures(measured) == []
    del measured["top1"]
    (line,) = target.failures(measured)
    assert line.startswith("emulator tiny N150 performance regression: top1: expected ")
    assert line.endswith("got nothing: it was not measured")


def test_a_failure_names_metric_expected_got_and_tolerance():
    metric = model_targets.Metric("TTFT", 73.3, 7.3, "ms", "lower")
    assert metric.failure(80.6) is None and metric.failure(1.0) is None
    assert metric.failure(80.7) == "TTFT: expected 73.3 ms, tolerance 7.3, got 80.7 ms (lower is better)"
    assert "got nan" in metric.failure(float("nan"))


def demo_record(mesh="N300", speed=60.0, ttft=120.0, token_accuracy=False, **accuracy):
    return {
        "backend": "silicon",
        "model": "Phi-3-mini-128k-instruct",
        "mesh": mesh,
        "precision": "performance",
        "case": "batch-1",
        "settings": {"token_accuracy": token_accuracy, "num_layers": None, "dummy_weights": False, "profile": False},
        "measurements": [
            {"name": "decode_t/s/u", "value": speed, "unit": "t/s/u", "batch": 0},
            {"name": "TTFT", "value": ttft, "unit": "ms", "batch": 0},
        ],
        **({"accuracy": accuracy} if accuracy else {}),
    }


@pytest.mark.parametrize(
    "record, code, text",
    [
        (demo_record(), 0, "2 metrics as expected (vendor)"),
        (demo_record(speed=40.0), 1, "decode_t/s/u: expected 60.9 t/s/u, tolerance 3.05, got 40 t/s/u"),
        (demo_record(ttft=300.0), 1, "TTFT: expected 115 ms"),
        (demo_record(token_accuracy=True, top1=80.0, top5=99.5), 1, "top1: expected 89 %"),
        (demo_record(token_accuracy=True), 1, "top5: expected 99 %, tolerance 1, got nothing"),
        (demo_record(mesh="TG"), 1, "no target for silicon Phi-3-mini-128k-instruct TG"),
    ],
)
def test_a_demo_record_is_compared_by_the_command(tmp_path, monkeypatch, capsys, record, code, text):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["model_targets", str(path)])
    with pytest.raises(SystemExit) if code else contextlib.nullcontext() as exit_:
        model_targets.main()
    # sys.exit with a text prints it and exits with 1.
    assert text in (exit_.value.code if code else capsys.readouterr().out)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": "guess"}, "source is 'guess'; accepted: measured, vendor"),
        ({"metrics": {"top1": {"expected": 1}}}, "metric top1: it has expected; expected better, expected, tolerance, unit"),
        ({"extra": 1}, "entry 0: it has .*extra"),
        ({"metrics": {}}, "metrics is {}; expected at least one"),
        *(
            ({"metrics": {"top1": {"expected": 1, "tolerance": value, "unit": "%", "better": "higher"}}}, "tolerance is .* finite")
            for value in (float("nan"), float("inf"), -1, "5 %")
        ),
    ],
)
def test_a_wrong_targets_file_is_named(tmp_path, change, message):
    entry = regression.as_target(KEY, {"top1": 99.0}) | change
    path = tmp_path / "targets.yaml"
    path.write_text(yaml.safe_dump([entry]))
    with pytest.raises(ValueError, match=message):
        model_targets.load(path)


def test_every_mesh_and_mode_of_the_bundled_model_has_a_target():
    keys = model_targets.load().keys()
    for mesh in LINES:
        for mode in regression.DEMO_MODES:
            assert ("emulator", BUNDLED.name, mesh, mode, f"regression-{regression.USERS}") in keys
