"""Chunked prefill, the LongRoPE switch and the checks of lengths."""

from types import SimpleNamespace

import pytest
import torch

from models.common.mesh import open_mesh
from models.common.pcc import pcc
from models.tt_transformers.tests.tiny_phi3 import save_tiny_phi3
from models.tt_transformers.tt.generator import Generator, check_lengths
from models.tt_transformers.tt.model import Transformer
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.model_location import BUNDLED
from models.tt_transformers.tt.precision import ModelOptimizations
from models.tt_transformers.tt.program_configs import padded_prefill_length

# Splits over the 8 devices of a T3K: a head and whole tiles of columns each.
EIGHT_WAYS = dict(hidden_size=256, intermediate_size=256, num_attention_heads=8, num_key_value_heads=8)
# Whole multiples of nothing; padded to 1536 and 4096 rows.
PROMPT_LENGTHS = (1501, 3999)
SMALLEST_CHUNK = 128


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A directory with a small random model for up to 4096 tokens, whose RoPE factors switch at 64."""
    directory = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_phi3(directory, max_position_embeddings=4096, **EIGHT_WAYS)
    return directory


@pytest.fixture
def generator(monkeypatch, tmp_path):
    """`generator(...)` with what `ModelArgs` takes, in bf16 by default, with room for every user's whole context."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    closing = []

    def make(mesh_name, model, *, users=1, max_seq_len=4096, precision="bf16", **settings):
        opened = open_mesh(mesh_name)
        mesh_device = opened.__enter__()
        closing.append(lambda: opened.__exit__(None, None, None))
        args = ModelArgs(
            mesh_device,
            hf_model=model,
            max_batch_size=users,
            max_seq_len=max_seq_len,
            optimizations=getattr(ModelOptimizations, precision)(),
            page_params={"block_size": 32, "max_num_blocks": users * -(-max_seq_len // 32)},
            **settings,
        )
        transformer = Transformer(args, args.load_state_dict())
        closing.append(transformer.deallocate)
        made = Generator(transformer)
        closing.append(made.deallocate)
        return made

    yield make
    for close in reversed(closing):
        close()


def random_tokens(count, vocab_size, seed=0):
    return torch.randint(3, vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def chunk_sizes(length):
    """Every power of 2 that divides the padded prompt and holds whole blocks of the attention ops."""
    padded = padded_prefill_length(length)
    sizes = [2**exponent for exponent in range(20)]
    return [size for size in sizes if SMALLEST_CHUNK <= size < padded and padded % size == 0]


@pytest.mark.parametrize("precision", ["bf16", "performance"])
@pytest.mark.parametrize("mesh", ["N150", "N300", "T3K"])
def test_last_token_logits_do_not_depend_on_the_chunk_size(generator, tiny, mesh, precision):
    made = generator(mesh, tiny, precision=precision)
    for length in PROMPT_LENGTHS:
        prompt = random_tokens(length, 320)
        made.args.prefill_chunk_size = padded_prefill_length(length)
        (whole,) = made.prefill([prompt])
        sizes = chunk_sizes(length)
        assert len(sizes) >= 3
        for size in sizes:
            made.args.prefill_chunk_size = size
            (chunked,) = made.prefill([prompt])
            assert pcc(chunked, whole) >= 0.9999, f"{length} tokens in chunks of {size}"


@torch.no_grad()
def test_chunked_prefill_of_odd_lengths_follows_hugging_face(generator, tiny):
    made = generator("N150", tiny, users=4)
    made.args.prefill_chunk_size = 256
    reference = made.args.reference_transformer(dtype=torch.float32)
    prompts = [random_tokens(length, 320, seed=length) for length in (1, 257, 777, 1537)]
    for prompt, logits in zip(prompts, made.prefill(prompts)):
        assert pcc(logits, reference(torch.tensor([prompt])).logits[0, -1]) >= 0.999, len(prompt)


def greedy(generator, prompts, count):
    """Greedy tokens of each prompt, `count` of them, all users in one batch."""
    logits = generator.prefill(prompts)
    texts = [[] for _ in prompts]
    for step in range(count):
        tokens = logits.argmax(-1).tolist()
        for text, token in zip(texts, tokens):
            text.append(token)
        if step < count - 1:
            logits = generator.decode(tokens)
    return texts


@torch.no_grad()
def continued(reference, prompt, text):
    """Hugging Face's greedy text after `prompt`, as long as `text`.

    bf16 logits of two tokens are often equal, and a rounding elsewhere then decides: where `text` has a token that is as
    likely to the reference as its own choice, the reference goes on from that token.
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
        if logits[text[place]] != logits[expected[place]]:
            return expected
        agreed = place + 1
    return text


@pytest.mark.parametrize("mesh, lengths", [("N150", (480, 500, 508, 511)), ("N300", (512, 520))])
def test_greedy_text_across_the_switch_is_that_of_hugging_face(generator, bundled_text, mesh, lengths):
    made = generator(mesh, BUNDLED, users=len(lengths), max_seq_len=1024)
    assert made.args.arch.rope.switch_len == 512
    prompts = [bundled_text(made.args)[37 * user :][:length] for user, length in enumerate(lengths)]
    reference = made.args.reference_transformer()
    for prompt, text in zip(prompts, greedy(made, prompts, 100)):
        assert text == continued(reference, prompt, text), f"a prompt of {len(prompt)} tokens"


@pytest.fixture
def bundled_text():
    """The sample prompts one after the other, as tokens, over and over."""
    from models.tt_transformers.demo.case import SAMPLE_PROMPTS
    from models.tt_transformers.demo.prompts import load_prompts

    files = [SAMPLE_PROMPTS / f"input_data_{name}.json" for name in ("questions_prefill_128", "reasoning")]
    text = " ".join(prompt for file in files for prompt in load_prompts(file))
    return lambda args: args.encode_prompt(text, instruct=False) * 3


def test_only_users_that_cross_the_switch_are_computed_again(generator, tiny, monkeypatch):
    """And the others' logits are, bit for bit, those of a batch in which nobody crosses."""
    made = generator("N150", tiny, users=4, max_seq_len=256)
    crossing, short, long = random_tokens(61, 320, 1), random_tokens(20, 320, 2), random_tokens(90, 320, 3)
    prompts = [short, crossing, long]
    switch_len = made.args.arch.rope.switch_len
    tokens = [[random_tokens(1, 320, 10 * step + user)[0] for user in range(3)] for step in range(8)]

    recomputed = []
    prefill_user = made._prefill_user

    def watched(user, sequence, *rest):
        recomputed.append((user, len(sequence)))
        return prefill_user(user, sequence, *rest)

    with_crossing = [made.prefill(prompts)]
    monkeypatch.setattr(made, "_prefill_user", watched)
    with_crossing += [made.decode(step) for step in tokens]
    assert recomputed == [(1, switch_len + 1)]

    without = [made.prefill([short, crossing[:30], long])]
    without += [made.decode(step) for step in tokens]
    assert recomputed[-3:] == [(0, 20), (1, 30), (2, 90)], "nobody crosses here"
    for a, b in zip(with_crossing, without):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])


@torch.no_grad()
@pytest.mark.parametrize("length", [60, 64, 65])
def test_logits_on_both_sides_of_the_switch_follow_hugging_face(generator, tiny, length):
    """Teacher-forced from before, at and after the switch at 64 tokens; the reference sees the whole sequence each time."""
    made = generator("N150", tiny, max_seq_len=256)
    reference = made.args.reference_transformer(dtype=torch.float32)
    sequence = random_tokens(length + 8, 320)
    logits = made.prefill([sequence[:length]])
    for end in range(length, length + 8):
        assert pcc(logits[0], reference(torch.tensor([sequence[:end]])).logits[0, -1]) >= 0.999, end
        logits = made.decode([sequence[end]])


def test_a_sequence_at_max_seq_len_takes_no_more_tokens(generator, tiny):
    made = generator("N150", tiny, users=2, max_seq_len=48)
    made.prefill([random_tokens(47, 320), random_tokens(10, 320)])
    made.decode([5, 6])
    with pytest.raises(ValueError, match="user 0 is at max_seq_len 48"):
        made.decode([5, 6])
    assert made.decode([0, 6], [False, True]).shape == (2, 320)


def limits(**changes):
    from models.tt_transformers.tt.page_table import PagedAttentionConfig

    settings = dict(
        max_batch_size=2,
        max_seq_len=128,
        prefill_chunk_size=1024,
        paged_attention_config=PagedAttentionConfig(32, 5),
    )
    return SimpleNamespace(**{**settings, **changes})


@pytest.mark.parametrize(
    "args, prompts, generated, message",
    [
        (limits(), [1, 2, 3], 1, "3 prompts for a model set up for 1 to 2 users"),
        (limits(), [5, 0], 1, "the prompt of user 1 has no tokens"),
        (limits(), [5, 128], 1, "user 1: a prompt of 128 tokens leaves no room .* max_seq_len 128"),
        (limits(), [100], 29, r"100 prompt tokens \+ 29 to generate = 129 is more than max_seq_len 128"),
        (limits(), [70, 70], 30, "2 user.* need 8 pages of 32 tokens, the page table has max_num_blocks = 5"),
        (
            limits(paged_attention_config=None, max_seq_len=4096),
            [1025],
            1,
            "user 0: a prompt of 1025 tokens runs in chunks of 1024, which needs paged attention",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers_before_any_work(args, prompts, generated, message):
    with pytest.raises(ValueError, match=message):
        check_lengths(args, prompts, generated)


def test_a_longer_prompt_may_stop_at_max_seq_len():
    check_lengths(limits(), [10, 120], 20)
