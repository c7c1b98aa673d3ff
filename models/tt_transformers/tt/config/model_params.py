"""Facts about single models: the folders `model_params/<model>/`.

A folder may hold

- `config.json`: Hugging Face's, so that the model runs with random weights and no network;
- `limits.json`, with `prefill_chunk_size`: thousands of tokens by mesh (null: the model does not run there);
  `long_context`: by mesh, the chunk size for contexts of more than `beyond` tokens; `source`: the numbers' origin;
- `<mode>_decoder_config.json`: the model's own override of a precision mode.

A checkpoint's limits are those of the folder with its exact name, else of the first folder whose `config.json` has the
same sizes. So a fine-tuned model has the limits of its base model under any name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import read_config
from models.tt_transformers.tt.config.reader import language_config

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"
)  # fmt: skip


def overrides_folder(model_name: str) -> Path:
    """The folder with a model's overrides. Meta's name leads to Hugging Face's: `Llama3.1-8B` to `Llama-3.1-8B`."""
    return MODEL_PARAMS / re.sub(r"^(Meta-)?Llama-?(?=3\.\d)", "Llama-", model_name)


@dataclass(frozen=True)
class Limits:
    """`limits.json` of a model; see the module's docstring. Without one, all meshes have the general default."""

    prefill_chunk_size: Mapping[str, int | None] = field(default_factory=dict)
    long_context: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    source: str = ""

    @classmethod
    def of(cls, model_name: str, config: Mapping | None = None, folders: Path = MODEL_PARAMS) -> "Limits":
        """The limits of the model `model_name`, whose parsed `config.json` is `config` (None: found by name only)."""
        named = folders / model_name / "limits.json"
        alike = [] if config is None else (path for path in _limits_files(folders) if _same_sizes(path.parent, config))
        file = named if named.is_file() else next(iter(alike), None)
        return cls() if file is None else cls(**json.loads(file.read_text(encoding="utf-8")))


def _limits_files(folders: Path) -> list[Path]:
    return sorted(folders.glob("*/limits.json"))


def _same_sizes(folder: Path, config: Mapping) -> bool:
    if not (folder / "config.json").is_file():
        return False
    theirs, config = language_config(read_config(folder / "config.json")), language_config(config)
    return all(theirs.get(key) == config.get(key) for key in SIZES)
