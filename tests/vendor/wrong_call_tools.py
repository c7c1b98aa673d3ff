"""Tools to write calls that a card refuses: a register of such calls, and valid tensors and configs for them."""

import models  # noqa: F401
import torch
import ttnn

# Description of the error -> a function that makes the wrong call with a `Maker`.
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
    """Makes replicated tensors on `mesh_device` for the cases."""

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
