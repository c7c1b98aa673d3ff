"""Meshes for the emulator's tests, and a way to run code on the vendor's mock device."""

import pytest
import ttnn

from tests.vendor.conftest import run_on_mock  # noqa: F401


@pytest.fixture
def device():
    """One chip."""
    mesh = ttnn.open_mesh_device(ttnn.MeshShape(1, 1))
    yield mesh
    ttnn.close_mesh_device(mesh)


@pytest.fixture
def mesh():
    """Eight chips in a row, as in a T3K."""
    mesh = ttnn.open_mesh_device(ttnn.MeshShape(1, 8))
    yield mesh
    ttnn.close_mesh_device(mesh)


@pytest.fixture
def grid():
    """Two rows of four chips."""
    mesh = ttnn.open_mesh_device(ttnn.MeshShape(2, 4))
    yield mesh
    ttnn.close_mesh_device(mesh)
