"""Runs a model on its devices: prefill in chunks, decode steps by a replayed trace. It keeps no state of a caller."""

from collections.abc import Callable, Generator, Sequence

import torch
import ttnn

from models.tt_transformers.tt.config.program_configs import TILE, padded_prefill_length
from models.tt_transformers.tt.runtime.decode_step import SKIP, DecodeStep, host_tensor
from models.tt_transformers.tt.runtime.images import ImageKeys, PrefillImages, check_images, no_images
from models.tt_transformers.tt.runtime.page_table import table_of_pools
from models.tt_transformers.tt.runtime.prefill_plan import check_chunks, chunks, groups
from models.tt_transformers.tt.vision.images import UserImages


def check_tokens(args, sequences: Sequence[Sequence[int]], users: Sequence[int] | None = None) -> None:
    """Raises ValueError for a token that has no embedding, such as one that was added to the tokenizer only."""
    for user, tokens in zip(range(len(sequences)) if users is None else users, sequences):
        outside = next((token for token in tokens if not 0 <= token < args.arch.embeddings), None)
        if outside is not None:
            raise ValueError(f"user {user}: token {outside} is outside the model's vocabulary of {args.arch.embeddings}")


# A prefill as steps; its result is what `Runner.prefill` returns.
Prefill = Generator[None, None, torch.Tensor]


def run_prefills(prefills: Sequence[Prefill]) -> list[torch.Tensor]:
    """Runs prefills of different runners side by side, a step of each in turn -> their results."""
    results, running = {}, dict(enumerate(prefills))
    while running:
        for index, prefill in list(running.items()):
            try:
                next(prefill)
            except StopIteration as end:
                results[index] = end.value
                del running[index]
    return [results[index] for index in range(len(prefills))]


class DecodeHandle:
    """A submitted decode step, to be given to `Runner.read`."""


