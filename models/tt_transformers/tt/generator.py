"""Runs a model over users' sequences: prefill in chunks, decode by a replayed trace, pages, RoPE rows.

It knows tokens and logits only: sampling, text and stopping belong to its caller, so that a server can use it too.
"""

import torch
import ttnn
from tqdm import tqdm

from models.common import backend

from .page_table import PageTable, check_pages
from .program_configs import TILE, padded_prefill_length

SKIP = -1


def check_lengths(args, prompt_lengths: list[int], max_generated_tokens: int) -> None:
    """Raises ValueError, with the numbers, if a batch of users does not fit what `args` sets up.

    Each prompt needs room for one more token, and the shortest for `max_generated_tokens`; a longer one may stop early,
    at max_seq_len. Pages are counted for what each user can reach. Needs no model, so it can come before weights.
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
        chunk = args.prefill_chunk_size
        if args.paged_attention_config is None and chunk is not None and length > chunk:
            raise ValueError(
                f"user {user}: a prompt of {length} tokens runs in chunks of {chunk}, which needs paged attention"
            )
    longest = min(prompt_lengths) + max_generated_tokens
    if longest > args.max_seq_len:
        raise ValueError(
            f"{min(prompt_lengths)} prompt tokens + {max_generated_tokens} to generate = {longest} is more than "
            f"max_seq_len {args.max_seq_len}"
        )
    if args.paged_attention_config is not None:
        check_pages(
            args.paged_attention_config,
            [min(length + max_generated_tokens, args.max_seq_len) for length in prompt_lengths],
        )


class Generator:
    """A batch of up to `max_batch_size` users, each with its own sequence.

    Prompts run `args.prefill_chunk_size` tokens at a time.
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
        for user in range(self.users):
            self.sequences[user] = []
            if self.page_table is not None:
                self.page_table.release(user)
        progress = tqdm(
            total=sum(map(len, prompts)), desc="Prefill", unit="token", unit_scale=True, disable=None, delay=2
        )
        with progress:
            return torch.stack([self._prefill_user(user, prompt, progress) for user, prompt in enumerate(prompts)])

    def decode(self, tokens: list[int], active: list[bool] | None = None) -> torch.Tensor:
        """Appends `tokens[u]` to the sequence of each active user u and runs them.

        Returns the logits of the next token, float32 [len(tokens), vocab_size]; rows of inactive users mean nothing.
        Raises ValueError if a user's sequence is at max_seq_len.
        """
        active = [True] * len(tokens) if active is None else active
        positions = [SKIP] * self.users
        crossing = []
        for user, token in enumerate(tokens):
            if not active[user]:
                continue
            sequence = self.sequences[user]
            if len(sequence) >= self.args.max_seq_len:
                raise ValueError(f"user {user} is at max_seq_len {self.args.max_seq_len}")
            sequence.append(int(token))
            if len(sequence) == self.args.arch.rope.switch_len + 1:
                crossing.append(user)
            else:
                positions[user] = len(sequence) - 1
        logits = self._decode_users(positions)[: len(tokens)]
        for user in crossing:
            # All keys of a sequence turn by the same factors, so the cached ones are computed again with the long
            # factors, as Hugging Face's Phi3ForCausalLM does at this length.
            logits[user] = self._prefill_user(user, self.sequences[user])
        return logits

    def _prefill_user(self, user: int, tokens: list[int], progress=None) -> torch.Tensor:
        """Fills the user's caches with `tokens` and returns the last one's logits, [vocab_size]."""
        self.sequences[user] = list(tokens)
        end = len(tokens)
        if self.page_table is not None:
            self.page_table.grow(user, end)
        chunk_size = self.args.prefill_chunk_size or end
        rope = self.args.arch.rope
        for start in range(0, end, chunk_size):
            chunk = tokens[start : start + chunk_size]
            padded = padded_prefill_length(len(chunk))
            padding = [0] * (padded - len(chunk))
            rotary_rows = [rope.row(start + offset, end) for offset in range(len(chunk))]
            page_table, prefix_page_table = self._chunk_pages(user, start, start + len(chunk), start + padded)
            x = self.model.prefill_forward(
                self._to_device([chunk + padding], ttnn.uint32),
                self._to_device([rotary_rows + padding], ttnn.uint32),
                user,
                page_table,
                prefix_page_table,
                start,
            )
            if progress is not None:
                progress.update(len(chunk))
        last = len(chunk) - 1
        return self.model.logits_to_torch(self.model.prefill_logits(x, last))[last % TILE]

    def _chunk_pages(self, user: int, start: int, end: int, padded_end: int):
        """Pages that a chunk fills, and those it attends to (as many as its padded rows reach)."""
        if self.page_table is None:
            return None, None
        fill = self.page_table.pages(user, start, end)
        prefix = self.page_table.pages(user, 0, end, length=self.page_table.config.blocks_for(padded_end))
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


