"""Every family against Hugging Face: small random models that differ in heads, widths, biases, windows and RoPE."""

import pytest
import torch

from models.common.pcc import pcc
from tests.support.generation import greedy_of, open_generator, random_tokens
from tests.support.tiny_models import save_tiny
from tests.support.wide import some_of

PROMPT, STEPS = 37, 17  # prefill, then 16 decode steps
MAX_SEQ_LEN = 64
CROSSING = 45  # a context that the sequence outgrows in decode

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)


def longrope(rotated, original):
    return dict(
        rope_type="longrope",
        short_factor=[1.0 + 0.05 * i for i in range(rotated // 2)],
        long_factor=[1.0 + 0.4 * i for i in range(rotated // 2)],
        original_max_position_embeddings=original,
    )


def rope(**parameters):
    return dict(rope_parameters={"rope_theta": 10000.0, **parameters})


# What every family has. Name -> keys of the config.
HEADS = {
    "gqa": {},
    "mha": dict(num_key_value_heads=4),
    "mqa": dict(num_key_value_heads=1),
    "14 heads of 2": dict(num_attention_heads=14, hidden_size=448),
    "6 heads of 3": dict(num_attention_heads=6, num_key_value_heads=3, hidden_size=192),
    "40 heads of 10": dict(num_attention_heads=40, num_key_value_heads=10, hidden_size=320, head_dim=32),
    "odd heads": dict(num_attention_heads=5, num_key_value_heads=5, hidden_size=160, intermediate_size=224),
    "head_dim 80": dict(num_attention_heads=2, num_key_value_heads=1, hidden_size=160, head_dim=80),
    "head_dim 20, width 100": dict(num_attention_heads=5, num_key_value_heads=1, hidden_size=100, head_dim=20),
    "odd vocabulary and width": dict(vocab_size=331, intermediate_size=203),
    "tied": dict(tie_word_embeddings=True),
}
ROPES = {
    "theta": rope(rope_theta=500000.0),
    "linear": rope(rope_type="linear", factor=4.0),
    "dynamic": dict(max_position_embeddings=CROSSING, **rope(rope_type="dynamic", factor=4.0)),
    "dynamic, long prompt": dict(max_position_embeddings=32, **rope(rope_type="dynamic", factor=4.0)),
    "llama3": rope(**LLAMA3),
    "yarn": rope(**YARN),
    "longrope": rope(**longrope(32, CROSSING)),
}
WINDOWS = {
    "window": dict(sliding_window=16),
    "window of the prompt": dict(sliding_window=PROMPT),
    "window within decode": dict(sliding_window=PROMPT + 8),
}
BY_LAYER = {
    "window in upper layers": dict(use_sliding_window=True, sliding_window=16, max_window_layers=1),
    "mixed windows": dict(
        use_sliding_window=True, sliding_window=16, num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}  # fmt: skip
BIASES = {"attention_bias": dict(attention_bias=True), "mlp_bias": dict(mlp_bias=True)}
OWN_HEAD_DIM = {"head_dim 64": dict(head_dim=64)}
EVERY_BIAS = {"every bias, odd heads": {**HEADS["odd heads"], "attention_bias": True, "mlp_bias": True}}
PHI3_ROPES = {
    "theta": ROPES["theta"],
    "longrope": dict(original_max_position_embeddings=CROSSING, **rope(**longrope(32, CROSSING))),
    "longrope, long prompt": dict(original_max_position_embeddings=32, **rope(**longrope(32, 32))),
    "partial": rope(partial_rotary_factor=0.5),
    "partial longrope, tied": dict(
        original_max_position_embeddings=CROSSING, tie_word_embeddings=True,
        **rope(partial_rotary_factor=0.75, **longrope(24, CROSSING)),
    ),
}  # fmt: skip

FAMILIES = {
    "Llama": {**HEADS, **OWN_HEAD_DIM, **ROPES, **BIASES, **EVERY_BIAS},
    "Mistral": {**HEADS, **OWN_HEAD_DIM, **ROPES, **WINDOWS},
    "Phi3": {**HEADS, **PHI3_ROPES, **WINDOWS},
    "Qwen2": {**HEADS, **ROPES, **BY_LAYER},
    "Qwen3": {**HEADS, **OWN_HEAD_DIM, **ROPES, **BY_LAYER, "attention_bias": BIASES["attention_bias"]},
}
CASES = [(family, name) for family, cases in FAMILIES.items() for name in cases]
IN_MAKE_TEST = [
    ("Llama", "every bias, odd heads"), ("Llama", "llama3"), ("Mistral", "window"), ("Mistral", "head_dim 20, width 100"),
    ("Phi3", "partial longrope, tied"), ("Qwen2", "14 heads of 2"), ("Qwen2", "dynamic"), ("Qwen3", "head_dim 80"),
    ("Qwen3", "mixed windows"),
]  # fmt: skip


@pytest.mark.parametrize("family, name", some_of(CASES, *IN_MAKE_TEST))
def test_logits_and_greedy_text_are_hugging_faces(tmp_path, monkeypatch, family, name):
    """In bf16, on one device and on eight, which divide no case's heads. The text may differ where bf16 alone decides."""
    assert_follows(tmp_path, monkeypatch, family, name, ("N150", "T3K"))


@pytest.mark.parametrize(
    "family, name, meshes",
    some_of(
        [(*case, meshes) for case in CASES for meshes in ("P150 N150x4", "P100 P150x4")],
        ("Llama", "llama3", "P150 N150x4"), ("Qwen3", "head_dim 80", "P100 P150x4"),
    ),
)  # fmt: skip
def test_blackholes_and_lines_of_four_follow_hugging_face_too(tmp_path, monkeypatch, family, name, meshes):
    # Four devices add partial sums in bf16 too: both of two close logits may be off by the rounding of one.
    assert_follows(tmp_path, monkeypatch, family, name, meshes.split(), tie=2)


def assert_follows(tmp_path, monkeypatch, family, name, meshes, tie=1):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    changes = {"head_dim": 32, **FAMILIES[family][name]} if family == "Qwen3" else FAMILIES[family][name]
    in_bf16 = save_tiny(family, tmp_path / "model", **changes)
    prompt = random_tokens(PROMPT)
    text, expected = greedy_of(type(in_bf16).from_pretrained(tmp_path / "model", dtype=torch.float32), prompt, STEPS)
    rounding = (forced(in_bf16, prompt, text) - expected).abs().amax(dim=-1)
    for mesh in meshes:
        with open_generator(mesh, tmp_path / "model", max_seq_len=MAX_SEQ_LEN) as generator:
            logits = [generator.prefill([prompt]), *(generator.decode([token]) for token in text[:-1])]
        logits = torch.cat(logits)
        assert min(map(pcc, logits, expected)) >= 0.999
        chosen = expected.gather(-1, logits.argmax(-1, keepdim=True))[:, 0]
        assert (expected.amax(dim=-1) - chosen <= tie * rounding).all()


@torch.no_grad()
def forced(model, prompt, text):
    """Hugging Face's logits for the tokens of `text` after `prompt`, each step in a pass of its own, as it generates."""
    logits, cache = [], None
    for step in range(len(text)):
        tokens = torch.tensor([prompt + text[:step] if cache is None else text[step - 1 : step]])
        output = model(tokens, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits[0, -1].float())
    return torch.stack(logits)
