"""A checkpoint's `config.json` as Hugging Face's config object, the way this library reads it."""

import copy
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

from models.common.library_errors import reported

from .architecture import architecture_name, read_config
from .families import FAMILIES


def load_config(directory: Path):
    """The `transformers` config of a checkpoint directory.

    `AutoConfig.from_pretrained` refuses two kinds of checkpoints that run here: those with an older name of a RoPE kind
    (it checks the keys by the older name before it replaces it), and those whose `model_type` is missing. So the names
    are replaced first, and the class is that of the architecture.

    Raises ValueError with Hugging Face's reason if it refuses the config all the same.
    """
    from transformers import CONFIG_MAPPING

    path = directory / "config.json"
    config = read_config(path)
    family = FAMILIES[architecture_name(config)]
    fields = {**with_current_rope_names(config, family.rope_aliases), "name_or_path": str(directory)}
    with quiet(), reported(f"{path}: Hugging Face refuses it"):
        return CONFIG_MAPPING[family.model_type].from_dict(fields)


def with_current_rope_names(config: Mapping, aliases: Mapping[str, str]) -> dict:
    """A copy of `config` in which the RoPE kinds that `aliases` lists have the name that Hugging Face has today."""
    config = copy.deepcopy(dict(config))
    for parameters in (config.get("rope_scaling"), config.get("rope_parameters")):
        if isinstance(parameters, dict):
            for key in ("rope_type", "type"):
                if parameters.get(key) in aliases:
                    parameters[key] = aliases[parameters[key]]
    return config


@contextmanager
def quiet():
    """No advice on how the checkpoint's config.json should be written, which its user cannot act on."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
