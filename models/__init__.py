"""Models for Tenstorrent devices.

Importing `models` makes `import ttnn` give the backend that TT_BACKEND chooses. Import `models` before `ttnn`.
"""

import os
import sys

# Must be set before torch is loaded. By default torch's threads spin while they wait for each other. If another process
# holds a core that one of them needs, each of a decode step's hundreds of ops then waits for a whole time slice.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from models.common import backend  # noqa: E402

try:
    backend.install()
except (RuntimeError, ValueError) as unusable:  # a TT_BACKEND or a mesh that cannot be had
    if sys.argv[0] == "-m":  # what Python has there until it has found the module of `python -m models.…`, to be run next
        sys.exit(f"error: {unusable}")
    raise
