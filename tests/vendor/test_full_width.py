"""Models at full width pass the vendor's checks. The committed records and the README agree with that."""

import json
from itertools import product

import pytest

from models.common.mesh_names import LINES, is_line
from models.common.vendor import watching as validation
from models.tt_transformers.measure import compatible
from models.tt_transformers.measure.vendor import full_width, table, validate
from models.tt_transformers.tt.config.prefill_chunks import SIZES
from tests.support.wide import some_of


# A model of each family on one of its meshes, and Phi-3-mini on all.
RUNS = [
    *(f"{validate.PHI3} on {mesh}" for mesh in LINES), "meta-llama/Llama-3.1-8B on N150",
    "mistralai/Mistral-7B-Instruct-v0.3 on N300", "Qwen/Qwen2.5-0.5B on T3K", "Qwen/Qwen3-8B on N300",
    "meta-llama/Llama-3.1-8B on P100", "meta-llama/Llama-3.1-8B on P150", "Qwen/Qwen3-8B on N150x4",
    "meta-llama/Llama-3.1-70B on P150x4", "meta-llama/Llama-3.2-11B-Vision on N300", "meta-llama/Llama-3.1-8B on TG",
]  # fmt: skip


@pytest.fixture(scope="module", params=some_of(RUNS, f"{validate.PHI3} on T3K"))
def records(request, tmp_path_factory):
    """The committed record of a model on a mesh, and the record that this installation gives."""
    model, mesh = request.param.split(" on ")
    output = tmp_path_factory.mktemp(mesh) / "record.json"
    validate.run("full_width", mesh, output, model)
    return json.loads(validate.committed("full_width", mesh, model).read_text()), json.loads(output.read_text())


def test_every_text_model_of_the_verified_list_was_accepted_on_every_mesh_that_it_fits():
    record = json.loads(compatible.RECORD.read_text(encoding="utf-8"))
    contexts, with_image = record["contexts"], record["with_image"]
    needed = {
        (model.split("/")[1], mesh)
        for model in validate.models()
        if model not in validate.BESIDES
        for mesh, context in contexts[model].items()
        # A model that reads images runs on lines only, though its text model fits a grid.
        if isinstance(context, int) and context and (is_line(mesh) or model not in with_image)
    }
    accepted = {
        (record["model"], record["mesh"])
        for record in table.read_records()
        if record["backend"] == "mock" and all(case["outcome"] == "pass" for case in record["cases"])
    }
    assert needed <= accepted
    assert {model.split("/")[1] for model in validate.BESIDES} <= {model for model, _ in accepted}


@pytest.mark.vendor
def test_vendor_refuses_nothing(records):
    _, measured = records
    assert [case for case in measured["cases"] if case["outcome"] != "pass"] == []
    covered = {(case["mode"], case["users"], case["paged"]) for case in measured["cases"]}
    assert covered == set(product(("performance", "accuracy"), (1, 32), full_width.paging(measured["mesh"])))
    assert all(case["prompt_tokens"] == [128, 2048] for case in measured["cases"])


@pytest.mark.vendor
def test_committed_record_is_what_this_ttnn_says(records):
    committed, measured = records
    changes = validation.changes(committed, measured)
    assert committed == measured, "\n".join(["make validate writes new records; what changed:", *changes])


@pytest.mark.vendor
@pytest.mark.wide
@pytest.mark.parametrize("model, mesh", validate.FULL_CONTEXT)
def test_a_prompt_of_the_whole_context_is_accepted_in_chunks_of_every_size(model, mesh, tmp_path):
    validate.run("full_context", mesh, tmp_path / "record.json", model)
    measured = json.loads((tmp_path / "record.json").read_text())
    assert measured == json.loads(validate.committed("full_context", mesh, model).read_text())
    assert [case for case in measured["cases"] if case["outcome"] != "pass"] == []
    assert {case["prefill_chunk_size"] for case in measured["cases"]} == set(SIZES)  # a Galaxy's own size is the largest


def test_table_in_the_readme_is_made_from_the_records():
    text = table.README.read_text(encoding="utf-8")
    assert text == table.with_table(text, table.markdown(table.read_records()))
