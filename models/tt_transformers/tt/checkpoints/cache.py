"""Converted weights on disk: one file per tensor. A file is used only if it is whole and its settings match.

Beside each `<tensor>.tensorbin` lies a `<tensor>.json`. It holds the tensor's sources and settings (checkpoint files,
code, recipe, mesh, placement, number format, file format), its size and its checksum. An entry that does not match is
rebuilt. The emulator's files and the vendor's have different names, so that they do not replace each other. Both files
of an entry are written under temporary names and then renamed. So a reader sees whole files only, and two processes may
build the same cache at once.
"""

import json
import os
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import ttnn
from loguru import logger

from models.common import backend, whole_file

CHUNK_BYTES = 1 << 22
STALE_SECONDS = 24 * 3600  # a temporary folder of another host that is older than this was left behind


@dataclass(frozen=True)
class Conversion:
    """How a torch tensor of the whole mesh becomes the weight `name` on the host.

    `mesh_mapper` places it on a mesh of `mesh_shape`. `recipe` is a JSON object with the numbers that the torch tensor
    depends on besides the checkpoint, such as padded widths. Conversion is always on the host, so the values are the
    same with and without a cache.
    """

    name: str
    dtype: ttnn.DataType
    layout: ttnn.Layout
    mesh_shape: tuple[int, ...]
    mesh_mapper: object
    recipe: Mapping = field(default_factory=dict)

    def described(self) -> dict:
        """The same as a JSON object."""
        return {
            "name": self.name,
            "recipe": json.loads(json.dumps(dict(self.recipe))),
            "mesh": list(self.mesh_shape),
            "placement": describe_mapper(self.mesh_mapper),
            "dtype": self.dtype.name,
            "layout": self.layout.name,
        }


class WeightCache:
    """`directory` holds the files; None for no cache. `identity`: a JSON object that names the weights' sources."""

    def __init__(self, directory: Path | None, identity: Mapping):
        self.directory = directory
        self._identity = json.loads(json.dumps(identity))
        self._writable = directory is not None
        self._warned_foreign = False
        if self._writable:
            self._prepare_directory()

    def load(self, conversion: Conversion):
        """The weight as `ttnn.Tensor` on the host; None if the cache has no valid entry."""
        if self.directory is None:
            return None
        header = self._header(conversion)
        return self._load(self._path(header), header)

    def convert(self, conversion: Conversion, weight: torch.Tensor):
        """The torch tensor of the whole mesh, `weight`, as `ttnn.Tensor` on the host. It is kept for later processes."""
        host = ttnn.from_torch(
            weight, dtype=conversion.dtype, layout=conversion.layout, mesh_mapper=conversion.mesh_mapper
        )
        if self._writable:
            header = self._header(conversion)
            return self._stored(self._path(header), header, host)
        return host

    def _header(self, conversion: Conversion) -> dict:
        return {"identity": self._identity, **conversion.described()}

    def _path(self, header: dict) -> Path:
        writer = "emulator" if backend.name() == "emulator" else "ttnn"
        return self.directory / f"{header['name']}.{header['dtype']}.{header['layout']}.{writer}.tensorbin".lower()

    def _load(self, path: Path, header: dict):
        """The host tensor at `path`; None if there is no valid one."""
        try:
            entry = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            logger.warning(f"weight cache: {path} is rebuilt: its description cannot be read ({error})")
            return None
        if not isinstance(entry, dict) or entry.get("header") != header:
            if not self._warned_foreign:
                what = "model, code, mesh, backend or TT_CACHE_VERIFY"
                logger.warning(f"weight cache: {self.directory} is of another {what}; it is rebuilt")
                self._warned_foreign = True
            return None
        try:
            if size != entry["bytes"]:
                raise ValueError(f"it has {size} bytes instead of {entry['bytes']}")
            if _checksum(path) != entry["crc32"]:
                raise ValueError("its checksum does not agree")
            return ttnn.load_tensor(path)
        except Exception as error:  # any damage of a cache file can be repaired by converting again
            logger.warning(f"weight cache: {path} is rebuilt: {error}")
            return None

    def _stored(self, path: Path, header: dict, host):
        """The tensor as it is read from the file that this writes, so that it takes memory only where its values are used.
        The tensor itself if the file cannot be written."""
        try:
            with self._temporary_folder() as folder:
                data = Path(folder) / path.name
                ttnn.dump_tensor(data, host)
                mapped = ttnn.load_tensor(data)  # before another process can replace the file
                entry = {"header": header, "bytes": data.stat().st_size, "crc32": _checksum(data)}
                description = data.with_suffix(".json")
                description.write_text(json.dumps(entry, indent=1), encoding="utf-8")
                # In this order, a process that dies in between leaves a tensor that does not match its description.
                os.replace(data, path)
                os.replace(description, path.with_suffix(".json"))
            return mapped
        except (OSError, RuntimeError) as error:
            self._go_on_without_writing(error)
            return host

    def _prepare_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            with self._temporary_folder():
                pass
            # The cache may lie in a folder under version control, such as the bundled checkpoint's.
            ignore = self.directory / ".gitignore"
            if not ignore.exists():
                whole_file.write(ignore, "*\n")
        except OSError as error:
            self._go_on_without_writing(error)

    def _go_on_without_writing(self, error: Exception) -> None:
        logger.warning(f"weight cache: cannot write to {self.directory}: {error}; converted weights are not kept")
        self._writable = False

    def _temporary_folder(self):
        prefix = f".tmp-{socket.gethostname()}-{os.getpid()}-"
        return tempfile.TemporaryDirectory(prefix=prefix, dir=self.directory, ignore_cleanup_errors=True)

    def _remove_stale(self) -> None:
        """Removes temporary folders of processes that were killed."""
        for folder in self.directory.glob(".tmp-*"):
            host, _, pid = folder.name.removeprefix(".tmp-").rpartition("-")[0].rpartition("-")
            if host == socket.gethostname() and pid.isdecimal():
                stale = not _is_running(int(pid))
            else:
                stale = time.time() - folder.stat().st_mtime > STALE_SECONDS
            if stale:
                shutil.rmtree(folder, ignore_errors=True)


def describe_mapper(mesh_mapper) -> str:
    """How a mesh mapper places a tensor, as text that is the same in every process."""
    if mesh_mapper is None:
        return "none"
    mapper = mesh_mapper.unwrap() if hasattr(mesh_mapper, "unwrap") else mesh_mapper
    if hasattr(mapper, "config"):
        return repr(mapper.config())
    if hasattr(mapper, "placements"):
        return f"{mapper.placements} over {mapper.mesh_shape}"
    raise TypeError(f"mesh mapper {mapper} does not say how it places a tensor")


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
