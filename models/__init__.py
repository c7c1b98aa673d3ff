"""Models for Tenstorrent devices.

Importing `models` makes `import ttnn` give the backend that TT_BACKEND chooses, so it has to come before
`ttnn` is imported.
"""

import os

# Before torch is loaded: by default its threads spin while they wait for each other, and where another process has
# the core that one of them needs, each of a decode step's hundreds of ops waits so for a time slice.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from models.common import backend  # noqa: E402

backend.install()
