"""Helpers for tests that generate text: generators, prompts, greedy text, and Hugging Face's greedy text."""

from contextlib import ExitStack, contextmanager

import pytest
import torch

from models.common.mesh import open_mesh
from models.tt_transformers.demo.case import SAMPLE_PROMPTS
from models.tt_transformers.demo.prompts import load_prompts
from models.tt_transformers.tt.config.precision import ModelOptimizations
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.tiny_phi3 import save_tiny_phi3

# Sizes that split over the 8 devices of a T3K: each device gets one head and whole tiles of columns.
EIGHT_WAYS = dict(hidden_size=256, intermediate_size=256, num_attention_heads=8, num_key_value_heads=8)


@contextmanager
def open_generator(
    mesh_name, model, *, users=1, max_seq_len=4096, precision="bf16", paged=True, pages=None, block_size=32, shape=None, **options
):
    """A `Generator` of `model`, by default in bf16 and with enough pages for the whole context of every user. `options`: of
    `ModelArgs`."""
    pages = users * -(-max_seq_len // block_size) if pages is None else pages
    with open_mesh(mesh_name, shape) as mesh_device:
        args = ModelArgs(
            mesh_device,
            hf_model=model,
            max_batch_size=users,
            max_seq_len=max_seq_len,
            optimizations=getattr(ModelOptimizations, precision)(),
            page_params={"block_size": block_size, "max_num_blocks": pages} if paged else None,
            **options,
        )
        with Generator.build(args) as generator:
            yield generator


@pytest.fixture
def generator(monkeypatch, tmp_path):
    """The function `open_generator`. The generator that it returns is closed after the test."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(open_generator(*args, **settings))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A directory with a small random model for up to 4096 tokens. Its RoPE factors switch at 64."""
    directory = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_phi3(directory, max_position_embeddings=4096, **EIGHT_WAYS)
    return directory


def random_tokens(count, vocab_size=320, seed=0):
    return torch.randint(3, vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def sample_tokens(args, files=("questions_prefill_128", "reasoning")) -> list[int]:
    """The tokens of the sample prompts, one prompt after the other, the whole repeated three times."""
    paths = [SAMPLE_PROMPTS / f"input_data_{name}.json" for name in files]
    return args.encode_prompt(" ".join(prompt for path in paths for prompt in load_prompts(path)), instruct=False) * 3


def known_by_heart(args) -> list[list[int]]:
    """Chapters that the bundled model recites, at least 520 tokens each. Rounding cannot change what follows."""
    return [args.encode_prompt(text, instruct=False) for text in load_prompts(SAMPLE_PROMPTS / "input_data_known_by_heart.json")]


def greedy(generator, prompts, count):
    """`count` greedy tokens of each prompt, all users in one batch, and the logits that chose them,
    [count, users, vocab_size]."""
    logits = [generator.prefill(prompts)]
    while len(logits) < count:
        logits.append(generator.decode(logits[-1].argmax(-1).tolist()))
    logits = torch.stack(logits)
    return logits.argmax(-1).T.tolist(), logits


@torch.no_grad()
def greedy_of(reference, prompt, count):
    """`count` greedy tokens of Hugging Face after `prompt`, and the logits that chose them, [count, vocab_size]."""
    output = reference.generate(
        torch.tensor([prompt]),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[0, len(prompt) :].tolist(), torch.cat(output.logits)
