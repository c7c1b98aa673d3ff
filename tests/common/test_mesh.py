from types import SimpleNamespace

import pytest

from models.common import mesh
from models.common.chip import WORMHOLE
from models.common.mesh_names import MESHES, mesh_name_of, requested_mesh_name

ETH = mesh.ETH_DISPATCH_YAML


@pytest.fixture(autouse=True)
def no_mesh_requested(monkeypatch):
    for variable in ("MESH_DEVICE", "FAKE_DEVICE", "WH_ARCH_YAML"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("variable", ["MESH_DEVICE", "FAKE_DEVICE"])
@pytest.mark.parametrize("name", MESHES)
def test_either_variable_names_the_mesh(monkeypatch, variable, name):
    monkeypatch.setenv(variable, name)
    assert requested_mesh_name() == name


@pytest.mark.parametrize("name", ["n150", "P300", "", "8"])
def test_unknown_mesh_is_refused_and_names_the_known_ones(monkeypatch, name):
    monkeypatch.setenv("MESH_DEVICE", name)
    with pytest.raises(ValueError, match="MESH_DEVICE: .*known are N150, N300, N150x4, T3K, TG, P100, P150, P150x4"):
        requested_mesh_name()


def test_both_variables_may_be_set_alike(monkeypatch):
    monkeypatch.setenv("MESH_DEVICE", "T3K")
    monkeypatch.setenv("FAKE_DEVICE", "T3K")
    assert requested_mesh_name() == "T3K"


def test_variables_that_differ_are_refused(monkeypatch):
    monkeypatch.setenv("MESH_DEVICE", "T3K")
    monkeypatch.setenv("FAKE_DEVICE", "N300")
    with pytest.raises(ValueError, match="MESH_DEVICE=T3K and FAKE_DEVICE=N300 differ"):
        requested_mesh_name()


@pytest.mark.parametrize("backend_name", ["emulator", "mock", "lockstep"])
def test_default_mesh_is_n150_without_a_card(monkeypatch, backend_name):
    monkeypatch.setattr(mesh.backend, "name", lambda: backend_name)
    assert mesh.mesh_name_from_environment() == "N150"


@pytest.mark.parametrize(
    "backend_name, machine, wh_arch_yaml, kind",
    [
        ("silicon", "N150", None, "worker"),
        ("silicon", "N150", ETH, "eth"),
        ("silicon", "N300", None, "eth"),
        ("silicon", "N300", ETH, "eth"),
        ("silicon", "T3K", None, "eth"),
        ("silicon", "TG", None, "worker"),
        ("simulator", "T3K", None, "eth"),
        ("mock", "T3K", ETH, "worker"),
        ("lockstep", "N300", None, "worker"),
        ("emulator", "N300", None, "worker"),
    ],
)
def test_where_commands_are_dispatched_from(backend_name, machine, wh_arch_yaml, kind):
    assert mesh.dispatch_core_kind(backend_name, machine, wh_arch_yaml) == kind


@pytest.mark.parametrize("backend_name", ["silicon", "mock", "emulator"])
def test_unknown_wh_arch_yaml_is_refused(backend_name):
    with pytest.raises(ValueError, match=f"'other.yaml' is not supported.*{ETH}"):
        mesh.dispatch_core_kind(backend_name, "N150", "other.yaml")


def test_tg_refuses_ethernet_dispatch():
    with pytest.raises(ValueError, match="TG dispatches from worker cores"):
        mesh.dispatch_core_kind("silicon", "TG", ETH)


def test_another_shape_needs_the_same_number_of_devices():
    assert mesh.mesh_shape("T3K", (2, 4)) == (2, 4)
    for wrong in ((2, 2), (8,), (-1, -8), (2, 2, 2)):
        with pytest.raises(ValueError, match="T3K, which has 8 devices"):
            mesh.mesh_shape("T3K", wrong)


def test_mesh_larger_than_the_machine_is_refused_with_both_numbers():
    mesh.check_devices_exist("T3K", 8)
    with pytest.raises(ValueError, match="T3K needs 8 devices, and there are 2"):
        mesh.check_devices_exist("T3K", 2)


class FakeTtnn:
    """A card's `ttnn` for the given cluster type. It only records the calls."""

    def __init__(self, cluster_type, device_count):
        self.calls = []
        self.cluster = SimpleNamespace(get_cluster_type=lambda: SimpleNamespace(name=cluster_type))
        self.get_num_devices = lambda: device_count
        self.FabricConfig = SimpleNamespace(FABRIC_1D="1d", DISABLED="disabled")
        self.DispatchCoreType = SimpleNamespace(ETH="eth", WORKER="worker")
        self.DispatchCoreAxis = SimpleNamespace(ROW="row")
        self.DispatchCoreConfig = lambda kind, axis=None: kind
        self.MeshShape = lambda rows, cols: (rows, cols)

    def set_fabric_config(self, config):
        self.calls.append(("fabric", config))

    def open_mesh_device(self, mesh_shape, dispatch_core_config, **options):
        self.calls.append(("open", mesh_shape, dispatch_core_config))
        return SimpleNamespace(shape=mesh_shape)

    def close_mesh_device(self, mesh_device):
        self.calls.append(("close",))


@pytest.fixture
def card(monkeypatch):
    def insert(cluster_type, device_count):
        fake = FakeTtnn(cluster_type, device_count)
        monkeypatch.setattr(mesh, "ttnn", fake)
        monkeypatch.setattr(mesh.backend, "name", lambda: "silicon")
        return fake

    return insert


def test_mesh_and_fabric_are_closed_when_the_body_fails(card):
    fake = card("N300", 2)
    with pytest.raises(KeyError):
        with mesh.open_mesh("N300"):
            raise KeyError
    assert fake.calls == [("fabric", "1d"), ("open", (1, 2), "eth"), ("close",), ("fabric", "disabled")]


def test_one_device_has_no_fabric(card):
    fake = card("N150", 1)
    with mesh.open_mesh():
        pass
    assert fake.calls == [("open", (1, 1), "worker"), ("close",)]


@pytest.mark.parametrize(
    "cluster_type, device_count, name", [("N150", 1, "N150"), ("N300", 2, "N300"), ("T3K", 8, "T3K"), ("GALAXY", 32, "TG")]
)
def test_silicon_defaults_to_all_devices(card, cluster_type, device_count, name):
    card(cluster_type, device_count)
    assert mesh.mesh_name_from_environment() == name
    with mesh.open_mesh() as mesh_device:
        assert mesh_name_of(mesh_device.shape, WORMHOLE) == name


def test_dispatch_follows_the_machine_where_fewer_devices_are_opened(card, monkeypatch):
    fake = card("T3K", 8)
    monkeypatch.setenv("MESH_DEVICE", "N150")
    with mesh.open_mesh():
        pass
    assert fake.calls[0] == ("open", (1, 1), "eth")


def test_unsupported_machine_is_refused(card):
    card("P150", 1)
    with pytest.raises(ValueError, match="type P150 are not supported; supported are N150, N300, T3K, GALAXY"):
        mesh.mesh_name_from_environment()


@pytest.mark.parametrize(
    "name, shape", [("N150", None), ("N300", None), ("T3K", None), ("T3K", (2, 4)), ("TG", None)], ids=str
)
def test_every_mesh_opens_on_the_emulator_with_an_8x8_grid(name, shape):
    with mesh.open_mesh(name, shape) as mesh_device:
        assert tuple(mesh_device.shape) == (shape or mesh.MESH_SHAPES[name])
        grid = mesh_device.compute_with_storage_grid_size()
        assert (grid.x, grid.y) == (8, 8)
        assert mesh_name_of(mesh_device.shape, WORMHOLE) == name


@pytest.mark.parametrize("name", MESHES)
def test_a_meshs_name_follows_from_its_shape_and_its_chip(name):
    assert mesh_name_of(MESHES[name].shape, MESHES[name].chip) == name
    assert MESHES[name].arch == ("blackhole" if name.startswith("P") else "wormhole_b0")
