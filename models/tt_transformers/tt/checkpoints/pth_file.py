"""One file of `torch.save`: where its tensors lie, found without reading their values.

Such a file is a zip archive: a pickle that describes the tensors, and one uncompressed record for each storage.
"""

import pickle
import zipfile
from pathlib import Path

import torch

from models.common.library_errors import one_line
from models.tt_transformers.tt.checkpoints.safetensors_files import FLOATS, TensorInfo, refuse_git_lfs_pointer

_NAMES = {dtype: name for name, dtype in FLOATS.items()}


def tensors(file: Path) -> dict[str, TensorInfo]:
    """The tensors of `file` by name. The pickle is read, and none of its code is run.

    Raises ValueError that names `file` if it is truncated or lacks a part, if its pickle holds more than tensors, or if
    it is not a dictionary of contiguous tensors.
    """
    refuse_git_lfs_pointer(file)
    if not zipfile.is_zipfile(file):
        size = file.stat().st_size
        raise ValueError(f"{file} is truncated or not a file of torch.save: it has {size} bytes and no zip directory")
    try:
        _check_whole(file)
        found = torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = one_line(error)
        raise ValueError(f"{file} is refused: its pickle holds more than tensors, such as code ({reason})") from error
    except Exception as error:  # of torch, of zip and of the system
        raise ValueError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise ValueError(f"{file} must hold a dictionary of tensors, as Meta's checkpoints do")
    return {name: _info(file, name, tensor) for name, tensor in found.items()}


def _check_whole(file: Path) -> None:
    """Raises ValueError if bytes were cut out of the file or put into it: torch would read others in their place."""
    with zipfile.ZipFile(file) as archive:  # counts the places of its records back from the directory at the end
        shift = min((record.header_offset for record in archive.infolist()), default=0)
    if shift:
        raise ValueError(f"it has {abs(shift)} bytes too {'few' if shift < 0 else 'many'} before its zip directory")


def directory_start(file: Path) -> int:
    """The first byte of the archive's directory, which has the name, size and CRC-32 of each record."""
    with zipfile.ZipFile(file) as archive:
        return archive.start_dir


def _info(file: Path, name: str, tensor: torch.Tensor) -> TensorInfo:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} in {file} is not contiguous: its strides are {tensor.stride()}")
    # Tensors may share a storage: Meta keeps those of a layer in one. The attribute is the storage's place in the file.
    start = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * tensor.element_size()
    dtype = _NAMES.get(tensor.dtype, str(tensor.dtype))
    return TensorInfo(file, dtype, tuple(tensor.shape), start, tensor.numel() * tensor.element_size())
