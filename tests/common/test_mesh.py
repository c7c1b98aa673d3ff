import math
from types import SimpleNamespace

import pytest

from models.common import links, mesh
from models.common.chip import P150, WORMHOLE
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


@pytest.mark.parametrize("machine", ["TG", "P100", "P150", "P150x4"])
def test_ethernet_dispatch_is_refused_where_ethernet_cores_do_not_dispatch(machine):
    with pytest.raises(ValueError, match=f"a {machine} dispatches from worker cores"):
        mesh.dispatch_core_kind("silicon", machine, ETH)


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

    def __init__(self, cluster_type, device_count, chip=WORMHOLE):
        self.chip = chip
        self.calls = []
        self.cluster = SimpleNamespace(get_cluster_type=lambda: SimpleNamespace(name=cluster_type))
        self.get_num_devices = lambda: device_count
        self.FabricConfig = SimpleNamespace(FABRIC_1D="1d", FABRIC_1D_RING="ring", DISABLED="disabled")
        self.DispatchCoreType = SimpleNamespace(ETH="eth", WORKER="worker")
        self.DispatchCoreAxis = SimpleNamespace(ROW="row", COL="col")
        self.DispatchCoreConfig = lambda kind, axis=None: kind if axis is None else f"{kind} {axis}"
        self.MeshShape = lambda rows, cols: (rows, cols)

    def set_fabric_config(self, config):
        self.calls.append(("fabric", config))

    def open_mesh_device(self, mesh_shape, dispatch_core_config, **options):
        self.calls.append(("open", mesh_shape, dispatch_core_config))
        return SimpleNamespace(
            shape=mesh_shape,
            arch=lambda: SimpleNamespace(name=self.chip.arch.upper()),
            dram_grid_size=lambda: SimpleNamespace(x=self.chip.dram_banks, y=1),
            get_submeshes=list,
        )

    def close_mesh_device(self, mesh_device):
        self.calls.append(("close",))


@pytest.fixture
def card(monkeypatch):
    def insert(*machine):
        fake = FakeTtnn(*machine)
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


@pytest.mark.parametrize("settings, fabric", [({}, "ring"), ({"LINE_RS": "1"}, "ring"), ({"LINE_AG": "1"}, "1d")])
def test_the_links_of_a_galaxy_are_rings_unless_gathers_ask_for_lines(card, monkeypatch, settings, fabric):
    for name in ("LINE_RS", "LINE_AG", "USE_LINE_AG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fake = card("GALAXY", 32)
    with mesh.open_mesh("TG"):
        pass
    assert fake.calls[0] == ("fabric", fabric)
    assert links.sums_in_line() == bool(settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"LINE_RS": "yes"}, "LINE_RS='yes' is not accepted: 1 for a line, 0 for a ring"),
        ({"LINE_AG": "1", "LINE_RS": "0"}, "LINE_AG=1 opens the fabric as a line, where LINE_RS=0 has no ring"),
        ({"USE_LINE_AG": "{'QKV'}"}, "USE_LINE_AG=.*single all_gathers cannot use a line"),
    ],
)
def test_settings_of_links_that_cannot_be_followed_are_refused(monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        links.sums_in_line()


def test_one_device_has_no_fabric(card):
    fake = card("N150", 1)
    with mesh.open_mesh():
        pass
    assert fake.calls == [("open", (1, 1), "worker row"), ("close",)]


@pytest.mark.parametrize(
    "cluster_type, name",
    [("N150", "N150"), ("N300", "N300"), ("T3K", "T3K"), ("GALAXY", "TG"), ("P100", "P100"), ("P150", "P150"), ("P150_X4", "P150x4"), ("N150", "N150x4")],
)
def test_silicon_defaults_to_all_devices(card, cluster_type, name):
    shape, chip = MESHES[name].shape, MESHES[name].chip
    card(cluster_type, math.prod(shape), chip)
    assert mesh.mesh_name_from_environment() == name
    with mesh.open_mesh() as mesh_device:
        assert mesh_name_of(mesh_device.shape, mesh.chip_of(mesh_device)) == name


def test_a_blackhole_dispatches_from_a_column_of_worker_cores(card):
    fake = card("P150", 1, P150)
    with mesh.open_mesh():
        pass
    assert fake.calls[0] == ("open", (1, 1), "worker col")


def test_a_mesh_of_other_chips_than_the_machine_is_refused_with_both(card):
    card("P150", 1, P150)
    message = "Mesh N150 is of wormhole_b0 chips with 12 DRAM banks, this machine of blackhole chips with 8 DRAM banks"
    with pytest.raises(ValueError, match=message):
        with mesh.open_mesh("N150"):
            pass


def test_dispatch_follows_the_machine_where_fewer_devices_are_opened(card, monkeypatch):
    fake = card("T3K", 8)
    monkeypatch.setenv("MESH_DEVICE", "N150")
    with mesh.open_mesh():
        pass
    assert fake.calls[0] == ("open", (1, 1), "eth")


def test_unsupported_machine_is_refused(card):
    card("P300", 2)
    with pytest.raises(ValueError, match="type P300 are not supported; supported are N150, N300, T3K, GALAXY, P100, P150, P150_X4"):
        mesh.mesh_name_from_environment()


@pytest.mark.parametrize(
    "name, shape", [*((name, None) for name in MESHES), ("T3K", (2, 4))], ids=str
)
def test_every_mesh_opens_on_the_emulator_with_the_grid_of_its_chip(name, shape):
    with mesh.open_mesh(name, shape) as mesh_device:
        assert tuple(mesh_device.shape) == (shape or mesh.MESH_SHAPES[name])
        grid = mesh_device.compute_with_storage_grid_size()
        assert (grid.x, grid.y) == MESHES[name].chip.grid
        assert mesh_name_of(mesh_device.shape, mesh.chip_of(mesh_device)) == name


@pytest.mark.parametrize("name", MESHES)
def test_a_meshs_name_follows_from_its_shape_and_its_chip(name):
    assert mesh_name_of(MESHES[name].shape, MESHES[name].chip) == name
    assert MESHES[name].arch == ("blackhole" if name.startswith("P") else "wormhole_b0")
