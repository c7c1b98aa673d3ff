"""The demo on the emulator: the README's command, and the README's promises about users, seeds, stops and batches."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from models.common import backend
from models.common.prediction import from_log
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.record import validate
from models.tt_transformers.demo.run import RunError, run
from models.tt_transformers.tt.checkpoints.location import BUNDLED

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = ("HF_MODEL", "MESH_DEVICE", "FAKE_DEVICE")
README = ROOT / "models/tt_transformers/demo/README.md"
SHORT = ("--max_generated_tokens", "2", "--num_layers", "1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def demo(tmp_path, monkeypatch, cache):
    """Runs a case with options in this process -> its record."""
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TT_CACHE_PATH", str(cache))

    def run_case(name, mode="performance", **options):
        case = next(case for case in CASES if case.name == name)
        output = tmp_path / "run.json"
        run(case.with_options({"max_generated_tokens": 12, **options, "output_json": str(output)}), mode)
        return json.loads(output.read_text(encoding="utf-8"))

    return run_case


def texts(record):
    return [user["token_ids"] for user in record["users"]]


def write_prompts(path, *prompts):
    path.write_text(json.dumps([{"prompt": prompt} for prompt in prompts]))
    return str(path)


def command(*arguments, backend_name="emulator", mesh=None, **process):
    """The README's first command, with this Python's pytest and further arguments, from the project's root.

    `process`: options of `subprocess.run`; they override those for a run whose output is read.
    """
    words = shlex.split(next(line for line in README.read_text().splitlines() if line.startswith("pytest ")))
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    return subprocess.run(
        [sys.executable, "-m", *words, *arguments],
        cwd=ROOT,
        env={**environment, "TT_BACKEND": backend_name, **({} if mesh is None else {"MESH_DEVICE": mesh})},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **process},
    )


def test_the_readme_command_prints_the_text_and_what_the_speeds_are(tmp_path):
    result = command("--output_json", str(tmp_path / "run.json"), "--max_generated_tokens", "20")
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    (user,) = record["users"]
    assert f"{user['prompt']}\n\nGenerated:\n{user['text']}\n" in result.stdout
    summary = result.stdout.split("Summary")[1]
    for label in ("emulator", "N150", "performance", "compile prefill", "(TTFT)", "tokens/s/user", "tokens/s "):
        assert label in summary
    assert "speeds are of the emulator on this CPU, not a card's speed" in summary
    assert record["backend"] == "emulator" and record["mesh"] == "N150" and record["case"] == "batch-1"
    assert record["measurements"] and all(m["value"] > 0 for m in record["measurements"])


def test_the_reasoning_case_runs_in_its_whole_context(demo):
    record = demo("reasoning-1", stop_at_eos=False)
    (user,) = record["users"]
    assert record["settings"]["max_seq_len"] == 16384
    assert len(user["token_ids"]) == 12 and user["stop_reason"] == "max_generated_tokens"


def test_a_cache_that_cannot_be_written_is_warned_of_and_the_demo_runs_on(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "file"))
    result = command(*SHORT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"WARNING: weight cache: cannot write to {tmp_path / 'file'}" in result.stderr


def test_a_character_that_stdout_cannot_hold_is_escaped_and_the_record_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    prompts = write_prompts(tmp_path / "prompts.json", "The 🙏 said")
    result = command(*SHORT, "--input_prompts", prompts, "--output_json", str(tmp_path / "run.json"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "\nThe \\U0001f64f said\n" in result.stdout
    (user,) = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["users"]
    assert user["prompt"] == "The 🙏 said"


def test_a_stdout_whose_reader_is_gone_ends_no_run_and_fails_it_with_one_line(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    result = command(*SHORT, "--output_json", str(tmp_path / "run.json"), stdout=writer)
    os.close(writer)
    assert result.stderr == "WARNING: stdout: Broken pipe; what is printed from here on is lost, the run goes on\n"
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    (user,) = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["users"]
    assert len(user["token_ids"]) == 2


def test_a_record_that_finds_the_disk_full_is_printed():
    with open("/dev/full", "wb") as full:
        path = f"/dev/fd/{full.fileno()}"
        result = command(*SHORT, "--output_json", path, pass_fds=(full.fileno(),))
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert f"\noutput_json {path}: No space left on device; it is printed above" in result.stdout
    assert re.search(r"\.py:\d+", result.stdout) is None, "a traceback"
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("{"))
    (user,) = json.loads(line)["users"]
    assert len(user["token_ids"]) == 2


def test_a_backend_that_is_not_known_is_one_line_and_no_traceback():
    result = command(backend_name="gpu")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.startswith("ERROR: TT_BACKEND='gpu' is not a backend") and result.stderr.count("\n") == 1


@pytest.mark.vendor
def test_on_the_mock_device_the_demo_validates_and_shows_no_text_and_no_speed(tmp_path):
    result = command("--output_json", str(tmp_path / "run.json"), backend_name="mock")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "validated, values meaningless" in result.stdout
    assert "Generated" not in result.stdout and "tokens/s" not in result.stdout
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (record["values_meaningful"], record["measurements"], record["users"]) == (False, [], [])


@pytest.mark.parametrize(
    "users, sampling_params", [(32, {"temperature": 0}), (4, {"temperature": 1.0, "top_p": 0.9, "seed": 5})]
)
def test_a_users_text_in_a_batch_is_its_text_alone(demo, users, sampling_params):
    common = {"sampling_params": sampling_params, "max_generated_tokens": 8}
    together = demo("batch-32", batch_size=users, **common)
    assert len({user["prompt_tokens"] for user in together["users"]}) > 1, "prompts must differ in length"
    alone = demo("batch-1", repeat_batches=users, **common)
    assert [user["batch"] for user in alone["users"]] == list(range(users))
    assert texts(together) == texts(alone)


def test_the_seed_decides_sampled_text(demo):
    def text(seed):
        return texts(demo("batch-1", sampling_params={"temperature": 1.0, "seed": seed}))

    assert text(1) == text(1) != text(2)


def test_a_batch_sees_nothing_of_the_batch_before_it(demo, tmp_path):
    first, second = "And the king of the north shall come, " * 3, "In the day that"
    # Greedy, because the second batch's user has another number, so another random generator.
    greedy = {"sampling_params": {"temperature": 0}}
    after = demo("batch-1", **greedy, repeat_batches=2, input_prompts=write_prompts(tmp_path / "two.json", first, second))
    alone = demo("batch-1", **greedy, input_prompts=write_prompts(tmp_path / "one.json", second))
    assert [user["prompt"] for user in after["users"]] == [first, second]
    assert texts(after)[1] == texts(alone)[0]


def test_paged_and_unpaged_caches_give_the_same_text(demo):
    pages = {"block_size": 64, "max_num_blocks": 64}
    assert texts(demo("batch-1", page_params=pages)) == texts(demo("batch-1", paged_attention=False))


def test_users_stop_at_eos_and_the_others_go_on(demo, tmp_path, monkeypatch):
    free = texts(demo("batch-1", batch_size=4))
    # A token that the first user generates after a few others stands for the end of a sequence.
    place = next(place for place in range(2, 12) if free[0][place] not in free[0][:place])
    eos = free[0][place]
    model = tmp_path / "model"
    model.mkdir()
    for file in BUNDLED.iterdir():
        if file.is_file() and file.name != "generation_config.json":
            (model / file.name).symlink_to(file)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    monkeypatch.setenv("HF_MODEL", str(model))

    stopped = demo("batch-1", batch_size=4)["users"]
    assert (stopped[0]["stop_reason"], stopped[0]["token_ids"]) == ("eos", free[0][: place + 1])
    for user, tokens in zip(stopped, free):
        expected = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
        assert user["token_ids"] == expected
        assert user["stop_reason"] == ("eos" if eos in tokens else "max_generated_tokens")
    assert texts(demo("batch-1", batch_size=4, stop_at_eos=False)) == free


def test_a_user_at_max_seq_len_stops_and_the_others_go_on(demo, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.json", "In the day that", "And the king of the north shall come, " * 4)
    free = demo("batch-1", batch_size=2, input_prompts=prompts)["users"]
    limit = free[1]["prompt_tokens"] + 5
    assert free[0]["prompt_tokens"] + 12 <= limit
    limited = demo("batch-1", batch_size=2, input_prompts=prompts, max_seq_len=limit)["users"]
    assert [user["stop_reason"] for user in limited] == ["max_generated_tokens", "max_seq_len"]
    assert limited[0]["token_ids"] == free[0]["token_ids"] and limited[1]["token_ids"] == free[1]["token_ids"][:5]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_seq_len": 64}, "max_seq_len 64"),
        ({"max_seq_len": 10**6}, "max_seq_len 1000000"),
        ({"page_params": {"max_num_blocks": 2}}, "max_num_blocks = 2"),
        ({"num_layers": 100}, "num_layers 100"),
        ({"page_params": {"max_num_blocks": 10**6}}, r"Phi-3-tiny-kjv does not fit N150: .* GB of KV cache a device, which has 12.82 GB"),
        ({"instruct": True}, "chat template"),
    ],
)
def test_what_does_not_fit_fails_with_one_clear_message_and_no_record(demo, tmp_path, options, message):
    with pytest.raises(RunError, match=message):
        demo("batch-1", **options)
    assert not (tmp_path / "run.json").exists()


def test_what_does_not_fit_is_shown_without_a_traceback():
    result = command("--max_seq_len", "64")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "max_seq_len 64" in result.stdout and "Traceback" not in result.stdout + result.stderr
    assert ".py:" not in result.stdout.split("FAILURES")[1].split("short test summary")[0]
    assert "exception" not in result.stdout, "the errors that led to it"


def test_precision_options_reach_the_model_and_the_record(demo):
    record = demo("batch-1", "accuracy", optimizations="precision_cfg = {wo: bfp4}")
    assert record["precision"] == "accuracy + optimizations"
    assert "wo: bfp4" in record["precision_settings"] and "wqkv: bf16" in record["precision_settings"]


def test_the_example_decoder_file_sets_each_decoder_of_the_bundled_model(demo):
    example = README.parent / "config_4_decoders.json"
    record = demo("batch-1", decoder_config_file=str(example), max_generated_tokens=2)
    assert record["precision"] == "performance + decoder_config_file"
    ff2 = [part.split("ff2: ")[1].split(",")[0] for part in record["precision_settings"].split("decoders ")[1:]]
    assert ff2 == ["bfp8", "bfp8", "bfp4", "bfp8"], "decoder 2 does not name ff2, so it keeps the mode's"


def test_dummy_weights_need_no_weights_and_the_record_says_so(demo):
    record = demo("batch-1", dummy_weights=True, num_layers=1)
    assert "random weights: the text means nothing" in record["notes"]


def test_the_record_names_the_mesh_it_ran_on(demo, monkeypatch):
    monkeypatch.setenv("MESH_DEVICE", "N300")
    record = demo("batch-1")
    assert (record["mesh"], record["backend"]) == ("N300", backend.name())


def test_users_of_data_parallel_groups_have_the_texts_of_one_batch(demo, monkeypatch):
    """DP-8-b1 on a T3K has groups of one device, so a batch of 8 on one device has the same texts bit for bit."""
    together = demo("batch-32", batch_size=8)
    monkeypatch.setenv("MESH_DEVICE", "T3K")
    record = demo("DP-8-b1")
    assert texts(record) == texts(together)
    assert (record["mesh"], record["settings"]["data_parallel"]) == ("T3K", 8)
    assert [(user["user"], user["group"]) for user in record["users"]] == [(user, user) for user in range(8)]
    assert "group" not in together["users"][0]
    validate(record)


@pytest.mark.parametrize(
    "mesh, options, said",
    [
        ("TG", ("-k", "performance and DP-32-b1"), "TG, 32 groups (data parallel) of 1 device"),
        pytest.param(
            "T3K", ("--data_parallel", "2"), "T3K, 2 groups (data parallel) of 4 devices, tensor parallel", marks=pytest.mark.wide
        ),
    ],
)
def test_the_command_runs_data_parallel_and_says_so(monkeypatch, mesh, options, said):
    result = command(*SHORT, *options, mesh=mesh)
    assert result.returncode == 0, result.stdout + result.stderr
    assert said in result.stdout.split("Summary")[1]


def test_a_case_whose_groups_the_mesh_does_not_have_is_skipped_and_a_given_number_is_an_error():
    result = command("-k", "performance and DP-4-b1")
    assert result.returncode == 0 and "1 skipped" in result.stdout
    result = command("--data_parallel", "4")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "data_parallel 4 does not divide a mesh of 1x1 devices; numbers that do: 1" in result.stdout


@pytest.mark.parametrize("mesh, options, has_ttft", [("N150", {}, True), ("N300", {"data_parallel": 2}, True), ("T3K", {"decode_only": True}, False)])
def test_a_run_ends_with_the_prediction_for_its_mesh(demo, monkeypatch, capsys, mesh, options, has_ttft):
    monkeypatch.setenv("MESH_DEVICE", mesh)
    record = demo("batch-1", num_layers=1, max_generated_tokens=2, **options)
    predicted = record["prediction"]
    assert predicted["what"] == "a prediction for a card, not a measurement" and predicted["mesh"] == mesh
    assert predicted["decode_t/s/u"]["low"] < predicted["decode_t/s/u"]["value"]
    assert ("TTFT" in predicted) == has_ttft
    printed = capsys.readouterr().out
    assert f"Prediction for a card ({mesh}), not a measurement" in printed.split("Summary")[1]
    # One replica's ops are counted, and all replicas' users.
    replicas = options.get("data_parallel", 1)
    assert predicted["decode_t/s"]["value"] == pytest.approx(replicas * predicted["decode_t/s/u"]["value"])


def test_a_run_whose_ops_have_no_cost_says_so(demo, monkeypatch):
    monkeypatch.delitem(from_log.OPERATIONS, "ttnn.rms_norm")
    record = demo("batch-1", num_layers=1, max_generated_tokens=2)
    assert "prediction" not in record
    assert any(note.startswith("no prediction: no device operation is known for ttnn.rms_norm") for note in record["notes"])
