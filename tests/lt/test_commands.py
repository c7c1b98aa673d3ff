"""What the names of `lt` mean as pytest lines, and which texts are refused."""

import json

import pytest

from models.common import benchmark_record
from models.tt_transformers.measure.lt import commands
from models.tt_transformers.tests import test_model, test_modules
from models.tt_transformers.tt.checkpoints.location import BUNDLED

PHI = "microsoft/Phi-3-mini-128k-instruct"


@pytest.fixture(autouse=True)
def no_choice_in_the_environment(monkeypatch):
    for variable in ("HF_MODEL", "LLAMA_DIR", "MESH_DEVICE", "FAKE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    "name, select",
    [
        ("demo", "performance and batch-1"),
        ("demo-acc", "accuracy and batch-1"),
        ("demo-32", "performance and batch-32"),
        ("demo-long", "performance and long-context-64k"),
        ("accuracy", "performance and batch-1"),
        ("accuracy-acc", "accuracy and batch-1"),
    ],
)
def test_a_demo_is_a_case_of_the_text_demo(name, select):
    (spec,) = commands.specs(name, devices="N300", options="--num_layers 2")
    file, *arguments = spec.arguments
    assert file == "models/tt_transformers/demo/simple_text_demo.py" and arguments[:2] == ["-k", select]
    assert ("--token_accuracy" in arguments) == name.startswith("accuracy") and arguments[-2:] == ["--num_layers", "2"]
    assert spec.keeps_record and spec.environment["MESH_DEVICE"] == "N300"


@pytest.mark.parametrize("name", [*commands.GROUPS["modules"], "model"])
def test_a_module_test_selects_tests_of_one_device(name):
    (spec,) = commands.specs(name, devices="N300")
    collected = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *spec.arguments])
    assert collected == pytest.ExitCode.OK


def test_the_models_of_the_module_tests_are_those_that_they_have():
    assert commands.commands()["mlp"].model == test_modules.MODEL
    assert commands.commands()["model"].model == test_model.BUNDLED.name
    for given in ("", PHI, "Phi-3-mini-128k-instruct"):
        (spec,) = commands.specs("mlp", models=given)
        assert spec.model == PHI and spec.environment["HF_MODEL"] == PHI
    with pytest.raises(
        ValueError, match="mlp: its tests are of microsoft/Phi-3-mini-128k-instruct only, not of Qwen/Qwen3-8B"
    ):
        commands.specs("mlp", models="Qwen/Qwen3-8B")


@pytest.mark.parametrize("there", [True, False])
def test_vision_commands_are_there_if_the_vision_demo_is(tmp_path, monkeypatch, there):
    demos = tmp_path / "models/tt_transformers/demo"
    demos.mkdir(parents=True)
    (demos / "simple_text_demo.py").touch()
    if there:
        (demos / "simple_vision_demo.py").touch()
    monkeypatch.setattr(benchmark_record, "ROOT", tmp_path)
    assert [name for name in commands.commands() if name.startswith("vision-")] == [
        f"vision-{case}"
        for case in ("batch1-notrace", "batch1-trace", "batch32-trace", "batch4-trace-with-text-prompts")
        if there
    ]
    if there:
        (spec,) = commands.specs("vision-batch1-trace")
        assert spec.arguments[1:] == ("-k", "performance and batch1-trace") and spec.keeps_record
        assert spec.model == "a tiny vision model" and spec.environment["HF_MODEL"] is None
        (spec,) = commands.specs("vision-batch1-trace", "meta-llama/Llama-3.2-11B-Vision")
        assert spec.environment["HF_MODEL"] == spec.model == "meta-llama/Llama-3.2-11B-Vision"


def test_each_combination_of_commands_models_and_devices_is_a_run():
    specs = commands.specs("demo, demo-32", "Llama-3.1-8B,Qwen/Qwen2.5-7B", "N150,T3K")
    assert len({(spec.command, spec.model, spec.device) for spec in specs}) == len(specs) == 8
    assert {spec.model for spec in specs} == {"meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B"}
    assert [spec.command for spec in commands.specs("table")] == list(commands.TABLE)


