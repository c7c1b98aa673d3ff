"""A server without vLLM: it calls a served model as vLLM's scheduler does through Tenstorrent's plugin."""

import random
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from models.common.mesh import open_mesh
from models.tt_transformers.tt import generator_vllm


@contextmanager
def open_served(
    mesh_name, model, class_name, *, users=4, max_seq_len=256, block_size=32, pages=None, optimizations=None, lanes=1,
    module=generator_vllm,
):
    """(served model, its KV caches), by default with pages for the whole context of every user; `users` of all lanes."""
    with open_mesh(mesh_name) as mesh_device:
        model_class = getattr(module, class_name)
        config = SimpleNamespace(_name_or_path=str(model))
        served = model_class.initialize_vllm_model(
            config, mesh_device, users, max_seq_len=max_seq_len, tt_data_parallel=lanes, optimizations=optimizations
        )
        arch = served.args.arch
        heads = arch.n_kv_heads // min(mesh_device.get_num_devices() // lanes, arch.n_kv_heads)
        pages = users // lanes * -(-max_seq_len // block_size) if pages is None else pages
        kv_cache = served.allocate_kv_cache((pages, heads, block_size, arch.head_dim), torch.bfloat16, arch.n_layers)
        try:
            yield served, kv_cache
        finally:
            served.close()


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The function `open_served`. The model that it returns is closed after the test."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(open_served(*args, **settings))


@dataclass(eq=False)
class Request:
    """A prompt and the tokens that follow it. `logits`: those of each following token, as the model gives them."""

    prompt: list[int]
    following: list[int]
    logits: list[torch.Tensor] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    is_running: bool = False
    was_preempted: bool = False

    @property
    def tokens(self) -> list[int]:
        """The tokens that are known so far: the prompt and those that were chosen after it."""
        return self.prompt + self.following[: len(self.logits)]

    @property
    def is_finished(self) -> bool:
        return len(self.logits) == len(self.following)


class Scheduler:
    """Steps of prefill or decode over a packed batch; rows are condensed, so requests change rows while they run.

    It follows the plugin: a request's state is in the slot where it was prefilled, until a decode step's `slot_remap`
    moves it to the request's row. `chunk`: most tokens of a request in a prefill step, None for whole prompts; between the
    pieces of prompts the other requests decode. `steps`: the requests of each decode step with their positions.
    """

    def __init__(self, model, kv_cache, *, chunk=None, is_asynchronous=False):
        self.model, self.kv_cache, self.chunk, self.is_asynchronous = model, kv_cache, chunk, is_asynchronous
        self.users = model.args.max_batch_size
        paged = model.args.paged_attention_config
        self.block_size, self.width = paged.block_size, paged.pages_per_user(model.args.max_seq_len)
        self.free = list(range(paged.max_num_blocks))
        random.Random(0).shuffle(self.free)
        self.waiting: list[Request] = []
        self.rows: list[Request] = []
        self.slots: dict[Request, int] = {}
        self.steps: list[dict[Request, int]] = []
        self.is_turn_of_decode = False

    def add(self, *requests: Request) -> None:
        self.waiting += requests

    def preempt(self, request: Request) -> None:
        """Takes a running request's pages; it starts again when there is room, with all its tokens."""
        self._leave(request)
        request.computed, request.is_running, request.was_preempted = 0, False, True
        self.waiting.insert(0, request)

    def run(self) -> None:
        while self.waiting or self.rows:
            self.step()

    def step(self) -> None:
        """Prefills if there is something to prefill, else decodes; with `chunk`, in turns."""
        while self.waiting and len(self.rows) < self.users:
            self.rows.append(self.waiting.pop(0))
        # A running request has computed all tokens but the last one, which its next decode step runs.
        prefilling = [request for request in self.rows if request.computed < len(request.tokens) - request.is_running]
        running = [request for request in self.rows if request.is_running]
        if prefilling and not (running and self.is_turn_of_decode):
            self._prefill(prefilling)
            self.is_turn_of_decode = self.chunk is not None
        else:
            self._decode(running)
            self.is_turn_of_decode = False
        for request in [request for request in self.rows if request.is_finished]:
            self._leave(request)

    def _prefill(self, requests) -> None:
        for request in requests:
            if request not in self.slots:
                held = set(self.slots.values())
                row = self.rows.index(request)
                self.slots[request] = row if row not in held else min(set(range(self.users)) - held)
        starts = [request.computed for request in requests]
        ends = [min(len(request.tokens), start + (self.chunk or len(request.tokens))) for request, start in zip(requests, starts)]
        tokens = torch.zeros(len(requests), max(ends), dtype=torch.int32)
        for row, request, end in zip(tokens, requests, ends):
            row[:end] = torch.tensor(request.tokens[:end])
        logits = self.model.prefill_forward(
            tokens=tokens,
            page_table=self._page_table(requests, ends),
            kv_cache=self.kv_cache,
            prompt_lens=ends,
            start_pos=starts,
            empty_slots=[self.slots[request] for request in requests],
            lengths=None if self.chunk is None else [len(request.tokens) for request in requests],
        )
        for request, end, row in zip(requests, ends, logits):
            request.computed = end
            if end == len(request.tokens):
                request.is_running = True
                request.logits.append(row[0])

    def _decode(self, running) -> None:
        spare = iter(set(range(self.users)) - set(self.slots.values()))
        sources = [self.slots[request] if request in self.slots else next(spare) for request in self.rows]
        sources += spare
        self.slots = {request: row for row, request in enumerate(self.rows) if request in self.slots}
        tokens, positions = torch.zeros(self.users, 1, dtype=torch.int32), torch.full((self.users,), -1)
        for row, request in enumerate(self.rows):
            if request.is_running:
                tokens[row], positions[row] = request.tokens[-1], len(request.tokens) - 1
        self.steps.append({request: len(request.tokens) - 1 for request in running})
        arguments = dict(
            tokens=tokens,
            start_pos=positions,
            page_table=self._page_table(self.rows, (positions + 1).tolist()),
            kv_cache=self.kv_cache,
            slot_remap=None if sources == sorted(sources) else torch.tensor(sources, dtype=torch.int32),
        )
        if self.is_asynchronous:
            step, events = self.model.read_decode_output(
                self.model.decode_forward(**arguments, read_from_device=False), async_read=True
            )
            assert events == []
            logits = self.model.process_decode_output_host(step)
        else:
            logits = self.model.decode_forward(**arguments)
        for request, row in zip(self.rows, logits):
            if request.is_running:
                request.computed += 1
                request.logits.append(row[0])

    def _page_table(self, requests, lengths) -> torch.Tensor:
        """A row for each request, with pages for `lengths` tokens; in decode for each user."""
        table = torch.zeros(max(len(requests), len(lengths)), self.width, dtype=torch.int32)
        for row, request, length in zip(table, requests, lengths):
            while len(request.pages) * self.block_size < length:
                request.pages.append(self.free.pop())
            row[: len(request.pages)] = torch.tensor(request.pages)
        return table

    def _leave(self, request) -> None:
        """The last row moves to the place of the one that leaves."""
        row = self.rows.index(request)
        last = self.rows.pop()
        if last is not request:
            self.rows[row] = last
        self.slots.pop(request, None)
        self.free += request.pages
        request.pages = []


