"""Hugging Face's config and model of a checkpoint, read the way this library reads it."""

import copy
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

from models.common.library_errors import reported
from models.tt_transformers.tt.checkpoints.formats import config_file, model_config
from models.tt_transformers.tt.checkpoints.state_dict import DummyStateDict, to_hugging_face
from models.tt_transformers.tt.config.architecture import Architecture, architecture_name
from models.tt_transformers.tt.families import FAMILIES

# Keys of config.json that say how to run a model, not what it is.
_HABITS = frozenset(
    (
        "attn_implementation", "_attn_implementation", "output_attentions", "output_hidden_states", "return_dict",
        "dtype", "torch_dtype",
    )
)  # fmt: skip


def load_config(directory: Path):
    """The `transformers` config of a checkpoint directory, `without_habits`.

    `AutoConfig.from_pretrained` refuses two kinds of checkpoints that run here: those with an older name of a RoPE kind
    (it checks the keys before it replaces the name), and those without a `model_type`. So this function replaces the
    names first, and takes the config class of the architecture.

    Raises ValueError with Hugging Face's reason if it still refuses the config.
    """
    from transformers import CONFIG_MAPPING

    config = model_config(directory)
    family = FAMILIES[architecture_name(config)]
    fields = with_current_rope_names(without_habits(config), family.rope_aliases)
    with quiet(), reported(f"{config_file(directory)}: Hugging Face refuses it"):
        return CONFIG_MAPPING[family.model_type].from_dict({**fields, "name_or_path": str(directory)})


def load_model(directory: Path, arch: Architecture, weights, dtype):
    """Hugging Face's model in eval mode, with as many layers as `arch` and the weights of a `StateDict` or `DummyStateDict`.

    `directory` has the `config.json` or `params.json`. Raises ValueError for a weight of a checkpoint that is not finite,
    and with Hugging Face's reason if it cannot make the model.
    """
    import transformers

    config = load_config(directory)
    text = config.get_text_config()
    text.num_hidden_layers = arch.n_layers
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = text.layer_types[: arch.n_layers]
    # Always torch's own attention, and no defaults for generation, even if the checkpoint asks for others.
    options = dict(dtype=dtype, attn_implementation="sdpa", generation_config=transformers.GenerationConfig())
    is_dummy = isinstance(weights, DummyStateDict)
    if is_dummy or weights.files.meta_names:
        files, options["state_dict"] = None, to_hugging_face(weights, arch)
    else:
        files = weights.files.directory
    model_class = getattr(transformers, arch.architecture)
    with reported(f"Hugging Face cannot make the model of {directory}"):
        model = model_class.from_pretrained(files, config=config, local_files_only=True, **options)
    for name, weight in () if is_dummy else model.state_dict().items():
        if not weight.isfinite().all():
            raise ValueError(f"{name} in {files} holds NaN or infinity")
    return model.eval()


def without_habits(config: Mapping) -> dict:
    """A copy of `config` without the keys that say how to run the model: its attention kernel, form of outputs and dtype."""
    return {key: value for key, value in config.items() if key not in _HABITS}


def with_current_rope_names(config: Mapping, aliases: Mapping[str, str]) -> dict:
    """A copy of `config` with Hugging Face's current names of RoPE kinds; `aliases`: older name -> current name."""
    config = copy.deepcopy(dict(config))
    for parameters in (config.get("rope_scaling"), config.get("rope_parameters")):
        if isinstance(parameters, dict):
            for key in ("rope_type", "type"):
                if parameters.get(key) in aliases:
                    parameters[key] = aliases[parameters[key]]
    return config


@contextmanager
def quiet():
    """Silences advice on how the checkpoint's config.json should be written: its user cannot act on it."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
