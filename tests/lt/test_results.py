"""Figures and tables of `lt`: read from records, never mixed up, and not broken by a broken file."""

import json
from dataclasses import asdict

import pytest

from models.tt_transformers.measure.lt import front, runs, table
from models.tt_transformers.measure.lt.results import Figures, Predicted, Report, Result, read, read_record, read_report
from tests.lt.conftest import add

RECORD = {
    "schema_version": 1,
    "backend": "emulator",
    "mesh": "N150",
    "model": "Phi-3-tiny-kjv",
    "precision": "performance",
    "measurements": [
        {"name": "decode_t/s/u", "value": 10, "unit": "t/s/u", "batch": 0},
        {"name": "decode_t/s/u", "value": 14, "unit": "t/s/u", "batch": 1},
        {"name": "TTFT", "value": 250.4, "unit": "ms", "batch": 0},
    ],
}
PREDICTION = {
    "decode_t/s/u": {"value": 38.12, "low": 35, "high": 41.5},
    "TTFT": {"value": 104.4, "low": 90, "high": 120, "unit": "ms"},
}
ACCURACY = {"top1": 96.875, "top5": 100}


def finished(folder, spec, record=RECORD, status=0, **changes):
    """A run that has ended with a record."""
    run = folder.add(runs.Spec(**{**asdict(spec), "arguments": spec.arguments, **changes}))
    for name, content in (
        ("started", {"started": "2026-01-01T00:00:00+00:00"}),
        ("ended", {"status": status, "cancelled": False, "ended": "2026-01-01T00:01:05+00:00"}),
        ("record", record),
    ):
        (run.folder / f"{name}.json").write_text(json.dumps(content))
    (run.folder / "tests.xml").write_text("<testsuites><testsuite><testcase/></testsuite></testsuites>")
    return run


@pytest.fixture
def spec(folder, line):
    run = add(folder, line())
    run.delete()
    return run.spec


def row(result):
    return {name: cell for name, cell in zip(table.COLUMNS, table.cells(result)) if cell}


def test_a_speed_of_the_emulator_has_its_name_beside_it_and_a_prediction_its_own_column(folder, spec):
    result = read(finished(folder, spec, {**RECORD, "accuracy": ACCURACY, "prediction": PREDICTION}, command="demo"))
    shown = row(result)
    assert shown == {
        "run": "0001",
        "state": "passed",
        "command": "demo",
        "model": "Phi-3-tiny-kjv",
        "device": "N150",
        "t/s/u": "12.00 emulator",
        "TTFT [ms]": "250 emulator",
        "predicted t/s/u": "~38.1 (35.0 to 41.5)",
        "predicted TTFT [ms]": "~104 (90 to 120)",
        "top-1": "96.88 %",
        "top-5": "100.00 %",
        "time": "65 s",
    }
    measured, predicted = table.notes([result])
    assert "`emulator` are of the emulator on this CPU, not a card's speed" in measured and "not measured" in predicted


def test_only_a_speed_of_a_card_stands_alone(folder, spec):
    result = read(finished(folder, spec, {**RECORD, "backend": "silicon"}))
    assert row(result)["t/s/u"] == "12.00" and table.notes([result]) == []
    unknown = read(finished(folder, spec, {**RECORD, "backend": "tomorrow's"}))
    assert row(unknown)["t/s/u"] == "12.00 tomorrow's" and "not known to be of a card" in table.notes([unknown])[0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        json.dumps(RECORD)[:-20],
        "[]",
        "null",
        "3",
        '{"schema_version": 2}',
        "{}",
        "\x00\xff",
        "[" * 100000,
        json.dumps({**RECORD, "measurements": [{"name": "TTFT", "value": "fast"}]}),
        json.dumps({**RECORD, "measurements": [{"name": "TTFT", "value": float("nan")}]}),
        json.dumps({**RECORD, "measurements": 3}),
        json.dumps({**RECORD, "prediction": {"TTFT": {"value": 1}}}),
        json.dumps({**RECORD, "accuracy": [1]}),
    ],
)
def test_a_broken_record_costs_its_run_the_figures_and_not_the_table(folder, spec, content):
    whole, broken = finished(folder, spec), finished(folder, spec)
    (broken.folder / "record.json").write_bytes(content.encode("latin-1"))
    results = [read(whole), read(broken)]
    assert results[1].state == runs.PASSED and results[1].figures is None and "record.json" in results[1].note
    assert "12.00 emulator" in table.markdown(results)


def test_a_record_of_another_version_is_named(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({**RECORD, "schema_version": 2}))
    with pytest.raises(ValueError, match="record.json: schema_version is 2; accepted: 1"):
        read_record(tmp_path / "record.json")
    assert read_record(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "content", ["", "<testsuites><testcase>", "<a><testcase><property name='pcc' value='x'/></testcase></a>"]
)
def test_a_broken_report_does_not_cost_the_figures(folder, spec, content):
    run = finished(folder, spec)
    (run.folder / "tests.xml").write_text(content)
    result = read(run)
    assert result.figures.speed == 12 and "tests.xml" in result.note and result.state == runs.PASSED


