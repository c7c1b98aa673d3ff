"""The RoPE parameters of a `config.json`: its two forms, Hugging Face's choice where they differ, checked values."""

import math
from collections.abc import Mapping
from typing import Any

from models.tt_transformers.tt.config.rope.base import DefaultRope

_ORIGINAL_LEN = "original_max_position_embeddings"


def rope_parameters(config: Mapping, aliases: Mapping[str, str]) -> tuple[dict, list[str]]:
    """The RoPE parameters of a `config.json`, and a note on each choice between two different values.

    A config may have the old form (`rope_theta`, `rope_scaling`), the form of transformers 5 (`rope_parameters`), or
    both, and a value may be both inside and outside of them. Hugging Face's choice is taken: `rope_scaling` before
    `rope_parameters`, `rope_type` before `type`, a value inside before one outside. `aliases`: a family's other names
    of a kind -> its name.

    Raises ValueError if the parameters are not an object or `rope_type` is not a text.
    """
    notes = []
    scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
    for given in (scaling, parameters):
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"rope_parameters/rope_scaling must be an object, got {given!r}")
    chosen = {"rope_type": None, **(scaling or parameters or {})}
    if scaling and parameters and _named_once(scaling) != _named_once(parameters):
        notes.append("config.json has rope_scaling and rope_parameters that differ; rope_scaling is used")

    other_name = chosen.pop("type", None)
    if chosen["rope_type"] is None:
        chosen["rope_type"] = DefaultRope.kind if other_name is None else other_name
    elif other_name not in (None, chosen["rope_type"]):
        notes.append(f"RoPE has rope_type {chosen['rope_type']!r} and type {other_name!r}; rope_type is used")
    if not isinstance(chosen["rope_type"], str):
        raise ValueError(f"rope_type must be a text, got {chosen['rope_type']!r}")
    chosen["rope_type"] = aliases.get(chosen["rope_type"], chosen["rope_type"])

    for key in ("rope_theta", "partial_rotary_factor"):
        if key in config and chosen.setdefault(key, config[key]) != config[key]:
            notes.append(f"config.json has {key} {config[key]} outside of the RoPE parameters and {chosen[key]} inside, which is used")
    return chosen, notes


def original_len(config: Mapping, parameters: Mapping, family_default: int | None, max_position_embeddings: int) -> Any:
    """`original_max_position_embeddings` of the kinds that need it, not yet `checked`; ValueError for two different values.

    Hugging Face reads the top-level value, or the family's default where there is none, and overwrites the one inside
    the RoPE parameters with it. Other programs could read a checkpoint where the two differ in another way. Where there
    is none of them, Hugging Face takes `max_position_embeddings`.
    """
    top = config.get(_ORIGINAL_LEN, family_default)
    if top is None:
        return parameters.get(_ORIGINAL_LEN, max_position_embeddings)
    inner = parameters.get(_ORIGINAL_LEN, top)
    if inner != top:
        source = "at the top level" if _ORIGINAL_LEN in config else "as this architecture's default"
        raise ValueError(f"{_ORIGINAL_LEN} is {inner} in rope_parameters but {top} {source}; set both to the same value")
    return top


def checked(kind: str, name: str, value, wanted: type):
    """`value` as the type `wanted` of a field of a RoPE kind; ValueError that names the parameter if it has another."""
    if wanted == tuple[float, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(f"RoPE type {kind} needs a list of numbers {name}, got {value!r}")
        return tuple(checked(kind, name, element, float) for element in value)
    if wanted == float | None and value is None:
        return None
    accepted, what = {int: (int, "an integer"), bool: (bool, "true or false")}.get(wanted, ((int, float), "a number"))
    is_other = isinstance(value, bool) and wanted is not bool
    if is_other or not isinstance(value, accepted) or not math.isfinite(value):
        raise ValueError(f"RoPE {name} must be {what}, got {value!r}")
    return value


def _named_once(parameters: Mapping) -> dict:
    kind = parameters.get("rope_type") or parameters.get("type")
    return {**parameters, "type": kind, "rope_type": kind}
