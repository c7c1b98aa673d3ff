"""Collectives and mappers: values on a row of eight chips and on two rows of four."""

import pytest
import torch
import ttnn


def put(mesh, values, mapper, dtype=ttnn.bfloat16):
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=mesh, mesh_mapper=mapper)


def parts(tensor):
    return [ttnn.to_torch(part) for part in ttnn.get_device_tensors(tensor)]


def test_all_gather_undoes_a_split(mesh):
    values = torch.randn(1, 1, 32, 768).bfloat16()
    tensor = put(mesh, values, ttnn.ShardTensorToMesh(mesh, dim=3))
    gathered = ttnn.all_gather(tensor, dim=3, cluster_axis=1, topology=ttnn.Topology.Linear)
    assert all(torch.equal(part, values) for part in parts(gathered))


@pytest.mark.parametrize("dtype", [ttnn.bfloat16, ttnn.float32])
def test_all_reduce_adds_in_float32_and_rounds_once(mesh, dtype):
    values = torch.randn(8, 1, 32, 64)
    tensor = put(mesh, values, ttnn.ShardTensorToMesh(mesh, dim=0), dtype)
    held = torch.stack(parts(tensor)).float()
    expected = held[0].clone()
    for part in held[1:]:
        expected += part
    for part in parts(ttnn.all_reduce(tensor, cluster_axis=1)):
        assert torch.equal(part, expected.to(part.dtype))


@pytest.mark.parametrize("dim, scattered_shape", [(3, [1, 8, 32, 64]), (1, [1, 1, 32, 512])])
def test_reduce_scatter_then_all_gather_is_all_reduce(mesh, dim, scattered_shape):
    tensor = put(mesh, torch.randn(8, 8, 32, 512), ttnn.ShardTensorToMesh(mesh, dim=0))
    scattered = ttnn.reduce_scatter(tensor, dim=dim, cluster_axis=1)
    assert scattered.shape == scattered_shape
    gathered = ttnn.all_gather(scattered, dim=dim, cluster_axis=1)
    for part, expected in zip(parts(gathered), parts(ttnn.all_reduce(tensor, cluster_axis=1))):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("axis, groups", [(0, [[0, 4], [1, 5], [2, 6], [3, 7]]), (1, [[0, 1, 2, 3], [4, 5, 6, 7]])])
def test_cluster_axis_joins_rows_or_columns(grid, axis, groups):
    values = torch.arange(8).float().reshape(8, 1, 1).expand(8, 32, 32)
    tensor = put(grid, values, ttnn.ShardTensorToMesh(grid, dim=0))
    sums = [part.float().mean().item() for part in parts(ttnn.all_reduce(tensor, cluster_axis=axis))]
    for group in groups:
        assert [sums[index] for index in group] == [sum(group)] * len(group)
    gathered = parts(ttnn.all_gather(tensor, dim=0, cluster_axis=axis))
    for group in groups:
        assert all(gathered[index][:, 0, 0].tolist() == group for index in group)


def test_2d_mapper_divides_rows_and_columns(grid):
    values = torch.randn(1, 1, 64, 128)
    tensor = put(grid, values, ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(2, 3)), ttnn.float32)
    assert torch.equal(parts(tensor)[6], values[:, :, 32:, 64:96])
    composer = ttnn.ConcatMesh2dToTensor(grid, mesh_shape=(2, 4), dims=(2, 3))
    assert torch.equal(ttnn.to_torch(tensor, mesh_composer=composer), values)


@pytest.mark.parametrize("dtype", [ttnn.bfloat16, ttnn.uint32])
def test_what_a_composer_gives_may_be_written_to(grid, device, dtype):
    """Of replicas, of parts and of a single device: it shares no memory with the tensor."""
    for mesh, shape in ((grid, (2, 4)), (device, (1, 1))):
        tensor = ttnn.from_torch(torch.ones(1, 8, 32, 32), dtype=dtype, layout=ttnn.TILE_LAYOUT, device=mesh)
        composer = ttnn.ConcatMesh2dToTensor(mesh, mesh_shape=shape, dims=(0, 1))
        joined = ttnn.to_torch(tensor, mesh_composer=composer)
        assert joined.shape == (shape[0], 8 * shape[1], 32, 32)
        joined[0, 0] = 2
        assert (joined == 2).sum() == 32 * 32 and all((part.float() == 1).all() for part in parts(tensor))


def test_replicas_are_computed_once(mesh):
    x = put(mesh, torch.randn(32, 32), ttnn.ReplicateTensorToMesh(mesh))
    y = put(mesh, torch.randn(32, 256), ttnn.ShardTensorToMesh(mesh, dim=1))
    assert len({id(shard) for shard in ttnn.add(x, 1.0).shards}) == 1
    assert len({id(shard) for shard in ttnn.add(x, y).shards}) == 8
    assert len({id(shard) for shard in ttnn.all_gather(y, dim=1).shards}) == 1


