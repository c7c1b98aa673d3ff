"""Calls that a card refuses, run in lockstep: prints what came of each as JSON, in the last line.

    TT_BACKEND=lockstep MESH_DEVICE=N300 python tests/vendor/wrong_calls.py

`CASES` maps what is wrong to a function that does it.
"""

import gc
import json

import models  # noqa: F401
import torch
import ttnn

from models.common.mesh import open_mesh

try:
    from ttnn import LockstepError
except ImportError:  # the test reads the names of the cases on the emulator
    LockstepError = None

CASES = {}

TILE, ROWS = ttnn.TILE_LAYOUT, ttnn.ROW_MAJOR_LAYOUT
DRAM, L1 = ttnn.DRAM_MEMORY_CONFIG, ttnn.L1_MEMORY_CONFIG
GRID = ttnn.CoreCoord(8, 8)


def wrong(what):
    def register(call):
        CASES[what] = call
        return call

    return register


class Maker:
    """Makes the tensors that the cases need on `mesh_device`, replicated."""

    def __init__(self, mesh_device):
        self.mesh_device = mesh_device

    def __call__(self, *shape, dtype=ttnn.bfloat16, layout=TILE, memory_config=DRAM):
        integers = dtype in (ttnn.int32, ttnn.uint32)
        values = torch.zeros(shape, dtype=torch.int32) if integers else torch.zeros(shape)
        return ttnn.from_torch(
            values, dtype=dtype, layout=layout, device=self.mesh_device, memory_config=memory_config,
            mesh_mapper=ttnn.ReplicateTensorToMesh(self.mesh_device),
        )

    def integers(self, *shape, dtype=ttnn.int32):
        return self(*shape, dtype=dtype, layout=ROWS)

    def page_cache(self, pages=16, heads=4, block_size=32, head_dim=96, dtype=ttnn.bfloat8_b):
        return ttnn.zeros((pages, heads, block_size, head_dim), dtype=dtype, layout=TILE, device=self.mesh_device)

    def heads(self, users=4, heads=4, head_dim=96):
        return self(1, users, heads, head_dim, memory_config=height_sharded(users, 32, head_dim))


def cores(count):
    return ttnn.num_cores_to_corerangeset(count, GRID, row_wise=True)


def sharded(strategy, count, height, width):
    return ttnn.create_sharded_memory_config(
        (height, width), cores(count), strategy, ttnn.ShardOrientation.ROW_MAJOR, use_height_and_width_as_shard_shape=True
    )


def height_sharded(count, height, width):
    return sharded(ttnn.ShardStrategy.HEIGHT, count, height, width)


def width_sharded(count, height, width):
    return sharded(ttnn.ShardStrategy.WIDTH, count, height, width)


def multicast(per_core_m, per_core_n, block=2, **changes):
    return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
        **{
            "compute_with_storage_grid_size": (8, 8), "in0_block_w": block, "out_subblock_h": 1, "out_subblock_w": 1,
            "per_core_M": per_core_m, "per_core_N": per_core_n, "transpose_mcast": False, **changes,
        }
    )


def dram_sharded(per_core_n, block=1):
    return ttnn.MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(
        in0_block_w=block, per_core_M=1, per_core_N=per_core_n
    )


def sdpa(q_chunk=128, k_chunk=128):
    return ttnn.SDPAProgramConfig(compute_with_storage_grid_size=(8, 8), q_chunk_size=q_chunk, k_chunk_size=k_chunk)


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
    """Takes rows * 128 KiB on the device, and nothing on the host."""
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


# Heads, rotary embedding


@wrong("nlp_create_qkv_heads: width is not that of the heads")
def _(make):
    ttnn.experimental.nlp_create_qkv_heads(make(1, 1, 128, 1024), num_heads=4, num_kv_heads=4, transpose_k_heads=False)


@wrong("nlp_create_qkv_heads_decode: width is not that of the heads")
def _(make):
    ttnn.experimental.nlp_create_qkv_heads_decode(
        make(1, 1, 32, 1024), num_heads=5, num_kv_heads=5, memory_config=ttnn.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    )


@wrong("nlp_concat_heads_decode: interleaved input")
def _(make):
    ttnn.experimental.nlp_concat_heads_decode(make(1, 4, 32, 96), num_heads=4)


@wrong("nlp_concat_heads: row-major input")
def _(make):
    ttnn.experimental.nlp_concat_heads(make(1, 4, 128, 96, layout=ROWS))


@wrong("rotary_embedding_llama: cos of another width")
def _(make):
    angles = make(1, 1, 128, 64)
    ttnn.experimental.rotary_embedding_llama(make(1, 4, 128, 96), angles, angles, make(1, 1, 32, 32), is_decode_mode=False)


@wrong("rotary_embedding_llama: interleaved cos in decode")
def _(make):
    angles = make(1, 4, 1, 96)
    turn = make(1, 1, 128, 32, memory_config=height_sharded(4, 32, 32))
    ttnn.experimental.rotary_embedding_llama(make.heads(), angles, angles, turn, is_decode_mode=True)


@wrong("rotary_embedding_llama: transformation matrix that is not one tile")
def _(make):
    angles = make(1, 1, 128, 96)
    ttnn.experimental.rotary_embedding_llama(make(1, 4, 128, 96), angles, angles, make(1, 1, 64, 64), is_decode_mode=False)


@wrong("rotary_embedding: head_dim 96")
def _(make):
    angles = make(1, 1, 128, 96)
    ttnn.experimental.rotary_embedding(make(1, 4, 128, 96), angles, angles)


@wrong("rotary_embedding_hf: head_dim 96")
def _(make):
    angles = make(1, 1, 128, 96)
    ttnn.experimental.rotary_embedding_hf(make(1, 4, 128, 96), angles, angles, is_decode_mode=False)


# Caches, attention


@wrong("paged_update_cache: interleaved input")
def _(make):
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make(1, 4, 4, 96), update_idxs_tensor=make.integers(4), page_table=make.integers(4, 4)
    )


@wrong("paged_update_cache: page table of another batch")
def _(make):
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make.heads(), update_idxs_tensor=make.integers(4), page_table=make.integers(3, 4)
    )


@wrong("paged_update_cache: positions that are not integers")
def _(make):
    positions = make(4, layout=ROWS)
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make.heads(), update_idxs_tensor=positions, page_table=make.integers(4, 4)
    )


@wrong("paged_update_cache: heads of another width")
def _(make):
    ttnn.experimental.paged_update_cache(
        make.page_cache(), make.heads(head_dim=64), update_idxs_tensor=make.integers(4), page_table=make.integers(4, 4)
    )


@wrong("paged_fill_cache: page table too small")
def _(make):
    k = make(1, 4, 128, 96, dtype=ttnn.bfloat8_b)
    ttnn.experimental.paged_fill_cache(make.page_cache(), k, make.integers(1, 3), batch_idx=0)


@wrong("paged_fill_cache: another number of heads")
def _(make):
    k = make(1, 3, 128, 96, dtype=ttnn.bfloat8_b)
    ttnn.experimental.paged_fill_cache(make.page_cache(), k, make.integers(1, 4), batch_idx=0)


@wrong("fill_cache: user past the batch")
def _(make):
    ttnn.fill_cache(make(2, 4, 128, 96, dtype=ttnn.bfloat8_b), make(1, 4, 128, 96, dtype=ttnn.bfloat8_b), 2)


@wrong("fill_cache: input longer than the cache")
def _(make):
    ttnn.fill_cache(make(2, 4, 128, 96, dtype=ttnn.bfloat8_b), make(1, 4, 256, 96, dtype=ttnn.bfloat8_b), 0)


@wrong("scaled_dot_product_attention: head sizes differ")
def _(make):
    q, k = make(1, 4, 128, 96), make(1, 4, 128, 64)
    ttnn.transformer.scaled_dot_product_attention(q, k, k, is_causal=True, program_config=sdpa())


@wrong("scaled_dot_product_attention: keys and values of different lengths")
def _(make):
    q = make(1, 4, 128, 96)
    ttnn.transformer.scaled_dot_product_attention(q, q, make(1, 4, 256, 96), is_causal=True, program_config=sdpa())


