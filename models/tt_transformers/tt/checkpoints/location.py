"""Where a model's files are (a directory, a name to download, a `config.json` alone), and where its weight cache is.

`HF_MODEL` names a model in Hugging Face's format, `LLAMA_DIR` a directory in Meta's.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.tt_transformers.tt.checkpoints.formats import is_meta
from models.tt_transformers.tt.checkpoints.meta_files import PARAMS
from models.tt_transformers.tt.checkpoints.meta_tokenizer import TOKENIZER
from models.tt_transformers.tt.checkpoints.safetensors_files import INDEX

PROJECT = Path(__file__).resolve().parents[4]
MODEL_PARAMS = PROJECT / "models/tt_transformers/model_params"
BUNDLED = PROJECT / "models/checkpoints/Phi-3-tiny-kjv"

# All files of a model except its weights. Downloaded first, so that an unsupported model costs no long download.
FACTS = ["*.json", "tokenizer*", "*.jinja"]
WEIGHTS = ["model*.safetensors", INDEX]

# org/name
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_SNAPSHOT = re.compile(r"models--[\w.-]+?--([\w.-]+)/snapshots/[0-9a-f]+$")


@dataclass(frozen=True)
class ModelLocation:
    """`directory` holds at least a `config.json` or `params.json`; `hub_name` is set if the user gave org/name."""

    name: str
    directory: Path
    hub_name: str | None = None

    @cached_property
    def weights_directory(self) -> Path:
        """The directory with the weights. They are downloaded first if the model was given by name."""
        return self.directory if self.hub_name is None else download(self.hub_name, FACTS + WEIGHTS)

    def cache_directory(self, device_name: str, environ: Mapping[str, str] = os.environ) -> Path:
        """The directory for converted weights.

        `TT_CACHE_PATH/<model>/<device>` if that variable is set, `<directory>/<device>` for a model given as a
        directory, `model_cache/<org>/<name>/<device>` in the project for a name.
        """
        if "TT_CACHE_PATH" in environ:
            if not environ["TT_CACHE_PATH"]:
                raise ValueError("TT_CACHE_PATH is empty: unset it or give a directory")
            try:
                path = Path(environ["TT_CACHE_PATH"]).expanduser()
            except RuntimeError as error:
                raise ValueError(f"TT_CACHE_PATH {environ['TT_CACHE_PATH']!r}: there is no such user's home") from error
            return path / self.name / device_name
        if self.hub_name is None:
            return self.directory / device_name
        return PROJECT / "model_cache" / self.hub_name / device_name


def in_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """The arguments of `locate` that the environment gives: HF_MODEL and LLAMA_DIR, None for one that is not set."""
    return {"hf_model": environ.get("HF_MODEL"), "llama_dir": environ.get("LLAMA_DIR")}


def locate(
    hf_model: str | os.PathLike | None = None,
    llama_dir: str | os.PathLike | None = None,
    *,
    dummy_weights: bool = False,
) -> ModelLocation:
    """Finds the model that is named by one of the two arguments; the bundled checkpoint if both are None.

    Args:
        hf_model: the value of `HF_MODEL`: a directory in Hugging Face's format, or org/name.
        llama_dir: the value of `LLAMA_DIR`: a directory in Meta's format.
        dummy_weights: a name whose `config.json` is in `model_params` needs no download.

    Raises ValueError if both are given, FileNotFoundError if there is no such model, RuntimeError if a download fails.
    """
    if llama_dir is not None:
        if hf_model is not None:
            raise ValueError(
                f"HF_MODEL {os.fspath(hf_model)!r} and LLAMA_DIR {os.fspath(llama_dir)!r} are both set; unset one of them"
            )
        return _from_meta_directory(os.fspath(llama_dir))
    text = os.fspath(BUNDLED if hf_model is None else hf_model)
    if not text:
        raise FileNotFoundError("HF_MODEL is empty; unset it, or give a directory with a config.json, or org/name")
    path = os.path.expanduser(text)
    if os.path.exists(path):  # False for a name that is too long, and for a user's home that is not known
        return _from_directory(Path(path))
    if not HUB_NAME.fullmatch(text):
        raise FileNotFoundError(f"HF_MODEL {text!r} is not there; give a directory with a config.json, or org/name")
    name = text.split("/")[1]
    if dummy_weights and (MODEL_PARAMS / name / "config.json").is_file():
        return ModelLocation(name, MODEL_PARAMS / name, hub_name=text)
    directory = download(text, FACTS)
    return ModelLocation(name, _from_directory(directory).directory, hub_name=text)


def download(hub_name: str, patterns: list[str]) -> Path:
    """Brings the files of a Hugging Face model here, with progress bars, and returns their directory.

    Files already in Hugging Face's cache are taken from there. Raises RuntimeError that says what to do instead.
    """
    from huggingface_hub import snapshot_download  # takes a second to import

    try:
        return Path(snapshot_download(hub_name, allow_patterns=patterns))
    except Exception as error:  # the library raises its own, the HTTP client's and the system's errors
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise RuntimeError(
            f"HF_MODEL {hub_name!r} is not a directory here and could not be downloaded ({reason}). Without a network, "
            "set HF_MODEL to a directory that holds the model"
        ) from error


def _from_meta_directory(text: str) -> ModelLocation:
    accepted = f"a directory with {PARAMS}, {TOKENIZER} and consolidated.*.pth"
    path = Path(os.path.expanduser(text))
    if not text or not path.is_dir():
        raise FileNotFoundError(f"LLAMA_DIR {text!r} is no directory; give {accepted}")
    if (path / "config.json").is_file():
        both = f" besides Meta's {PARAMS}: move one of the two away, or" if (path / PARAMS).is_file() else ":"
        raise ValueError(f"LLAMA_DIR {text!r} has Hugging Face's config.json{both} set HF_MODEL instead of LLAMA_DIR")
    if missing := [name for name in (PARAMS, TOKENIZER) if not (path / name).is_file()]:
        raise FileNotFoundError(f"LLAMA_DIR {text!r} has no {' and no '.join(missing)}; give {accepted}")
    directory = path.resolve()
    # Meta's files lie in the folder `original` of Hugging Face's repositories.
    return ModelLocation(_name(directory.parent if directory.name == "original" else directory), directory)


def _from_directory(path: Path) -> ModelLocation:
    if not path.is_dir():
        raise FileNotFoundError(f"HF_MODEL {str(path)!r} is a file; give the directory that holds the model")
    if not (path / "config.json").is_file():
        meta = f"; it holds Meta's {PARAMS}: set LLAMA_DIR instead of HF_MODEL" if is_meta(path) else ""
        raise FileNotFoundError(f"HF_MODEL {str(path)!r} is not a Hugging Face model: it has no config.json{meta}")
    directory = path.resolve()
    return ModelLocation(_name(directory), directory)


def _name(directory: Path) -> str:
    """The model's name by its directory, or by its place in Hugging Face's cache."""
    snapshot = _HUB_SNAPSHOT.search(directory.as_posix())
    return snapshot.group(1) if snapshot else directory.name
