"""Heads and widths that do not divide by the devices are replicated or padded; the logits equal Hugging Face's."""

import pytest
import torch

from models.common.pcc import pcc
from tests.support.generation import greedy, greedy_of, open_generator, random_tokens
from tests.support.tiny_phi3 import save_tiny_phi3

PROMPT, STEPS = 37, 8


@pytest.mark.parametrize(
    "mesh_name, heads, kv_heads, hidden, intermediate",
    [
        ("N300", 6, 3, 192, 192),  # 3 KV heads on 2 devices: padded to 4
        ("N300", 4, 1, 128, 96),  # one KV head on both devices; 3 tiles of MLP columns padded to 4
        ("T3K", 8, 2, 256, 192),  # each KV head on 4 devices, one query head a device
        ("T3K", 8, 4, 256, 320),  # each KV head on 2 devices
        ("T3K", 16, 16, 512, 256),  # divides: nothing is padded
    ],
)
def test_logits_are_hugging_faces(tmp_path, monkeypatch, mesh_name, heads, kv_heads, hidden, intermediate):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    model = save_tiny_phi3(
        tmp_path / "model",
        num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=hidden, intermediate_size=intermediate,
    )  # fmt: skip
    prompt = random_tokens(PROMPT)
    _, expected = greedy_of(model.float(), prompt, STEPS)
    for _ in range(2):  # converted, and from the cache
        with open_generator(mesh_name, tmp_path / "model", max_seq_len=64) as generator:
            _, logits = greedy(generator, [prompt], STEPS)
        assert min(map(pcc, logits[:, 0], expected)) >= 0.999


def test_every_user_of_a_batch_has_the_logits_it_has_alone_where_heads_are_padded(tmp_path, monkeypatch):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    save_tiny_phi3(tmp_path / "model", num_attention_heads=6, num_key_value_heads=3, hidden_size=192)
    prompts = [random_tokens(length, seed=length) for length in (5, 33, 40, 61)]

    def logits(chosen):
        with open_generator("N300", tmp_path / "model", users=len(chosen), max_seq_len=128) as generator:
            return torch.stack([generator.prefill(chosen), generator.decode([7] * len(chosen))])

    together = logits(prompts)
    for user in (0, 3):
        assert torch.equal(logits(prompts[user : user + 1])[:, 0], together[:, user])
