"""Decode without a prefill: prompts go through the model token by token."""

from models.common.profiler import Measurement, Profiler
from models.tt_transformers.demo import report
from models.tt_transformers.demo.measures import has_values, measure_decode
from models.tt_transformers.tt.runtime.decode_step import SKIP
from models.tt_transformers.tt.runtime.repeated_step import repeat_step


def run(generator, users, sampler, settings, args, stop_token_ids) -> list[Measurement]:
    """Runs the prompts of a batch from position `start_pos` on and generates the texts, or repeats the first step.

    Without meaningful values it runs one step only: further steps have the same ops. Raises ValueError as `repeat_step`.
    """
    steps = _Steps(generator, len(users))
    tokens, position = [user.prompt_ids[0] for user in users], settings.start_pos
    if settings.stress_test:
        for user in users:
            user.stop_reason = "repeated_step"
        return steps.repeat(tokens, position, settings.max_generated_tokens)
    if not has_values(settings):
        steps.run(tokens, position, [True] * len(users))
        return []
    profiler, stream, ran = Profiler(), report.Stream(users[0], args.decode), 0
    active = [True] * len(users)
    while any(active):
        with profiler.timed("inference_decode"):
            logits = steps.run(tokens, position, active)
            position, ran = position + 1, ran + sum(active)
            fed = position - settings.start_pos
            generating = [runs and fed >= len(user.prompt_ids) for user, runs in zip(users, active)]
            sampled = sampler(logits, generating)
        tokens = [token if own else user.prompt_ids[min(fed, len(user.prompt_ids) - 1)]
                  for user, token, own in zip(users, sampled, generating)]  # fmt: skip
        for user, token, own in zip(users, sampled, generating):
            if own:
                user.add(token, stop_token_ids, settings.max_generated_tokens, settings.max_seq_len - settings.start_pos)
        if generating[0]:
            stream.add(tokens[0])
        if settings.print_outputs:
            report.print_tokens(users, args)
        active = [user.stop_reason is None for user in users]
    stream.finish()
    return measure_decode(profiler, ran, users[0].batch)


class _Steps:
    """Decode steps in which all users of a batch are at the same position. The caches hold nothing before the first one."""

    def __init__(self, generator, users: int):
        self._runner, self._users, self._idle = generator.runner, users, generator.users - users
        self._table = generator.page_table
        if self._table is not None:
            for user in range(generator.users):
                self._table.release(user)

    def run(self, tokens, position, active):
        """-> logits, float32 [users, vocab_size]; the rows of users that are not active mean nothing."""
        return self._runner.read(self._runner.submit_decode(*self._step(tokens, position, active)))[: self._users]

    def repeat(self, tokens, position, times: int) -> list[Measurement]:
        return repeat_step(self._runner, *self._step(tokens, position, [True] * self._users), times)

    def _step(self, tokens, position, active):
        if self._table is not None:
            for user in range(self._users):
                if active[user]:
                    self._table.grow(user, position + 1)
        positions = [position if runs else SKIP for runs in active] + [SKIP] * self._idle
        return tokens + [0] * self._idle, positions, None if self._table is None else self._table.table
