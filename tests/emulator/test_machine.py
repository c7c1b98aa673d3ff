"""What a program that opens the mesh itself, such as vLLM's plugin, asks about the emulated machine."""

import pytest
import ttnn

from models.common.mesh import open_mesh


@pytest.mark.parametrize(
    "mesh, kind, devices",
    [(None, "N150", 1), ("N300", "N300", 2), ("N150x4", "N150", 4), ("TG", "GALAXY", 32), ("P150", "P150", 1), ("P150x4", "P150_X4", 4)],
)
def test_the_machine_is_the_one_that_mesh_device_names(monkeypatch, mesh, kind, devices):
    monkeypatch.delenv("FAKE_DEVICE", raising=False)
    monkeypatch.delenv("MESH_DEVICE", raising=False)
    if mesh is not None:
        monkeypatch.setenv("MESH_DEVICE", mesh)
    assert ttnn.cluster.get_cluster_type() is ttnn.cluster.ClusterType[kind]
    assert ttnn.get_num_devices() == devices and ttnn.get_device_ids() == list(range(devices))
    assert not ttnn.using_distributed_env()


def test_a_process_sees_the_devices_that_tt_visible_devices_names(monkeypatch):
    monkeypatch.setenv("MESH_DEVICE", "T3K")
    monkeypatch.setenv("TT_VISIBLE_DEVICES", "6, 7")
    assert ttnn.get_num_devices() == 2 and ttnn.get_device_ids() == [0, 1]
    with open_mesh("N300") as mesh_device:
        assert mesh_device.get_num_devices() == 2
    with pytest.raises(ValueError, match="Mesh T3K needs 8 devices, and there are 2"):
        with open_mesh():
            pass
    with pytest.raises(RuntimeError, match="has 4 devices, TT_VISIBLE_DEVICES leaves 2"):
        ttnn.open_mesh_device(ttnn.MeshShape(1, 4))


@pytest.mark.parametrize("given", ["", "a", "0,,1", "1,1", "-1"])
def test_visible_devices_that_are_not_different_numbers_are_refused(monkeypatch, given):
    monkeypatch.setenv("TT_VISIBLE_DEVICES", given)
    with pytest.raises(ValueError, match=f"TT_VISIBLE_DEVICES={given!r}: expected different numbers of devices"):
        ttnn.get_num_devices()


def test_a_default_device_is_kept_until_it_is_closed():
    assert ttnn.GetDefaultDevice() is None
    mesh_device = ttnn.open_mesh_device(ttnn.MeshShape(1, 1))
    ttnn.SetDefaultDevice(mesh_device)
    assert ttnn.GetDefaultDevice() is mesh_device
    ttnn.ReadDeviceProfiler(mesh_device)
    ttnn.close_mesh_device(mesh_device)
    assert ttnn.GetDefaultDevice() is None


def test_a_fabric_takes_a_reliability_mode():
    ttnn.set_fabric_config(ttnn.FabricConfig.FABRIC_1D, ttnn.FabricReliabilityMode.RELAXED_INIT)
    assert ttnn.get_fabric_config() is ttnn.FabricConfig.FABRIC_1D
    ttnn.set_fabric_config(ttnn.FabricConfig.DISABLED)
