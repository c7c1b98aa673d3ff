"""Wrong calls of matmul, norms, embedding, data movement and sharding, and calls that need too much memory."""

import torch
import ttnn

from tests.vendor.wrong_call_tools import DRAM, GRID, L1, ROWS, TILE, dram_sharded, multicast, width_sharded, wrong

# Matmul


@wrong("matmul: inner sizes differ")
def _(make):
    ttnn.matmul(make(1, 1, 32, 64), make(1, 1, 96, 64))


@wrong("matmul: batches differ")
def _(make):
    ttnn.matmul(make(1, 2, 32, 64), make(1, 3, 64, 64))


@wrong("matmul: row-major input")
def _(make):
    ttnn.matmul(make(1, 1, 32, 64, layout=ROWS), make(1, 1, 64, 64))


@wrong("matmul: integer weight")
def _(make):
    ttnn.matmul(make(1, 1, 32, 64), make(1, 1, 64, 64, dtype=ttnn.int32))


@wrong("linear: unknown keyword")
def _(make):
    ttnn.linear(make(1, 1, 32, 64), make(1, 1, 64, 64), bias_tensor=None)


@wrong("linear: bias of another width")
def _(make):
    ttnn.linear(make(1, 1, 32, 64), make(1, 1, 64, 64), bias=make(1, 1, 32, 96))


@wrong("linear: host tensor")
def _(make):
    ttnn.linear(ttnn.from_torch(torch.zeros(1, 1, 32, 64), dtype=ttnn.bfloat16, layout=TILE), make(1, 1, 64, 64))


@wrong("linear: output blocks do not cover the output")
def _(make):
    ttnn.linear(make(1, 1, 512, 512), make(1, 1, 512, 4096), program_config=multicast(2, 8))


@wrong("linear: block of k that does not divide k")
def _(make):
    ttnn.linear(make(1, 1, 512, 512), make(1, 1, 512, 512), program_config=multicast(2, 2, block=3))


@wrong("linear: subblock that does not divide the block")
def _(make):
    config = multicast(2, 2, out_subblock_w=3)
    ttnn.linear(make(1, 1, 512, 512), make(1, 1, 512, 512), program_config=config)


@wrong("linear: circular buffers past L1")
def _(make):
    config = multicast(16, 32, block=8)
    ttnn.linear(make(1, 1, 4096, 1024), make(1, 1, 1024, 8192), program_config=config)


@wrong("linear: DRAM-sharded program with an interleaved input")
def _(make):
    ttnn.linear(make(1, 1, 32, 1024), make(1, 1, 1024, 1536), program_config=dram_sharded(6))


@wrong("linear: DRAM-sharded program with an interleaved weight")
def _(make):
    x = make(1, 1, 32, 1024, memory_config=width_sharded(8, 32, 128))
    ttnn.linear(
        x, make(1, 1, 1024, 1536), program_config=dram_sharded(6, block=4), memory_config=ttnn.L1_WIDTH_SHARDED_MEMORY_CONFIG
    )


# Norm, embedding


@wrong("rms_norm: weight of another width")
def _(make):
    ttnn.rms_norm(make(1, 1, 32, 512), weight=make(1, 1, 8, 32, layout=ROWS))


@wrong("rms_norm: row-major input")
def _(make):
    ttnn.rms_norm(make(1, 1, 32, 512, layout=ROWS), weight=make(1, 1, 16, 32, layout=ROWS))


@wrong("rms_norm: program of another block width than the shard's")
def _(make):
    config = ttnn.LayerNormShardedMultiCoreProgramConfig(
        compute_with_storage_grid_size=(8, 1), subblock_w=1, block_h=1, block_w=4, inplace=False
    )
    x = make(1, 1, 32, 512, memory_config=width_sharded(8, 32, 64))
    ttnn.rms_norm(x, weight=make(1, 1, 16, 32, layout=ROWS), program_config=config)


@wrong("rms_norm: sharded program with an interleaved input")
def _(make):
    config = ttnn.LayerNormShardedMultiCoreProgramConfig(
        compute_with_storage_grid_size=(8, 1), subblock_w=1, block_h=1, block_w=2, inplace=False
    )
    ttnn.rms_norm(make(1, 1, 32, 512), weight=make(1, 1, 16, 32, layout=ROWS), program_config=config)


