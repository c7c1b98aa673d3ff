import errno
import json
import os
import resource
import socket
import subprocess
import sys
import textwrap
import time
import zlib

import pytest
import torch

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.common import backend
from models.common.mesh import open_mesh
from models.tt_transformers.tt.checkpoints.cache import Conversion, WeightCache, describe_mapper
from models.tt_transformers.tt.checkpoints.location import PROJECT

IDENTITY = {"model": "a", "files": [["model.safetensors", 10, 1]]}
WEIGHT = torch.randn(1, 1, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.fixture
def mesh_device():
    with open_mesh("N150") as device:
        yield device


class Use:
    """One process's use of a cache, which counts how often weights are converted."""

    def __init__(self, directory, mesh_device, identity=IDENTITY):
        self.cache, self.mesh_device, self.made = WeightCache(directory, identity), mesh_device, []

    def values(self, name="layers.0.wq", weight=WEIGHT, dtype=ttnn.bfloat8_b, recipe=None):
        host = self.host_tensor(name, weight, dtype, ttnn.ReplicateTensorToMesh(self.mesh_device), recipe)
        return ttnn.to_torch(ttnn.get_device_tensors(host)[0]).float()

    def host_tensor(self, name, weight, dtype, mapper, recipe=None):
        conversion = Conversion(name, dtype, ttnn.TILE_LAYOUT, tuple(self.mesh_device.shape), mapper, recipe or {})
        host = self.cache.load(conversion)
        if host is None:
            self.made.append(name)
            host = self.cache.convert(conversion, weight)
        return host


@pytest.fixture
def use(tmp_path, mesh_device):
    return lambda **options: Use(tmp_path / "cache", mesh_device, **options)


def uncached(mesh_device, **options):
    return Use(None, mesh_device).values(**options)


def data_file(tmp_path):
    (file,) = (tmp_path / "cache").glob("*.tensorbin")
    return file


@pytest.mark.parametrize("dtype", [ttnn.bfloat16, ttnn.bfloat8_b, ttnn.bfloat4_b], ids=lambda dtype: dtype.name)
def test_a_second_use_gives_the_same_values_without_converting(use, mesh_device, warnings, dtype):
    first, second = use(), use()
    assert torch.equal(first.values(dtype=dtype), uncached(mesh_device, dtype=dtype))
    assert torch.equal(second.values(dtype=dtype), first.values(dtype=dtype))
    assert first.made == ["layers.0.wq"] and second.made == [] and warnings == []


@pytest.mark.parametrize("dim", [None, 2, 3])
def test_every_device_of_a_mesh_gets_its_part_back(tmp_path, dim):
    with open_mesh("N300") as mesh_device:
        shard, replicate = ttnn.ShardTensorToMesh, ttnn.ReplicateTensorToMesh
        mapper = replicate(mesh_device) if dim is None else shard(mesh_device, dim=dim)
        weight = WEIGHT.bfloat16().float()
        expected = [weight, weight] if dim is None else weight.chunk(2, dim)
        for made in (["w"], []):
            use = Use(tmp_path, mesh_device)
            host = use.host_tensor("w", WEIGHT, ttnn.bfloat16, mapper)
            parts = [ttnn.to_torch(part).float() for part in ttnn.get_device_tensors(ttnn.to_device(host, mesh_device))]
            assert all(torch.equal(*pair) for pair in zip(parts, expected, strict=True)) and use.made == made


@pytest.mark.vendor
def test_the_vendors_tensors_are_cached_as_well():
    """Runs the tests of this file that need one device and no values of device tensors on the vendor's package."""
    selected = "second_use or side_by_side or damaged or no_tensor or killed or told_apart"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", selected]
    environment = {**os.environ, "TT_BACKEND": "mock", "MESH_DEVICE": "N150"}
    environment.pop("FAKE_DEVICE", None)
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_number_formats_lie_side_by_side(use, warnings):
    use().values(dtype=ttnn.bfloat8_b)
    use().values(dtype=ttnn.bfloat4_b)
    later = use()
    assert not torch.equal(later.values(dtype=ttnn.bfloat8_b), later.values(dtype=ttnn.bfloat4_b))
    assert later.made == [] and warnings == []


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def spoil_description(file):
    file.with_suffix(".json").write_text("{")


def empty_description(file):
    file.with_suffix(".json").write_text("{}")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, spoil_description, empty_description])
