"""A case of demo_decode.py."""

from dataclasses import dataclass

from models.tt_transformers.demo.case import Case

_ALIASES = {"layers": "num_layers", "weights": "dummy_weights"}


@dataclass(frozen=True)
class DecodeCase(Case):
    """A run without prefill. `start_pos`: the position of the first token. Caches before it are empty (zeros)."""

    start_pos: int = 0
    decode_only: bool = True

    def with_options(self, given: dict) -> "DecodeCase":
        """As `Case.with_options`; `layers` is `num_layers`, and `weights` says whether they are random."""
        for alias, name in _ALIASES.items():
            if alias in given and name in given:
                raise ValueError(f"{alias} and {name} are the same option; give one of them")
        given = dict(given)
        if "layers" in given:
            given["num_layers"] = given.pop("layers")
        if "weights" in given:
            given["dummy_weights"] = given.pop("weights") == "random"
        return super().with_options(given)
