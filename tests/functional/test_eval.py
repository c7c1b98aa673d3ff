"""`eval.py` and `scripts/run_eval.py`, as a user runs them."""

import argparse
import importlib.util
import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

import eval as evaluation

from .conftest import BUNDLED, MODEL_FILE, PROMPT_FILE, ROOT

SHORT = ["--max-new-tokens", "3", "--prompt-tokens", "20"]


def run(*command):
    """Runs a command with one thread, for the reason given at `one_thread`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run_eval():
    spec = importlib.util.spec_from_file_location("run_eval", ROOT / "scripts/run_eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metrics_of(output: str) -> dict:
    (line,) = [line for line in output.splitlines() if line.startswith("YT_METRICS")]
    return json.loads(line.removeprefix("YT_METRICS "))


def test_the_code_of_the_readme_continues_its_prompt(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, code, _ = re.split("```python\n|```\n", MODEL_FILE.with_name("README.md").read_text(), maxsplit=2)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > len("And it came to pass") + 64


def test_the_command_of_the_readme_reports_every_figure():
    command = ["eval.py", MODEL_FILE, "--model", BUNDLED, "--prompt_file", PROMPT_FILE]
    result = run(*command, "--max_new_tokens", 3, "--prompt_tokens", 20)
    assert result.returncode == 0, result.stderr
    for figure in ("emulator", "20 prompt, 3 new", "top-1", "top-5", "logits PCC", "prefill", "decode"):
        assert figure in result.stdout


def test_evaluation_returns_what_it_prints(capsys):
    command = [MODEL_FILE, "--model", BUNDLED, "--prompt_file", PROMPT_FILE]
    command += ["--max_new_tokens", 3, "--prompt_tokens", 20]
    result = evaluation.main([str(argument) for argument in command])
    assert result["top1"] == result["top5"] == 100
    assert result["prefill_tokens_per_second"] > 0 and result["decode_tokens_per_second"] > 0
    assert f"logits PCC   {result['logits_pcc']:.6f}" in capsys.readouterr().out


def test_run_eval_prints_one_line_of_metrics():
    result = run("scripts/run_eval.py", "--mode", "tt", "--hf-model", BUNDLED, *SHORT)
    assert result.returncode == 0, result.stderr
    metrics = metrics_of(result.stdout)
    assert (metrics["mode"], metrics["backend"]) == ("tt", "emulator")
    assert (metrics["prompt_tokens"], metrics["new_tokens"]) == (20, 3)
    assert metrics["top1"] == metrics["top5"] == 100
    assert metrics["logits_pcc"] > 0.999


def test_run_eval_measures_hugging_face_itself(run_eval, capsys):
    run_eval.main(["--mode", "hf", "--hf-model", str(BUNDLED), *SHORT])
    metrics = metrics_of(capsys.readouterr().out)
    assert (metrics["mode"], metrics["backend"]) == ("hf", "cpu (transformers)")
    assert (metrics["top1"], metrics["logits_pcc"]) == (100, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--mode", "gpu", "--hf-model", BUNDLED], "invalid choice: 'gpu'"),
        (["--mode", "tt"], "--hf-model"),
        (["--mode", "tt", "--hf-model", ROOT / "prompts"], "config.json cannot be read"),
        (["--mode", "hf", "--hf-model", BUNDLED, "--model-file", MODEL_FILE], "--model-file has no meaning"),
        (["--mode", "tt", "--hf-model", BUNDLED, "--system", "n300"], "--system has no meaning"),
        (["--mode", "tt", "--hf-model", BUNDLED, "--model-file", ROOT / "conftest.py"], "has no function build_model"),
    ],
)
def test_run_eval_fails_without_metrics(run_eval, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        run_eval.main([str(option) for option in options])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert message in output.err
    assert "YT_METRICS" not in output.out


def test_a_backend_that_cannot_be_had_is_one_line():
    result = run("-c", "import os; os.environ['TT_BACKEND'] = 'abacus'; import eval")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch("error: TT_BACKEND='abacus' is not a backend; accepted are .*\n", result.stderr)


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize(
    "make_stdout, reason",
    [
        (lambda: open("/dev/full", "w"), "No space left on device"),
        (closed_pipe, "Broken pipe"),
        (lambda: None, "Bad file descriptor"),
    ],
    ids=["full disk", "closed pipe", "closed"],
)
def test_figures_that_stdout_does_not_take_go_to_stderr(monkeypatch, capsys, make_stdout, reason):
    stdout = make_stdout()
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as stopped:
        evaluation.print_result(argparse.ArgumentParser("eval.py"), "top-1 100 %")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"top-1 100 %\neval.py: error: standard output cannot be written: {reason}\n"
    if stdout is not None:
        stdout.close()  # as Python does at its end; it raises if unwritten text is left


def test_a_stdout_that_cannot_hold_a_character_gets_its_escape(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    evaluation.print_result(argparse.ArgumentParser(), "model \u00fc")
    assert stdout.buffer.getvalue() == b"model \\xfc\n"


def test_values_of_the_mock_device_are_not_evaluated(monkeypatch):
    monkeypatch.setattr(evaluation.backend, "values_meaningful", lambda: False)
    with pytest.raises(evaluation.EvaluationError, match="computes no values that could be compared"):
        evaluation.evaluate(evaluation.Task(str(BUNDLED), PROMPT_FILE, 1), MODEL_FILE)


GOOD_MODEL = """
import torch
from transformers import GenerationMixin

