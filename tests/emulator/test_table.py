"""Tables that stay in their file."""

import re

import pytest
import torch
import ttnn

from models.common.ttnn_emulator.table import TableInFile

ROWS, WIDTH = 8192, 256


@pytest.fixture
def values():
    return torch.randn(1, 1, ROWS, WIDTH).bfloat16()


@pytest.fixture
def read(tmp_path, values):
    path = tmp_path / "table.tensorbin"
    ttnn.dump_tensor(path, ttnn.from_torch(values))
    return ttnn.load_tensor(path)


def test_an_embedding_reads_the_rows_that_it_looks_up(device, read, values, monkeypatch):
    assert type(read.shards[0]) is TableInFile
    monkeypatch.setattr(TableInFile, "plain", lambda self: pytest.fail("the whole table was read"))
    table = ttnn.to_device(read, device)
    for ids in (torch.randint(ROWS, (2, 37)), torch.tensor([[0, ROWS - 1, 0]]), torch.tensor([5]), torch.empty(1, 0)):
        found = ttnn.embedding(ttnn.from_torch(ids.int(), dtype=ttnn.uint32, device=device), table)
        assert torch.equal(ttnn.to_torch(found), values[0, 0][ids.long()])
    with pytest.raises(IndexError, match=rf"ids \[{ROWS}\] are not in the vocabulary of {ROWS}"):
        ttnn.embedding(ttnn.from_torch(torch.tensor([[3, ROWS]]).int(), dtype=ttnn.uint32, device=device), table)


def test_every_other_op_reads_the_whole_table(device, read, values, tmp_path):
    assert torch.equal(ttnn.to_torch(read), values)
    table = ttnn.to_device(read, device)
    assert torch.equal(ttnn.to_torch(ttnn.to_layout(table, ttnn.TILE_LAYOUT)), values)
    ttnn.copy(ttnn.from_torch(2 * values, device=device), table)
    assert torch.equal(ttnn.to_torch(table), 2 * values) and torch.equal(ttnn.to_torch(read), values)
    ttnn.dump_tensor(tmp_path / "again.tensorbin", read)
    assert torch.equal(ttnn.to_torch(ttnn.load_tensor(tmp_path / "again.tensorbin")), values)
    with pytest.raises(RuntimeError, match="cannot write to a table in a file"):
        read.shards[0].zero_()


def test_the_parts_of_devices_are_tables(mesh, values, tmp_path):
    parts = ttnn.from_torch(values, device=mesh, mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=2))
    ttnn.dump_tensor(tmp_path / "parts.tensorbin", parts)
    small = ttnn.load_tensor(tmp_path / "parts.tensorbin")
    assert not any(type(shard) is TableInFile for shard in small.shards)
    values = values.repeat(1, 1, 1, 8)
    parts = ttnn.from_torch(values, device=mesh, mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=3))
    ttnn.dump_tensor(tmp_path / "parts.tensorbin", parts)
    read = ttnn.load_tensor(tmp_path / "parts.tensorbin", device=mesh)
    assert all(type(shard) is TableInFile for shard in read.shards)
    assert torch.equal(ttnn.to_torch(read, mesh_composer=ttnn.ConcatMeshToTensor(mesh, dim=3)), values)


def test_a_file_that_became_shorter_is_an_error(read, tmp_path):
    path = tmp_path / "table.tensorbin"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 3)
    read.shards[0].rows(torch.tensor([ROWS - 2]))
    with pytest.raises(RuntimeError, match=f"{re.escape(str(path))} cannot be read, or is shorter than when it was opened"):
        read.shards[0].rows(torch.tensor([ROWS - 1]))


def test_a_removed_file_can_still_be_read(read, values, tmp_path):
    (tmp_path / "table.tensorbin").unlink()
    assert torch.equal(read.shards[0].rows(torch.tensor([7])), values[0, 0, [7]])
