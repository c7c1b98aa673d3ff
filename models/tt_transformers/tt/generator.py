"""A batch of users' sequences on a model: prompts, decode steps, users who join and leave, pages, the LongRoPE switch.

It knows tokens and logits only: sampling, text and stopping belong to its caller.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from tqdm import tqdm

from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.model import Transformer
from models.tt_transformers.tt.placement import create_submeshes  # noqa: F401  (the vendor's vLLM plugin takes it from here)
from models.tt_transformers.tt.runtime.data_parallel import make_runner
from models.tt_transformers.tt.runtime.decode_step import SKIP
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches
from models.tt_transformers.tt.runtime.page_table import PageTable, check_pages
from models.tt_transformers.tt.runtime.prefill_plan import check_chunks
from models.tt_transformers.tt.runtime.images import check_images
from models.tt_transformers.tt.runtime.runner import check_tokens
from models.tt_transformers.tt.runtime.slots import Slots
from models.tt_transformers.tt.vision.images import UserImages


def check_lengths(args, prompt_lengths: list[int], max_generated_tokens: int) -> None:
    """Raises ValueError with the numbers if a batch of users does not fit the limits of `args`.

    Each prompt needs room for one more token. The shortest prompt needs room for `max_generated_tokens`; a longer one
    may stop early, at max_seq_len. Also checks that each group's pool has pages for the longest possible sequence of each
    of its users, and that unpaged prefills, including a LongRoPE re-prefill, fit one chunk. Needs no model, so it can run
    before any weight is read.
    """
    if not 1 <= len(prompt_lengths) <= args.users:
        raise ValueError(f"{len(prompt_lengths)} prompts for a model set up for 1 to {args.users} users")
    for user, length in enumerate(prompt_lengths):
        check_prompt(args, user, length)
        recompute_len = args.arch.rope.recompute_len
        # The last generated token is not run.
        if recompute_len and length < recompute_len <= min(length + max_generated_tokens - 1, args.max_seq_len):
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
            # The last token (the last generated one, or the one at max_seq_len) is not run and takes no cache row.
            [min(length + max_generated_tokens, args.max_seq_len) - 1 for length in prompt_lengths],
            args.placement.users(args.max_batch_size),
        )


def check_prompt(args, user: int, length: int) -> None:
    """Raises ValueError if a prompt of `length` tokens is empty, leaves no room for one more, or does not fit one unpaged chunk."""
    if length < 1:
        raise ValueError(f"the prompt of user {user} has no tokens")
    if length + 1 > args.max_seq_len:
        raise ValueError(
            f"user {user}: a prompt of {length} tokens leaves no room to generate within max_seq_len {args.max_seq_len}"
        )
    check_chunks(args, user, length, f"a prompt of {length} tokens")


def check_recomputation(args, user: int) -> None:
    """Raises ValueError if the sequence of `user` cannot be computed again when it grows past the LongRoPE switch."""
    length = args.arch.rope.recompute_len
    what = f"generation past {length - 1} tokens, where LongRoPE changes its factors and {length} are computed again,"
    check_chunks(args, user, length, what)


class Generator:
    """A batch of users, each with its own sequence: up to `max_batch_size`, on each group of devices if there are several.

    `models`: one for each group. Users are numbered through: group g has those from g * max_batch_size on.
    Users start together (`prefill`), or join a running batch and leave it (`add`, `remove`). A user's logits do not
    depend on the other users in the batch. Short prompts of neighbouring users run together if they are padded to the
    same length. Long prompts run in chunks of `args.prefill_chunk_size` tokens.
    """

    def __init__(self, models: Sequence[Transformer]):
        self.models = models
        self.model = models[0]
        self.args = self.model.args
        self.runner = make_runner(models)
        self.users = self.runner.users
        self.slots = Slots(self.runner)
        self.sequences = self.slots.sequences
        self.page_table = self.model.paged and PageTable(
            self.model.paged, self.users, self.args.max_seq_len, self.args.placement.users(self.args.max_batch_size)
        )

    @classmethod
    def build(cls, args, weights: Weights | None = None, kv_caches: Sequence | None = None) -> "Generator":
        """Makes weights, KV caches, models and generator of a `ModelArgs`. Close it, or use it in a `with` statement.

        `weights`, and `kv_caches` (one per layer) of the first group, replace those that `args` describes. They are freed
        with the rest. The weights are read once, whatever the number of groups, after every group has memory for them. If
        a step fails, the parts made before it and the given parts are freed.
        """
        with ExitStack() as owned:
            # Given parts first, so that they are freed if the others cannot be made.
            for given in (*([] if weights is None else [weights]), *(kv_caches or ())):
                owned.callback(given.deallocate)
            if weights is None:
                weights = Weights.of(args)
                owned.callback(weights.deallocate)
            if kv_caches is None:
                kv_caches = _owned_kv_caches(args, owned)
            models = [Transformer(args, weights, kv_caches)]
            for group in args.groups()[1:]:
                replica = weights.replica(group.mesh_device)
                owned.callback(replica.deallocate)
                models.append(Transformer(group, replica, _owned_kv_caches(group, owned)))
            weights.load()
            generator = cls(models)
            owned.pop_all()
        return generator

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Releases the traces and frees the models with their weights and caches."""
        self.runner.close()

    def prefill(self, prompts: list[list[int]], images: Sequence[UserImages | None] | None = None) -> torch.Tensor:
        """Starts a new batch with `prompts` (token ids), one per user. The users' earlier sequences are forgotten.

        images: of each user, one for each image token of its prompt; None for a user, or for all, without images.
        Returns the logits of each prompt's last token, float32 [len(prompts), vocab_size].
        """
        check_lengths(self.args, [len(prompt) for prompt in prompts], 1)
        check_tokens(self.args, prompts)
        images = [None] * len(prompts) if images is None else images
        if len(images) != len(prompts):
            raise ValueError(f"images of {len(images)} users for {len(prompts)} prompts")
        for user, (prompt, own) in enumerate(zip(prompts, images)):
            check_images(self.args, user, prompt, own)
        return self._start_batch(range(len(prompts)), prompts, images)

    def compile_prefill(self, prompt: list[int], images: UserImages | None = None) -> None:
        """Runs `prompt` on every group of devices, so that prompts of its length run later without compiling. The users'
        sequences are forgotten, as by `prefill`."""
        check_prompt(self.args, 0, len(prompt))
        check_images(self.args, 0, prompt, images)
        first_users = range(0, self.users, self.args.max_batch_size)
        self._start_batch(first_users, [prompt] * len(first_users), [images] * len(first_users))

    def _start_batch(self, users, prompts, images) -> torch.Tensor:
        for user in range(self.users):
            self._forget(user)
        progress = tqdm(
            total=sum(map(len, prompts)), desc="Prefill", unit="token", unit_scale=True, disable=None, delay=2
        )
        with progress:
            return self._start(users, prompts, images, progress.update)

    def add(self, user: int, prompt: list[int], images: UserImages | None = None) -> torch.Tensor:
        """Adds a user with a prompt (token ids) and its images to the batch -> the logits of its last token, float32
        [vocab_size].

        Raises ValueError, before anything has changed, if the user is in the batch already or its number is outside the
        batch, and if the prompt does not fit or the pool does not have enough free pages for it.
        """
        self._check_user(user)
        if self.sequences[user]:
            raise ValueError(f"user {user} is in the batch already; remove it first")
        check_prompt(self.args, user, len(prompt))
        check_images(self.args, user, prompt, images)
        return self._start([user], [prompt], [images])[0]

    def remove(self, user: int) -> None:
        """Removes a user: forgets its sequence and frees its pages. ValueError if it is not in the batch."""
        self._check_user(user)
        if not self.sequences[user]:
            raise ValueError(f"user {user} has no prompt, so it cannot be removed")
        self._forget(user)

    def decode(self, tokens: list[int], active: list[bool] | None = None) -> torch.Tensor:
        """Appends `tokens[u]` to the sequence of each active user u and runs them.

        Returns the logits of the next token, float32 [len(tokens), vocab_size]; rows of inactive users have no meaning.
        Raises ValueError, before anything has changed, if an active user has no prompt or its sequence is at
        max_seq_len, if the sequence cannot be computed again at the LongRoPE switch, or if the pool has no free page.
        """
        active = [True] * len(tokens) if active is None else active
        self._check_decode(tokens, active)
        step_tokens, positions = [0] * self.users, [SKIP] * self.users
        for user, token in enumerate(tokens):
            if active[user]:
                step_tokens[user], positions[user] = int(token), len(self.sequences[user])
                self._grow(user, positions[user] + 1)
        return self.slots.read(self.slots.submit_decode(step_tokens, positions, self.pages))[: len(tokens)]

    @property
    def pages(self) -> torch.Tensor | None:
        """[users, pages] int32: the pages of all users (see `PageTable`); None if the KV caches are not paged."""
        return None if self.page_table is None else self.page_table.table

    def compile_decode(self, *, trace: bool = True) -> None:
        """Compiles the decode step and, with `trace` and where the device can, captures its trace; else the first decode
        does it."""
        self.runner.compile_decode(self.pages, trace=trace)

    def _check_user(self, user: int) -> None:
        if not 0 <= user < self.users:
            raise ValueError(f"user {user} is outside the batch of users 0 to {self.users - 1}")

    def _check_decode(self, tokens: list[int], active: list[bool]) -> None:
        if not len(tokens) == len(active) <= self.users:
            raise ValueError(f"{len(tokens)} tokens, {len(active)} active flags for up to {self.users} users")
        check_tokens(self.args, [[token] if active[user] else [] for user, token in enumerate(tokens)])
        lengths = {user: len(self.sequences[user]) + 1 for user in range(len(tokens)) if active[user]}
        for user, length in lengths.items():
            if length == 1:
                raise ValueError(f"user {user} has no prompt, so it cannot be active")
            if length > self.args.max_seq_len:
                raise ValueError(f"user {user} is at max_seq_len {self.args.max_seq_len}")
            if length == self.args.arch.rope.recompute_len:
                check_recomputation(self.args, user)
        if self.page_table is not None:
            self.page_table.check(lengths)

    def _start(self, users, prompts, images, progress=None) -> torch.Tensor:
        """Stores the users' sequences and computes them. If that fails, the sequences are forgotten again."""
        with ExitStack() as started:
            for user, prompt, own in zip(users, prompts, images):
                started.callback(self._forget, user)
                self.sequences[user] = list(prompt)
                self.slots.images.start(user, prompt, own)
            logits = self._compute(users, images, progress)
            started.pop_all()
        return logits

    def _compute(self, users, images, progress=None) -> torch.Tensor:
        """Computes whole sequences, filling the users' caches -> last tokens' logits, [len(users), vocab_size]."""
        sequences = [self.sequences[user] for user in users]
        for user in users:
            self._grow(user, len(self.sequences[user]))
        pages = None if self.pages is None else self.pages[list(users)]
        keys = self.slots.images.keys
        image_pages = None if keys is None or keys.page_table is None else keys.page_table[list(users)]
        return self.runner.prefill(
            sequences, users, page_table=pages, images=images, image_page_table=image_pages, progress=progress
        )

    def _grow(self, user: int, tokens: int) -> None:
        """Gives a user pages for a sequence of `tokens` tokens."""
        if self.page_table is not None:
            self.page_table.grow(user, tokens)

    def _forget(self, user: int) -> None:
        self.sequences[user] = []
        self.slots.images.release(user)
        if self.page_table is not None:
            self.page_table.release(user)


def _owned_kv_caches(args, owned: ExitStack) -> list:
    kv_caches = make_kv_caches(args)
    for kv_cache in kv_caches:
        owned.callback(kv_cache.deallocate)
    return kv_caches
