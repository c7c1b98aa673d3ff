"""The devices that each of vLLM's data-parallel engines takes."""

import os

import pytest

from models.tt_transformers.serving.devices import check_groups, open_group


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    # Set first, so that what an engine sets is undone.
    for variable in ("TT_VISIBLE_DEVICES", "FAKE_DEVICE", "MESH_DEVICE"):
        monkeypatch.setenv(variable, "T3K")
    monkeypatch.delenv("TT_VISIBLE_DEVICES")


@pytest.mark.parametrize("mesh, rank, groups, name, devices", [
    ("T3K", 1, 2, "N150x4", "4,5,6,7"), ("T3K", 3, 4, "N300", "6,7"), ("TG", 1, 4, "T3K", "1,5,9,13,17,21,25,29"), ("TG", 5, 32, "N150", "5"),
])  # fmt: skip
def test_an_engine_opens_its_group_and_sees_no_other_device(monkeypatch, mesh, rank, groups, name, devices):
    monkeypatch.setenv("MESH_DEVICE", mesh)
    monkeypatch.setenv("FAKE_DEVICE", mesh)
    check_groups(groups)
    with open_group(rank, groups) as mesh_device:
        assert mesh_device.get_num_devices() == len(devices.split(","))
        assert (os.environ["MESH_DEVICE"], os.environ["TT_VISIBLE_DEVICES"]) == (name, devices)


def test_a_single_engine_has_the_whole_mesh():
    with open_group(0, 1) as mesh_device:
        assert mesh_device.get_num_devices() == 8 and "TT_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("mesh, groups, works", [("T3K", 3, "1, 2"), ("TG", 2, "1"), ("N150", 2, "1")])
def test_groups_that_the_mesh_does_not_have_are_refused_with_those_that_it_has(monkeypatch, mesh, groups, works):
    monkeypatch.setenv("MESH_DEVICE", mesh)
    monkeypatch.setenv("FAKE_DEVICE", mesh)
    with pytest.raises(ValueError, match=f"data_parallel_size {groups}: {mesh} has no such groups; numbers that work: {works}$"):
        check_groups(groups)
