"""Reads users' precision settings: `--optimizations`, decoder JSON files, a model's overrides.

Each source overrides the ones before it:

1. the mode's own settings, `ModelOptimizations.of_mode`;
2. the model's override of that mode, `model_params/<model>/<mode>_decoder_config.json`, if there is one; it names
   layers of the whole model, of which a run may use the first ones only;
3. `--optimizations 'precision_cfg = {...}, fidelity_cfg = {...}'`, for all layers alike;
4. `--decoder_config_file`, layer by layer.

So a model's override takes precedence over a mode, and a user's single settings for a run take precedence over both.
"""

import json
import re
from pathlib import Path

from models.tt_transformers.tt.config.precision import (
    ACCEPTED_FIDELITY,
    ACCEPTED_PRECISION,
    MODES,
    DecodersPrecision,
    LayerPrecision,
    ModelOptimizations,
    OpGroup,
    TensorGroup,
)


def resolve_precision(
    num_decoders: int,
    optimizations: str | ModelOptimizations | DecodersPrecision = "performance",
    *,
    base: str = "performance",
    decoder_config_file: str | Path | None = None,
    model_params_dir: str | Path | None = None,
    model_layers: int | None = None,
) -> DecodersPrecision:
    """The precision that a run gets, in the order of the module's docstring.

    Args:
        num_decoders: layers of the model that runs.
        optimizations: `performance`, `accuracy`, `bf16`, or a `precision_cfg`/`fidelity_cfg` text; or an object
            with all settings, to which nothing is added.
        base: the mode that a `precision_cfg`/`fidelity_cfg` text changes.
        decoder_config_file: JSON with settings per decoder.
        model_params_dir: folder that may hold `<mode>_decoder_config.json` files.
        model_layers: layers of the whole model, of which the first `num_decoders` run; None if all run.

    Raises:
        ValueError: naming the key or value that is not accepted, or the file that cannot be read.
    """
    if not isinstance(optimizations, str):
        if decoder_config_file is not None:
            raise ValueError("decoder_config_file needs optimizations as text; build a DecodersPrecision instead")
        if isinstance(optimizations, ModelOptimizations):
            return DecodersPrecision(num_decoders, optimizations)
        if optimizations.num_decoders != num_decoders:
            raise ValueError(
                f"optimizations are for {optimizations.num_decoders} decoders, the model has {num_decoders}"
            )
        return optimizations
    mode, custom = parse_optimizations(optimizations, base)
    precision = DecodersPrecision(num_decoders, ModelOptimizations.of_mode(mode))
    if model_params_dir is not None:
        override = Path(model_params_dir) / f"{mode}_decoder_config.json"
        if override.exists():
            settings = load_decoder_config(override, model_layers or num_decoders)
            precision = precision.updated("model_params", _keeping_lm_head(settings, precision.layer(0)))
    if custom is not None:
        precision = precision.updated("optimizations", {index: custom for index in range(num_decoders)})
    if decoder_config_file is not None:
        settings = load_decoder_config(decoder_config_file, num_decoders)
        precision = precision.updated("decoder_config_file", settings)
    return precision


_SECTION = re.compile(r"\s*(\w+)\s*=\s*\{([^{}]*)\}\s*")
_SYNTAX = (
    f"expected {', '.join(MODES)}, or "
    "'precision_cfg = {key: value, ...}, fidelity_cfg = {key: value, ...}' "
    "(one of the two may be left out)"
)


def parse_optimizations(text: str, base: str = "performance"):
    """Reads the value of `--optimizations`.

    Returns:
        (mode, None) for the name of a mode; (base, (tensors, ops)) for a `precision_cfg`/`fidelity_cfg` text, where
        both are dicts from groups to settings, with only the settings that the text names.

    Raises:
        ValueError: naming the part that is not understood and what is accepted.
    """
    if text.strip() in MODES:
        return text.strip(), None
    sections, position = {}, 0
    while True:
        match = _SECTION.match(text, position)
        if not match:
            raise ValueError(f"optimizations: cannot read {text[position:].strip() or text!r}; {_SYNTAX}")
        name, body = match.groups()
        if name in sections:
            raise ValueError(f"optimizations: {name} is given twice")
        sections[name] = _parse_pairs(name, body)
        position = match.end()
        if position == len(text):
            return base, _read_sections("optimizations", sections)
        if text[position] != ",":
            raise ValueError(f"optimizations: expected a comma before {text[position:]!r}; {_SYNTAX}")
        position += 1


