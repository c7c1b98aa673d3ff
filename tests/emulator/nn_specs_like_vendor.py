"""Run on the mock device: as `specs_like_vendor`, for matmul, norms, embedding, heads, rotary, caches and attention.

The shapes are Phi-3-mini's (32 heads of 96) and those of a model with 8 heads, whole and split over devices.
"""

import models  # noqa: F401
from tests.emulator import argument_calls
from tests.emulator.nn_calls import CALLS
from tests.emulator.specs_like_vendor import Setting, compare


class NetworkSetting(Setting):
    """Tensors as in the layers of a network."""

    def dram_weight(self, height, width, dtype="bfloat8_b"):
        tt = self.tt
        spec = tt.ShardSpec(self.cores(12, 1), (height, -(-width // 384) * 32), tt.ShardOrientation.ROW_MAJOR)
        config = tt.MemoryConfig(tt.TensorMemoryLayout.WIDTH_SHARDED, tt.BufferType.DRAM, spec)
        return self.new([1, 1, height, width], dtype, config=config)

    def rows(self, users, width, cores, dtype="bfloat16"):
        return self.new([1, 1, users, width], dtype, config=self.sharded("WIDTH", (32, width // cores), cores))

    def heads(self, users, heads, head_dim=96, dtype="bfloat16", height=32, row=0):
        """Height-sharded heads, one user per core: on the first cores, or for up to 8 users on those of another row."""
        config = self.sharded("HEIGHT", (height, head_dim), users)
        if row > 0:
            tt = self.tt
            cores = tt.CoreRangeSet({tt.CoreRange(tt.CoreCoord(0, row), tt.CoreCoord(users - 1, row))})
            spec = tt.ShardSpec(cores, (height, head_dim), tt.ShardOrientation.ROW_MAJOR)
            config = tt.MemoryConfig(tt.TensorMemoryLayout.HEIGHT_SHARDED, tt.BufferType.L1, spec)
        return self.new([1, users, heads, head_dim], dtype, config=config)

    def trans(self, users):
        return self.new([1, 1, 32 * users, 32], config=self.sharded("HEIGHT", (32, 32), users))

    def ints(self, *shape, dtype="int32", layout="ROW_MAJOR", config=None):
        return self.new(list(shape), dtype, layout, config)

    def pages(self, heads, dtype="bfloat8_b", count=1024, size=32):
        return self.new([count, heads, size, 96], dtype)

    def cache(self, heads, dtype="bfloat8_b", users=32, length=256):
        return self.new([users, heads, length, 96], dtype)

    def banks(self, block, per_core, rows=1, **more):
        return self.tt.MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(
            in0_block_w=block, per_core_M=rows, per_core_N=per_core, **more
        )

    def grid(self, rows, columns, block, **more):
        options = dict(
            compute_with_storage_grid_size=(8, 8), in0_block_w=block, out_subblock_h=1, out_subblock_w=1,
            per_core_M=rows, per_core_N=columns, transpose_mcast=False, fused_activation=None, fuse_batch=False,
        )  # fmt: skip
        return self.tt.MatmulMultiCoreReuseMultiCastProgramConfig(**{**options, **more})

    def line(self, columns, block, **more):
        options = dict(
            compute_with_storage_grid_size=(8, 8), in0_block_w=block, out_subblock_h=1, out_subblock_w=1,
            per_core_M=1, per_core_N=columns, fuse_batch=True, fused_activation=None, mcast_in0=True,
        )  # fmt: skip
        return self.tt.MatmulMultiCoreReuseMultiCast1DProgramConfig(**{**options, **more})

    def norm(self, x, y, width, **more):
        options = dict(compute_with_storage_grid_size=(x, y), subblock_w=1, block_h=1, block_w=width, inplace=False)
        return self.tt.LayerNormShardedMultiCoreProgramConfig(**{**options, **more})

    def sdpa(self, queries=128, keys=128, grid=(8, 8)):
        return self.tt.SDPAProgramConfig(
            compute_with_storage_grid_size=grid, q_chunk_size=queries, k_chunk_size=keys, exp_approx_mode=False
        )

    @property
    def accumulate(self):
        return self.tt.WormholeComputeKernelConfig(math_fidelity=self.tt.MathFidelity.HiFi2, fp32_dest_acc_en=True)

    @property
    def on_width(self):
        return self.tt.L1_WIDTH_SHARDED_MEMORY_CONFIG

    @property
    def on_height(self):
        return self.tt.L1_HEIGHT_SHARDED_MEMORY_CONFIG


if __name__ == "__main__":
    compare(NetworkSetting, [*filter(None, CALLS.splitlines()), *argument_calls.NN_CALLS])
