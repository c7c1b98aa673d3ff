"""What tests of whole generations share: models made into generators, prompts, greedy text and Hugging Face's."""

import math
from contextlib import ExitStack, contextmanager

import pytest
import torch

from models.common.mesh import open_mesh
from models.tt_transformers.demo.case import SAMPLE_PROMPTS
from models.tt_transformers.demo.prompts import load_prompts
from models.tt_transformers.tests.tiny_phi3 import save_tiny_phi3
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model import Transformer
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.precision import ModelOptimizations

# Splits over the 8 devices of a T3K: a head and whole tiles of columns each.
EIGHT_WAYS = dict(hidden_size=256, intermediate_size=256, num_attention_heads=8, num_key_value_heads=8)


@contextmanager
def open_generator(mesh_name, model, *, users=1, max_seq_len=4096, precision="bf16", paged=True, pages=None):
    """A `Generator` of `model`, by default in bf16 and with pages for every user's whole context."""
    pages = users * -(-max_seq_len // 32) if pages is None else pages
    with open_mesh(mesh_name) as mesh_device:
        args = ModelArgs(
            mesh_device,
            hf_model=model,
            max_batch_size=users,
            max_seq_len=max_seq_len,
            optimizations=getattr(ModelOptimizations, precision)(),
            page_params={"block_size": 32, "max_num_blocks": pages} if paged else None,
        )
        transformer = Transformer(args, args.load_state_dict())
        generator = Generator(transformer)
        try:
            yield generator
        finally:
            generator.deallocate()
            transformer.deallocate()


@pytest.fixture
def generator(monkeypatch, tmp_path):
    """`open_generator`, to be called; it is closed after the test."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(open_generator(*args, **settings))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A directory with a small random model for up to 4096 tokens, whose RoPE factors switch at 64."""
    directory = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_phi3(directory, max_position_embeddings=4096, **EIGHT_WAYS)
    return directory


def random_tokens(count, vocab_size=320, seed=0):
    return torch.randint(3, vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def sample_tokens(args, files=("questions_prefill_128", "reasoning")) -> list[int]:
    """The sample prompts one after the other, three times over."""
    paths = [SAMPLE_PROMPTS / f"input_data_{name}.json" for name in files]
    return args.encode_prompt(" ".join(prompt for path in paths for prompt in load_prompts(path)), instruct=False) * 3


def greedy(generator, prompts, count):
    """Greedy tokens of each prompt, `count` of them, all users in one batch, and the logits that chose them,
    [count, users, vocab_size]."""
    logits = [generator.prefill(prompts)]
    while len(logits) < count:
        logits.append(generator.decode(logits[-1].argmax(-1).tolist()))
    logits = torch.stack(logits)
    return logits.argmax(-1).T.tolist(), logits


def bf16_step(value: float) -> float:
    """The distance of bf16 numbers, which have 8 bits, near `value`."""
    return 2.0 ** (math.floor(math.log2(abs(value))) - 7)


@torch.no_grad()
def continued(reference, prompt, text):
    """Hugging Face's greedy text after `prompt`, as long as `text`.

    bf16 logits of two tokens are often equal or neighbours, and a rounding elsewhere then decides, in Hugging Face's own
    cached and uncached runs too: where `text` has a token whose logit is at most one bf16 step below that of the
    reference's choice, the reference goes on from that token.
    """
    agreed = 0
    while agreed < len(text):
        start = torch.tensor([prompt + text[:agreed]])
        rest = reference.generate(
            start, max_new_tokens=len(text) - agreed, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, start.shape[1] :].tolist()
        expected = text[:agreed] + rest
        place = next((i for i in range(agreed, len(text)) if expected[i] != text[i]), None)
        if place is None:
            return expected
        logits = reference(torch.tensor([prompt + text[:place]])).logits[0, -1]
        likeliest = logits[expected[place]].item()
        if likeliest - logits[text[place]].item() > bf16_step(likeliest):
            return expected
        agreed = place + 1
    return text
