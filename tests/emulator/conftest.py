"""Meshes for the emulator's tests."""

import pytest

from models.common.mesh import open_mesh


@pytest.fixture
def device():
    """One chip."""
    with open_mesh("N150", trace_region_size=0) as mesh:
        yield mesh


@pytest.fixture
def mesh():
    """Eight chips in a row."""
    with open_mesh("T3K", trace_region_size=0) as mesh:
        yield mesh


@pytest.fixture
def grid():
    """Two rows of four chips."""
    with open_mesh("T3K", shape=(2, 4), trace_region_size=0) as mesh:
        yield mesh
