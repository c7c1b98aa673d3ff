"""The vendor's published speeds, and predictions under their conditions."""

import csv
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.common import prediction
from models.common.prediction.card import card_of
from models.common.prediction.cost import RATES, Rates
from models.common.prediction.forecast import Forecast
from models.common.prediction.step import HOST, HostRates
from models.tt_transformers.measure.upstream.conditions import formats_of, upstream_forecast
from models.tt_transformers.measure.upstream.layers import Formats, weights_of
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.config.model_params import MODEL_PARAMS, Limits
from models.tt_transformers.tt.config.prefill_chunks import FALLBACK

MEASURED = Path(prediction.__path__[0]) / "measured"
# Folders of model_params by the names of the published tables.
_FOLDERS = {
    "Phi-3.5-mini": "Phi-3.5-mini-instruct", "Phi-3-mini-128k": "Phi-3-mini-128k-instruct", "Llama-3.3-70B": "Llama-3.3-70B-Instruct",
}  # fmt: skip
_DTYPES = {"bfp4": "BFLOAT4_B", "bfp8": "BFLOAT8_B", "bf16": "BFLOAT16"}
# Steps of a published case, whose mean speed is published; of the README's table, the first token only.
STEPS = 200


@dataclass(frozen=True)
class Row:
    """One published figure. `tsu` in tokens a second of a user, `ttft_ms` in milliseconds."""

    model: str
    mesh: str
    mode: str
    case: str
    batch: int
    isl: int
    replicas: int
    note: str
    tsu: float
    ttft_ms: float

    @cached_property
    def arch(self) -> Architecture:
        return Architecture.from_hf_config(self._config)

    @property
    def folder(self) -> str:
        """The model's folder in `model_params`."""
        return _FOLDERS.get(self.model, self.model)

    @cached_property
    def _config(self) -> dict:
        return read_config(MODEL_PARAMS / self.folder / "config.json")

    @property
    def first_token_only(self) -> bool:
        return self.case.startswith("README")

    @property
    def ttft_is_disputed(self) -> bool:
        """The Pareto table gives 45 to 73 ms for settings of which the main table says 22."""
        return self.mode == "pareto"

    def formats(self) -> Formats:
        given = re.match(r"ff1_3/ff2=(\w+)/(\w+)(?: wo=(\w+))?", self.note)
        if given is None:
            return formats_of(self.model, self.mode, weights_of(self.arch))
        ff1_3, ff2, wo = (_DTYPES.get(name) for name in given.groups())
        return Formats(ff1_3=ff1_3, ff2=ff2, wo=wo or Formats.wo)

    def predicted(self, rates: Rates = RATES, host: HostRates = HOST) -> Forecast:
        card = card_of(self.mesh).replica(self.replicas)
        chunks = Limits.of(self.folder, self._config).prefill_chunk_size
        # The README's table is of a release that samples on the device.
        return upstream_forecast(
            self.arch, card, self.formats(), users=self.batch, prompt=self.isl,
            context=self.isl + (0 if self.first_token_only else STEPS / 2), chunk=(chunks.get(card.name) or FALLBACK) * 1024,
            replicas=self.replicas, on_host=False if self.first_token_only else None, rates=rates, host=host,
        )  # fmt: skip


def rows(path: Path = MEASURED / "published.csv") -> list[Row]:
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Row(
                line["model"], line["device"], line["mode"], line["case"], int(line["batch"]), int(line["isl"]),
                int(re.match(r"DP(\d+)", line["parallel"])[1]) if line["parallel"].startswith("DP") else 1, line["note"] or "",
                float(line["tsu"]), float(line["ttft_ms"]),
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip
