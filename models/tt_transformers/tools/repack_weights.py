"""Repacks the weights of a large model in Meta's format: files of whole tensors by layers, in place of parts by rank.

    python models/tt_transformers/scripts/repack_weights_70b.py <checkpoint_dir> <output_dir> [chunk_size]
    python models/tt_transformers/scripts/repack_weights_90b.py <checkpoint_dir> <output_dir> [chunk_size]

The files have `chunk_size` layers each: `layers_0-9.pth`, `layers_10-19.pth`, ... The first one also has the tensors
outside of the layers. Of a model with vision (90B), the first file has the vision model and one layer:
`vision-model-and-layers_0-0.pth`, `layers_1-10.pth`, ... The two directories may be the same. `params.json` and
`tokenizer.model` are copied to an output directory without them.

One tensor is in memory at a time. The files get their names when all of them are whole: a run that fails or is killed
leaves the output directory as it was, and the next run begins again.
"""

import argparse
import fcntl
import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from models.common import whole_file
from models.common.library_errors import reported
from models.tt_transformers.tt.checkpoints import pth_file
from models.tt_transformers.tt.checkpoints.meta_files import PARAMS, MetaFiles, repacked_files
from models.tt_transformers.tt.checkpoints.meta_tokenizer import TOKENIZER
from models.tt_transformers.tt.checkpoints.safetensors_files import FLOATS

CHUNK_SIZE = 10
_LAYER = re.compile(r"(?:^|\.)(?:cross_attention_)?layers\.(\d+)\.")


def repack_70b() -> None:
    """The command for a model without vision."""
    _main(vision=False)


def repack_90b() -> None:
    """The command for a model with vision."""
    _main(vision=True)


def _main(vision: bool) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint_dir", type=Path, help="directory with params.json and consolidated.*.pth")
    parser.add_argument("output_dir", type=Path, help="directory for the new files; it may be the same")
    parser.add_argument("chunk_size", type=int, nargs="?", default=CHUNK_SIZE, help="layers of a file (default: %(default)s)")
    options = parser.parse_args()
    try:
        repack(options.checkpoint_dir, options.output_dir, options.chunk_size, vision=vision)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def repack(in_dir: Path, out_dir: Path, chunk_size: int = CHUNK_SIZE, *, vision: bool = False) -> None:
    """Writes the weights in `in_dir` to `out_dir`, `chunk_size` layers a file; see the module's docstring.

    Raises ValueError or OSError that names the wrong value or file; `out_dir` then has no new file.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if not in_dir.is_dir():
        raise FileNotFoundError(f"{in_dir} is not a directory")
    if not (in_dir / PARAMS).is_file():
        raise FileNotFoundError(f"{in_dir} has no {PARAMS}, as a model in Meta's format has")
    files = MetaFiles(in_dir)
    _check_tensors(files, vision)
    whole_file.make_folder(out_dir, "output_dir")
    if there := repacked_files(out_dir):
        raise ValueError(f"{out_dir} has repacked weights already, such as {there[0].name}; move them away to repack again")
    chunks = _chunks(files, chunk_size, first=1 if vision else chunk_size, prefix="vision-model-and-" if vision else "")
    with _working_folder(out_dir) as folder:
        for number, (name, tensors) in enumerate(chunks.items()):
            print(f"{name} ({number + 1} of {len(chunks)})", flush=True)
            with reported(f"{name} cannot be written to {out_dir}"):
                _write(folder / name, files, tensors)
        for name in (PARAMS, TOKENIZER):
            if (in_dir / name).is_file() and not (out_dir / name).exists():
                whole_file.write(out_dir / name, (in_dir / name).read_bytes())
        # The first file comes last: without it, what a killed run has renamed is refused, not read.
        for name in reversed(chunks):
            os.replace(folder / name, out_dir / name)


def _check_tensors(files: MetaFiles, vision: bool) -> None:
    if vision != any(name.startswith("vision_model.") for name in files.tensors):
        found, command = ("no", "repack_weights_70b.py") if vision else ("a", "repack_weights_90b.py")
        raise ValueError(f"{files.directory} has {found} vision model; use {command}")
    for name, tensor in files.tensors.items():
        if tensor.dtype not in FLOATS:
            supported = ", ".join(FLOATS)
            raise ValueError(f"{name} in {tensor.file} has dtype {tensor.dtype}; supported are {supported}")


def _chunks(files: MetaFiles, chunk_size: int, first: int, prefix: str) -> dict[str, list[str]]:
    """File -> the names of its tensors. The first, named with `prefix`, has `first` layers and all that is no layer."""
    layers = {name: int(match[1]) if (match := _LAYER.search(name)) else 0 for name in files.tensors}
    count = max(layers.values()) + 1
    starts = [0, *range(first, count, chunk_size)]
    chunks = {}
    for start, stop in zip(starts, [*starts[1:], count]):
        name = f"{prefix if start == 0 else ''}layers_{start}-{stop - 1}.pth"
        chunks[name] = [tensor for tensor, layer in layers.items() if start <= layer < stop]
    return chunks


def _write(path: Path, files: MetaFiles, names: list[str]) -> None:
    """Writes a file of `torch.save`: first its description with room for the values, then tensor after tensor."""
    infos = {name: files.tensors[name] for name in names}
    without_values = {name: torch.empty(info.shape, dtype=FLOATS[info.dtype]) for name, info in infos.items()}
    with torch.serialization.skip_data():
        torch.save(without_values, path)
    places = pth_file.tensors(path)
    with path.open("r+b") as stream:
        for name, info in infos.items():
            stream.seek(places[name].start)
            stream.write(files.read(name, 0, info.shape[0]).view(torch.uint8).numpy())


@contextmanager
def _working_folder(out_dir: Path):
    """A folder in `out_dir` for files that are not whole yet. What a killed run left in it is removed first."""
    folder = out_dir / ".repacking"
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is repacking into {out_dir}") from None
        for file in folder.iterdir():
            file.unlink()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)
