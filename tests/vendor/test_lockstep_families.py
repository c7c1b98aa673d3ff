"""A small random model of every family runs in lockstep: the vendor accepts every op, and the emulator lays out alike."""

import pytest

from models.common.mesh_names import VALIDATED
from tests.support.wide import some_of

# Windows, biases and norms of heads; a prompt in chunks; users of different lengths; caches with and without pages.
CODE = """
import tempfile
from itertools import product
from pathlib import Path

import models
from models.common.mesh_names import is_line
from tests.support.generation import open_generator, random_tokens
from tests.support.tiny_models import save_tiny

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
MODELS = {
    "Llama": dict(num_attention_heads=40, num_key_value_heads=10, hidden_size=320, head_dim=32, attention_bias=True,
                  mlp_bias=True, rope_parameters={"rope_theta": 10000.0, **LLAMA3}),
    "Mistral": dict(sliding_window=100),
    "Phi3": dict(tie_word_embeddings=True, rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    "Qwen2": dict(num_attention_heads=14, hidden_size=448, use_sliding_window=True, sliding_window=100, max_window_layers=1),
    "Qwen3": dict(num_attention_heads=6, num_key_value_heads=3, head_dim=80, intermediate_size=200),
}
prompts = [random_tokens(length) for length in (200, 40)]
for name, changes in MODELS.items():
    with tempfile.TemporaryDirectory() as folder:
        save_tiny(name, Path(folder), max_position_embeddings=512, **changes)
        for precision, paged in (("performance", True), ("accuracy", not is_line(MESH))):
            with open_generator(MESH, folder, users=2, max_seq_len=256, precision=precision, paged=paged) as made:
                made.args.prefill_chunk_size = 128 if paged else None
                made.prefill(prompts)
                for _ in range(2):
                    made.decode([7, 8])
    print(name, "ran")
"""


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", some_of(VALIDATED, "N150", "T3K", "TG", "P150"))
def test_every_family_runs_in_lockstep(run_on_mock, mesh):
    printed = run_on_mock(mesh, f"MESH = {mesh!r}\n{CODE}", backend="lockstep")
    assert printed.split("\n")[:5] == [f"{name} ran" for name in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")]