class LaneScheduler:
    """The plugin's lanes: each has rows and pages of its own. All lanes prefill or all decode. A request keeps its row."""

    def __init__(self, model, kv_cache):
        self.model, self.kv_cache = model, kv_cache
        paged, lanes = model.args.paged_attention_config, model.lanes
        self.block_size, self.width = paged.block_size, paged.pages_per_user(model.args.max_seq_len)
        self.rows: list[Request | None] = [None] * model.args.users
        self.lane_rows = model.args.users // lanes
        self.free = [list(range(paged.max_num_blocks)) for _ in range(lanes)]

    def run(self, requests) -> None:
        """Runs all requests. Each one is added to the first free row."""
        waiting = list(requests)
        while waiting or any(self.rows):
            added = []
            for row in range(len(self.rows)):
                if waiting and self.rows[row] is None:
                    self.rows[row] = waiting.pop(0)
                    added.append(row)
            self._prefill(added) if added else self._decode()
            for row, request in enumerate(self.rows):
                if request and request.is_finished:
                    self.free[row // self.lane_rows] += request.pages
                    self.rows[row] = None

    def _prefill(self, rows) -> None:
        prompts = [self.rows[row].prompt for row in rows]
        tokens = torch.zeros(len(rows), max(map(len, prompts)), dtype=torch.int32)
        for line, prompt in zip(tokens, prompts):
            line[: len(prompt)] = torch.tensor(prompt)
        logits = self.model.prefill_forward(
            tokens, self._page_table(rows), self.kv_cache, list(map(len, prompts)), [0] * len(rows), empty_slots=rows
        )
        for row, line in zip(rows, logits):
            self.rows[row].logits.append(line[0])

    def _decode(self) -> None:
        users = len(self.rows)
        tokens, positions = torch.zeros(users, 1, dtype=torch.int32), torch.full((users,), -1)
        for row, request in enumerate(self.rows):
            if request:
                tokens[row], positions[row] = request.tokens[-1], len(request.tokens) - 1
        logits = self.model.decode_forward(tokens, positions, self._page_table(range(users)), self.kv_cache)
        for request, line in zip(self.rows, logits):
            if request:
                request.logits.append(line[0])

    def _page_table(self, rows) -> torch.Tensor:
        table = torch.zeros(len(rows), self.width, dtype=torch.int32)
        for line, row in zip(table, rows):
            request, free = self.rows[row], self.free[row // self.lane_rows]
            if request:
                while len(request.pages) * self.block_size < len(request.tokens):
                    request.pages.append(free.pop())
                line[: len(request.pages)] = torch.tensor(request.pages)
        return table
