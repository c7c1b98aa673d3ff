"""The mock device itself: every mesh opens, ops and collectives are validated, installed files are not changed."""

import json
import multiprocessing
import os

import pytest

from models.common.mesh_names import MESHES
from models.common.vendor.mock import runtime_root

OPEN_AND_COMPUTE = """
import json, sys
import models
import torch, ttnn
from models.common import backend, mesh

name, shape = sys.argv[1], json.loads(sys.argv[2])
with mesh.open_mesh(name, shape) as device:
    replicate = ttnn.ReplicateTensorToMesh(device)
    def put(tensor, dtype):
        return ttnn.from_torch(tensor, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device, mesh_mapper=replicate)
    x = put(torch.randn(1, 1, 32, 512), ttnn.bfloat16)
    y = ttnn.linear(x, put(torch.randn(1, 1, 512, 256), ttnn.bfloat8_b))
    reduced = {}
    for axis, devices in enumerate(tuple(device.shape)):
        if devices > 1:
            reduced[axis] = list(ttnn.all_reduce(y, cluster_axis=axis, topology=ttnn.Topology.Linear).shape)
    grid = device.compute_with_storage_grid_size()
    print(json.dumps({
        "backend": backend.name(),
        "cluster": ttnn.cluster.get_cluster_type().name,
        "shape": list(device.shape),
        "grid": [grid.x, grid.y],
        "linear": list(y.shape),
        "reduced": reduced,
    }))
"""


@pytest.mark.vendor
@pytest.mark.parametrize(
    "name, cluster, shape, axes",
    [
        ("N150", "N150", [1, 1], []),
        ("N300", "N300", [1, 2], ["1"]),
        ("T3K", "T3K", [1, 8], ["1"]),
        ("T3K", "T3K", [2, 4], ["0", "1"]),
        ("TG", "GALAXY", [8, 4], ["0", "1"]),
        ("N150x4", "N150", [1, 4], ["1"]),
        ("P100", "P100", [1, 1], []),
        ("P150", "P150", [1, 1], []),
        ("P150x4", "P150_X4", [1, 4], ["1"]),
    ],
)
def test_every_mesh_opens_and_validates_ops(run_on_mock, name, cluster, shape, axes):
    answer = json.loads(run_on_mock(name, OPEN_AND_COMPUTE, name, json.dumps(shape)).splitlines()[-1])
    assert answer == {
        "backend": "mock",
        "cluster": cluster,
        "shape": shape,
        "grid": list(MESHES[name].chip.grid),
        "linear": [1, 1, 32, 256],
        "reduced": {axis: [1, 1, 32, 256] for axis in axes},
    }


RING = """
import models
import torch, ttnn
from models.common import mesh

ttnn.set_fabric_config(ttnn.FabricConfig.FABRIC_1D_RING)
rows = ttnn.DispatchCoreConfig(ttnn.DispatchCoreType.WORKER, ttnn.DispatchCoreAxis.ROW)
device = ttnn.open_mesh_device(mesh_shape=ttnn.MeshShape(8, 4), dispatch_core_config=rows)
x = ttnn.from_torch(torch.zeros(1, 1, 32, 2048), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
for axis in (0, 1):
    gathered = ttnn.all_gather(x, 3, cluster_axis=axis, topology=ttnn.Topology.Ring)
    scattered = ttnn.reduce_scatter(x, 3, cluster_axis=axis, topology=ttnn.Topology.Ring)
    reduced = ttnn.all_reduce(x, cluster_axis=axis, topology=ttnn.Topology.Ring)
    print(*(tensor.shape[3] for tensor in (gathered, scattered, reduced)))
"""


@pytest.mark.vendor
def test_a_tg_opens_a_ring_and_runs_collectives_on_both_axes(run_on_mock):
    assert run_on_mock("TG", RING).splitlines()[-2:] == ["16384 256 2048", "8192 512 2048"]


