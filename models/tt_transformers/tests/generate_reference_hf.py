"""The command that makes references for `--token_accuracy`; its code is in `measure/make_reference.py`."""

import sys
from pathlib import Path

if not __package__:
    # Run by its path: Python then looks for modules in this folder, and not in the project's.
    sys.path[0] = str(Path(__file__).resolve().parents[3])

try:
    import models  # noqa: F401
except (RuntimeError, ValueError) as unusable:  # a TT_BACKEND or a mesh that cannot be had
    sys.exit(f"error: {unusable}")
from models.common import console
from models.tt_transformers.measure.make_reference import main

if __name__ == "__main__":
    console.run(main)
