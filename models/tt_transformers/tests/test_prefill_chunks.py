"""The table of prefill chunk sizes and the variable that overrides it."""

import pytest

from models.common.mesh_names import MESHES
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config import prefill_chunks
from models.tt_transformers.tt.config.architecture import read_config
from models.tt_transformers.tt.config.model_params import Limits
from models.tt_transformers.tt.config.prefill_chunks import FALLBACK, SIZES, VARIABLE

PHI_3 = "Phi-3-mini-128k-instruct"


def prefill_chunk_size(model, mesh, **options):
    return prefill_chunks.prefill_chunk_size(model, Limits.of(model), mesh, **options)


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize("thousands", SIZES)
def test_the_variable_counts_thousands_of_tokens(monkeypatch, thousands):
    monkeypatch.setenv(VARIABLE, str(thousands))
    assert prefill_chunk_size(PHI_3, "N150", paged=True, max_seq_len=4096) == thousands * 1024


@pytest.mark.parametrize("value", ["0", "3", "256", "-1", "1.0", "1k", "", " 4", "04", "four"])
def test_any_other_value_is_refused_and_the_accepted_ones_are_listed(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match="1, 2, 4, 8, 16, 32, 64, 128") as error:
        prefill_chunk_size(PHI_3, "N150", paged=True, max_seq_len=4096)
    assert VARIABLE in str(error.value) and repr(value) in str(error.value)


@pytest.mark.parametrize(
    "model, mesh, thousands",
    [
        (PHI_3, "N150", 1),
        (PHI_3, "N300", 128),
        ("Llama-3.2-3B", "N150", 8),
        ("Llama-3.1-8B", "N300", 64),
        ("Llama-3.1-70B", "T3K", 32),
        ("Llama-3.1-8B", "P150", 128),
        ("another model", "N150", FALLBACK),
    ],
)
def test_the_default_is_that_of_model_and_mesh(model, mesh, thousands):
    assert prefill_chunk_size(model, mesh, paged=True, max_seq_len=4096) == thousands * 1024


@pytest.mark.parametrize("mesh, max_seq_len, thousands", [("N300", 32768, 128), ("N300", 32769, 4), ("T3K", 131072, 128), ("P100", 98305, 4)])
def test_a_context_that_leaves_no_room_for_large_chunks_has_a_smaller_default(monkeypatch, mesh, max_seq_len, thousands):
    assert prefill_chunk_size(PHI_3, mesh, paged=True, max_seq_len=max_seq_len) == thousands * 1024
    monkeypatch.setenv(VARIABLE, "64")
    assert prefill_chunk_size(PHI_3, mesh, paged=True, max_seq_len=max_seq_len) == 64 * 1024


@pytest.mark.parametrize("thousands", [None, "4"])
@pytest.mark.parametrize("paged", [True, False])
def test_a_mesh_too_small_for_the_model_is_refused_and_the_others_named(monkeypatch, thousands, paged):
    if thousands is not None:
        monkeypatch.setenv(VARIABLE, thousands)
    with pytest.raises(ValueError, match="Llama-3.1-70B is not supported on N150; .* T3K, TG, P150x4"):
        prefill_chunk_size("Llama-3.1-70B", "N150", paged=paged, max_seq_len=4096)


@pytest.mark.parametrize("file", sorted(MODEL_PARAMS.glob("*/limits.json")), ids=lambda file: file.parent.name)
def test_limits_hold_accepted_sizes_by_mesh_and_their_source(file):
    limits = Limits.of(file.parent.name)
    in_vendors_table = {"N150", "N300", "T3K", "TG", "P150x4"}
    assert in_vendors_table <= set(limits.prefill_chunk_size) <= set(MESHES) and limits.source
    sizes = [*limits.prefill_chunk_size.values(), *(longer["prefill_chunk_size"] for longer in limits.long_context.values())]
    assert all(size is None or size in SIZES for size in sizes)


def test_a_fine_tuned_model_has_the_limits_of_the_model_with_its_sizes():
    config = read_config(MODEL_PARAMS / PHI_3 / "config.json")
    assert Limits.of("my-own-phi", config) == Limits.of(PHI_3)
    assert Limits.of("my-own-phi", {**config, "hidden_size": 3200}) == Limits()
    llama = read_config(MODEL_PARAMS / "Llama-3.1-8B/config.json")
    assert Limits.of("Llama-3.1-8B-Instruct", llama) == Limits.of("Llama-3.1-8B") != Limits()
    assert Limits.of("Phi-3-tiny-kjv", config) == Limits.of("Phi-3-tiny-kjv") != Limits.of(PHI_3)


def test_a_mesh_without_a_limit_of_its_own_has_the_general_default():
    assert prefill_chunk_size(PHI_3, "1x3", paged=True, max_seq_len=4096) == FALLBACK * 1024


def test_unpaged_caches_take_whole_prompts():
    assert prefill_chunk_size(PHI_3, "N150", paged=False, max_seq_len=4096) is None
