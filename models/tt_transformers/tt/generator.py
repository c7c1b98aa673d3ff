"""Runs a model over users' sequences: prefill in chunks, decode by a replayed trace, pages, RoPE rows.

It knows tokens and logits only: sampling, text and stopping belong to its caller, so that a server can use it too.
"""

import torch
import ttnn
from tqdm import tqdm

from .decode_step import SKIP, DecodeStep, host_tensor
from .page_table import PageTable, check_pages
from .prefill_chunks import VARIABLE
from .program_configs import TILE, padded_prefill_length

# Rows that short prompts run with together: enough to make the reading of the weights cheap, few enough for the memory of
# their activations not to matter.
PREFILL_GROUP_ROWS = 2048


def check_lengths(args, prompt_lengths: list[int], max_generated_tokens: int) -> None:
    """Raises ValueError, with the numbers, if a batch of users does not fit what `args` sets up.

    Each prompt needs room for one more token, and the shortest for `max_generated_tokens`; a longer one may stop early,
    at max_seq_len. Pages are counted for what each user can reach, and so are the chunks in which a prompt runs, or a
    sequence that generation takes past the LongRoPE switch. Needs no model, so it can come before weights.
    """
    if not 1 <= len(prompt_lengths) <= args.max_batch_size:
        raise ValueError(f"{len(prompt_lengths)} prompts for a model set up for 1 to {args.max_batch_size} users")
    for user, length in enumerate(prompt_lengths):
        if length < 1:
            raise ValueError(f"the prompt of user {user} has no tokens")
        if length + 1 > args.max_seq_len:
            raise ValueError(
                f"user {user}: a prompt of {length} tokens leaves no room to generate within max_seq_len {args.max_seq_len}"
            )
        check_chunks(args, user, length, f"a prompt of {length} tokens")
        # Of the generated tokens the last one is not run.
        if length <= args.arch.rope.switch_len < min(length + max_generated_tokens - 1, args.max_seq_len):
            check_recomputation(args, user)
    longest = min(prompt_lengths) + max_generated_tokens
    if longest > args.max_seq_len:
        raise ValueError(
            f"{min(prompt_lengths)} prompt tokens + {max_generated_tokens} to generate = {longest} is more than "
            f"max_seq_len {args.max_seq_len}"
        )
    if args.paged_attention_config is not None:
        check_pages(
            args.paged_attention_config,
            # The last token, whether of the generated ones or at max_seq_len, is not run and takes no place.
            [min(length + max_generated_tokens, args.max_seq_len) - 1 for length in prompt_lengths],
        )


def check_tokens(args, sequences: list[list[int]]) -> None:
    """Raises ValueError for a token that the model has no embedding of, such as one added to the tokenizer alone."""
    for user, tokens in enumerate(sequences):
        outside = next((token for token in tokens if not 0 <= token < args.arch.vocab_size), None)
        if outside is not None:
            raise ValueError(f"user {user}: token {outside} is outside the model's vocabulary of {args.arch.vocab_size}")


def check_recomputation(args, user: int) -> None:
    """Raises ValueError if the sequence of `user` cannot be computed again when it grows past the LongRoPE switch."""
    length = args.arch.rope.switch_len + 1
    what = f"generation past {length - 1} tokens, where LongRoPE changes its factors and {length} are computed again,"
    check_chunks(args, user, length, what)


def check_chunks(args, user: int, length: int, what: str) -> None:
    """Raises ValueError if `length` tokens need more than one chunk but the cache is unpaged; `what` they are."""
    chunk = args.prefill_chunk_size
    if args.paged_attention_config is None and chunk is not None and length > chunk:
        raise ValueError(
            f"user {user}: {what} runs in chunks of {chunk}, which needs paged attention; turn that on, shorten the "
            f"sequence, set {VARIABLE} (thousands of tokens) so that a chunk holds {length}, or unset it"
        )


