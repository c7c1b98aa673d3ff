"""What tests of the server share."""

import pytest

from models.tt_transformers.serving.local_server import serving
from models.tt_transformers.serving.plugin import platform
from models.tt_transformers.tt.checkpoints.location import BUNDLED

PLUGIN = platform() is None  # the vendor's plugin serves


@pytest.fixture(scope="module")
def bundled_server(tmp_path_factory):
    """A server of the bundled model, for 16 users of up to 640 tokens."""
    folder = tmp_path_factory.mktemp("server")
    environment = {"HF_MODEL": str(BUNDLED), "TT_CACHE_PATH": str(folder / "cache")}
    with serving(folder / "log", "--max-model-len=640", **environment) as server:
        yield server
