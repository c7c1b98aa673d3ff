"""Models for Tenstorrent devices.

Importing `models` makes `import ttnn` give the backend that TT_BACKEND chooses, so it has to come before
`ttnn` is imported.
"""

from models.common import backend

backend.install()
