"""The README's lists of models: complete, current, and as the capacity command counts."""

import json

import pytest

from models.common.mesh_names import LINES
from models.tt_transformers.measure import compatible, long_context_report
from models.tt_transformers.measure.vendor.table import with_table
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS, locate
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.prefill_chunks import VARIABLE
from tests.support.wide import some_of

ENTRIES = compatible.read_models()
KNOWN = [name for name, entry in ENTRIES.items() if "config" in entry]
CONTEXTS = json.loads(compatible.RECORD.read_text(encoding="utf-8"))["contexts"]


def test_the_readme_has_the_lists_of_the_record():
    text = compatible.README.read_text(encoding="utf-8")
    assert with_table(text, compatible.markdown(ENTRIES, CONTEXTS), compatible.BEGIN, compatible.END) == text


def test_every_model_of_the_vendors_list_is_there_with_its_config_or_the_reason_why_not():
    assert [entry["list"] for entry in ENTRIES.values()] == 13 * ["verified"] + 67 * ["compatible"]
    assert list(CONTEXTS) == KNOWN
    assert all(entry["note"] for name, entry in ENTRIES.items() if name not in KNOWN)
    assert {ENTRIES[name]["checked"] for name in KNOWN} == {"config", "copy", "base", "files"}


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
