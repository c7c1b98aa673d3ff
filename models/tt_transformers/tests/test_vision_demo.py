"""The vision demo on the emulator: its cases, its record, prompts that cannot be used, and text alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from models.tt_transformers.demo.cases import CASES, VISION_CASES
from models.tt_transformers.demo.run import RunError, run

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[3]
TINY = "random/Llama-3.2-Vision-tiny"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for variable in ("HF_MODEL", "LLAMA_DIR", "MESH_DEVICE", "FAKE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def demo(tmp_path):
    """Runs a case with options in this process -> its record."""

    def run_case(name, **options):
        case = next(case for case in [*CASES, *VISION_CASES] if case.name == name)
        output = tmp_path / "run.json"
        run(case.with_options({"max_generated_tokens": 6, "stop_at_eos": False, **options, "output_json": str(output)}), "accuracy")
        return json.loads(output.read_text(encoding="utf-8"))

    return run_case


def texts(record):
    return [user["token_ids"] for user in record["users"]]


def write_prompts(folder, *entries):
    (folder / "prompts.json").write_text(json.dumps(entries))
    return str(folder / "prompts.json")


@pytest.fixture
def images(tmp_path):
    """Two small images beside a prompt file."""
    for name, size in (("a.png", (60, 40)), ("b.png", (200, 50))):
        Image.effect_noise(size, 90).save(tmp_path / name)
    return tmp_path


def test_the_readme_command_runs_and_says_that_the_weights_are_random():
    words = [sys.executable, "-m", "pytest", "models/tt_transformers/demo/simple_vision_demo.py", "-k", "performance and batch1-trace"]
    result = subprocess.run([*words, "--max_generated_tokens", "4"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Prompt of user 0, batch 0, with shapes.png:\nWhich shapes are in this picture" in result.stdout
    assert "random weights: the text means nothing" in result.stdout.split("Summary")[1]


def test_a_batch_has_users_with_and_without_images(demo):
    record = demo("batch4-trace-with-text-prompts")
    assert [user.get("images") for user in record["users"]] == [["shapes.png"], None, ["clock_9.png", "clock_3.png"], None]
    alone = [demo("batch1-trace", repeat_batches=1), demo("batch1-notrace")]
    assert texts(alone[0]) == texts(alone[1]) == texts(record)[:1], "neither the trace nor the batch changes a text"


def test_other_images_give_another_text(demo, images):
    entries = [{"prompt": "What is this?", "images": [name]} for name in ("a.png", "b.png")]
    first, second = texts(demo("batch1-trace", input_prompts=write_prompts(images, *entries), repeat_batches=2))
    assert first != second


def test_the_text_demo_runs_the_model_without_images(demo, monkeypatch):
    monkeypatch.setenv("HF_MODEL", TINY)
    record = demo("batch-1", dummy_weights=True)
    assert record["model"] == "Llama-3.2-Vision-tiny" and len(record["users"][0]["token_ids"]) == 6
    assert "the model runs without its layers for images" in record["notes"]


BAD = {
    "more images than a run takes": ({"images": ["a.png"] * 3}, r"entry 0: 3 image\(s\); at most 2 for this run of Llama-3.2-Vision-tiny"),
    "too few marks": ({"prompt": "<|image|> and", "images": ["a.png", "b.png"]}, r"has <\|image\|> 1 times for 2 image\(s\)"),
    "marks without images": ({"prompt": "what <|image|> is", "images": ["a.png"] * 2}, r"has <\|image\|> 1 times for 2"),
    "no file": ({"images": ["c.png"]}, "entry 0: image .*c.png: there is no such file"),
    "no list": ({"images": "a.png"}, "entry 0: field 'images' is 'a.png'; expected a list of image files"),
    "no image": ({"images": ["prompts.json"]}, "entry 0: image .*prompts.json cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_prompts_with_images_that_cannot_be_used_are_refused(demo, images, name):
    entry, message = BAD[name]
    with pytest.raises((RunError, ValueError), match=message):
        demo("batch1-trace", input_prompts=write_prompts(images, {"prompt": "What is this?", **entry}))


def test_the_text_demo_refuses_images(demo, images):
    with pytest.raises(RunError, match=r"entry 0: 1 image\(s\); at most 0 for this run of Phi-3-tiny-kjv"):
        demo("batch-1", input_prompts=write_prompts(images, {"prompt": "What is this?", "images": ["a.png"]}))
