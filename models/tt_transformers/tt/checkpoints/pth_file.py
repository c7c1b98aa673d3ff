"""One file of `torch.save`: its tensors without reading their values, and where its bytes lie.

Such a file is a zip archive: a pickle that describes the tensors, and one uncompressed record for each storage.
"""

import pickle
import struct
import zipfile
from pathlib import Path

import torch

from models.common.library_errors import one_line
from models.tt_transformers.tt.checkpoints.safetensors_files import refuse_git_lfs_pointer


def load(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of `file` by name. Their values are mapped into memory and read from disk when they are used.

    No code of the pickle is run. Raises ValueError that names `file` if it is truncated, if its pickle holds more than
    tensors, or if it is not a dictionary of tensors.
    """
    refuse_git_lfs_pointer(file)
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is truncated or not a file of torch.save: {file.stat().st_size} bytes without a zip directory")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} is refused: its pickle holds more than tensors, such as code ({one_line(error)})") from error
    except Exception as error:  # of torch, of zip and of the system
        raise ValueError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ValueError(f"{file} must hold a dictionary of tensors, as Meta's checkpoints do")
    return found


def records(file: Path) -> dict[str, tuple[int, int]]:
    """The records of the archive `file`: name without the archive's folder -> (first byte, number of bytes)."""
    found = {}
    with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
        for record in archive.infolist():
            # The length of the local header is in the header only: torch pads it to align the data.
            stream.seek(record.header_offset + 26)
            header_bytes = 30 + sum(struct.unpack("<HH", stream.read(4)))
            found[record.filename.partition("/")[2]] = (record.header_offset + header_bytes, record.file_size)
    return found


def directory_start(file: Path) -> int:
    """The first byte of the archive's directory, which has the name, size and CRC-32 of each record."""
    with zipfile.ZipFile(file) as archive:
        return archive.start_dir