@wrong("scaled_dot_product_attention: causal and a mask")
def _(make):
    q, mask = make(1, 4, 128, 96), make(1, 1, 128, 128)
    ttnn.transformer.scaled_dot_product_attention(q, q, q, attn_mask=mask, is_causal=True, program_config=sdpa())


@wrong("scaled_dot_product_attention: chunk that is not whole tiles")
def _(make):
    q = make(1, 4, 128, 96)
    ttnn.transformer.scaled_dot_product_attention(q, q, q, is_causal=True, program_config=sdpa(q_chunk=48))


@wrong("scaled_dot_product_attention: query heads not a multiple of key heads")
def _(make):
    q, k = make(1, 4, 128, 96), make(1, 3, 128, 96)
    ttnn.transformer.scaled_dot_product_attention(q, k, k, is_causal=True, program_config=sdpa())


@wrong("paged_scaled_dot_product_attention_decode: page table of another batch")
def _(make):
    cache = make.page_cache()
    ttnn.transformer.paged_scaled_dot_product_attention_decode(
        make.heads(), cache, cache, cur_pos_tensor=make.integers(4), page_table_tensor=make.integers(3, 4),
        program_config=sdpa(0, 0), memory_config=DRAM,
    )


@wrong("paged_scaled_dot_product_attention_decode: cache of another head size")
def _(make):
    cache = make.page_cache(head_dim=64)
    ttnn.transformer.paged_scaled_dot_product_attention_decode(
        make.heads(), cache, cache, cur_pos_tensor=make.integers(4), page_table_tensor=make.integers(4, 4),
        program_config=sdpa(0, 0), memory_config=DRAM,
    )


@wrong("scaled_dot_product_attention_decode: no positions")
def _(make):
    cache = make(4, 4, 128, 96, dtype=ttnn.bfloat8_b)
    ttnn.transformer.scaled_dot_product_attention_decode(
        make.heads(), cache, cache, program_config=sdpa(0, 0), memory_config=DRAM
    )


@wrong("chunked_scaled_dot_product_attention: start that is no multiple of the chunk")
def _(make):
    cache = make.page_cache()
    ttnn.transformer.chunked_scaled_dot_product_attention(
        make(1, 4, 128, 96), cache, cache, make.integers(1, 8), 40, program_config=sdpa()
    )


@wrong("chunked_scaled_dot_product_attention: page table too small for the prefix")
def _(make):
    cache = make.page_cache()
    ttnn.transformer.chunked_scaled_dot_product_attention(
        make(1, 4, 128, 96), cache, cache, make.integers(1, 4), 128, program_config=sdpa()
    )


# Host and device, collectives


@wrong("copy_host_to_device_tensor: shapes differ")
def _(make):
    host = ttnn.from_torch(torch.zeros(8, dtype=torch.int32), dtype=ttnn.int32, layout=ROWS)
    ttnn.copy_host_to_device_tensor(host, make.integers(4))


@wrong("copy_host_to_device_tensor: dtypes differ")
def _(make):
    host = ttnn.from_torch(torch.zeros(4, dtype=torch.int32), dtype=ttnn.uint32, layout=ROWS)
    ttnn.copy_host_to_device_tensor(host, make.integers(4))


@wrong("all_gather: dimension that does not exist")
def _(make):
    ttnn.all_gather(make(1, 1, 32, 64), dim=4, cluster_axis=1, topology=ttnn.Topology.Linear)


@wrong("all_gather: axis that the mesh does not have")
def _(make):
    ttnn.all_gather(make(1, 1, 32, 64), dim=3, cluster_axis=2, topology=ttnn.Topology.Linear)


def main():
    outcomes = {}
    with open_mesh() as mesh_device:
        make = Maker(mesh_device)
        for what, call in CASES.items():
            try:
                call(make)
                outcomes[what] = "both accept it"
            except LockstepError as error:
                outcomes[what] = f"they disagree: {error}"
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                outcomes[what] = f"both refuse it; the emulator: {error}"
            # A call that was wrongly accepted must not leave its output to the next case.
            gc.collect()
    # On a line of its own: the vendor's package logs to the same stream.
    print("\n" + json.dumps(outcomes))


if __name__ == "__main__":
    main()
