"""The command `repack_weights_70b`; its code is in `tools/repack_weights.py`."""

import sys
from pathlib import Path

if not __package__:
    # Run by its path: Python then looks for modules in this folder, and not in the project's.
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import models  # noqa: F401
from models.common import console
from models.tt_transformers.tools.repack_weights import repack_70b

if __name__ == "__main__":
    console.run(repack_70b)