def _parse_pairs(section, body):
    pairs = {}
    for item in filter(None, map(str.strip, body.split(","))):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if not colon or not key or not value:
            raise ValueError(f"optimizations: {section}: {item!r} is not of the form key: value")
        if key in pairs:
            raise ValueError(f"optimizations: {section}: {key} is given twice")
        pairs[key] = value
    return pairs


def load_decoder_config(path: str | Path, num_decoders: int) -> dict:
    """Reads `{"decoders": {"0": {"precision_cfg": {...}, "fidelity_cfg": {...}}, ...}}`; all parts are optional.

    `"0-27"` names a range of decoders, the last one included.

    Returns:
        layer index -> (tensors, ops), with only the settings that the file names.

    Raises:
        ValueError: naming the file and the decoder, key or value that is not accepted.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except (OSError, ValueError) as error:
        raise ValueError(f"decoder config {path}: {error}") from error
    if not isinstance(content, dict) or set(content) != {"decoders"} or not isinstance(content["decoders"], dict):
        raise ValueError(f'decoder config {path}: expected one object {{"decoders": {{"0": {{...}}, ...}}}}')
    settings = {}
    for name, sections in content["decoders"].items():
        where = f"decoder config {path}: decoder {name!r}"
        indices = _decoders(name)
        if not indices or indices[-1] >= num_decoders:
            raise ValueError(f"{where}: the model has decoders 0 to {num_decoders - 1}")
        if named := [index for index in indices if index in settings]:
            raise ValueError(f"{where}: decoder {named[0]} is given twice")
        if not isinstance(sections, dict):
            raise ValueError(f"{where}: expected an object with precision_cfg and fidelity_cfg, got {sections!r}")
        tensors, ops = _read_sections(where, sections)
        if TensorGroup.LM_HEAD in tensors:
            raise ValueError(f"{where}: lm_head is part of no decoder; set it with optimizations 'precision_cfg = {{lm_head: ...}}'")
        settings.update(dict.fromkeys(indices, (tensors, ops)))
    return settings


def _decoders(name: str) -> range:
    """The decoders that a key such as "3" or "0-27" names; none for any other text."""
    match = re.fullmatch(r"(0|[1-9][0-9]*)(?:-(0|[1-9][0-9]*))?", name)
    return range(0) if match is None else range(int(match[1]), int(match[2] or match[1]) + 1)


def _keeping_lm_head(settings: dict, mode: LayerPrecision) -> dict:
    """`settings` of a model's decoders; the output projection does not follow the first one's wqkv, but `mode`'s."""
    tensors, ops = settings.get(0, ({}, {}))
    if TensorGroup.WQKV not in tensors:
        return settings
    return {**settings, 0: ({**tensors, TensorGroup.LM_HEAD: mode.tensors[TensorGroup.WQKV]}, ops)}


def _no_duplicates(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return result


def _read_sections(where, sections):
    readers = {
        "precision_cfg": (TensorGroup, ACCEPTED_PRECISION),
        "fidelity_cfg": (OpGroup, ACCEPTED_FIDELITY),
    }
    unknown = [name for name in sections if name not in readers]
    if unknown:
        raise ValueError(f"{where}: {unknown[0]!r} is not known; accepted: {', '.join(readers)}")
    return tuple(
        _read_settings(f"{where}: {name}", sections.get(name, {}), groups, accepted)
        for name, (groups, accepted) in readers.items()
    )


def _read_settings(where, pairs, groups, accepted):
    if not isinstance(pairs, dict):
        raise ValueError(f"{where}: expected key-value pairs, got {pairs!r}")
    by_key = {group.value: group for group in groups}
    settings = {}
    for key, value in pairs.items():
        if key not in by_key:
            raise ValueError(f"{where}: {key!r} is not known; accepted: {', '.join(by_key)}")
        choices = {setting.value: setting for setting in accepted[by_key[key]]}
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{where}: {key}: {value!r} is not accepted; accepted: {', '.join(choices)}")
        settings[by_key[key]] = choices[value]
    return settings
