"""A checkpoint as the installed Hugging Face library reads it: configuration, tokenizer, and weights in bf16.

Settings that are not part of the model are left out: the defaults for text generation (`generation_config.json`), and
the attention implementation. transformers chooses the attention for this machine: `sdpa` if the model has it, else
`eager`.

All functions take a directory or a name to download. Their EvaluationError gives this name and Hugging Face's message.
"""

import copy
import logging
import re
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Union

import torch
import transformers
from loguru import logger
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.utils import cached_file

from models.common.library_errors import one_line
from models.evaluation.errors import EvaluationError, reported
from models.tt_transformers.tt.checkpoints.hugging_face import with_current_rope_names, without_habits
from models.tt_transformers.tt.checkpoints.safetensors_files import SafetensorsFiles, refuse_adapter
from models.tt_transformers.tt.config.architecture import read_config as read_json
from models.tt_transformers.tt.config.rope import make_rope, rope_parameters
from models.tt_transformers.tt.families.phi3 import PHI3


def read_config(name: str) -> PreTrainedConfig:
    """The configuration, without habits. As in the demo, `architectures` may imply the `model_type`, and LongRoPE may have
    its first name, `su`, though transformers 5 refuses both."""
    here = Path(name).is_dir()
    with reported(f"model {name!r}: {'config.json cannot be read' if here else 'no directory here, nor to download'}"):
        path = cached_file(name, "config.json")
        if path is None:
            raise FileNotFoundError("there is none")
        found = without_habits(read_json(Path(path)))
    if found.get("model_type") is None and found.get("architectures") == [PHI3.architecture]:
        found["model_type"] = PHI3.model_type
    model_type = found.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise EvaluationError(f"model {name!r}: config.json: model_type {model_type!r} is not known to {_library()}")
    if model_type == PHI3.model_type:
        found = with_current_rope_names(found, PHI3.rope_aliases)
    config = _make(found)
    if isinstance(config, str):
        raise EvaluationError(f"model {name!r}: {_library()} refuses config.json{_blamed(found, config)}: {config}")
    if model_type == PHI3.model_type:
        _check_phi3_rope(found, config, name)
    config.name_or_path = name
    return config


def load_tokenizer(name: str, config: PreTrainedConfig):
    with reported(f"model {name!r}: AutoTokenizer cannot read its tokenizer files"):
        return AutoTokenizer.from_pretrained(name, config=config, trust_remote_code=False)


def load_reference(name: str, config: PreTrainedConfig):
    """The model of `read_config`, in bf16 on the CPU.

    Layers past its `num_hidden_layers` are left out. Raises EvaluationError that names the tensors if tensors are
    missing, unknown to the model or of another shape, or if they hold NaN or infinity.
    """
    with reported(f"model {name!r}"):
        refuse_adapter(Path(name))
    with reported(f"model {name!r}: AutoModelForCausalLM cannot read it"):
        reference, info = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=torch.bfloat16,
            generation_config=GenerationConfig(),
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    with reported(f"model {name!r}"), suppress(FileNotFoundError):  # transformers reads .bin files too
        if note := SafetensorsFiles(Path(name)).note:
            logger.warning(f"model {name!r}: {note}")
    # transformers fills missing tensors with random values, and a bring-up would copy those.
    if missing := sorted(info["missing_keys"]):
        raise EvaluationError(f"model {name!r}: the checkpoint lacks {_listed(missing)}")
    if mismatched := sorted(info["mismatched_keys"]):
        shapes = [f"{key} {list(stored)}, not {list(expected)}" for key, stored, expected in mismatched]
        raise EvaluationError(f"model {name!r}: config.json implies another shape: the checkpoint has {_listed(shapes)}")
    left_out = re.compile(r"model\.layers\.(\d+)\.")
    extra = sorted(info["unexpected_keys"])
    if unexpected := [key for key in extra if not ((m := left_out.match(key)) and int(m[1]) >= config.num_hidden_layers)]:
        raise EvaluationError(f"model {name!r}: the model of config.json has no such tensor as {_listed(unexpected)}")
    if odd := [key for key, weight in reference.named_parameters() if not weight.isfinite().all()]:
        raise EvaluationError(f"model {name!r}: NaN or infinity in {_listed(odd)}")
    return reference.eval()


def _check_phi3_rope(found: dict, config: PreTrainedConfig, name: str) -> None:
    """Refuses what the demo refuses but transformers does not, such as `short_mscale`; logs the choices between values."""
    with reported(f"model {name!r}: config.json"):
        _, notes = rope_parameters(found, PHI3.rope_aliases)
        make_rope(
            found,
            PHI3,
            head_dim=getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
            max_position_embeddings=config.max_position_embeddings,
        )
    for note in notes:
        logger.warning(f"model {name!r}: {note}")


def _make(found: dict) -> Union[PreTrainedConfig, str]:
    """The configuration, or Hugging Face's error message."""
    try:
        # A copy, because transformers changes nested objects.
        return CONFIG_MAPPING[found["model_type"]].from_dict(copy.deepcopy(found))
    except Exception as error:
        return one_line(error)


def _blamed(found: dict, message: str) -> str:
    """The keys, with their values, whose removal ends or changes Hugging Face's error, which may name no key itself."""
    logging.disable(logging.WARNING)  # each try would warn again
    without = {key: _make({other: value for other, value in found.items() if other != key}) for key in found}
    logging.disable(logging.NOTSET)
    blamed = [key for key, made in without.items() if not isinstance(made, str)]
    blamed = blamed or [key for key, made in without.items() if made != message and key != "model_type"]
    return "".join(f", {key} {reprlib.repr(found[key])}" for key in blamed)


def _listed(names: list) -> str:
    """At most three of the names, to keep the line readable."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _library() -> str:
    return f"transformers {transformers.__version__}"