class Generator:
    """A batch of up to `max_batch_size` users, each with its own sequence.

    Prompts run `args.prefill_chunk_size` tokens at a time, and neighbouring short ones of one padded length together.
    """

    def __init__(self, model):
        self.model = model
        self.args = model.args
        self.mesh_device = model.mesh_device
        self.users = self.args.max_batch_size
        self.sequences: list[list[int]] = [[] for _ in range(self.users)]
        paged = self.args.paged_attention_config
        self.page_table = paged and PageTable(paged, self.users, self.args.max_seq_len)
        self._decode_step = None

    def prefill(self, prompts: list[list[int]]) -> torch.Tensor:
        """Starts over with `prompts` (token ids), one a user; what users had before is forgotten.

        Returns the logits of each prompt's last token, float32 [len(prompts), vocab_size].
        """
        check_lengths(self.args, [len(prompt) for prompt in prompts], 1)
        check_tokens(self.args, prompts)
        for user in range(self.users):
            self.sequences[user] = []
            if self.page_table is not None:
                self.page_table.release(user)
        progress = tqdm(
            total=sum(map(len, prompts)), desc="Prefill", unit="token", unit_scale=True, disable=None, delay=2
        )
        with progress:
            groups = [
                self._prefill_users(first, prompts[first : first + count], progress)
                for first, count in self._prefill_groups([len(prompt) for prompt in prompts])
            ]
            return torch.cat(groups)

    def decode(self, tokens: list[int], active: list[bool] | None = None) -> torch.Tensor:
        """Appends `tokens[u]` to the sequence of each active user u and runs them.

        Returns the logits of the next token, float32 [len(tokens), vocab_size]; rows of inactive users mean nothing.
        Raises ValueError, before anything has changed, if an active user has no prompt, or its sequence is at
        max_seq_len, cannot be computed again at the LongRoPE switch, or finds no free page.
        """
        active = [True] * len(tokens) if active is None else active
        self._check_decode(tokens, active)
        positions = [SKIP] * self.users
        crossing = []
        for user, token in enumerate(tokens):
            if not active[user]:
                continue
            sequence = self.sequences[user]
            sequence.append(int(token))
            if len(sequence) == self.args.arch.rope.switch_len + 1:
                crossing.append(user)
            else:
                positions[user] = len(sequence) - 1
        logits = self._decode_users(positions)[: len(tokens)]
        if not crossing:
            return logits
        rows = list(logits)
        for user in crossing:
            # All keys of a sequence turn by the same factors, so the cached ones are computed again with the long
            # factors, as Hugging Face's Phi3ForCausalLM does at this length.
            (rows[user],) = self._prefill_users(user, [self.sequences[user]])
        return torch.stack(rows)

    def _check_decode(self, tokens: list[int], active: list[bool]) -> None:
        if not len(tokens) == len(active) <= self.users:
            raise ValueError(f"{len(tokens)} tokens, {len(active)} active flags for up to {self.users} users")
        check_tokens(self.args, [[token] if active[user] else [] for user, token in enumerate(tokens)])
        lengths = {user: len(self.sequences[user]) + 1 for user in range(len(tokens)) if active[user]}
        for user, length in lengths.items():
            if length == 1:
                raise ValueError(f"user {user} has no prompt; active ones are those of the last prefill")
            if length > self.args.max_seq_len:
                raise ValueError(f"user {user} is at max_seq_len {self.args.max_seq_len}")
            if length == self.args.arch.rope.switch_len + 1:
                check_recomputation(self.args, user)
        if self.page_table is not None:
            self.page_table.check(lengths)

    def _prefill_groups(self, lengths: list[int]):
        """Yields (first user, users) of neighbours that can run as one: in one chunk, padded alike, with the same angles.

        A group's rows are at most a chunk's and PREFILL_GROUP_ROWS, and such that the matmuls can cut them into batches.
        """
        limit = min(self.args.prefill_chunk_size or PREFILL_GROUP_ROWS, PREFILL_GROUP_ROWS)
        keys = [(padded_prefill_length(length), self.args.arch.rope.row(0, length)) for length in lengths]
        first = 0
        while first < len(lengths):
            alike = next((user for user in range(first, len(keys)) if keys[user] != keys[first]), len(keys)) - first
            padded = keys[first][0]
            counts = [n for n in range(2, alike + 1) if n * padded <= limit and n * padded == padded_prefill_length(n * padded)]
            count = max(counts, default=1)
            yield first, count
            first += count

    def _prefill_users(self, first: int, prompts: list[list[int]], progress=None) -> torch.Tensor:
        """Fills the caches of the users from `first` on with `prompts`, several only if they are a group.

        Returns the logits of each prompt's last token, [len(prompts), vocab_size].
        """
        for user, prompt in enumerate(prompts, first):
            self.sequences[user] = list(prompt)
            if self.page_table is not None:
                self.page_table.grow(user, len(prompt))
        longest = max(map(len, prompts))
        chunk_size = self.args.prefill_chunk_size or longest
        rope = self.args.arch.rope
        for start in range(0, longest, chunk_size):
            chunks = [prompt[start : start + chunk_size] for prompt in prompts]
            length = max(map(len, chunks))
            padded = padded_prefill_length(length)
            rotary_rows = [rope.row(start + offset, longest) for offset in range(length)]
            page_table, prefix_page_table = self._chunk_pages(first, prompts, start, start + length, start + padded)
            x = self.model.prefill_forward(
                self._to_device([[token for chunk in chunks for token in _padded(chunk, padded)]], ttnn.uint32),
                self._to_device([_padded(rotary_rows, padded)], ttnn.uint32),
                first,
                page_table,
                prefix_page_table,
                start,
                len(prompts),
            )
            if progress is not None:
                progress.update(sum(map(len, chunks)))
        last_rows = [index * padded + len(chunk) - 1 for index, chunk in enumerate(chunks)]
        return torch.stack(
            [self.model.logits_to_torch(self.model.prefill_logits(x, row))[row % TILE] for row in last_rows]
        )

    def _chunk_pages(self, first: int, prompts, start: int, end: int, padded_end: int):
        """Pages that a chunk fills, a row for each of `prompts`, and those it attends to (as many as its padded rows reach).

        A row of a shorter prompt ends in -1, which is no page: its padding is not kept.
        """
        if self.page_table is None:
            return None, None
        fill = [
            self.page_table.pages(user, start, min(end, len(prompt)))[0].tolist()
            for user, prompt in enumerate(prompts, first)
        ]
        width = max(map(len, fill))
        fill = [_padded(pages, width, -1) for pages in fill]
        prefix = self.page_table.pages(first, 0, end, length=self.page_table.config.blocks_for(padded_end))
        return self._to_device(fill, ttnn.int32), self._to_device(prefix, ttnn.int32)

    def _decode_users(self, positions: list[int]) -> torch.Tensor:
        """One decode step of all users at `positions` (-1: none) -> logits [users, vocab_size]."""
        rope = self.args.arch.rope
        running = [user for user, position in enumerate(positions) if position != SKIP]
        if not running:
            return torch.zeros(self.users, self.args.arch.vocab_size)
        if self.page_table is not None:
            for user in running:
                self.page_table.grow(user, positions[user] + 1)
        tokens, rotary_rows = [0] * self.users, [0] * self.users
        for user in running:
            tokens[user] = self.sequences[user][-1]
            rotary_rows[user] = rope.row(positions[user], positions[user] + 1)
        if self._decode_step is None:
            self.compile_decode()
        return self._decode_step(tokens, positions, rotary_rows)

    def compile_decode(self) -> None:
        """Compiles the decode step and, where the device can, captures its trace. The first decode does it if not."""
        if self._decode_step is None:
            self._decode_step = DecodeStep(self.model, self.page_table)

    def _to_device(self, values, dtype):
        return ttnn.to_device(host_tensor(values, dtype, self.mesh_device), self.mesh_device)

    def deallocate(self) -> None:
        """Releases the trace and its inputs; the model stays."""
        if self._decode_step is not None:
            self._decode_step.release()
            self._decode_step = None


def _padded(values: list[int], length: int, padding: int = 0) -> list[int]:
    return values + [padding] * (length - len(values))