def test_the_environment_chooses_what_is_left_out(monkeypatch, tmp_path):
    (spec,) = commands.specs("")
    assert (spec.command, spec.model, spec.device) == ("demo", BUNDLED.name, "N150")
    assert spec.environment == {"HF_MODEL": None, "LLAMA_DIR": None, "MESH_DEVICE": "N150", "FAKE_DEVICE": None}
    monkeypatch.setenv("LLAMA_DIR", str(tmp_path))
    monkeypatch.setenv("FAKE_DEVICE", "T3K")
    (spec,) = commands.specs("demo")
    assert (spec.model, spec.device) == (str(tmp_path), "T3K") and spec.environment["LLAMA_DIR"] == str(tmp_path)
    (spec,) = commands.specs("demo", BUNDLED.name)
    assert spec.model == BUNDLED.name and spec.environment["LLAMA_DIR"] is None
    assert spec.environment["HF_MODEL"] == str(BUNDLED)


@pytest.mark.parametrize("name", ["mod,el", "a b [red]", "naïve\u202e", "-k"])
@pytest.mark.parametrize("file, variable", [("config.json", "HF_MODEL"), ("params.json", "LLAMA_DIR")])
def test_a_directory_is_a_model_of_either_format_under_any_name(tmp_path, monkeypatch, name, file, variable):
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_text("{}")
    monkeypatch.chdir(tmp_path)
    (spec,) = commands.specs("demo", name)
    other = ({"HF_MODEL", "LLAMA_DIR"} - {variable}).pop()
    assert spec.environment[variable] == str(tmp_path / name) and spec.environment[other] is None


def test_a_pytest_line_is_taken_as_it_is():
    (spec,) = commands.specs("pytest tests/common -k 'a and b,c'")
    assert (spec.command, spec.arguments, spec.keeps_record) == ("pytest", ("tests/common", "-k", "a and b,c"), False)
    assert spec.environment == {"HF_MODEL": None, "LLAMA_DIR": None} and (spec.model, spec.device) == ("", "")
    (spec,) = commands.specs("pytest tests/common", "", "T3K")
    assert spec.environment["MESH_DEVICE"] == spec.device == "T3K"
    (spec,) = commands.specs("pytest models/tt_transformers/demo/simple_text_demo.py -k batch-1")
    assert spec.keeps_record


def test_each_json_file_is_a_precision_setting(tmp_path):
    (tmp_path / "small.json").write_text('{"precision_cfg": {"ff1_3": "bfp4"}}')
    (tmp_path / "layers.json").write_text('{"decoders": {}}')
    layers, small = commands.specs("pareto_from_json", configurations=tmp_path)
    assert (layers.setting, layers.arguments[-1]) == ("layers", f"--decoder_config_file={tmp_path / 'layers.json'}")
    assert (small.setting, small.arguments[-1]) == ("small", "--optimizations=precision_cfg = {ff1_3: bfp4}")
    committed = commands.specs("pareto_from_json")
    assert {spec.setting for spec in committed} == {path.stem for path in commands.CONFIGURATIONS.glob("*.json")}
    assert len(commands.specs("pareto")) == 9


@pytest.mark.parametrize(
    "texts, message",
    [
        (("dmeo",), "command 'dmeo' is not known; known are demo, demo-acc"),
        (("demo", "Llama-3.1-8BB"), "model 'Llama-3.1-8BB' is not known; .*like Llama-3.1-8B"),
        (("demo", "", "N151"), "device: 'N151' is not a known mesh; known are N150"),
        (("mlp", "", "TG"), "mlp: device TG has no such test; accepted: N150, N300, T3K"),
        (("demo", "", "", "-k 'open"), "No closing quotation"),
        (("pytest -k 'open",), "No closing quotation"),
        (("demo", "", "", "--output_json=a.json"), "--output_json=a.json: lt keeps the record"),
        (("pytest tests --junitxml a.xml",), "--junitxml: lt keeps the record"),
    ],
)
def test_a_text_that_means_nothing_is_refused_by_name(texts, message):
    with pytest.raises(ValueError, match=message):
        commands.specs(*texts)


def test_a_folder_without_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there are no \.json files"):
        commands.specs("pareto_from_json", configurations=tmp_path)
    (tmp_path / "half.json").write_text(json.dumps({"precision_cfg": {}})[:-4])
    with pytest.raises(ValueError, match=r"half\.json"):
        commands.specs("pareto_from_json", configurations=tmp_path)


def test_the_guide_describes_each_command():
    guide = (benchmark_record.ROOT / "docs" / "lt.md").read_text()
    assert [name for name in commands.descriptions() if f"`{name}`" not in guide] == []