class Model(torch.nn.Module, GenerationMixin):
    def forward(self, input_ids, past_key_values=None):
        return None

def build_model(hf_model, tt_device, max_seq_len):
    return Model()
"""


@pytest.mark.parametrize(
    "source, message",
    [
        (None, "there is no such model file"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("", r"has no function build_model\(hf_model, tt_device, max_seq_len\)"),
        (GOOD_MODEL.replace("tt_device", "device"), r"build_model takes \(hf_model, device, max_seq_len\), not"),
        (GOOD_MODEL.replace("Module, GenerationMixin", "Module"), "has no class of its own that subclasses both"),
        (GOOD_MODEL[GOOD_MODEL.index("def build_model") :] + "from transformers import Phi3ForCausalLM", "has no class of its own"),
        (GOOD_MODEL.replace("forward", "backward"), "its class Model has no method forward"),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused(tmp_path, source, message):
    path = tmp_path / "model.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(evaluation.EvaluationError, match=message):
        evaluation.load_model_file(path)


def test_any_file_that_follows_the_contract_is_found_by_path(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(GOOD_MODEL)
    assert isinstance(evaluation.load_model_file(path).build_model(None, None, 1), torch.nn.Module)


@pytest.mark.parametrize(
    "raised, kind, message",
    [
        ("RuntimeError('Out of Memory: no space')", evaluation.EvaluationError, "23 tokens do not fit the devices' memory"),
        ("RuntimeError('a bug')", RuntimeError, "a bug"),
    ],
)
def test_a_bring_up_has_its_own_traceback_unless_memory_is_out(tmp_path, raised, kind, message):
    path = tmp_path / "model.py"
    path.write_text(GOOD_MODEL.replace("return None", f"raise {raised}"))
    with pytest.raises(kind, match=message):
        evaluation.evaluate(evaluation.Task(str(BUNDLED), PROMPT_FILE, 3, prompt_tokens=20), path, "n150")


class Fixed(torch.nn.Module, GenerationMixin):
    """A model that always returns the values given to its constructor."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, input_ids):
        return self.output


@pytest.mark.parametrize(
    "model, message",
    [
        (torch.nn.Identity(), "build_model gives a Identity, no GenerationMixin"),
        (Fixed(torch.zeros(1, 1, 5)), "forward gives a Tensor, no CausalLMOutputWithPast"),
        (Fixed(CausalLMOutputWithPast(past_key_values=1)), r"forward gives logits None for one token, not \(1, 1, 5\)"),
        (Fixed(CausalLMOutputWithPast(logits=torch.zeros(1, 5))), r"forward gives logits \(1, 5\) for one token"),
        (Fixed(CausalLMOutputWithPast(logits=torch.zeros(1, 1, 5))), "forward gives no past_key_values"),
    ],
)
def test_a_model_that_breaks_the_contract_is_refused_by_its_first_token(model, message):
    with pytest.raises(evaluation.EvaluationError, match=f"a.py: {message}"):
        evaluation.check_output(model, "a.py", torch.tensor([[3]]), vocab_size=5)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_logits_that_say_nothing_are_no_evaluation(value, monkeypatch):
    reference = evaluation.load_reference(str(BUNDLED), evaluation.read_config(str(BUNDLED)))
    monkeypatch.setattr(evaluation, "generate", lambda model, prompt, steps, teacher=None: (
        torch.full((steps, 4096), value) if teacher is not None else torch.randn(steps, 4096), torch.zeros(steps), [0, 1, 2]
    ))
    with pytest.raises(evaluation.EvaluationError, match="logits of step 0 are not finite or all the same"):
        evaluation.compare(None, reference, torch.zeros(1, 4), steps=2)


@pytest.mark.parametrize(
    "name, message", [("N300", "MESH_DEVICE=N300, but .* is for T3K: unset it, or give --system"), ("N3000", "N3000")]
)
def test_a_mesh_device_that_contradicts_the_path_is_refused(monkeypatch, name, message):
    monkeypatch.delenv("FAKE_DEVICE", raising=False)
    monkeypatch.setenv("MESH_DEVICE", name)
    with pytest.raises(evaluation.EvaluationError, match=message):
        evaluation.evaluate(evaluation.Task(str(BUNDLED), PROMPT_FILE, 1), MODEL_FILE)


def test_mesh_comes_from_the_system_folder(tmp_path):
    assert evaluation.mesh_of(MODEL_FILE, None) == ("T3K", (2, 4))
    assert evaluation.mesh_of(MODEL_FILE, "n300") == ("N300", (1, 2))
    with pytest.raises(evaluation.EvaluationError, match="system 't9000' is not known; known are n150, n300, t3000"):
        evaluation.mesh_of(MODEL_FILE, "t9000")
    with pytest.raises(evaluation.EvaluationError, match="--system says otherwise"):
        evaluation.mesh_of(tmp_path / "model.py", None)