class DecodeStep:
    """The compiled decode step: inputs at fixed places on the devices, a trace that reads them, logits.

    Where the device has no traces (the vendor's mock), each call runs the model's Python.
    """

    def __init__(self, model, page_table: PageTable | None):
        self.model = model
        self.mesh_device = model.mesh_device
        self.page_table = page_table
        self._inputs = idle_decode_inputs(model, page_table)
        self._trace = None
        self._logits = model.decode_forward(*self._inputs)
        if backend.supports_trace():
            self._trace = ttnn.begin_trace_capture(self.mesh_device, cq_id=0)
            self._logits = model.decode_forward(*self._inputs)
            ttnn.end_trace_capture(self.mesh_device, self._trace, cq_id=0)

    def __call__(self, tokens: list[int], positions: list[int], rotary_rows: list[int]) -> torch.Tensor:
        """Logits float32 [users, vocab_size]."""
        for host, device in zip(self._host_inputs(tokens, positions, rotary_rows), self._inputs):
            if host is not None:
                ttnn.copy_host_to_device_tensor(host, device)
        if self._trace is None:
            self._logits = self.model.decode_forward(*self._inputs)
        else:
            ttnn.execute_trace(self.mesh_device, self._trace, cq_id=0, blocking=False)
        return self.model.logits_to_torch(self._logits)

    def release(self) -> None:
        if self._trace is not None:
            ttnn.release_trace(self.mesh_device, self._trace)

    def _host_inputs(self, tokens, positions, rotary_rows):
        return decode_inputs(self.mesh_device, self.page_table, tokens, positions, rotary_rows)


def decode_inputs(mesh_device, page_table: PageTable | None, tokens, positions, rotary_rows) -> list:
    """Host tensors in the order of `Transformer.decode_forward`; None for the page table of an unpaged cache."""
    return [
        host_tensor([tokens], ttnn.uint32, mesh_device),
        host_tensor(positions, ttnn.int32, mesh_device),
        host_tensor([rotary_rows], ttnn.uint32, mesh_device),
        None if page_table is None else host_tensor(page_table.table, ttnn.int32, mesh_device),
    ]


def idle_decode_inputs(model, page_table: PageTable | None) -> list:
    """Device inputs of a decode step that skips every user, so that it changes no cache."""
    users = model.args.max_batch_size
    hosts = decode_inputs(model.mesh_device, page_table, [0] * users, [SKIP] * users, [0] * users)
    return [None if host is None else ttnn.to_device(host, model.mesh_device) for host in hosts]


def host_tensor(values, dtype, mesh_device):
    """Integers as a row-major host tensor, replicated over the mesh."""
    return ttnn.from_torch(
        torch.as_tensor(values, dtype=torch.int32),
        dtype=dtype,
        layout=ttnn.ROW_MAJOR_LAYOUT,
        mesh_mapper=ttnn.ReplicateTensorToMesh(mesh_device),
    )