class Runner:
    """The device side of a model. The caller gives tokens, slots, positions and page tables with every call.

    A slot is a user's place in the decode batch, 0 to `max_batch_size` - 1; unpaged KV caches have one row per slot.
    Page tables are host tensors of page ids, int32; unused entries may be any page of the pool, such as 0.

    The caller must ensure that
    - different sequences have different pages, except for a prefix that they share;
    - a cached prefix was computed from the same tokens at the same positions, and with the same rotary frequencies.

    With some RoPE kinds the frequencies of a prompt depend on its length (`rope.frequency_set`). A prefix that was
    cached for one length must not be continued to a length with other frequencies. Where a model computes all keys
    again (`rope.recompute_len`), a sequence that grows to this length in decode must be prefilled again as a whole.
    """

    def __init__(self, model):
        self.model = model
        self.args = model.args
        self.mesh_device = model.mesh_device
        self.mesh_devices = [self.mesh_device]
        self.users = self.args.max_batch_size
        self.paged = model.paged
        self._rows = self.args.placement.decode_rows(self.users)
        self._decode_step = None
        self._submitted: DecodeHandle | None = None

    def prefill(
        self,
        tokens: Sequence[list[int]],
        slots: Sequence[int],
        start_pos: Sequence[int] | None = None,
        page_table: torch.Tensor | None = None,
        *,
        lengths: Sequence[int] | None = None,
        images: Sequence[UserImages | None] | None = None,
        image_page_table: torch.Tensor | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> torch.Tensor:
        """Fills the caches of `slots` with `tokens` -> logits of each sequence's last token, float32 [n, vocab_size].

        tokens: the tokens of each sequence from position `start_pos` on.
        start_pos: the caches already hold all earlier positions; a multiple of the page size. None: all 0.
        page_table: [n, pages], a row for each sequence, from its first token on; None for unpaged caches.
        lengths: whole lengths of the sequences, if more pieces follow; they choose the rotary frequencies. None: the
            sequences end with these tokens.
        images: of each sequence; it then starts at position 0. None: there are none.
        image_page_table: [n, pages], the pages of the image tokens that decoded tokens attend to (`Attended.decode_keys`).
        progress: called after every chunk with the number of its tokens.

        Sequences run in the given order, `args.prefill_chunk_size` tokens at a time. Neighbours in the list run
        together if they are short and padded to one length. Raises ValueError, before anything runs, for arguments that
        do not fit.
        """
        prefill = self.start_prefill(
            tokens, slots, start_pos, page_table, lengths=lengths, images=images, image_page_table=image_page_table, progress=progress
        )
        (logits,) = run_prefills([prefill])
        return logits

    def start_prefill(
        self, tokens, slots, start_pos=None, page_table=None, *, lengths=None, images=None, image_page_table=None, progress=None
    ) -> Prefill:
        """Checks the arguments of `prefill`, and returns it as steps, for `run_prefills`. Each step starts the sequences that
        run together; the next one waits for them."""
        starts = [0] * len(tokens) if start_pos is None else start_pos
        images = [None] * len(tokens) if images is None else images
        self._check_prefill(tokens, slots, starts, lengths, images)
        ends = [start + len(row) for start, row in zip(starts, tokens)]
        self._check_pages(page_table, ends)
        lengths = ends if lengths is None else lengths
        return self._prefill_steps(tokens, slots, starts, ends, lengths, page_table, images, image_page_table, progress)

    def _prefill_steps(
        self, tokens, slots, starts, ends, lengths, page_table, images, image_page_table, progress
    ) -> Prefill:
        logits = []
        with_images = {index for index, own in enumerate(images) if own is not None}
        for group in groups(starts, ends, lengths, self.args.prefill_chunk_size, self.args.arch.rope, with_images):
            pages, image_pages = (None if table is None else table[group] for table in (page_table, image_page_table))
            own = images[group][0]
            encoded = None if own is None else PrefillImages(self.model, tokens[group][0], own, image_pages)
            x, rows = self._prefill_group(
                tokens[group], slots[group], starts[group][0], max(lengths[group]), pages, encoded, progress
            )
            yield
            logits += [self.model.logits_to_torch(self.model.prefill_logits(x, row))[row % TILE] for row in rows]
            del x
        return torch.stack(logits)

    def _prefill_group(self, tokens, slots, start: int, length: int, pages, images, progress) -> tuple:
        """Starts sequences that run together, with the rotary frequencies of `length` -> the hidden state of their last
        chunk, and the rows of their last tokens in it. `images`: `PrefillImages` of a sequence that runs alone, or None."""
        for first, end in chunks(start, start + max(map(len, tokens)), self.args.prefill_chunk_size):
            parts = [row[first - start : end - start] for row in tokens]
            padded = padded_prefill_length(end - first)
            page_table, prefix_page_table = self._chunk_pages(pages, slots, parts, first, end, first + padded)
            x = self.model.prefill_forward(
                self._to_device([[token for part in parts for token in _padded(part, padded)]], ttnn.uint32),
                self._rotation(first, end, padded, length),
                slots,
                page_table,
                prefix_page_table,
                first,
                None if images is None else images.chunk(first, padded),
            )
            if progress is not None:
                progress(sum(map(len, parts)))
        return x, [index * padded + len(part) - 1 for index, part in enumerate(parts)]

    def _rotation(self, first: int, end: int, padded: int, length: int):
        """The rotation of positions `first` to `end` of a prompt of `length` tokens, in `padded` rows."""
        rope, rotary = self.args.arch.rope, self.model.rotary
        if not rope.in_table(length):
            return rotary.prefill_beyond_table(range(first, first + padded), length)
        rows = [rope.row(position, length) for position in range(first, end)]
        return rotary.prefill(self._to_device([_padded(rows, padded)], ttnn.uint32))

    def _chunk_pages(self, pages, slots, parts, first: int, end: int, padded_end: int):
        """The pages that a chunk's `parts` fill, one row each, and the pages that it attends to (up to its padded end).

        The row of a shorter part ends in -1 (no page), so that its padding is not stored. So does all of a part's row on
        devices that do not serve its slot.
        """
        paged = self.paged
        if paged is None:
            return None, None
        page = first // paged.block_size
        fill = pages[:, page : paged.blocks_for(end)].clone()
        for row, part in zip(fill, parts):
            row[paged.blocks_for(first + len(part)) - page :] = -1
        pools = [self.args.placement.pool_of(slot, self.args.max_batch_size) for slot in slots]
        fill = table_of_pools(fill, pools, self.args.placement.pools)
        prefix = pages[:1, : paged.blocks_for(end)]
        prefix = torch.nn.functional.pad(prefix, (0, paged.blocks_for(padded_end) - prefix.shape[1]))
        return self._to_device(fill, ttnn.int32, users=0), self._to_device(prefix, ttnn.int32)

    def compile_decode(self, page_table: torch.Tensor | None = None, *, trace: bool = True) -> None:
        """Compiles the decode step, once, and captures its trace if `trace` and where the device can; else the first
        `submit_decode` does it.

        page_table: stays on the devices until a step brings another one; see `submit_decode`.
        """
        if self._decode_step is None:
            self._decode_step = DecodeStep(self.model, self._as_compiled(page_table), trace, no_images(self.args))

    def submit_decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        page_table: torch.Tensor | None = None,
        images: ImageKeys | None = None,
    ) -> DecodeHandle:
        """Starts a decode step: `tokens` [users] at `positions` [users], -1 for a slot that does not run.

        page_table: [users, pages]; None for unpaged caches. It is copied to the devices only if it changed.
        images: what the users attend to of their images; None: no user has images.
        Nothing moves from the devices to the host. The next step overwrites the logits, so each step must be read
        before the next one is submitted. Prefills may run in between. Raises ValueError, before anything runs, for
        arguments that do not fit.
        """
        self.check_decode(tokens, positions, page_table)
        rope = self.args.arch.rope
        tokens = [0 if position == SKIP else token for token, position in zip(tokens, positions)]
        rotary_rows = [0 if position == SKIP else rope.row(position, position + 1) for position in positions]
        self.compile_decode(page_table)
        rows = (_padded(values, self._rows, fill) for values, fill in ((tokens, 0), (positions, SKIP), (rotary_rows, 0)))
        images = no_images(self.args) if images is None else images
        self._decode_step.submit(*rows, self._as_compiled(page_table), images)
        self._submitted = DecodeHandle()
        return self._submitted

    def read(self, handle: DecodeHandle) -> torch.Tensor:
        """Waits for a submitted step -> logits, float32 [users, vocab_size]. Rows of slots that did not run are
        invalid.

        Raises ValueError for a step that was read before or belongs to another runner.
        """
        if handle is not self._submitted:
            raise ValueError("this decode step was read before, or was submitted to another runner")
        self._submitted = None
        return self.model.logits_to_torch(self._decode_step.logits)[: self.args.max_batch_size]

    def close(self) -> None:
        """Releases the trace and frees the model, its weights and caches."""
        if self._decode_step is not None:
            self._decode_step.release()
            self._decode_step = self._submitted = None
        self.model.deallocate()

    def _as_compiled(self, page_table: torch.Tensor | None) -> torch.Tensor | None:
        """The page table in the size of the decode step: columns that no user can reach are cut off or added, and rows for
        nobody are added."""
        paged = self.paged
        if paged is None:
            return None
        width = paged.pages_per_user(self.args.max_seq_len)
        if page_table is None:
            return torch.zeros(self._rows, width, dtype=torch.int32)
        return torch.nn.functional.pad(page_table, (0, width - page_table.shape[1], 0, self._rows - page_table.shape[0]))

    def _check_prefill(self, tokens, slots, starts, lengths, images) -> None:
        args, paged = self.args, self.paged
        given = [len(rows) for rows in (tokens, slots, starts, tokens if lengths is None else lengths)]
        if len(set(given)) != 1 or not given[0]:
            raise ValueError(f"prefill of {given[0]} sequences, {given[1]} slots, {given[2]} starts and {given[3]} lengths")
        if len(images) != len(tokens):
            raise ValueError(f"images of {len(images)} users for {len(tokens)} sequences")
        if len(set(slots)) != len(slots) or not all(0 <= slot < args.max_batch_size for slot in slots):
            raise ValueError(f"slots {list(slots)}: they must be different and of 0 to {args.max_batch_size - 1}")
        check_tokens(args, tokens, slots)
        for index, (slot, row, start) in enumerate(zip(slots, tokens, starts)):
            end = start + len(row)
            length = end if lengths is None else lengths[index]
            if not row:
                raise ValueError(f"user {slot}: there are no tokens to prefill")
            if start and paged is None:
                raise ValueError(f"user {slot}: a prefill from position {start} needs paged attention")
            if start < 0 or start and start % paged.block_size:
                raise ValueError(f"user {slot}: a prefill starts at a multiple of the page size {paged.block_size}, not at {start}")
            if not end <= length <= args.max_seq_len:
                raise ValueError(f"user {slot}: {end} tokens of a sequence of {length}; max_seq_len is {args.max_seq_len}")
            rope = args.arch.rope
            if lengths is None and start and rope.frequency_set(start) != rope.frequency_set(end):
                raise ValueError(
                    f"user {slot}: {end} tokens from position {start}: RoPE type {rope.kind} has other frequencies for {end} tokens "
                    f"than for {start}, and the cached keys are wrong; prefill the whole sequence, or give `lengths` with every piece"
                )
            check_chunks(args, slot, end, f"a sequence of {end} tokens")
            if start == 0:
                check_images(args, slot, row, images[index])
            elif images[index] is not None:
                raise ValueError(f"user {slot}: a prefill with images starts at position 0, not at {start}")

    def check_decode(self, tokens, positions, page_table) -> None:
        """Raises ValueError for arguments that `submit_decode` refuses."""
        if self._submitted is not None:
            raise ValueError("the decode step submitted before has not been read: its logits would be overwritten")
        args, users = self.args, self.users
        if not len(tokens) == len(positions) == users:
            raise ValueError(f"a decode step of {len(tokens)} tokens and {len(positions)} positions for {users} slots")
        check_tokens(args, [[] if position == SKIP else [token] for token, position in zip(tokens, positions)])
        for slot, position in enumerate(positions):
            if not SKIP <= position < args.max_seq_len:
                raise ValueError(f"user {slot}: position {position} is outside 0 to {args.max_seq_len - 1}, or {SKIP} for none")
            if position + 1 == args.arch.rope.recompute_len:
                raise ValueError(
                    f"user {slot}: LongRoPE changes its factors at position {position}; prefill all {position + 1} tokens instead"
                )
        self._check_pages(page_table, [position + 1 for position in positions])

    def _check_pages(self, page_table, ends: Sequence[int]) -> None:
        """Raises ValueError unless row i of the table is wide enough for `ends[i]` tokens and holds only page ids."""
        paged = self.paged
        if (paged is None) != (page_table is None):
            raise ValueError("paged KV caches need a page_table" if paged else "a page_table was given, but the KV caches are not paged")
        if paged is None:
            return
        shape, needed = tuple(page_table.shape), paged.blocks_for(max(ends))
        if page_table.dtype is not torch.int32 or len(shape) != 2 or shape[0] != len(ends) or shape[1] < needed:
            raise ValueError(
                f"page_table of {page_table.dtype} {list(shape)}: it must be int32 [{len(ends)}, {needed} or more], for {max(ends)} "
                f"tokens in pages of {paged.block_size}"
            )
        if page_table.min() < 0 or page_table.max() >= paged.max_num_blocks:
            raise ValueError(f"page_table has entries outside the pool's pages, 0 to {paged.max_num_blocks - 1}")

    def _to_device(self, values, dtype, users: int | None = None):
        return ttnn.to_device(host_tensor(values, dtype, self.args, users), self.mesh_device)


def _padded(values: Sequence[int], length: int, fill: int = 0) -> list[int]:
    return [*values, *[fill] * (length - len(values))]
