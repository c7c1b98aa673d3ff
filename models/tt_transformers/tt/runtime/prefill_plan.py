"""Plans a prefill: short sequences run together, long ones in chunks.

It works on positions and lengths only, so it can be tested without a device.
"""

from collections.abc import Collection, Iterator, Sequence

from models.tt_transformers.tt.config.prefill_chunks import VARIABLE
from models.tt_transformers.tt.config.program_configs import padded_prefill_length

# Most rows of sequences that run together. With 2048 rows, reading the weights costs little per row, and activations
# still need little memory.
GROUP_ROWS = 2048


def groups(
    starts: Sequence[int],
    ends: Sequence[int],
    lengths: Sequence[int],
    chunk_size: int | None,
    rope,
    alone: Collection[int] = (),
) -> Iterator[slice]:
    """Neighbours in the lists that run together: whole, in one chunk, padded to one length, same rotary frequencies.

    Sequence i runs from position `starts[i]` to `ends[i]`; its length, `lengths[i]`, chooses its rotary frequencies. A
    group has at most the rows of a chunk and at most `GROUP_ROWS`, and a number of rows that the matmuls can cut into
    batches. The sequences `alone` run by themselves.
    """
    limit = min(chunk_size or GROUP_ROWS, GROUP_ROWS)
    keys = [
        (start, padded_prefill_length(end), rope.frequency_set(length), index if index in alone else None)
        for index, (start, end, length) in enumerate(zip(starts, ends, lengths))
    ]
    first = 0
    while first < len(keys):
        start, padded, *_ = keys[first]
        alike = next((row for row in range(first, len(keys)) if keys[row] != keys[first]), len(keys)) - first
        counts = [n for n in range(2, alike + 1) if n * padded <= limit and n * padded == padded_prefill_length(n * padded)]
        count = max(counts, default=1) if start == 0 else 1
        yield slice(first, first + count)
        first += count


def chunks(start: int, end: int, chunk_size: int | None) -> Iterator[tuple[int, int]]:
    """The positions `start` to `end`, cut at multiples of `chunk_size` (None: nowhere), as pairs of start and end."""
    while start < end:
        cut = end if chunk_size is None else min(end, (start // chunk_size + 1) * chunk_size)
        yield start, cut
        start = cut


def check_chunks(args, user: int, length: int, what: str) -> None:
    """Raises ValueError if `length` tokens need more than one chunk but the cache is unpaged. `what` names them."""
    chunk = args.prefill_chunk_size
    if args.paged_attention_config is None and chunk is not None and length > chunk:
        raise ValueError(
            f"user {user}: {what} runs in chunks of {chunk}, which needs paged attention; turn that on, shorten the "
            f"sequence, set {VARIABLE} (thousands of tokens) so that a chunk holds {length}, or unset it"
        )
