"""Token accuracy of the bundled model against Hugging Face, and `--token_accuracy` in the demo.

The texts are the reference file's (`generate_reference_hf.py`). MESH_DEVICE chooses the mesh; unset, N150.
"""

import json

import pytest

from models.common.mesh import open_mesh
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.run import run
from models.tt_transformers.measure.accuracy import TOP1, TOP5
from models.tt_transformers.tt import token_accuracy
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.precision import ModelOptimizations
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import Reference, reference_path

pytestmark = pytest.mark.whole

USERS = 2
PAGES = {"block_size": 32, "max_num_blocks": 512}


@pytest.fixture(scope="module")
def mesh_device():
    with open_mesh() as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reference():
    return Reference.load(reference_path(BUNDLED.name))


@pytest.mark.parametrize("mode", TOP1)
def test_the_bundled_model_predicts_hugging_faces_tokens(mode, mesh_device, reference):
    optimizations = getattr(ModelOptimizations, mode)()
    args = ModelArgs(
        mesh_device,
        max_batch_size=USERS,
        max_seq_len=reference.tokens.shape[1],
        optimizations=optimizations,
        hf_model=BUNDLED,
        page_params=PAGES,
    )
    reference.check_fits(args)
    with Generator.build(args) as generator:
        accuracy = token_accuracy.measure(generator, reference, USERS)
    print(f"{args.device_name} {mode}: {accuracy.describe()}")
    assert accuracy.tokens == USERS * reference.generated
    assert accuracy.top1 >= TOP1[mode]
    assert accuracy.top5 >= TOP5


def batch_1(**options):
    return CASES[0].with_options({"token_accuracy": True, **options})


def test_the_demo_reports_token_accuracy_for_each_user_and_a_profile(tmp_path, monkeypatch, capsys, reference):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    output = tmp_path / "run.json"
    run(batch_1(batch_size=2, max_generated_tokens=8, output_json=str(output), profile=True), "accuracy")
    printed = capsys.readouterr().out
    assert "token accuracy" in printed.split("Summary")[1]
    linears = next(line for line in printed.splitlines() if line.startswith("ttnn.linear "))
    n_layers = json.loads((BUNDLED / "config.json").read_text())["num_hidden_layers"]
    assert int(linears.split()[1]) >= 7 * n_layers * 4, "7 decode steps of layers with qkv, o and the MLP's linears"
    record = json.loads(output.read_text())
    assert record["accuracy"]["tokens"] == 2 * 8
    assert record["accuracy"]["top5"] >= TOP5
    expected = reference.tokens[:2, reference.prefill : reference.prefill + 8].tolist()
    assert [user["token_ids"] for user in record["users"]] == expected
    assert any("the reference's" in note for note in record["notes"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"input_prompts": "x.json"}, "input_prompts does not go with token_accuracy"),
        ({"sampling_params": {"temperature": 1}}, "sampling_params does not go with token_accuracy"),
        ({"stop_at_eos": True}, "stop_at_eos does not go with token_accuracy"),
        ({"enable_thinking": False}, "enable_thinking does not go with token_accuracy"),
        ({"repeat_batches": 2}, "repeat_batches does not go with token_accuracy"),
        ({"token_accuracy": False, "reference_file": "r"}, "reference_file is given, but token_accuracy is false"),
    ],
)
def test_options_that_the_reference_settles_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        batch_1(**options)


def test_more_tokens_than_the_reference_has_are_refused(reference):
    with pytest.raises(ValueError, match=f"max_generated_tokens is 9999, and the reference has {reference.generated}"):
        batch_1(max_generated_tokens=9999).with_reference(reference)
