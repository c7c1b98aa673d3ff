"""Heads and widths that do not divide by the devices are replicated or padded; the logits equal Hugging Face's."""

import pytest
import torch

from models.common.pcc import pcc
from tests.support.generation import greedy_of, open_generator, random_tokens
from tests.support.tiny_models import save_tiny
from tests.support.tiny_phi3 import save_tiny_phi3

PROMPT, STEPS = 37, 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))


def sizes(heads, kv_heads, hidden, intermediate, **more):
    return dict(
        num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=hidden, intermediate_size=intermediate, **more
    )


def assert_follows(model, directory, mesh_name):
    """The logits of a prefill and of decode steps are those of `model`, which was saved in `directory`."""
    prompt = random_tokens(PROMPT)
    text, expected = greedy_of(model.float(), prompt, STEPS)
    with open_generator(mesh_name, directory, max_seq_len=64) as generator:
        logits = torch.cat([generator.prefill([prompt]), *(generator.decode([token]) for token in text[:-1])])
    assert min(map(pcc, logits, expected)) >= 0.999


@pytest.mark.parametrize(
    "mesh_name, changes",
    [
        ("N300", sizes(6, 3, 192, 192)),  # 3 KV heads on 2 devices: padded to 4
        ("N300", sizes(4, 1, 128, 96)),  # one KV head on both devices; 3 tiles of MLP columns padded to 4
        ("T3K", sizes(8, 2, 256, 192)),  # each KV head on 4 devices, one query head a device
        ("T3K", sizes(8, 4, 256, 320)),  # each KV head on 2 devices
        ("T3K", sizes(16, 16, 512, 256)),  # divides: nothing is padded
    ],
)
def test_logits_are_hugging_faces(tmp_path, mesh_name, changes):
    model = save_tiny_phi3(tmp_path / "model", **changes)
    for _ in range(2):  # converted, and from the cache
        assert_follows(model, tmp_path / "model", mesh_name)


@pytest.mark.parametrize(
    "mesh_name, family, changes",
    [
        ("N150", "Llama", sizes(4, 2, 320, 352)),  # head_dim 80
        ("N150", "Llama", sizes(7, 7, 112, 100)),  # head_dim 16, no width in whole tiles
        ("N300", "Llama", sizes(2, 1, 240, 100, attention_bias=True, mlp_bias=True)),  # head_dim 120, with biases
        ("N300", "Qwen2", sizes(14, 2, 896, 608)),  # Qwen2.5-0.5B with an eighth of its MLP
        ("T3K", "Qwen2", sizes(14, 2, 896, 608)),  # 896 columns padded to 1024
        ("T3K", "Qwen3", sizes(5, 1, 200, 344, head_dim=80)),  # norms of heads of 80 columns in 96
    ],
)
def test_padded_widths_change_nothing_in_the_logits(tmp_path, mesh_name, family, changes):
    assert_follows(save_tiny(family, tmp_path / "model", **changes), tmp_path / "model", mesh_name)


def test_columns_that_pad_mlp_cores_adds_change_nothing_in_the_logits(tmp_path, monkeypatch):
    model = save_tiny("Llama", tmp_path / "model", mlp_bias=True)
    assert_follows(model, tmp_path / "model", "N300")
    monkeypatch.setenv("PAD_MLP_CORES", "8")  # the cache of the run before has another width
    assert_follows(model, tmp_path / "model", "N300")


@pytest.mark.parametrize(
    "mesh_name, family, changes",
    [("N300", "Phi3", sizes(6, 3, 192, 192)), ("T3K", "Qwen3", sizes(5, 1, 200, 344, head_dim=80))],
    ids=["heads", "widths"],
)
def test_every_user_of_a_batch_has_the_logits_it_has_alone_where_heads_or_widths_are_padded(
    tmp_path, mesh_name, family, changes
):
    save_tiny(family, tmp_path / "model", **changes)
    prompts = [random_tokens(length, seed=length) for length in (5, 33, 40, 61)]

    def logits(chosen):
        with open_generator(mesh_name, tmp_path / "model", users=len(chosen), max_seq_len=128) as generator:
            return torch.stack([generator.prefill(chosen), generator.decode([7] * len(chosen))])

    together = logits(prompts)
    for user in (0, 3):
        assert torch.equal(logits(prompts[user : user + 1])[:, 0], together[:, user])