WRONG_MATMUL = """
import models
import torch, ttnn
from models.common import mesh

with mesh.open_mesh() as device:
    a, b = (
        ttnn.from_torch(torch.zeros(1, 1, 32, width), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
        for width in (64, 96)
    )
    try:
        ttnn.matmul(a, b)
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.vendor
def test_wrong_op_call_is_refused_with_the_vendors_message(run_on_mock):
    assert "width of the first tensor must be equal to the height of the second tensor" in run_on_mock(
        "N150", WRONG_MATMUL
    )


def package_files():
    root = runtime_root.find_ttnn()
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.mark.vendor
def test_installed_package_is_not_written_to(run_on_mock):
    before = package_files()
    run_on_mock("N150", OPEN_AND_COMPUTE, "N150", "[1, 1]")
    assert package_files() == before


def prepare_into(folder):
    runtime_root.GENERATED = folder
    return os.getpid(), runtime_root.prepare("T3K")


@pytest.mark.vendor
def test_processes_that_start_together_share_one_whole_runtime_root(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        answers = pool.map(prepare_into, [tmp_path] * 8, chunksize=1)
    # Each process has its own kernel cache, which stays the same at each call.
    caches = {(process, environment["TT_METAL_CACHE"]) for process, environment in answers}
    assert len(caches) == len({process for process, _ in caches}) == len({cache for _, cache in caches})
    environments = [environment | {"TT_METAL_CACHE": answers[0][1]["TT_METAL_CACHE"]} for _, environment in answers]
    assert all(environment == environments[0] for environment in environments)
    for variable in ("TT_METAL_MOCK_CLUSTER_DESC_PATH", "TT_METAL_RUNTIME_ROOT", "TT_METAL_CACHE"):
        assert os.path.exists(environments[0][variable])
    (home,) = tmp_path.iterdir()
    assert sorted(path.name for path in home.iterdir()) == ["T3K.yaml", "kernels", "logs", "runtime"]


def test_log_level_that_the_user_set_is_kept(tmp_path, monkeypatch, fake_package):
    monkeypatch.setenv("TT_METAL_LOGGER_LEVEL", "info")
    assert runtime_root.prepare("N150")["TT_METAL_LOGGER_LEVEL"] == "info"


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A stand-in for the installed package, with its own kernel compiler."""
    package = tmp_path / "ttnn"
    compiler = package / "runtime" / "sfpi" / "compiler" / "bin" / "riscv-tt-elf-g++"
    compiler.parent.mkdir(parents=True)
    compiler.write_text("the real one")
    (package / "tt_metal").mkdir()
    (package / "tt_metal" / "sfpi-version").write_text("sfpi_version='7.1.0'\nsfpi_build='3'\n")
    monkeypatch.setattr(runtime_root, "find_ttnn", lambda: package)
    monkeypatch.setattr(runtime_root, "GENERATED", tmp_path / "generated")
    return package


def test_real_kernel_compiler_is_used_where_there_is_one(fake_package):
    root = runtime_root.prepare("N150")["TT_METAL_RUNTIME_ROOT"]
    with open(os.path.join(root, "runtime", "sfpi", "compiler", "bin", "riscv-tt-elf-g++")) as compiler:
        assert compiler.read() == "the real one"


def test_missing_binutils_are_named_by_their_package(fake_package, monkeypatch):
    monkeypatch.setattr(runtime_root, "find_toolchain", lambda package: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(runtime_root.MockUnavailable, match="binutils-riscv64-unknown-elf"):
        runtime_root.prepare("N150")


def test_missing_ttnn_is_named(monkeypatch):
    monkeypatch.setattr(runtime_root, "find_ttnn", lambda: None)
    with pytest.raises(runtime_root.MockUnavailable, match="ttnn .*3.10 and 3.12"):
        runtime_root.prepare("N150")


def test_folder_that_cannot_be_written_is_named(fake_package, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(runtime_root, "GENERATED", tmp_path / "file")
    with pytest.raises(runtime_root.MockUnavailable, match=f"cannot be made in {tmp_path / 'file'}"):
        runtime_root.prepare("N150")


def test_path_with_blanks_is_refused(fake_package, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_root, "GENERATED", tmp_path / "a b")
    with pytest.raises(runtime_root.MockUnavailable, match="path with blanks: .*a b"):
        runtime_root.prepare("N150")


@pytest.mark.vendor
def test_making_the_runtime_root_leaves_the_order_of_exit_handlers(run_on_mock, tmp_path):
    """A finalizer that stops a child process runs before multiprocessing waits for the child, as vLLM relies on."""
    code = """
import sys
from pathlib import Path
from models.common.vendor.mock import runtime_root

runtime_root._build_once(Path(sys.argv[1]), Path.mkdir)
import multiprocessing, time, weakref

child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
child.start()
weakref.finalize(child, child.terminate)
"""
    run_on_mock("N150", code, str(tmp_path / "made"))
    assert (tmp_path / "made").is_dir()
