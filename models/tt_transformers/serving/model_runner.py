"""Runs the steps of vLLM's scheduler on a model class of `generator_vllm`, and samples with vLLM's sampler."""

import time
from dataclasses import dataclass

import torch
from vllm.sampling_params import SamplingType
from vllm.v1.core.sched.output import GrammarOutput, NewRequestData, SchedulerOutput
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput
from vllm.v1.sample.logits_processor import build_logitsprocs
from vllm.v1.sample.sampler import Sampler
from vllm.v1.structured_output.utils import apply_grammar_bitmask
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch
from vllm.v1.worker.worker_base import CompilationTimes

HOST = torch.device("cpu")


@dataclass(frozen=True)
class _Submitted:
    """A step that runs: `decode` is what `decode_forward` returned, None if nobody decodes."""

    scheduled: SchedulerOutput
    decode: object
    prefill_logits: dict[str, torch.Tensor]


class ModelRunner:
    """Keeps the requests that vLLM's scheduler runs: their tokens, pages and slots.

    A request gets a slot of the decode batch with its first prefill and keeps it until it ends or is preempted. Only
    requests that sample in a step are in `batch`, vLLM's table of sampling settings; a prompt that is prefilled in
    pieces enters it with the last one.

    A step has two halves. `execute_model` submits it; the scheduler can then prepare the next one. `sample_tokens` reads
    it. The tokens that are sampled stay here, so the next step does not need them from the scheduler.
    """

    def __init__(self, vllm_config, served, kv_cache, num_blocks: int):
        self.served, self.kv_cache = served, kv_cache
        config, block_size = vllm_config.model_config, vllm_config.cache_config.block_size
        self.users = vllm_config.scheduler_config.max_num_seqs
        self.pages_per_user = min(-(-config.max_model_len // block_size), num_blocks)
        self.requests: dict[str, CachedRequestState] = {}
        self.slots: dict[str, int] = {}
        self.sampler = Sampler(logprobs_mode=config.logprobs_mode)
        self.batch = InputBatch(
            max_num_reqs=self.users,
            max_model_len=config.max_model_len,
            max_num_batched_tokens=vllm_config.scheduler_config.max_num_batched_tokens,
            device=HOST,
            vocab_size=config.get_vocab_size(),
            block_sizes=[block_size],
            kernel_block_sizes=[block_size],
            logitsprocs=build_logitsprocs(vllm_config, HOST, False, False, config.logits_processors or ()),
            logitsprocs_need_output_token_ids=bool(config.logits_processors),
        )
        self._submitted: _Submitted | None = None

    def warm_up(self) -> CompilationTimes:
        start = time.perf_counter()
        for enable_trace in (False, True):  # everything is compiled before a trace is captured
            self.served.warmup_model_prefill(self.kv_cache, enable_trace)
            self.served.warmup_model_decode(self.kv_cache, enable_trace, self.users, self.pages_per_user)
        return CompilationTimes(language_model=time.perf_counter() - start, encoder=0.0)

    def execute_model(self, scheduled: SchedulerOutput) -> ModelRunnerOutput | None:
        """Submits a step. None: `sample_tokens` gives its output."""
        self._update_requests(scheduled)
        if not scheduled.num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        self._update_batch(scheduled)
        decoding = [name for name in scheduled.num_scheduled_tokens if self._decodes(name)]
        prompts = [name for name in scheduled.num_scheduled_tokens if name not in decoding]
        decode = self._submit_decode(decoding) if decoding else None
        prefill_logits = self._prefill(prompts, scheduled.num_scheduled_tokens) if prompts else {}
        self._submitted = _Submitted(scheduled, decode, prefill_logits)
        return None

    def sample_tokens(self, grammar: GrammarOutput | None) -> ModelRunnerOutput | None:
        """Reads the submitted step and samples a token for each request whose tokens have all been run."""
        step, self._submitted = self._submitted, None
        if step is None:  # it failed, and vLLM raises that error
            return None
        logits = self._read(step)
        if grammar is not None:
            apply_grammar_bitmask(step.scheduled, grammar, self.batch, logits)
        names, sampled, logprobs = list(self.batch.req_ids), [], None
        if names:
            output = self.sampler(logits, self.batch.sampling_metadata)
            sampled = output.sampled_token_ids.tolist()
            logprobs = output.logprobs_tensors and output.logprobs_tensors.tolists()
        for name, tokens in zip(names, sampled):
            self.requests[name].output_token_ids.extend(tokens)
        unfinished = [name for name in step.scheduled.num_scheduled_tokens if name not in self.batch.req_id_to_index]
        names += unfinished
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled + [[] for _ in unfinished],
            logprobs=logprobs,
        )

    # The scheduler sends what changed

    def _update_requests(self, scheduled: SchedulerOutput) -> None:
        for name in scheduled.finished_req_ids:
            self.requests.pop(name, None)
            self.slots.pop(name, None)
            self.batch.remove_request(name)
        for name in scheduled.preempted_req_ids or ():
            if name in self.slots:
                del self.slots[name]
                self.requests[name].block_ids = ([],)
        for new in scheduled.scheduled_new_reqs:
            self.requests[new.req_id] = _new_request(new)
        running = scheduled.scheduled_cached_reqs
        for name, pages, computed in zip(running.req_ids, running.new_block_ids, running.num_computed_tokens):
            request = self.requests[name]
            request.num_computed_tokens = computed
            if pages is not None:
                request.block_ids[0].extend(pages[0])

    def _update_batch(self, scheduled: SchedulerOutput) -> None:
        """Makes `batch` hold the requests whose last token runs in this step."""
        sampling = {
            name
            for name, count in scheduled.num_scheduled_tokens.items()
            if self.requests[name].num_computed_tokens + count == self.requests[name].num_tokens
        }
        for name in self.batch.req_id_to_index.keys() - sampling:
            self.batch.remove_request(name)
        for name in scheduled.num_scheduled_tokens:
            if name in sampling and name not in self.batch.req_id_to_index:
                self.batch.add_request(self.requests[name])
        self.batch.condense()
        self.batch.refresh_metadata()

    # The model's calls

    def _decodes(self, name: str) -> bool:
        """Whether a request has one token to run, the one that was sampled last, after all others."""
        request = self.requests[name]
        return name in self.slots and bool(request.output_token_ids) and request.num_computed_tokens == request.num_tokens - 1

    def _submit_decode(self, names: list[str]):
        tokens = torch.zeros(self.users, 1, dtype=torch.int32)
        positions = torch.full((self.users,), -1, dtype=torch.int32)
        pages = torch.zeros(self.users, self.pages_per_user, dtype=torch.int32)
        slots = [self.slots[name] for name in names]
        tokens[slots, 0] = torch.tensor([self.requests[name].output_token_ids[-1] for name in names], dtype=torch.int32)
        positions[slots] = torch.tensor([self.requests[name].num_tokens - 1 for name in names], dtype=torch.int32)
        pages[slots] = self._pages(names)
        return self.served.decode_forward(tokens, positions, pages, self.kv_cache, enable_trace=True, read_from_device=False)

    def _prefill(self, names: list[str], counts: dict[str, int]) -> dict[str, torch.Tensor]:
        """Runs each request's next `counts` tokens -> its last token's logits, [vocab_size]."""
        free = iter(sorted(set(range(self.users)) - set(self.slots.values())))
        for name in names:
            if name not in self.slots:
                self.slots[name] = next(free)
        starts = [self.requests[name].num_computed_tokens for name in names]
        ends = [start + counts[name] for name, start in zip(names, starts)]
        tokens = torch.zeros(len(names), max(ends), dtype=torch.int32)
        for row, name, end in zip(tokens, names, ends):
            request = self.requests[name]
            row[:end] = torch.tensor((request.prompt_token_ids + request.output_token_ids)[:end], dtype=torch.int32)
        logits = self.served.prefill_forward(
            tokens, self._pages(names), self.kv_cache, ends, starts, empty_slots=[self.slots[name] for name in names]
        )
        return dict(zip(names, logits[:, 0]))

    def _pages(self, names: list[str]) -> torch.Tensor:
        """The page table of requests, int32 [len(names), pages_per_user]."""
        table = torch.zeros(len(names), self.pages_per_user, dtype=torch.int32)
        for row, name in zip(table, names):
            (pages,) = self.requests[name].block_ids
            row[: len(pages)] = torch.tensor(pages, dtype=torch.int32)
        return table

    def _read(self, step: _Submitted) -> torch.Tensor:
        """The logits of the requests in `batch`, in its order, float32 [n, vocab_size]."""
        if step.decode is not None:
            decoded = self.served.process_decode_output_host(step.decode)[:, 0]
        rows = [
            step.prefill_logits[name] if name in step.prefill_logits else decoded[self.slots[name]]
            for name in self.batch.req_ids
        ]
        return torch.stack(rows) if rows else torch.empty(0, self.batch.vocab_size)


def _new_request(new: NewRequestData) -> CachedRequestState:
    generator = None
    if new.sampling_params.sampling_type == SamplingType.RANDOM_SEED:
        generator = torch.Generator().manual_seed(new.sampling_params.seed)
    return CachedRequestState(
        req_id=new.req_id,
        prompt_token_ids=new.prompt_token_ids,
        mm_features=[],
        sampling_params=new.sampling_params,
        generator=generator,
        block_ids=new.block_ids,
        num_computed_tokens=new.num_computed_tokens,
        output_token_ids=[],
    )
