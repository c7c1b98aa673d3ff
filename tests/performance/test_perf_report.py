"""PERF.md agrees with the committed records, and its parts are computed correctly."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from models.common import model_targets
from models.common.benchmark_record import measurement
from models.tt_transformers.measure import pareto, report
from models.tt_transformers.measure.benchmarks import Workload
from models.tt_transformers.measure.speed import speeds
from models.tt_transformers.measure.systems import interleaved
from models.tt_transformers.tt.reference import Reference


def test_perf_md_is_current_with_the_committed_records():
    assert report.PERF.read_text(encoding="utf-8") == report.markdown(report.read_records(), model_targets.load())


def accuracy_records():
    return {name: copy.deepcopy(record) for name, record in report.read_records().items() if name.startswith("accuracy-")}


def test_records_that_agree_share_one_line_of_when_and_where():
    records = accuracy_records()
    for record in records.values():
        record.update(created="2025-01-02T03:04:05+00:00", machine="Some CPU, 2 cores", backend="emulator", git_revision="abc")
    text = report.markdown(records, {})
    assert text.count("easured 2025-01-02 on the emulator, Some CPU, 2 cores") == 1


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"created": "2001-02-03T00:00:00+00:00"}, "- N300 bf16: measured 2001-02-03 on the emulator"),
        ({"backend": "silicon"}, "- N300 bf16: measured 2025-01-02 on the silicon, Some CPU"),
        ({"machine": "Another CPU"}, "- N300 bf16: measured 2025-01-02 on the emulator, Another CPU"),
        ({"git_revision": "fedcba"}, "revision fedcba."),
    ],
)
def test_a_record_of_another_day_backend_machine_or_revision_is_told_apart(change, expected):
    records = accuracy_records()
    for record in records.values():
        record.update(created="2025-01-02T03:04:05+00:00", machine="Some CPU, 2 cores", backend="emulator", git_revision="abc")
    records["accuracy-N300-bf16"].update(change)
    text = report.markdown(records, {})
    assert expected in text
    (others,) = [line for line in text.splitlines() if line.startswith("- N150")]
    assert "N300 bf16" not in others and "measured 2025-01-02 on the emulator, Some CPU, 2 cores" in others


def test_each_row_says_how_many_texts_it_is_of():
    records = accuracy_records()
    records["accuracy-T3K-bf16"]["facts"]["users"] = 3
    (row,) = [line for line in report.markdown(records, {}).splitlines() if line.startswith("| T3K | bf16 ")]
    assert row.startswith("| T3K | bf16 | 3 |")


def test_records_of_different_texts_are_not_put_into_one_table():
    records = accuracy_records()
    records["accuracy-T3K-bf16"]["facts"]["generated"] = 17
    with pytest.raises(ValueError, match="must agree in generated: .*17 in accuracy-T3K-bf16"):
        report.markdown(records, {})


def test_the_pareto_front_keeps_what_nothing_beats():
    points = {"small": (90, 99, 10), "large": (99, 99, 40), "same": (90, 99, 10), "worse": (89, 99, 10), "bigger": (99, 99, 41)}
    assert pareto.front(points) == ["small", "large", "same"]


def test_pareto_points_survive_their_record_and_the_plot_is_a_png(tmp_path):
    points = {"a": (90.0, 99.0, 10.0), "b": (91.0, 99.5, 12.0)}
    tokens, top5 = torch.zeros(4, 30, dtype=torch.int32), torch.zeros(4, 20, 5, dtype=torch.int32)
    reference = Reference(tokens, top5, torch.zeros(4, 20), 10, {"model": "tiny", "identity": {"weights": "abc"}})
    record = pareto.as_record(points, "N150", reference, 4)
    assert pareto.points_of(record) == points and record["facts"]["front"] == ["a", "b"]
    pareto.plot(points, "tiny", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "configuration .*x.json"),
        ("[]", "expected an object with precision_cfg and fidelity_cfg"),
        ('{"precision": {}}', "expected an object with precision_cfg"),
        ('{"precision_cfg": 3}', "precision_cfg is 3"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        pareto.precision_settings(path)


def test_configurations_become_options(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"precision_cfg": {"ff2": "bfp8", "wo": "bf16"}, "fidelity_cfg": {"li_ff2": "hifi2"}}))
    expected = "precision_cfg = {ff2: bfp8, wo: bf16}, fidelity_cfg = {li_ff2: hifi2}"
    assert pareto.precision_settings(path) == {"optimizations": expected}
    path.write_text(json.dumps({"decoders": {}}))
    assert pareto.precision_settings(path) == {"decoder_config_file": path}


def test_peak_memory_is_a_process_s_own():
    """Measured in separate processes, because an earlier test may have caused the peak of this process."""
    code = "from models.tt_transformers.measure.plain_hugging_face import peak_memory; a = bytearray(b'x') * {}; print(peak_memory())"
    small, large = (
        float(subprocess.run([sys.executable, "-c", code.format(size)], capture_output=True, text=True, check=True).stdout)
        for size in (1, 400_000_000)
    )
    assert 390e6 < large - small < 410e6


class Recorder:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def prefill(self, prompts):
        self.log.append(f"{self.name} prefill")
        return torch.eye(len(prompts))

    def decode(self, tokens):
        self.log.append(f"{self.name} decode")
        return torch.eye(len(tokens))


def test_systems_take_turns_and_change_who_is_first():
    log = []
    results = interleaved({name: Recorder(name, log) for name in "ab"}, [[1], [2]], steps=1, rounds=2)
    assert [line.split()[0] for line in log if "prefill" in line] == ["a", "b", "a", "b", "b", "a"]
    assert [set(round_) for round_ in results] == [{"a", "b"}] * 2
    assert all(seconds > 0 for round_ in results for pair in round_.values() for seconds in pair)


def test_speeds_are_tokens_of_all_users_per_second_and_ratios_ours_over_theirs():
    results = [{"emulator": (2.0, 4.0), "hugging_face": (1.0, 8.0)}]
    assert speeds(Workload(users=4, prompt=10, steps=6), results, {}) == [
        measurement("batch-4/prefill/emulator", 20.0, "t/s", 0),
        measurement("batch-4/prefill/hugging_face", 40.0, "t/s", 0),
        measurement("batch-4/prefill/ratio", 0.5, "x", 0),
        measurement("batch-4/decode/emulator", 6.0, "t/s", 0),
        measurement("batch-4/decode/hugging_face", 3.0, "t/s", 0),
        measurement("batch-4/decode/ratio", 2.0, "x", 0),
    ]
