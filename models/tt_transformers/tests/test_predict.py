"""The command that predicts speed, and the prediction at the end of a demo run."""

import json
import sys

import pytest

from models.common.prediction import from_log
from models.common.prediction.card import CARDS, card_of
from models.common.prediction.rules import RULES
from models.tt_transformers.measure import predict, scenario
from models.tt_transformers.measure.scenario import Predicted, Scenario
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS

pytestmark = pytest.mark.whole

SMALL = dict(num_layers=1)


def predicted(model="Llama-3.2-1B", **settings) -> Predicted:
    return Predicted.of(Scenario(model, **{**SMALL, **settings}), memory=False)


def test_the_command_writes_the_record_the_plot_and_the_comparison(tmp_path, monkeypatch, capsys):
    arguments = [
        "--model",
        "Llama-3.1-8B",
        "--mesh",
        "T3K",
        "--case",
        "batch-32",
        "--num_layers",
        "1",
        "--data_parallel",
        "4",
    ]
    files = ["--json", str(tmp_path / "p.json"), "--plot", str(tmp_path / "p.png"), "--csv", str(tmp_path / "p.csv")]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments, *files, "--compare", "mode=accuracy", "batch=1"])
    predict.main()
    printed = capsys.readouterr().out
    assert "Prediction, not a measurement: Llama-3.1-8B on T3K, 4 replicas" in printed
    assert "predicted decode_t/s/u" in printed and "predicted TTFT ms" in printed
    assert "largest context           131072" in printed

    record = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    expected = {
        "model": "Llama-3.1-8B",
        "mesh": "T3K",
        "mode": "performance",
        "case": "batch-32",
        "batch": 32,
        "context": 128,
        "data_parallel": 4,
    }
    assert expected.items() <= record.items()
    speed, ttft = record["decode_t/s/u"], record["TTFT"]
    assert speed.keys() == {"value", "low", "high"} and speed["low"] < speed["value"] < speed["high"]
    assert ttft["unit"] == "ms" and ttft["low"] < ttft["value"] < ttft["high"]
    assert record["largest_context"] == 131072 and record["dram_bytes_per_device"] > 1e8
    decode = sum(op["seconds"] for op in record["ops"] if op["step"] == "decode")
    assert decode == pytest.approx(record["decode_step"]["kernels"])
    assert record["compared"]["batch"] == 1 and record["compared"]["mode"] == "accuracy"
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(model="no-such-model"), "model 'no-such-model' is not known: give a folder of model_params"),
        (dict(data_parallel=3), "data_parallel 3 does not divide the 8 chips of T3K"),
        (dict(context=4_000_000), "more than the 131072 of Llama-3.2-1B"),
        (dict(context=0), "context 0: a prompt has at least one token"),
        (dict(batch=5), "batch 5 is not known; accepted: 1, 2, 4, 8, 16, 32"),
        (dict(chunk=3), "chunk 3 is not known"),
        (dict(conditions="published", optimizations="accuracy"), "published conditions have upstream's formats"),
    ],
)
def test_a_setting_that_cannot_be_predicted_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Scenario(**{"model": "Llama-3.2-1B", "mesh": "T3K", **settings}).check()


@pytest.mark.parametrize(
    "text, message",
    [("speed=3", "expected name=value"), ("batch", "expected name=value"), ("batch=two", "not a whole number")],
)
def test_a_comparison_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        predict.parse_changes([text])


@pytest.mark.parametrize("mesh", [mesh for mesh in CARDS])
def test_every_mesh_is_predicted_from_our_own_ops(mesh):
    found = predicted("Llama-3.2-1B", mesh=mesh).forecast
    assert found.card is card_of(mesh)
    assert 0 < found.tokens_per_user.low < found.tokens_per_user.value and found.ttft_ms.value > 0
    assert all(0 <= time.share <= 1 for time in found.decode.times + found.prefill.times)


@pytest.mark.parametrize("model", ["Qwen2.5-7B", "Qwen3-8B", "phi-4", "Phi-3-mini-128k-instruct", "Mistral-7B-v0.1"])
def test_every_family_is_predicted(model):
    assert predicted(model, mesh="N300", context=100).forecast.decode_step.seconds > 0


def test_a_further_layer_adds_its_time():
    one, two, three = (predicted(num_layers=layers).forecast.decode for layers in (1, 2, 3))
    assert three.seconds - two.seconds == pytest.approx(two.seconds - one.seconds)
    assert three.count - two.count == two.count - one.count > 10


@pytest.mark.parametrize("change", [dict(mode="accuracy"), dict(batch=32), dict(context=1500)])
def test_more_bytes_users_or_tokens_take_more_time(change):
    before, after = predicted().forecast, predicted(**change).forecast
    assert after.decode.seconds > before.decode.seconds


def test_a_smaller_chunk_reads_the_weights_more_often():
    whole, chunks = (predicted(mesh="N150", context=4096, chunk=chunk).forecast.prefill for chunk in (4, 1))
    assert chunks.count > 2 * whole.count and chunks.seconds > whole.seconds


def test_replicas_serve_more_users_at_no_higher_speed_each():
    one, four = predicted(mesh="N300").forecast, predicted(mesh="T3K", data_parallel=4).forecast
    assert four.users == 4 * one.users and four.decode.seconds == one.decode.seconds
    assert four.tokens_per_user.value < one.tokens_per_user.value < four.tokens.value


def test_an_unmeasured_architecture_has_a_wider_interval():
    wormhole, blackhole = (predicted(mesh=mesh).forecast.tokens_per_user for mesh in ("N150", "P150"))
    assert blackhole.high / blackhole.low > wormhole.high / wormhole.low
    assert blackhole.value > wormhole.value


def test_published_conditions_have_upstreams_ops():
    ours, upstream = (predicted(conditions=conditions).forecast.decode for conditions in scenario.CONDITIONS)
    assert {call.name for call in upstream.calls} == {""} and "ttnn.linear" in {call.name for call in ours.calls}


def test_every_device_operation_of_the_log_has_a_rule():
    assert set(from_log.OPERATIONS.values()) <= RULES.keys()


def test_every_published_config_is_predicted_under_published_conditions():
    for config in sorted(MODEL_PARAMS.glob("*/config.json")):
        try:
            case = Scenario(config.parent.name, "N300", context=64, conditions="published")
            case.check()
        except ValueError as error:  # a vision model, or a context that is too short
            assert "more than" in str(error) or "architecture" in str(error), (config, error)
        else:
            assert case.published_forecast().tokens_per_user.value > 0
