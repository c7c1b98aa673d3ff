"""One setting to predict: a model on a mesh, with a case of the demo; and its prediction."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from models.common.prediction.card import Card, card_of
from models.common.prediction.forecast import Forecast
from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.measure import capacity, own_ops
from models.tt_transformers.measure.upstream.conditions import formats_of, upstream_forecast
from models.tt_transformers.measure.upstream.layers import weights_of
from models.tt_transformers.tt.checkpoints.formats import model_config
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS, locate
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.model_params import Limits
from models.tt_transformers.tt.config.prefill_chunks import FALLBACK, SIZES, VARIABLE
from models.tt_transformers.tt.runtime.page_table import BATCH_SIZES

CONDITIONS = ("ours", "published")
# Tokens of the prompts of cases that do not fill their context: those of input_data_questions_prefill_128.json.
PROMPT = 128


@dataclass(frozen=True)
class Scenario:
    """What to predict. None: what the case, the model or the mesh has.

    Attributes:
        model: a name in `model_params`, a directory with a config.json, or org/name.
        mesh: a name of MESH_DEVICE, or Galaxy. case: a case of the demo. batch: users of a replica.
        context: tokens of each prompt. chunk: thousands of tokens of a prompt that run at a time.
        data_parallel: replicas, which share the mesh's chips.
        conditions: ours, or published: upstream's ops, formats and host, as the vendor's figures were measured.
    """

    model: str
    mesh: str = "N150"
    mode: str = "performance"
    case: str = "batch-1"
    context: int | None = None
    batch: int | None = None
    chunk: int | None = None
    data_parallel: int | None = None
    num_layers: int | None = None
    optimizations: str | None = None
    decoder_config_file: str | None = None
    conditions: str = "ours"

    def check(self) -> None:
        """Raises ValueError for a value that no prediction takes."""
        for name, value, accepted in (
            ("case", self.case, [case.name for case in CASES]), ("conditions", self.conditions, CONDITIONS),
            ("batch", self.users, BATCH_SIZES), ("chunk", self.chunk, (None, *SIZES)),
        ):  # fmt: skip
            if value not in accepted:
                raise ValueError(
                    f"{name} {value!r} is not known; accepted: {', '.join(str(one) for one in accepted if one is not None)}"
                )
        if self.prompt < 1:
            raise ValueError(f"context {self.prompt}: a prompt has at least one token")
        if self.max_seq_len > self.arch.max_context_len:
            raise ValueError(
                f"context {self.prompt} and {self._case.max_generated_tokens} generated tokens are more than the {self.arch.max_context_len} "
                f"of {self.model}"
            )
        if self.conditions == "published" and (
            self.optimizations or self.decoder_config_file or self.mode not in ("performance", "accuracy")
        ):
            raise ValueError(
                "published conditions have upstream's formats of performance and accuracy; no others are published"
            )
        card_of(self.mesh).replica(self.replicas)  # refuses a mesh that is not known, or that replicas do not divide

    @property
    def _case(self) -> Case:
        return next(case for case in CASES if case.name == self.case)

    @property
    def users(self) -> int:
        return self._case.batch_size if self.batch is None else self.batch

    @property
    def replicas(self) -> int:
        return self._case.data_parallel if self.data_parallel is None else self.data_parallel

    @property
    def prompt(self) -> int:
        """Tokens of each user's prompt: a long-context case fills its context."""
        if self.context is not None:
            return self.context
        longest = min(self._case.max_seq_len, self.arch.max_context_len) - self._case.max_generated_tokens
        return longest if self.case.startswith("long-context") else min(PROMPT, longest)

    @property
    def mean_context(self) -> float:
        """Tokens that a decode step attends to, on the mean of the case's steps."""
        return self.prompt + self._case.max_generated_tokens / 2

    @property
    def max_seq_len(self) -> int:
        needed = self.prompt + self._case.max_generated_tokens
        return max(needed, min(self._case.max_seq_len, self.arch.max_context_len))

    @cached_property
    def card(self) -> Card:
        """The chips of one replica."""
        return card_of(self.mesh).replica(self.replicas)

    @cached_property
    def directory(self) -> Path:
        folder = MODEL_PARAMS / self.model
        if (folder / "config.json").is_file():
            return folder
        try:
            return locate(hf_model=self.model, dummy_weights=True).directory
        except FileNotFoundError as error:
            raise ValueError(
                f"model {self.model!r} is not known: give a folder of {MODEL_PARAMS.name}, a directory with a config.json, or org/name"
            ) from error

    @cached_property
    def arch(self) -> Architecture:
        return Architecture.from_hf_config(self._config).with_layers(self.num_layers)

    @cached_property
    def _config(self) -> dict:
        return model_config(self.directory)

    @property
    def name(self) -> str:
        return self.directory.name

    def model_args(self) -> dict:
        """Arguments of `ModelArgs` for our own code."""
        return dict(
            hf_model=self.directory, optimizations=self.optimizations, optimizations_base=self.mode, num_layers=self.num_layers,
            decoder_config_file=self.decoder_config_file,
        )  # fmt: skip

    @contextmanager
    def _chunks(self) -> Iterator[None]:
        """Our code takes the size of prefill chunks from the environment."""
        before = os.environ.get(VARIABLE)
        if self.chunk is not None:
            os.environ[VARIABLE] = str(self.chunk)
        try:
            yield
        finally:
            if self.chunk is not None:
                os.environ.pop(VARIABLE) if before is None else os.environ.__setitem__(VARIABLE, before)

    def own_ops(self) -> own_ops.OwnOps:
        """The log of our own code, laid out shape-only."""
        block = self._case.page_params["block_size"]
        pages = -(-self.max_seq_len // block) * self.users
        with self._chunks():
            return own_ops.record(
                own_ops.mesh_of(self.card), prompt=self.prompt, max_batch_size=self.users, max_seq_len=self.max_seq_len,
                page_params={"block_size": block, "max_num_blocks": pages}, **self.model_args(),
            )  # fmt: skip

    def published_forecast(self) -> Forecast:
        """Under upstream's conditions."""
        chunk = self.chunk or Limits.of(self.name, self._config).prefill_chunk_size.get(self.card.name) or FALLBACK
        formats = formats_of(self.name, self.mode, weights_of(self.arch))
        return upstream_forecast(
            self.arch, self.card, formats, users=self.users, prompt=self.prompt, context=self.mean_context, chunk=chunk * 1024,
            replicas=self.replicas,
        )  # fmt: skip

    def largest_context(self) -> int | None:
        """Tokens of one user that fit a device's DRAM, by our own code's layout; None if not even the smallest does."""
        with self._chunks():
            found = capacity.largest(
                own_ops.mesh_of(self.card), self.arch.max_context_len, model=self.directory, **self._precision()
            )
        return found and found.context

    def _precision(self) -> dict:
        return {name: value for name, value in self.model_args().items() if name != "hf_model"}


@dataclass(frozen=True)
class Predicted:
    """A scenario's forecast, and what our own code would take of a device's DRAM.

    dram_bytes: of weights, KV caches and activations; largest_context: of one user, in tokens. None: our code does not
    run there, or (for the context) it was not asked for or nothing fits.
    """

    scenario: Scenario
    forecast: Forecast
    dram_bytes: int | None
    dram_capacity: int | None
    largest_context: int | None
    log: own_ops.OwnOps | None

    @classmethod
    def of(cls, scenario: Scenario, memory: bool = True) -> "Predicted":
        """`memory`: also find the largest context. Raises ValueError for a scenario that cannot run."""
        scenario.check()
        log = None
        if scenario.conditions == "ours" or min(scenario.card.shape) == 1:
            log = scenario.own_ops()
        if scenario.conditions == "ours":
            forecast = own_ops.own_forecast(log, scenario.card, scenario.mean_context, scenario.replicas)
        else:
            forecast = scenario.published_forecast()
        dram = None if log is None else log.weights + log.kv_cache + log.activations
        largest = scenario.largest_context() if memory and log is not None else None
        return cls(scenario, forecast, dram, log and log.capacity, largest, log)

    def as_json(self) -> dict:
        """The record of `--json`."""
        scenario, forecast = self.scenario, self.forecast
        rows = [
            {"step": step, **row}
            for step, ops in (("decode", forecast.decode), ("prefill", forecast.prefill))
            for row in ops.rows()
        ]
        return {
            "what": "a prediction, not a measurement",
            "model": scenario.name,
            "mesh": scenario.mesh,
            "mode": scenario.mode,
            "case": scenario.case,
            "batch": scenario.users,
            "context": scenario.prompt,
            "data_parallel": scenario.replicas,
            "conditions": scenario.conditions,
            **forecast.as_json(),
            "decode_step": asdict(forecast.decode_step),
            "prompt": asdict(forecast.prompt),
            "ops": rows,
            "dram_bytes_per_device": self.dram_bytes,
            "largest_context": self.largest_context,
        }
