"""The runner alone: the test gives slots, pages, positions and starts, as a server does."""

import pytest
import torch

from models.common.pcc import pcc
from models.common.ttnn_emulator.ops import creation, transfer
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.runtime.runner import DecodeHandle
from tests.support.generation import generator, known_by_heart, random_tokens, tiny  # noqa: F401
from tests.support.tiny_models import save_tiny

SKIP = -1


@pytest.fixture
def runner(generator):
    """A function that opens a generator and gives its runner."""
    return lambda *args, **settings: generator(*args, **settings).runner


def scattered_pages(runner):
    """A page table in which each slot has pages for its whole context, none beside the next."""
    args = runner.args
    pages = torch.randperm(args.paged_attention_config.max_num_blocks, generator=torch.Generator().manual_seed(0))
    return pages.int().reshape(args.max_batch_size, -1)


def step(runner, tokens, positions, page_table=None):
    return runner.read(runner.submit_decode(tokens, positions, page_table))


@pytest.mark.parametrize(
    "mesh, block_size, chunk",
    [("N150", 32, None), ("N150", 32, 128), ("N300", 64, 128), ("T3K", 128, None)],
)
def test_from_a_cached_prefix_at_every_page_boundary_come_the_whole_prompts_logits_and_text(runner, mesh, block_size, chunk):
    """User 0 has the whole prompt. Each further user shares one page more with it, and computes the rest."""
    made = runner(mesh, BUNDLED, users=16, max_seq_len=512, block_size=block_size)
    made.args.prefill_chunk_size = chunk or made.args.prefill_chunk_size
    prompt = known_by_heart(made.args)[0][:500]
    starts = list(range(0, len(prompt), block_size))
    pages = scattered_pages(made)
    for slot, start in enumerate(starts):
        pages[slot, : start // block_size] = pages[0, : start // block_size]
    whole = made.prefill([prompt], [0], page_table=pages[:1])
    rest = made.prefill([prompt[start:] for start in starts[1:]], range(1, len(starts)), starts[1:], pages[1 : len(starts)])
    logits = torch.cat((whole, rest))
    for position in range(500, 508):
        for start, row in zip(starts, logits):
            assert pcc(row, logits[0]) >= 0.9999, f"from {start}, position {position}"
        (token,) = set(logits.argmax(-1).tolist())
        running = [position if slot < len(starts) else SKIP for slot in range(16)]
        logits = step(made, [token] * 16, running, pages)[: len(starts)]


@pytest.mark.parametrize("pieces", [(96, 512, 640), (512,), (544,)])
def test_a_prompt_over_the_longrope_switch_may_come_in_pieces_that_say_its_length(runner, pieces):
    made = runner("N150", BUNDLED, users=2, max_seq_len=1024)
    prompt, pages = known_by_heart(made.args)[0][:500] + known_by_heart(made.args)[1][:200], scattered_pages(made)
    whole = made.prefill([prompt], [0], page_table=pages[:1])
    for start, end in zip((0, *pieces), (*pieces, 700)):
        logits = made.prefill([prompt[start:end]], [1], [start], pages[1:], lengths=[700])
    assert pcc(logits, whole) >= 0.9999


@pytest.mark.parametrize("start", [32, 64])
def test_a_start_on_a_prefix_with_other_rotary_factors_is_refused(runner, tiny, start):
    made = runner("N150", tiny, users=2, max_seq_len=256)
    assert made.args.arch.rope.recompute_len == 65
    pages = scattered_pages(made)[:1]
    made.prefill([random_tokens(start)], [0], page_table=pages)
    with pytest.raises(ValueError, match=f"user 0: 65 tokens from position {start}: RoPE type longrope has other frequencies for 65 tokens than for {start}"):
        made.prefill([random_tokens(65 - start)], [0], [start], pages)
    with pytest.raises(ValueError, match="user 1: LongRoPE changes its factors at position 64; prefill all 65 tokens instead"):
        made.submit_decode([0, 3], [SKIP, 64], scattered_pages(made))


def test_with_dynamic_ntk_a_prompt_over_the_original_length_comes_whole_or_in_pieces_that_say_its_length(runner, tmp_path):
    parameters = {"rope_type": "dynamic", "factor": 4.0}
    save_tiny("Llama", tmp_path / "model", max_position_embeddings=64, rope_parameters=parameters, initializer_range=0.1)
    made, prompt = runner("N150", tmp_path / "model", users=2, max_seq_len=256), random_tokens(150)
    pages = scattered_pages(made)
    whole = made.prefill([prompt], [0], page_table=pages[:1])
    for start, end in ((0, 32), (32, 96), (96, 150)):
        logits = made.prefill([prompt[start:end]], [1], [start], pages[1:], lengths=[150])
    assert pcc(logits, whole) >= 0.9999
    for start in (32, 64, 96):
        with pytest.raises(ValueError, match=f"RoPE type dynamic has other frequencies for 150 tokens than for {start}"):
            made.prefill([prompt[start:]], [1], [start], pages[1:])
    made.prefill([prompt[:32]], [1], page_table=pages[1:])
    short = made.prefill([prompt[32:64]], [1], [32], pages[1:])
    assert pcc(short, made.prefill([prompt[:64]], [0], page_table=pages[:1])) >= 0.9999


@pytest.mark.parametrize("paged", [True, False])
def test_slots_need_not_be_neighbours_and_a_user_does_not_depend_on_its_slot(runner, tiny, paged):
    """Bit for bit; the first two prompts run together."""
    made = runner("N300", tiny, users=8, max_seq_len=256, paged=paged)
    pages = scattered_pages(made) if paged else None
    prompts, slots = [random_tokens(length, seed=length) for length in (20, 50, 130)], [5, 0, 3]

    def run(prompts, slots):
        logits = made.prefill(prompts, slots, page_table=pages[slots] if paged else None)
        positions = [SKIP] * 8
        for prompt, slot in zip(prompts, slots):
            positions[slot] = len(prompt)
        return logits, step(made, [9] * 8, positions, pages)[slots]

    together = run(prompts, slots)
    for user, prompt in enumerate(prompts):
        alone = run([prompt], [7])
        assert torch.equal(together[0][user], alone[0][0]) and torch.equal(together[1][user], alone[1][0])


@pytest.fixture
def reads_of_the_device(monkeypatch):
    """The emulator's transfers from the device to the host, as they happen."""
    reads = []
    for module in (transfer, creation):
        monkeypatch.setattr(module, "check_readable", lambda tensor: reads.append(tensor.shape) if tensor.device() else None)
    return reads


@pytest.mark.parametrize("paged", [True, False])
def test_submitting_a_step_moves_nothing_from_the_device_to_the_host(runner, tiny, paged, reads_of_the_device):
    made = runner("N300", tiny, users=2, max_seq_len=64, paged=paged)
    pages = scattered_pages(made) if paged else None
    made.prefill([[3, 4], [5]], [0, 1], page_table=pages)
    for position in (1, 2):
        reads_of_the_device.clear()
        handle = made.submit_decode([6, 7], [position + 1, position], pages)
        assert reads_of_the_device == []
        made.read(handle)
        assert len(reads_of_the_device) == 1 and reads_of_the_device[0][2] == 2  # the two users' logits


def test_runners_may_all_submit_before_any_is_read(runner, tiny):
    made = [runner("N150", tiny, users=1, max_seq_len=64) for _ in range(2)]
    pages = scattered_pages(made[0])
    prompts = [[3, 4, 5], [6, 7]]

    def start():
        for each, prompt in zip(made, prompts):
            each.prefill([prompt], [0], page_table=pages)
        return [(each, [9], [len(prompt)], pages) for each, prompt in zip(made, prompts)]

    apart = [step(*arguments) for arguments in start()]
    handles = [each.submit_decode(*arguments) for each, *arguments in start()]
    together = [each.read(handle) for each, handle in zip(made, handles)]
    assert all(map(torch.equal, together, apart)) and not torch.equal(*apart)


def test_a_step_is_read_once_and_before_the_next_is_submitted(runner, tiny):
    made = runner("N150", tiny, users=1, max_seq_len=64)
    pages = scattered_pages(made)
    made.prefill([[3, 4]], [0], page_table=pages)
    first = made.submit_decode([5], [2], pages)
    with pytest.raises(ValueError, match="submitted before has not been read"):
        made.submit_decode([6], [3], pages)
    with pytest.raises(ValueError, match="read before, or was submitted to another runner"):
        made.read(DecodeHandle())
    logits = made.read(first)
    with pytest.raises(ValueError, match="read before"):
        made.read(first)
    assert torch.equal(step(made, [5], [2], pages), logits)


def test_a_page_table_may_be_as_wide_as_its_caller_likes(runner, tiny):
    made = runner("N150", tiny, users=2, max_seq_len=128)
    pages = scattered_pages(made)
    made.prefill([[3, 4], [5]], [0, 1], page_table=pages[:, :1])
    steps = [step(made, [6, 7], [2, 1], table) for table in (pages, pages[:, :1], torch.nn.functional.pad(pages, (0, 9)))]
    assert torch.equal(steps[0], steps[1]) and torch.equal(steps[0], steps[2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(tokens=[]), "prefill of 0 sequences, 2 slots"),
        (dict(slots=[0]), "prefill of 2 sequences, 1 slots, 2 starts and 2 lengths"),
        (dict(start_pos=[0]), "2 slots, 1 starts"),
        (dict(lengths=[3]), "2 starts and 1 lengths"),
        (dict(slots=[0, 0]), r"slots \[0, 0\]: they must be different and of 0 to 1"),
        (dict(slots=[0, 2]), r"slots \[0, 2\]"),
        (dict(slots=[-1, 0]), r"slots \[-1, 0\]"),
        (dict(tokens=[[3], []]), "user 1: there are no tokens"),
        (dict(tokens=[[3], [320]]), "user 1: token 320 is outside the model's vocabulary of 320"),
        (dict(start_pos=[0, 33]), "user 1: a prefill starts at a multiple of the page size 32, not at 33"),
        (dict(start_pos=[-32, 0]), "user 0: .* not at -32"),
        (dict(start_pos=[0, 128]), "user 1: 129 tokens of a sequence of 129; max_seq_len is 128"),
        (dict(lengths=[2, 129]), "user 1: 1 tokens of a sequence of 129; max_seq_len is 128"),
        (dict(lengths=[1, 1]), "user 0: 2 tokens of a sequence of 1; max_seq_len is 128"),
        (dict(page_table=None), "paged KV caches need a page_table"),
        (dict(page_table=torch.zeros(2, 4)), r"page_table of torch.float32 \[2, 4\]: it must be int32 \[2, 1 or more\]"),
        (dict(page_table=torch.zeros(1, 4, dtype=torch.int32)), r"page_table of torch.int32 \[1, 4\]"),
        (dict(start_pos=[0, 32], page_table=torch.zeros(2, 1, dtype=torch.int32)), r"int32 \[2, 2 or more\], for 33 tokens in pages of 32"),
        (dict(page_table=torch.full((2, 1), 8, dtype=torch.int32)), "page_table has entries outside the pool's pages, 0 to 7"),
        (dict(page_table=torch.full((2, 1), -1, dtype=torch.int32)), "page_table has entries outside"),
    ],
)
def test_a_prefill_that_does_not_fit_is_refused_with_its_numbers(runner, tiny, arguments, message):
    made = runner("N150", tiny, users=2, max_seq_len=128)
    given = dict(tokens=[[3, 4], [5]], slots=[0, 1], page_table=scattered_pages(made))
    with pytest.raises(ValueError, match=message):
        made.prefill(**{**given, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(tokens=[3]), "a decode step of 1 tokens and 2 positions for 2 slots"),
        (dict(positions=[0]), "a decode step of 2 tokens and 1 positions for 2 slots"),
        (dict(tokens=[-1, 4]), "user 0: token -1 is outside"),
        (dict(positions=[-2, 0]), "user 0: position -2 is outside 0 to 127, or -1 for none"),
        (dict(positions=[0, 128]), "user 1: position 128 is outside 0 to 127"),
        (dict(positions=[32, 0], page_table=torch.zeros(2, 1, dtype=torch.int32)), r"int32 \[2, 2 or more\], for 33 tokens"),
        (dict(page_table=None), "paged KV caches need a page_table"),
    ],
)
def test_a_decode_step_that_does_not_fit_is_refused_with_its_numbers(runner, tiny, arguments, message):
    made = runner("N150", tiny, users=2, max_seq_len=128)
    given = dict(tokens=[3, 4], positions=[0, SKIP], page_table=scattered_pages(made))
    with pytest.raises(ValueError, match=message):
        made.submit_decode(**{**given, **arguments})
    assert step(made, **given).shape == (2, 320)


def test_unpaged_caches_take_whole_sequences_without_a_page_table(runner, tiny):
    made = runner("N150", tiny, users=2, max_seq_len=256, paged=False)
    made.args.prefill_chunk_size = 128
    with pytest.raises(ValueError, match="a page_table was given, but the KV caches are not paged"):
        made.prefill([[3]], [0], page_table=torch.zeros(1, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="user 1: a prefill from position 32 needs paged attention"):
        made.prefill([[3]], [1], [32])
    with pytest.raises(ValueError, match="user 1: a sequence of 129 tokens runs in chunks of 128, which needs paged attention"):
        made.prefill([random_tokens(129)], [1])
