"""Tensors: conversion from and to torch, their facts, and files."""

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.common.ttnn_emulator.device import shape_only


@pytest.mark.parametrize(
    "torch_dtype, dtype",
    [
        (torch.bfloat16, ttnn.bfloat16),
        (torch.float32, ttnn.float32),
        (torch.int32, ttnn.int32),
        (torch.int64, ttnn.uint32),
        (torch.int16, ttnn.uint16),
        (torch.uint8, ttnn.uint8),
    ],
)
def test_torch_dtype_chooses_the_dtype(torch_dtype, dtype):
    assert ttnn.from_torch(torch.ones(2, 2, dtype=torch_dtype)).dtype is dtype


def test_values_come_back(device):
    values = torch.randn(2, 3, 5, 70)
    tensor = ttnn.from_torch(values, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
    assert torch.equal(ttnn.to_torch(tensor), values.bfloat16())
    assert tensor.shape == [2, 3, 5, 70] and tensor.padded_shape == [2, 3, 32, 96]
    assert tensor.volume() == 2 * 3 * 32 * 96 and tensor.logical_volume() == values.numel()


def test_unsigned_values_wrap_as_on_the_card():
    values = torch.tensor([[-1, 7, 70000]], dtype=torch.int32)
    assert ttnn.to_torch(ttnn.from_torch(values, dtype=ttnn.uint32)).tolist() == [[2**32 - 1, 7, 70000]]
    assert ttnn.to_torch(ttnn.from_torch(values, dtype=ttnn.uint16)).tolist() == [[65535, 7, 70000 - 65536]]


def test_block_float_is_rounded_and_comes_back_as_float32():
    values = torch.tensor([[1.7, 2.5], [3.0, -1.0]])
    back = ttnn.to_torch(ttnn.from_torch(values, dtype=ttnn.bfloat4_b))
    assert back.dtype is torch.float32 and back.tolist() == [[1.5, 2.5], [3.0, -1.0]]


def test_changing_the_torch_tensor_does_not_change_the_tensor(device):
    values = torch.zeros(32, 32, dtype=torch.bfloat16)
    tensor = ttnn.from_torch(values, layout=ttnn.TILE_LAYOUT, device=device)
    values.fill_(5)
    back = ttnn.to_torch(tensor)
    back.fill_(7)
    assert ttnn.to_torch(tensor).abs().max() == 0


def test_shape_is_a_tuple_that_cannot_be_sliced():
    shape = ttnn.Shape([1, 2, 3])
    assert shape == (1, 2, 3) and shape == [1, 2, 3] and shape[-1] == 3 and shape.rank == 3
    assert shape.to_rank(4) == [1, 1, 2, 3] and shape.to_rank(2) == [2, 3]
    with pytest.raises(TypeError, match="slice"):
        shape[1:]
    with pytest.raises(RuntimeError, match="rank-1"):
        shape.to_rank(1)


@pytest.mark.parametrize("dtype", [ttnn.bfloat16, ttnn.bfloat8_b, ttnn.float32, ttnn.int32])
def test_files_keep_tensors(tmp_path, mesh, dtype):
    values = torch.randint(-4, 4, (1, 1, 32, 256)).float()
    host = ttnn.from_torch(
        values, dtype=dtype, layout=ttnn.TILE_LAYOUT, mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=3)
    )
    ttnn.dump_tensor(tmp_path / "a.tensorbin", host)
    loaded = ttnn.load_tensor(tmp_path / "a.tensorbin", device=mesh)
    assert (loaded.dtype, loaded.layout, loaded.shape) == (dtype, ttnn.TILE_LAYOUT, (1, 1, 32, 32))
    joined = ttnn.to_torch(loaded, mesh_composer=ttnn.ConcatMeshToTensor(mesh, dim=3))
    assert torch.equal(joined.float(), values)


def test_replicated_file_holds_the_values_once(tmp_path, mesh):
    values = torch.randn(256, 256)
    ttnn.dump_tensor(tmp_path / "a.tensorbin", ttnn.from_torch(values, mesh_mapper=ttnn.ReplicateTensorToMesh(mesh)))
    assert (tmp_path / "a.tensorbin").stat().st_size < 1.1 * values.numel() * 4


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "a.tensorbin"
    ttnn.dump_tensor(path, ttnn.from_torch(torch.randn(64, 64)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RuntimeError, match="a.tensorbin"):
        ttnn.load_tensor(path)


def test_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"shard_0": torch.ones(2)}, tmp_path / "a.tensorbin")
    with pytest.raises(RuntimeError, match="not a tensor file of the emulator"):
        ttnn.load_tensor(tmp_path / "a.tensorbin")


def test_shape_only_mesh_has_no_values_but_counts_memory():
    with shape_only(), open_mesh("N300") as device:
        host = ttnn.from_torch(torch.empty(1, 1, 4096, 32064, device="meta"), dtype=ttnn.bfloat8_b)
        weight = ttnn.to_device(host, device)
        x = ttnn.allocate_tensor_on_device(ttnn.Shape([1, 1, 32, 4096]), ttnn.bfloat16, ttnn.TILE_LAYOUT, device)
        y = ttnn.all_reduce(ttnn.linear(x, weight), cluster_axis=1)
        assert y.shape == [1, 1, 32, 32064] and all(shard.is_meta for shard in y.shards)
        used = ttnn.get_memory_view(device, ttnn.BufferType.DRAM).total_bytes_allocated_per_bank
        assert used * 12 >= 4096 * 32064 * 1088 // 1024


def test_a_transposed_weight_is_stored_and_read_back_as_it_lies_in_memory(tmp_path):
    weight = torch.randn(64, 96).bfloat16()
    host = ttnn.from_torch(weight.t(), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT)
    ttnn.dump_tensor(tmp_path / "w.tensorbin", host)
    read = ttnn.load_tensor(tmp_path / "w.tensorbin")
    assert torch.equal(ttnn.to_torch(read), ttnn.to_torch(host))
    assert read.shards[0].mT.is_contiguous() and not read.shards[0].is_contiguous()
