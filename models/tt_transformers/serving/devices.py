"""Data parallel on our own platform: each of vLLM's engines takes a group of the mesh's devices."""

import os
from contextlib import contextmanager

from models.common import backend
from models.common.mesh import mesh_name_from_environment, open_mesh
from models.common.mesh_names import MESH_SHAPES, MESHES, mesh_name_of
from models.tt_transformers.tt.placement import create_submeshes, group_shape


def check_groups(groups: int) -> None:
    """Raises ValueError if the mesh of the environment cannot be cut into groups that are meshes with a name."""
    if groups == 1:
        return
    if backend.name() not in ("emulator", "mock"):
        raise ValueError(f"data_parallel_size {groups} on backend {backend.name()}: install the vendor's vLLM plugin")
    works = [str(number) for number in range(1, groups) if _group_name(number) is not None]
    if _group_name(groups) is None:
        raise ValueError(
            f"data_parallel_size {groups}: {mesh_name_from_environment()} has no such groups; numbers that work: {', '.join(works)}"
        )


def _group_name(groups: int) -> str | None:
    name = mesh_name_from_environment()
    try:
        shape = group_shape(MESH_SHAPES[name], groups)
    except ValueError:
        return None
    group = mesh_name_of(shape, MESHES[name].chip)
    return group if group in MESHES else None


@contextmanager
def open_group(rank: int, groups: int):
    """Opens the devices of group `rank` of the mesh of the environment, and yields their mesh. From then on this process
    sees no others: MESH_DEVICE and TT_VISIBLE_DEVICES name them."""
    if groups > 1:
        with open_mesh() as whole:
            devices = create_submeshes(whole, groups)[rank].get_device_ids()
        os.environ.pop("FAKE_DEVICE", None)
        os.environ.update(MESH_DEVICE=_group_name(groups), TT_VISIBLE_DEVICES=",".join(map(str, devices)))
    with open_mesh() as mesh_device:
        yield mesh_device
