"""The two formats of a checkpoint directory, Hugging Face's and Meta's, behind one interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from models.tt_transformers.tt.checkpoints.meta_config import hugging_face_config
from models.tt_transformers.tt.checkpoints.meta_files import PARAMS, MetaFiles
from models.tt_transformers.tt.checkpoints.safetensors_files import Layout, SafetensorsFiles
from models.tt_transformers.tt.config.architecture import read_config


class CheckpointFiles(Protocol):
    """A checkpoint directory: `SafetensorsFiles` or `MetaFiles`. Values are read only by `read`.

    Attributes:
        files: the files that are read.
        tensors: name -> an object with `file`, `dtype` (BF16, F16, F32, ...) and `shape`.
        note: for the user, on a choice between files; or None.
        config_name: the name of the file that describes the model.
        meta_names: whether names and the order of rows are Meta's, not Hugging Face's.
    """

    directory: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Any]
    note: str | None
    config_name: str
    meta_names: bool

    def place(self, name: str, row: int) -> tuple[int, int]:
        """(index of a file, byte in it) of a row of a tensor: tensors in this order are read forwards."""

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor, in the file's dtype."""

    def layout(self, file: Path) -> Layout:
        """Where one of `files` has its description and its data."""


def is_meta(directory: Path) -> bool:
    """Whether a directory is in Meta's format."""
    return (directory / PARAMS).is_file() and not (directory / "config.json").is_file()


def checkpoint_files(directory: Path) -> CheckpointFiles:
    """The files of a checkpoint directory, checked without reading the weights' values."""
    return MetaFiles(directory) if is_meta(directory) else SafetensorsFiles(directory)


def config_file(directory: Path) -> Path:
    """The file of a checkpoint directory that describes the model."""
    return directory / (MetaFiles if is_meta(directory) else SafetensorsFiles).config_name


def model_config(directory: Path) -> dict:
    """The model's config in Hugging Face's form: `config.json`, or what Meta's `params.json` means."""
    if is_meta(directory):
        return hugging_face_config(MetaFiles(directory))
    return read_config(config_file(directory))
