"""A small random Llama 3.2 Vision runs in lockstep: the vendor accepts every op, and the emulator lays out alike."""

import pytest

from models.common.mesh_names import LINES
from tests.support.wide import some_of

# Users with and without images, images of one to four tiles, a prompt in chunks, caches with and without pages.
CODE = """
import tempfile
from pathlib import Path

import models
from tests.support.generation import open_generator, random_tokens
from tests.support.tiny_mllama import IMAGE, picture, save_tiny_mllama

with tempfile.TemporaryDirectory() as folder:
    save_tiny_mllama(Path(folder))
    runs = {"performance": [[1, IMAGE, 5, IMAGE, *random_tokens(150)], random_tokens(40)], "accuracy": [[IMAGE, 7]]}
    for precision, prompts in runs.items():
        paged = precision == "performance"
        with open_generator(MESH, folder, users=2, max_seq_len=256, precision=precision, paged=paged, max_images=2) as made:
            made.args.prefill_chunk_size = 128 if paged else None
            pictures = [picture(tiles) for tiles in ((2, 4) if paged else (3,))]
            made.prefill(prompts, [made.args.image_processor(pictures), None][: len(prompts)])
            for _ in range(2):
                made.decode([7, 8][: len(prompts)])
        print(precision, "ran")
"""


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", some_of(LINES, "N300"))
def test_a_model_with_images_runs_in_lockstep(run_on_mock, mesh):
    printed = run_on_mock(mesh, f"MESH = {mesh!r}\n{CODE}", backend="lockstep")
    assert printed.split("\n")[:2] == ["performance ran", "accuracy ran"]
