"""How well the prediction agrees with the vendor's figures of whole layers and whole models."""

import csv
import json

import pytest

from models.common.prediction.card import card_of
from models.common.prediction.cost import times
from models.tt_transformers.measure import calibration, published
from models.tt_transformers.measure.upstream import galaxy

GALAXY = card_of("Galaxy")


@pytest.fixture(scope="module")
def judged():
    return calibration.leave_one_model_out()


@pytest.fixture(scope="module")
def arch():
    return next(row.arch for row in published.rows() if row.model == "Llama-3.3-70B")


def measured_ops(where: str) -> dict[str, float]:
    """name -> seconds of a kernel on a Galaxy (6U)."""
    lines = (published.MEASURED / "galaxy_decode_ops.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {row["op"]: float(row["kernel_ns_6u"]) * 1e-9 for row in rows if row["where"] == where}


def predicted_ops(kernels) -> dict[str, float]:
    return {name: sum(time.seconds for time in times(calls, GALAXY)) for name, calls in kernels}


def test_each_op_of_the_galaxy_is_within_half_and_the_layer_within_15_percent(arch):
    grid = galaxy.Grid.of(arch, GALAXY.shape)
    layer, tail = predicted_ops(galaxy.decode_layer(grid, 128)), predicted_ops(galaxy.decode_tail(grid))
    for predicted, measured in ((layer, measured_ops("layer")), (tail, measured_ops("tail"))):
        assert predicted.keys() == measured.keys()
        assert predicted == {name: pytest.approx(seconds, rel=0.5) for name, seconds in measured.items()}
    assert sum(layer.values()) == pytest.approx(sum(measured_ops("layer").values()), rel=0.15)


def test_published_figures_are_predicted_without_their_model(judged):
    print(calibration.text(judged))
    found = calibration.summary(judged)
    assert found["decode, median over models"] <= 0.12
    assert found["decode, share of rows within 25 %"] >= 0.9
    assert found["decode, share of rows in the interval"] >= 0.9
    assert found["TTFT, median over models"] <= 0.25
    assert found["TTFT, median over rows"] <= 0.25
    assert found["TTFT, share of rows in the interval"] >= 0.9


def test_the_prediction_has_not_become_worse(judged):
    """`make predict` records a change for the better. Shares may lose no row; medians may lose 0.2 %."""
    print(calibration.text(judged))
    recorded = json.loads(calibration.RECORD.read_text(encoding="utf-8"))["summary"]
    found = calibration.summary(judged)
    for name, value in recorded.items():
        assert found[name] <= value + 0.002 if "median" in name else found[name] >= value, name


@pytest.mark.parametrize("mesh", ["N150", "N300", "T3K"])
def test_each_layer_adds_the_same_time(mesh):
    row = next(row for row in published.rows() if (row.model, row.mesh, row.case) == ("Llama-3.1-8B", mesh, "batch-1"))
    kernels = []
    for layers in (8, 16, 24):
        row.__dict__["arch"] = row.arch.with_layers(layers)
        kernels.append(row.predicted().decode.seconds)
        del row.__dict__["arch"]
    assert kernels[2] - kernels[1] == pytest.approx(kernels[1] - kernels[0])
    assert kernels[1] > kernels[0]


def test_no_op_of_upstream_reaches_more_than_its_bound():
    for row in published.rows():
        forecast = row.predicted()
        assert all(0 < time.share <= 1 for time in forecast.decode.times + forecast.prefill.times if time.ideal), row