def test_a_damaged_entry_is_rebuilt_with_a_warning(use, tmp_path, warnings, damage):
    reference = use().values()
    damage(data_file(tmp_path))
    rebuilding, later = use(), use()
    assert torch.equal(rebuilding.values(), reference)
    assert len(rebuilding.made) == 1 and len(warnings) == 1 and "rebuilt" in warnings[0]
    assert torch.equal(later.values(), reference) and later.made == []


def test_an_entry_without_its_tensor_is_rebuilt(use, tmp_path):
    reference = use().values()
    data_file(tmp_path).unlink()
    again = use()
    assert torch.equal(again.values(), reference) and len(again.made) == 1


def test_a_file_that_is_whole_but_no_tensor_is_rebuilt(use, tmp_path, warnings):
    reference = use().values()
    file = data_file(tmp_path)
    file.write_bytes(b"not a tensor")
    description = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps({**description, "bytes": 12, "crc32": zlib.crc32(b"not a tensor")}))
    assert torch.equal(use().values(), reference)
    assert len(warnings) == 1


def test_entries_of_another_model_are_not_used_and_warned_of_once(use, mesh_device, warnings):
    for name in ("a", "b"):
        use().values(name)
    other = use(identity={**IDENTITY, "files": [["model.safetensors", 10, 2]]})
    for name in ("a", "b"):
        assert torch.equal(other.values(name, weight=-WEIGHT), uncached(mesh_device, weight=-WEIGHT))
    assert other.made == ["a", "b"] and len(warnings) == 1 and "another model" in warnings[0]


def test_a_directory_that_cannot_be_made_costs_one_warning(tmp_path, mesh_device, warnings):
    (tmp_path / "file").write_text("")
    use = Use(tmp_path / "file" / "cache", mesh_device)
    assert torch.equal(use.values("a"), uncached(mesh_device)) and torch.equal(use.values("b"), uncached(mesh_device))
    assert len(warnings) == 1 and "cannot write" in warnings[0]


def test_a_directory_without_write_access_is_still_read(use, monkeypatch, warnings):
    reference = use().values("a")

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    reader = use()
    assert torch.equal(reader.values("a"), reference) and reader.made == []
    assert torch.equal(reader.values("b"), reference) and reader.made == ["b"]
    assert len(warnings) == 1 and "Permission denied" in warnings[0]


