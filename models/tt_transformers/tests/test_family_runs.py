"""What a run may vary changes no result, in every family: other users, chunks, a cached prefix, pages, another mesh."""

import pytest
import torch

from models.common.pcc import pcc
from models.tt_transformers.measure.make_reference import make_reference
from models.tt_transformers.tt import token_accuracy
from tests.support.generation import generator, open_generator, random_tokens  # noqa: F401
from tests.support.model_args import save_tokenizer
from tests.support.tiny_models import save_tiny

LENGTHS = (300, 5, 33, 150)
MAX_SEQ_LEN = 512
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
# Windows are neither pages nor chunks, and shorter than the longest prompt. Heads divide by no mesh but N150.
MODELS = {
    "Llama": dict(num_attention_heads=5, num_key_value_heads=1, hidden_size=160, attention_bias=True, mlp_bias=True,
                  rope_parameters={"rope_theta": 10000.0, **LLAMA3}),
    "Mistral": dict(sliding_window=100),
    "Phi3": dict(sliding_window=100, tie_word_embeddings=True),
    "Qwen2": dict(num_attention_heads=14, hidden_size=448, use_sliding_window=True, sliding_window=100, max_window_layers=1),
    "Qwen3": dict(num_attention_heads=6, num_key_value_heads=3, head_dim=80),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param) / request.param
    reference = save_tiny(request.param, directory, max_position_embeddings=MAX_SEQ_LEN, **MODELS[request.param])
    save_tokenizer(directory)
    return directory, reference.float()


def prompts():
    return [random_tokens(length, seed=length) for length in LENGTHS]


def steps(made, users=len(LENGTHS)):
    return torch.stack([made.prefill(prompts()[:users]), *(made.decode([token] * users) for token in (7, 8))])


@torch.no_grad()
def test_every_user_has_hugging_faces_logits_and_those_it_has_alone_paged_or_not(generator, model):
    directory, reference = model
    together = steps(generator("N150", directory, users=4, max_seq_len=MAX_SEQ_LEN))
    for user, prompt in enumerate(prompts()):
        for step, forced in enumerate(([], [7], [7, 8])):
            assert pcc(together[step, user], reference(torch.tensor([prompt + forced])).logits[0, -1]) >= 0.999
    for paged in (True, False):
        alone = steps(generator("N150", directory, users=1, max_seq_len=MAX_SEQ_LEN, paged=paged), users=1)
        assert torch.equal(alone[:, 0], together[:, 0])


def test_chunks_and_cached_prefixes_do_not_change_the_logits(generator, model):
    directory, _ = model
    made = generator("N300", directory, users=4, max_seq_len=MAX_SEQ_LEN)
    (prompt, *_) = prompts()
    (whole,) = made.prefill([prompt])
    made.args.prefill_chunk_size = 128
    (chunked,) = made.prefill([prompt])
    assert pcc(chunked, whole) >= 0.9999
    pages = made.pages[:1]
    for start in (32, 128, 288):
        (rest,) = made.runner.prefill([prompt[start:]], [0], [start], pages)
        assert pcc(rest, whole) >= 0.9999, start


def test_token_accuracy_is_that_of_hugging_face(generator, model):
    made = generator("N150", model[0], users=2, max_seq_len=MAX_SEQ_LEN)
    reference = make_reference(made.args, users=2, prefill=128, generated=16, dtype="fp32")
    accuracy = token_accuracy.measure(made, reference, 2)
    assert accuracy.tokens == 32
    assert accuracy.top1 >= 90  # the logits of random weights lie close together
    assert accuracy.top5 == 100