def test_a_report_holds_counts_the_lowest_pcc_and_the_first_failure(tmp_path):
    (tmp_path / "tests.xml").write_text(
        "<testsuites><testsuite>"
        "<testcase><properties><property name='pcc' value='0.99'/></properties></testcase>"
        "<testcase><properties><property name='pcc' value='0.98'/></properties></testcase>"
        "<testcase><failure message='E: first&#10;more'/></testcase><testcase><error message='second'/></testcase>"
        "<testcase><skipped message='s'/></testcase></testsuite></testsuites>"
    )
    assert read_report(tmp_path / "tests.xml") == Report(passed=2, failed=2, skipped=1, pcc=0.98, failure="E: first")


def test_texts_with_odd_characters_stay_in_their_cell(folder, spec):
    result = read(finished(folder, spec, model="a|b\n[red]\x1b[2J\udce9", command="demo"))
    assert row(result)["model"] == "a|b [red]\ufffd[2J\ufffd"
    (line,) = [line for line in table.markdown([result]).splitlines() if line.startswith("| 0001")]
    assert "a\\|b [red]" in line and line.count(" | ") == len(table.COLUMNS) - 1


def test_the_newest_figures_of_a_model_and_mode_share_a_row(folder, spec):
    accuracy = {**RECORD, "accuracy": ACCURACY}
    results = [
        read(finished(folder, spec, record, status, command=command, model="tiny", device="N150"))
        for command, record, status in (
            ("demo", {**RECORD, "measurements": [{"name": "decode_t/s/u", "value": 1}]}, 0),
            ("accuracy", accuracy, 0),
            ("demo", RECORD, 0),
            ("demo", {**RECORD, "measurements": [{"name": "decode_t/s/u", "value": 2}]}, 1),
            ("demo-32", {**RECORD, "measurements": [{"name": "decode_t/s/u", "value": 3}]}, 0),
            ("demo-acc", {**RECORD, "precision": "accuracy"}, 0),
        )
    ]
    modes = table.markdown(results).split("## Runs")[0]
    assert [line for line in modes.splitlines() if "N150" in line or line.startswith("#")] == [
        "## performance",
        "| tiny | N150 | 96.88 % | 100.00 % | 12.00 emulator | 250 emulator |  |  |",
        "## accuracy",
        "| tiny | N150 |  |  | 12.00 emulator | 250 emulator |  |  |",
    ]


def results_of_settings(folder, spec, backend="emulator", predictions=(None, None)):
    records = [
        {**RECORD, "backend": backend, "accuracy": {"top1": top1, "top5": 99}, "prediction": prediction}
        for top1, prediction in zip((90, 80), predictions)
    ]
    arguments = [(f"--optimizations=precision_cfg = {{ff1_3: {name}}}",) for name in ("bfp8", "bfp4")]
    return [
        read(
            finished(folder, spec, record, command="pareto", model="tiny", device="N150", setting=name, arguments=given)
        )
        for record, name, given in zip(records, ("large $x$", "small"), arguments)
    ]


@pytest.mark.parametrize(
    "options, header, values",
    [
        ({"backend": "silicon"}, "t/s/u", ("12.0", "12.0")),
        ({"predictions": (PREDICTION, PREDICTION)}, "predicted t/s/u", ("~38.1", "~38.1")),
        ({"predictions": (PREDICTION, None)}, "weights of a device", ("MB", "MB")),
    ],
)
def test_a_front_has_a_cards_speed_or_a_prediction_or_bytes_but_never_the_emulators_speed(
    folder, spec, tmp_path, options, header, values
):
    text = front.write(results_of_settings(folder, spec, **options), tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert text.splitlines()[0] == f"| configuration | {header} | top-1 | top-5 | on the front |"
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()[2:]}
    assert values[0] in rows["large $x$"] and values[1] in rows["small"]
    assert ("yes" in rows["small"]) == (header == "weights of a device")


def test_a_front_needs_a_run_with_an_accuracy(folder, spec, tmp_path):
    with pytest.raises(ValueError, match="no run of a precision setting has passed"):
        front.write([read(finished(folder, spec))], tmp_path / "front.png")
    assert not (tmp_path / "front.png").exists()


def test_runs_of_one_front_are_alike_in_command_model_and_device(folder, spec):
    results = results_of_settings(folder, spec) + [
        read(finished(folder, spec, command="pareto", model="tiny", device="T3K"))
    ]
    assert front.alike(results, results[0]) == results[:2]


def test_figures_without_a_record_are_empty(folder, spec):
    run = folder.add(spec)
    result = Result(run, runs.PASSED, figures=Figures("mock", "performance", predicted_speed=Predicted(1, 1, 1)))
    assert row(result)["predicted t/s/u"] == "~1.0 (1.0 to 1.0)" and "t/s/u" not in row(result)