def test_devices_that_share_a_part_compute_it_once(grid):
    x = put(grid, torch.randn(32, 128), ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(None, 1)))
    assert len({id(shard) for shard in ttnn.add(x, x).shards}) == 4


def test_groups_with_the_same_tensors_share_one_result(grid):
    """Both rows of devices hold the same parts, so what is computed from the gathered rows is computed once."""
    tensor = put(grid, torch.randn(1, 1, 32, 512), ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(None, 3)))
    gathered = ttnn.all_gather(tensor, dim=3, cluster_axis=1)
    assert len(set(map(id, ttnn.gelu(gathered).shards))) == len(set(map(id, gathered.shards))) == 1


def on_cores(strategy, shape, x, y):
    return ttnn.create_sharded_memory_config(
        shape, ttnn.CoreGrid(x=x, y=y), getattr(ttnn.ShardStrategy, strategy), use_height_and_width_as_shard_shape=True
    )


def semaphore(mesh):
    return ttnn.create_global_semaphore(mesh, ttnn.num_cores_to_corerangeset(64, ttnn.CoreCoord(8, 8), True), 0)


def test_heads_of_a_sum_are_those_of_all_reduce_for_each_devices_users(grid):
    """4 query heads and 2 KV heads of 32 columns; 16 users, 4 on each column of devices."""
    placed = on_cores("WIDTH", (32, 64), 4, 1)
    parts_of = put(grid, torch.randn(8, 1, 16, 256), ttnn.ShardTensorToMesh(grid, dim=0))
    first = ttnn.from_torch(
        torch.arange(4, dtype=torch.int32)[:, None] * 4, device=grid, layout=ttnn.ROW_MAJOR_LAYOUT,
        mesh_mapper=ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(None, 0)),
    )  # fmt: skip
    summed, *heads = ttnn.experimental.all_reduce_create_qkv_heads(
        ttnn.interleaved_to_sharded(parts_of, placed),
        ttnn.zeros((1, 1, 16, 1024), layout=ttnn.TILE_LAYOUT, device=grid, memory_config=on_cores("WIDTH", (32, 256), 4, 1)),
        first, 1, grid, semaphore(grid), 4, num_kv_heads=2, slice_size=4,
        final_memory_config=on_cores("HEIGHT", (32, 32), 6, 2),
    )  # fmt: skip
    expected = ttnn.all_reduce(parts_of, cluster_axis=1)
    assert all(torch.equal(a, b) for a, b in zip(parts(summed), parts(expected)))
    for device, whole in enumerate(parts(expected)):
        own = whole[0, 0, 4 * (device % 4) :][:4].view(1, 4, 8, 32).split([4, 2, 2], dim=2)
        assert all(torch.equal(parts(part)[device], values) for part, values in zip(heads, own))
    cores = [set(ttnn.corerange_to_cores(part.memory_config().shard_spec.grid)) for part in heads]
    assert len(set.union(*cores)) == 12


@pytest.mark.parametrize("sums", [ttnn.bfloat16, ttnn.float32])
def test_the_fused_norm_is_the_norm_of_whole_rows(grid, sums):
    x, weight = torch.randn(1, 1, 8, 512).bfloat16(), torch.randn(512).bfloat16()
    in_fp32 = ttnn.WormholeComputeKernelConfig(fp32_dest_acc_en=sums == ttnn.float32)
    split = ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(None, 2))
    y = ttnn.fused_rms_minimal(
        ttnn.interleaved_to_sharded(
            put(grid, x, ttnn.ShardTensor2dMesh(grid, mesh_shape=(2, 4), dims=(None, 3))), on_cores("WIDTH", (32, 64), 2, 1)
        ),
        ttnn.LayerNormShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=(2, 1), subblock_w=1, block_h=1, block_w=2, inplace=False
        ),
        1, grid, semaphore(grid), epsilon=1e-5, compute_kernel_config=in_fp32,
        weight=ttnn.from_torch(weight.view(1, 1, 16, 32), layout=ttnn.ROW_MAJOR_LAYOUT, device=grid, mesh_mapper=split),
        stats=ttnn.zeros((1, 1, 32, 128), dtype=sums, layout=ttnn.TILE_LAYOUT, device=grid, memory_config=on_cores("WIDTH", (32, 128), 1, 1)),
    )  # fmt: skip
    expected = torch.nn.functional.rms_norm(x.double(), (512,), weight.double(), 1e-5)
    for row in range(2):
        joined = torch.cat(parts(y)[4 * row : 4 * row + 4], dim=3).double()
        # Half a step of bf16, and of a sum in bf16 half of that again.
        assert ((joined - expected).abs() / expected.abs()).max() < (2**-8 if sums == ttnn.float32 else 2**-7)
    assert len(set(map(id, y.shards))) == 4  # both rows of devices hold the same, and compute it once
