"""The identity of a checkpoint, found without reading a large model whole.

The weight cache compares it to check that converted weights still belong to the checkpoint. By default the identity of
each file is

- its name, size and modification time,
- its description: a safetensors file's header, the directory of a .pth archive,
- up to 4 samples of 4 KiB of every tensor, from its first byte to its last: about 12 MB for a 70B, under a second.

This misses a file that was changed between the samples only and then got its old size and time again. It takes a copy
with another time for a different file. `TT_CACHE_VERIFY=full` reads every byte instead, at about 1 GB per second, and
compares the content only. A link into a Hugging Face cache is not read: its target is named by the SHA-256.
"""

import ast
import hashlib
import os
import re
from pathlib import Path

from models.common import backend
from models.tt_transformers.tt.checkpoints.formats import CheckpointFiles
from models.tt_transformers.tt.config.architecture import Architecture

VARIABLE = "TT_CACHE_VERIFY"
SAMPLES = 4
SAMPLE_BYTES = 4096
_BLOB = re.compile(r"[0-9a-f]{64}")


def check_variable() -> bool:
    """Whether TT_CACHE_VERIFY asks for whole files. Raises ValueError for an unknown value."""
    value = os.environ.get(VARIABLE, "samples")
    if value not in ("samples", "full"):
        raise ValueError(f"{VARIABLE}={value!r} is not accepted: full, samples (the default)")
    return value == "full"


# The code that determines a converted weight: the library's code reads, permutes, fuses and splits it; the emulator's
# code rounds and writes it. Paths are relative to `tt/` and to the emulator's package.
LIBRARY_CODE = (
    "checkpoints/formats.py", "checkpoints/meta_*.py", "checkpoints/pth_file.py", "checkpoints/safetensors_files.py",
    "checkpoints/source.py", "checkpoints/state_dict.py", "checkpoints/weights.py", "config/architecture.py",
    "config/reader.py", "config/rope/*.py", "config/vision.py", "families/*.py", "modules/norm.py", "placement.py",
    "vision/*.py",
)  # fmt: skip
EMULATOR_CODE = (
    "bfp.py", "compiled.py", "distributed.py", "dtypes.py", "kept.py", "loops/bf16.py", "loops/block_float.py",
    "loops/packed.py", "loops/products.py", "loops/vectors.py", "op.py", "packed.py", "program.py", "shapes.py", "steps.py",
    "table.py", "tensor.py", "ops/creation.py", "ops/files.py", "ops/transfer.py",
)  # fmt: skip


def weights_identity(files: CheckpointFiles) -> dict:
    """The inputs of converted weights besides their placement, as a JSON object: the checkpoint and the code."""
    config = files.directory / files.config_name
    return {
        "config": hashlib.blake2b(config.read_bytes(), digest_size=16).hexdigest(),
        "files": checkpoint_identity(files),
        **_code_identity(),
    }


def random_weights_identity(arch: Architecture) -> dict:
    """The same of a model's random weights, which depend on its architecture and the code."""
    return {"random": repr(arch), **_code_identity()}


def _code_identity() -> dict:
    return {
        "code": digest_of_code(Path(__file__).parents[1], LIBRARY_CODE),
        "format": _file_format(),
    }


def _file_format() -> str:
    if backend.name() != "emulator":
        return f"ttnn {backend.versions()['ttnn']}"
    import ttnn

    return f"emulator {digest_of_code(Path(ttnn.__file__).parent, EMULATOR_CODE)}"


def digest_of_code(package: Path, patterns: tuple[str, ...]) -> str:
    """A digest of these files' code. Their comments, docstrings and layout do not change it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file for pattern in patterns for file in package.glob(pattern)):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + ast.unparse(tree).encode() + b"\0")
    return digest.hexdigest()


def checkpoint_identity(files: CheckpointFiles) -> list[dict]:
    """One JSON object per file: its name and the identity of its content."""
    whole = check_variable()
    return [{"name": file.name, **_content(file, files, whole)} for file in files.files]


def _content(file: Path, files: CheckpointFiles, whole: bool) -> dict:
    if whole:
        return {"sha256": _sha256(file)}
    target = file.resolve()
    if file.is_symlink() and target.parent.name == "blobs" and _BLOB.fullmatch(target.name):
        return {"sha256": target.name}
    status = file.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "samples": _digest_of_samples(file, files)}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of_samples(file: Path, files: CheckpointFiles) -> str:
    layout = files.layout(file)
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb", buffering=0) as stream:
        start, size = layout.description
        stream.seek(start)
        digest.update(stream.read(size))
        for begin, length in layout.data:
            for start, size in _spans(length):
                digest.update(os.pread(stream.fileno(), size, begin + start))
    return digest.hexdigest()


def _spans(size: int) -> list[tuple[int, int]]:
    """(start, bytes) of the samples of a tensor of `size` bytes; a small one is read whole."""
    if size <= SAMPLES * SAMPLE_BYTES:
        return [(0, size)]
    return [((size - SAMPLE_BYTES) * i // (SAMPLES - 1), SAMPLE_BYTES) for i in range(SAMPLES)]