@wrong("embedding: indices that are not integers")
def _(make):
    ttnn.embedding(make(1, 32, layout=ROWS, dtype=ttnn.float32), make(1, 1, 64, 512, layout=ROWS))


# Elementwise, data movement


@wrong("add: shapes that do not broadcast")
def _(make):
    ttnn.add(make(1, 1, 32, 64), make(1, 1, 32, 96))


@wrong("mul: deallocated input")
def _(make):
    x = make(1, 1, 32, 64)
    ttnn.deallocate(x)
    ttnn.mul(x, make(1, 1, 32, 64))


@wrong("concat: sizes differ in another dimension")
def _(make):
    ttnn.concat([make(1, 1, 32, 64), make(1, 1, 64, 64)], dim=3)


@wrong("slice: end past the tensor")
def _(make):
    ttnn.slice(make(1, 1, 32, 64), [0, 0, 0, 0], [1, 1, 64, 64])


@wrong("slice: too few indices")
def _(make):
    ttnn.slice(make(1, 1, 32, 64), [0, 0], [1, 1])


@wrong("reshape: another number of elements")
def _(make):
    ttnn.reshape(make(1, 1, 32, 64), (1, 1, 32, 96))


@wrong("transpose: dimension that does not exist")
def _(make):
    ttnn.transpose(make(1, 1, 32, 64), 1, 4)


@wrong("to_layout: block float in row-major")
def _(make):
    ttnn.to_layout(ttnn.zeros((1, 1, 32, 64), dtype=ttnn.bfloat8_b, layout=ROWS, device=make.mesh_device), TILE)


# Sharding


@wrong("interleaved_to_sharded: more shards than cores")
def _(make):
    ttnn.interleaved_to_sharded(make(1, 1, 32, 1024), width_sharded(4, 32, 128))


@wrong("interleaved_to_sharded: shard that is not whole tiles")
def _(make):
    ttnn.interleaved_to_sharded(make(1, 1, 32, 1024), width_sharded(64, 32, 16))


@wrong("to_memory_config: shard height is not the tensor's")
def _(make):
    ttnn.to_memory_config(make(1, 1, 64, 1024), width_sharded(8, 32, 128))


@wrong("to_memory_config: sharded without a shard spec")
def _(make):
    ttnn.to_memory_config(make(1, 1, 32, 1024), ttnn.L1_WIDTH_SHARDED_MEMORY_CONFIG)


@wrong("zeros: shard on a core that does not exist")
def _(make):
    column = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(9, 0), ttnn.CoreCoord(9, 0))])
    spec = ttnn.ShardSpec(column, (32, 64), ttnn.ShardOrientation.ROW_MAJOR)
    config = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, spec)
    make(1, 1, 32, 64, memory_config=config)


@wrong("num_cores_to_corerangeset: more cores than the grid has")
def _(make):
    ttnn.num_cores_to_corerangeset(65, GRID, row_wise=True)


# Out of memory


def allocate(make, rows, memory_config=DRAM):
    """Allocates rows * 128 KiB on the device and nothing on the host."""
    return ttnn.allocate_tensor_on_device(ttnn.Shape([1, 1, rows, 1 << 16]), ttnn.bfloat16, TILE, make.mesh_device, memory_config)


@wrong("allocate_tensor_on_device: past DRAM")
def _(make):
    allocate(make, 1 << 17)


@wrong("allocate_tensor_on_device: past what is left of DRAM")
def _(make):
    held = allocate(make, 60_000)
    allocate(make, 60_000)
    ttnn.deallocate(held)


@wrong("allocate_tensor_on_device: past L1")
def _(make):
    allocate(make, 1024, L1)


@wrong("to_memory_config: past L1")
def _(make):
    ttnn.to_memory_config(make(1, 1, 8192, 8192), L1)


@wrong("interleaved_to_sharded: past L1 of one core")
def _(make):
    ttnn.interleaved_to_sharded(make(1, 1, 32, 32768), width_sharded(1, 32, 32768))