def test_a_full_disk_costs_one_warning_and_leaves_nothing(use, tmp_path, mesh_device, warnings):
    weight = torch.ones(1, 1, 256, 256)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = use()
    # Real writes that fail, because each writer (the emulator's, the vendor's) has errors of its own.
    resource.setrlimit(resource.RLIMIT_FSIZE, (32768, limits[1]))
    try:
        values = [full.values(name, weight=weight) for name in ("a", "b")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all(torch.equal(value, uncached(mesh_device, weight=weight)) for value in values)
    assert len(warnings) == 1 and "cannot write" in warnings[0] and "too large" in warnings[0]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [".gitignore"]


def test_a_cache_inside_a_repository_is_ignored_by_git(use, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    use().values()
    status = subprocess.run(
        ["git", "-C", tmp_path, "status", "--porcelain", "--untracked-files=all"], check=True, capture_output=True
    )
    assert status.stdout == b""


def temporary(tmp_path, host, pid, age_seconds=0):
    folder = tmp_path / "cache" / f".tmp-{host}-{pid}-abc"
    folder.mkdir(parents=True)
    (folder / "part.tensorbin").write_bytes(b"part")
    then = time.time() - age_seconds
    os.utime(folder, (then, then))
    return folder


def test_leftovers_of_killed_processes_are_removed_and_others_kept(use, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    dead, alive = temporary(tmp_path, host, ended.pid), temporary(tmp_path, host, os.getpid())
    old, recent = temporary(tmp_path, "elsewhere", 1, age_seconds=2 * 86400), temporary(tmp_path, "elsewhere", 2)
    use()
    assert [folder.exists() for folder in (dead, alive, old, recent)] == [False, True, False, True]


BUILD = """
    import os, signal, sys
    import models, torch, ttnn
    from models.common.mesh import open_mesh
    from models.tt_transformers.tests.test_weight_cache import Use
    from pathlib import Path
    directory, kill_after = Path(sys.argv[1]), int(sys.argv[2])
    dump, calls = ttnn.dump_tensor, []
    def dump_until_killed(file_name, tensor):
        calls.append(file_name)
        if len(calls) == kill_after:
            Path(file_name).write_bytes(b"part")
            os.kill(os.getpid(), signal.SIGKILL)
        dump(file_name, tensor)
    ttnn.dump_tensor = dump_until_killed
    with open_mesh("N150") as device:
        use = Use(directory, device)
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(30):
            use.values(f"layers.{i}")
"""


def build(directory, kill_after=0):
    command = [sys.executable, "-c", textwrap.dedent(BUILD), str(directory), str(kill_after)]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while "ready" not in (line := process.stdout.readline()):
        assert line, "the process ended before it was ready"
    return process


def test_two_processes_may_build_at_once(use, tmp_path, warnings):
    builders = [build(tmp_path / "cache") for _ in range(2)]
    for builder in builders:
        builder.communicate("go\n")
        assert builder.returncode == 0
    reader = use()
    reference = [reader.values(f"layers.{i}") for i in range(30)]
    assert all(torch.equal(values, reference[0]) for values in reference)
    assert reader.made == [] and warnings == []


def test_a_process_killed_while_it_writes_leaves_a_cache_that_works(use, tmp_path, warnings):
    builder = build(tmp_path / "cache", kill_after=3)
    builder.communicate("go\n")
    assert builder.returncode == -9
    assert len(list((tmp_path / "cache").glob(".tmp-*"))) == 1
    later = use()
    assert list((tmp_path / "cache").glob(".tmp-*")) == []
    for i in range(4):
        later.values(f"layers.{i}")
    assert later.made == ["layers.2", "layers.3"] and warnings == []


def test_a_weight_of_another_recipe_is_rebuilt(use):
    """The recipe is what the conversion depends on besides the checkpoint, such as padded widths."""
    for recipe, made in (({"n": 64}, ["w"]), ({"n": 64}, []), ({"n": 96}, ["w"]), ({"heads": [[0, None]]}, ["w"])):
        one = use()
        one.values("w", recipe=recipe)
        assert one.made == made


def test_the_emulator_and_the_vendors_package_do_not_replace_each_others_files(use, monkeypatch):
    use().values("w")
    monkeypatch.setattr(backend, "name", lambda: "mock")
    use().values("w")
    monkeypatch.undo()
    again = use()
    again.values("w")
    assert again.made == []
    assert sorted(path.name for path in again.cache.directory.glob("*.tensorbin")) == [
        "w.bfloat8_b.tile.emulator.tensorbin",
        "w.bfloat8_b.tile.ttnn.tensorbin",
    ]


def test_placements_are_told_apart(mesh_device):
    mappers = [None, ttnn.ReplicateTensorToMesh(mesh_device)]
    mappers += [ttnn.ShardTensorToMesh(mesh_device, dim=dim) for dim in (2, 3)]
    assert len({describe_mapper(mapper) for mapper in mappers}) == 4
    assert describe_mapper(ttnn.ShardTensorToMesh(mesh_device, dim=3)) == describe_mapper(mappers[-1])


def test_a_mapper_that_does_not_describe_itself_is_refused():
    with pytest.raises(TypeError, match="does not say how it places"):
        describe_mapper(object())


def test_a_converted_weight_is_read_from_its_file(use, mesh_device, tmp_path):
    host = use().host_tensor("wq", WEIGHT, ttnn.bfloat8_b, ttnn.ReplicateTensorToMesh(mesh_device))
    stored = data_file(tmp_path)
    assert any(line.endswith(f" {stored}\n") for line in open("/proc/self/maps")), "the weight is held in memory"
    assert torch.equal(ttnn.to_torch(ttnn.get_device_tensors(host)[0]).float(), uncached(mesh_device))
