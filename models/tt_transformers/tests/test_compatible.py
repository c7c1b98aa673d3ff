"""The README's lists of models: complete, current, and as the capacity command counts."""

import json

import pytest

from models.common.mesh_names import LINES
from models.tt_transformers.measure import capacity, compatible, long_context_report
from models.tt_transformers.measure.vendor.table import with_table
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS, locate
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.prefill_chunks import VARIABLE
from tests.support.wide import some_of

ENTRIES = compatible.read_models()
KNOWN = [name for name, entry in ENTRIES.items() if "config" in entry]
FOUND = json.loads(compatible.RECORD.read_text(encoding="utf-8"))
CONTEXTS, WITH_IMAGE = FOUND["contexts"], FOUND["with_image"]
VISION = "meta-llama/Llama-3.2-11B-Vision"


def test_the_readme_has_the_lists_of_the_record():
    text = compatible.README.read_text(encoding="utf-8")
    assert with_table(text, compatible.markdown(ENTRIES, CONTEXTS, WITH_IMAGE), compatible.BEGIN, compatible.END) == text


def test_every_model_of_the_vendors_list_is_there_with_its_config_or_the_reason_why_not():
    assert [entry["list"] for entry in ENTRIES.values()] == 13 * ["verified"] + 67 * ["compatible"]
    assert list(CONTEXTS) == KNOWN
    assert all(entry["note"] for name, entry in ENTRIES.items() if name not in KNOWN)
    assert {ENTRIES[name]["checked"] for name in KNOWN} == {"config", "copy", "base", "files", "params"}


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_config_is_accepted(name):
    Architecture.from_hf_config(ENTRIES[name]["config"])


@pytest.mark.parametrize("name", KNOWN)
def test_no_model_needs_a_larger_mesh_than_the_vendors_list_says(name):
    runs = [mesh for mesh in LINES if CONTEXTS[name][mesh] and isinstance(CONTEXTS[name][mesh], int)]
    assert runs and LINES.index(runs[0]) <= LINES.index(ENTRIES[name]["mesh"])


@pytest.mark.parametrize("name", [name for name in KNOWN if ENTRIES[name]["list"] == "verified"])
def test_a_verified_text_model_runs_with_random_weights_and_no_network(name):
    assert locate(name, dummy_weights=True).directory == MODEL_PARAMS / name.split("/")[1]


@pytest.mark.whole
@pytest.mark.parametrize("name", some_of(KNOWN, "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-0.5B"))
def test_the_record_is_what_is_counted_now(monkeypatch, name):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert compatible.count(name, ENTRIES[name]["config"]) == CONTEXTS[name]


@pytest.mark.parametrize("mesh", LINES)
def test_the_count_is_what_the_capacity_command_finds_by_bisection(mesh):
    (found,) = long_context_report.read(f"capacity-{mesh}-performance.json")
    assert CONTEXTS["microsoft/Phi-3-mini-128k-instruct"][mesh] == found["largest"]["context"]


def test_images_run_on_the_meshes_of_the_vendors_list_with_contexts_at_least_as_long():
    """The vendor's: 11B for 8k tokens on N300 and 128k on T3K, 90B on T3K."""
    assert list(WITH_IMAGE) == [VISION, "meta-llama/Llama-3.2-90B-Vision"]
    assert WITH_IMAGE[VISION]["N300"] >= 8192 and WITH_IMAGE[VISION]["T3K"] == 131072
    assert WITH_IMAGE["meta-llama/Llama-3.2-90B-Vision"]["T3K"] > 0


@pytest.mark.whole
@pytest.mark.parametrize("mesh", some_of(LINES, "N150"))
def test_the_largest_context_with_an_image_fits_and_the_next_does_not(mesh):
    context = WITH_IMAGE[VISION][mesh]
    assert capacity.measure(mesh, context, chunks=2, model=VISION, max_images=1).fits
    if context < 131072:
        assert not capacity.measure(mesh, context + capacity.STEP, chunks=2, model=VISION, max_images=1).fits
