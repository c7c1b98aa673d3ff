"""Run on the mock device: as `specs_like_vendor`, for matmul, norms, embedding, heads, rotary, caches and attention.

The shapes are Phi-3-mini's (32 heads of 96) and those of a model with 8 heads, whole and split over devices.
"""

import models  # noqa: F401
import ttnn as vendor

import models.common.ttnn_emulator as emulator
from models.common.mesh import open_mesh
from tests.emulator.specs_like_vendor import Setting, outcome


class NetworkSetting(Setting):
    """Tensors as the layers of a network hold them."""

    def dram_weight(self, height, width, dtype="bfloat8_b"):
        tt = self.tt
        spec = tt.ShardSpec(self.cores(12, 1), (height, -(-width // 384) * 32), tt.ShardOrientation.ROW_MAJOR)
        config = tt.MemoryConfig(tt.TensorMemoryLayout.WIDTH_SHARDED, tt.BufferType.DRAM, spec)
        return self.new([1, 1, height, width], dtype, config=config)

    def rows(self, users, width, cores, dtype="bfloat16"):
        return self.new([1, 1, users, width], dtype, config=self.sharded("WIDTH", (32, width // cores), cores))

    def heads(self, users, heads, head_dim=96, dtype="bfloat16", height=32):
        return self.new([1, users, heads, head_dim], dtype, config=self.sharded("HEIGHT", (height, head_dim), users))

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


MATMUL = """
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9), memory_config=s.on_width, compute_kernel_config=s.accumulate)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9), memory_config=s.on_width, dtype=tt.bfloat8_b)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 8), memory_config=s.on_width)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 12), memory_config=s.on_width)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(2, 9), memory_config=s.on_width)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9))
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9), memory_config=s.DRAM)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9), memory_config=s.sharded("WIDTH", (32, 576), 16))
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9, fused_activation=tt.UnaryOpType.SILU), memory_config=s.on_width)
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9), memory_config=s.on_width, activation="silu")
tt.linear(s.rows({users}, 3072, 32), s.dram_weight(3072, 9216), program_config=s.banks(3, 9, rows=2), memory_config=s.on_width)
tt.linear(s.rows({users}, 1024, 32, "bfloat8_b"), s.dram_weight(1024, 3072), program_config=s.banks(1, 3), memory_config=s.on_width, dtype=tt.bfloat16)
tt.linear(s.rows({users}, 384, 6), s.dram_weight(384, 3072), program_config=s.banks(2, 16), memory_config=s.on_width)
tt.linear(s.rows({users}, 512, 16), s.dram_weight(512, 2304), program_config=s.banks(1, 5), memory_config=s.on_width)
tt.linear(s.rows({users}, 512, 16), s.dram_weight(512, 1024, "bfloat4_b"), program_config=s.banks(1, 2), memory_config=s.on_width)
tt.linear(s.new([1, 1, {users}, 512]), s.new([1, 1, 512, 2304], "bfloat8_b"))
tt.linear(s.new([1, 1, {users}, 512]), s.new([1, 1, 512, 2304], "bfloat8_b"), memory_config=s.L1)
tt.linear(s.new([1, 1, {users}, 512], "bfloat8_b"), s.new([1, 1, 512, 2304], "bfloat4_b"))
tt.linear(s.new([1, 1, {users}, 512]), s.new([512, 2304]), dtype=tt.float32)
"""

CALLS = MATMUL.format(users=1) + MATMUL.format(users=32) + """
tt.linear(s.x, s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.banks(3, 9), memory_config=s.on_width)
tt.linear(s.rows(32, 3072, 32), s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.banks(3, 9), memory_config=s.on_width)
tt.linear(s.new([1, 1, 32, 512], config=s.L1), s.new([1, 1, 512, 96]))
tt.linear(s.new([1, 1, 32, 512], "float32"), s.new([1, 1, 512, 96]))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), bias=s.new([1, 1, 1, 96]))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), bias=s.new([96]))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), bias=s.new([1, 1, 1, 64]))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 96, 512]), transpose_b=True)
tt.linear(s.new([1, 1, 512, 32]), s.new([1, 1, 512, 96]), transpose_a=True)
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), activation="silu")
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), activation="nothing")
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), activation=tt.UnaryWithParam(tt.UnaryOpType.GELU, 1.0))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), core_grid=tt.CoreGrid(x=8, y=8))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), bogus=1)
tt.linear(s.new([1, 1, 32, 512], layout="ROW_MAJOR"), s.new([1, 1, 512, 96]))
tt.linear(s.new([1, 1, 32, 512], "int32"), s.new([1, 1, 512, 96]))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96], layout="ROW_MAJOR"))
tt.linear(s.new([1, 1, 32, 512]), s.host([512, 96]))
tt.linear(s.freed(), s.new([1, 1, 32, 96]))
tt.linear(s.new([1, 1, 32, 512]), s.new([1, 1, 512, 96]), optional_output_tensor=s.new([1, 1, 32, 96]))
tt.linear(s.new([1, 1, 32, 500]), s.new([1, 1, 512, 96]))
tt.linear(s.new([1, 1, 32, 3072]), s.dram_weight(3072, 9216))
tt.matmul(s.new([32, 512]), s.new([512, 96]))
tt.matmul(s.new([2, 3, 32, 64]), s.new([64, 96]))
tt.matmul(s.new([2, 3, 32, 64]), s.new([2, 3, 64, 96]))
tt.matmul(s.new([2, 3, 32, 64]), s.new([3, 64, 96]))
tt.matmul(s.new([2, 3, 32, 64]), s.new([2, 2, 64, 96]))
tt.matmul(s.new([1, 1, 32, 64]), s.new([2, 2, 64, 32]))
tt.matmul(s.new([1, 1, 17, 48]), s.new([1, 1, 48, 33]))
tt.matmul(s.new([64]), s.new([64, 32]))
tt.linear(s.new([1, 1, 2048, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(8, 36, 4))
tt.linear(s.new([1, 1, 2048, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(8, 36, 4), dtype=tt.bfloat8_b)
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4))
tt.linear(s.new([1, 2, 1024, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(4, 36, 4))
tt.linear(s.new([1, 2, 1024, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(8, 36, 4, fuse_batch=True))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4, fused_activation=tt.UnaryOpType.SILU))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 4, 4))
tt.linear(s.new([1, 1, 2048, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 5))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 0))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4, out_subblock_w=12))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4, out_subblock_w=5))
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4, out_subblock_w=6), compute_kernel_config=s.accumulate)
tt.linear(s.new([1, 1, 128, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(1, 36, 4, compute_with_storage_grid_size=(9, 8)))
tt.linear(s.new([1, 1, 2048, 3072], config=s.block((256, 384), 8, 8)), s.dram_weight(3072, 9216), program_config=s.grid(8, 36, 4))
tt.linear(s.new([1, 1, 16384, 3072]), s.dram_weight(3072, 9216), program_config=s.grid(64, 36, 4))
tt.linear(s.x, s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.line(5, 2))
tt.linear(s.x, s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.line(5, 2), memory_config=s.on_width)
tt.linear(s.rows(32, 3072, 32), s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.line(5, 3), memory_config=s.on_width)
tt.linear(s.rows(32, 3072, 32), s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.line(5, 3))
tt.linear(s.rows(32, 3072, 32), s.dram_weight(3072, 9216), program_config=s.line(5, 3), memory_config=s.on_width)
tt.linear(s.x, s.new([1, 1, 3072, 9216], "bfloat8_b"), program_config=s.line(4, 2))
tt.rms_norm(s.w1, epsilon=1e-5, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 3), memory_config=s.W)
tt.rms_norm(s.w, epsilon=1e-5, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 3), memory_config=s.on_width)
tt.rms_norm(s.w, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 3))
tt.rms_norm(s.w, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"))
tt.rms_norm(s.w, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 3), memory_config=s.DRAM)
tt.rms_norm(s.w, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 2), memory_config=s.W)
tt.rms_norm(s.w, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 3, subblock_w=2), memory_config=s.W)
tt.rms_norm(s.w, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), program_config=s.norm(8, 4, 3, block_h=2), memory_config=s.W)
tt.rms_norm(s.x, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"))
tt.rms_norm(s.x, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"), memory_config=s.L1)
tt.rms_norm(s.l, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"))
tt.rms_norm(s.x, weight=s.new([1, 1, 1, 3072]))
tt.rms_norm(s.x, weight=s.new([3072]))
tt.rms_norm(s.x, weight=s.new([1, 1, 1, 3072], layout="ROW_MAJOR"))
tt.rms_norm(s.x, weight=s.new([1, 1, 95, 32], layout="ROW_MAJOR"))
tt.rms_norm(s.x, weight=s.new([1, 1, 1, 3040]))
tt.rms_norm(s.x)
tt.rms_norm(s.b8x)
tt.rms_norm(s.f)
tt.rms_norm(s.i)
tt.rms_norm(s.rm)
tt.rms_norm(s.new([1, 1, 17, 48]))
tt.rms_norm(s.x, residual_input_tensor=s.x)
tt.rms_norm(s.x, residual_input_tensor=s.x1)
tt.rms_norm(s.x, bogus=1)
tt.rms_norm(s.h)
tt.rms_norm(s.x, program_config=s.norm(8, 4, 3))
tt.rms_norm(s.x, memory_config=s.on_width)
tt.layer_norm(s.new([1, 1, 32, 512]), weight=s.new([1, 1, 16, 32], layout="ROW_MAJOR"), bias=s.new([1, 1, 16, 32], layout="ROW_MAJOR"))
tt.rms_norm_pre_all_gather(s.x)
tt.rms_norm_pre_all_gather(s.x, dtype=tt.float32)
tt.rms_norm_pre_all_gather(s.x1)
tt.rms_norm_pre_all_gather(s.w, program_config=s.norm(8, 4, 3))
tt.rms_norm_post_all_gather(s.x, s.new([1, 1, 32, 256]), epsilon=1e-5, weight=s.new([1, 1, 96, 32], layout="ROW_MAJOR"))
tt.rms_norm_post_all_gather(s.x, s.new([1, 1, 32, 256]), dtype=tt.bfloat8_b)
tt.rms_norm_post_all_gather(s.x, s.new([1, 1, 64, 256]))
tt.rms_norm_post_all_gather(s.w, s.new([1, 1, 32, 64], config=s.sharded("WIDTH", (32, 64), 1)), program_config=s.norm(8, 4, 3), memory_config=s.W)
tt.embedding(s.ints(1, 1, 1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"))
tt.embedding(s.ints(1, 1, 1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(1, 1, 1, 32, dtype="uint32"), s.new([1, 1, 4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(1, 1, 1, 32, dtype="uint32"), s.new([4096, 512]))
tt.embedding(s.ints(1, 1, 1, 1, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"))
tt.embedding(s.ints(2, 64, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(1, 7, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(1, 1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT, dtype=tt.bfloat8_b)
tt.embedding(s.ints(1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT, memory_config=s.L1)
tt.embedding(s.ints(1, 32, dtype="uint32", config=s.L1), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT)
tt.embedding(s.ints(1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), layout=tt.TILE_LAYOUT, memory_config=s.sharded("WIDTH", (32, 32), 16))
tt.embedding(s.ints(1, 32, dtype="uint32"), s.new([4096, 512], layout="ROW_MAJOR"), memory_config=s.sharded("WIDTH", (32, 32), 16))
tt.embedding(s.ints(1, 32), s.new([4096, 512], layout="ROW_MAJOR"))
tt.embedding(s.ints(1, 32, dtype="uint32"), s.new([4096, 512], "float32", "ROW_MAJOR"))
tt.embedding(s.ints(1, 32, dtype="uint32"), s.new([2, 1, 4096, 512], layout="ROW_MAJOR"))
""" + "".join(
    f"""
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, {users}, {(heads + 2 * kv) * 96}], config=s.L1), num_heads={heads}, num_kv_heads={kv}, memory_config=s.on_height)[{part}]
"""
    for heads, kv, users in ((32, 32, 1), (32, 32, 32), (8, 8, 1), (4, 4, 32), (8, 2, 7), (1, 1, 32))
    for part in (0, 1, 2)
) + """
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2304], config=s.L1), num_heads=8, num_kv_heads=8)[0]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2304], config=s.L1), num_heads=8)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2304], config=s.L1), num_heads=8, num_kv_heads=8, memory_config=s.sharded("HEIGHT", (32, 96), 32))[1]
tt.experimental.nlp_create_qkv_heads_decode(s.rows(32, 2304, 24), num_heads=8, num_kv_heads=8, memory_config=s.on_height)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2304]), num_heads=8, num_kv_heads=8, memory_config=s.on_height)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2304], "bfloat8_b"), num_heads=8, num_kv_heads=8)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2208]), num_heads=8, num_kv_heads=8)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 33, 2304]), num_heads=8, num_kv_heads=8)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 2, 32, 2304]), num_heads=8, num_kv_heads=8)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 960]), num_heads=8, num_kv_heads=8)[1]
tt.experimental.nlp_create_qkv_heads_decode(s.new([1, 1, 32, 2304]), num_heads=4, num_kv_heads=10)[1]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 2304]), num_heads=8, num_kv_heads=8, transpose_k_heads=False)[1]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 2304]), num_heads=8, num_kv_heads=8)[1]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 2304]), num_heads=8, num_kv_heads=8, transpose_k_heads=False, memory_config=s.L1)[0]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 2304], config=s.L1), num_heads=8, num_kv_heads=8, transpose_k_heads=False)[0]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 1152]), num_heads=8, num_kv_heads=2, transpose_k_heads=False)[2]
tt.experimental.nlp_create_qkv_heads(s.new([2, 1, 100, 2304], "bfloat8_b"), num_heads=8, transpose_k_heads=False)[2]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 768]), s.new([1, 1, 128, 384]), num_heads=8, num_kv_heads=2, transpose_k_heads=False)[2]
tt.experimental.nlp_create_qkv_heads(s.new([1, 1, 128, 2304], layout="ROW_MAJOR"), num_heads=8, transpose_k_heads=False)[2]
tt.experimental.nlp_create_qkv_heads(s.new([1, 2, 128, 2304]), num_heads=8, transpose_k_heads=False)[2]
tt.experimental.nlp_concat_heads(s.new([1, 8, 128, 96]))
tt.experimental.nlp_concat_heads(s.new([2, 8, 100, 96], "bfloat8_b"), memory_config=s.L1)
tt.experimental.nlp_concat_heads(s.new([1, 8, 128, 96], config=s.L1))
tt.experimental.nlp_concat_heads(s.new([1, 8, 128, 96], layout="ROW_MAJOR"))
tt.experimental.nlp_concat_heads(s.new([8, 128, 96]))
tt.transformer.concatenate_heads(s.new([1, 8, 128, 96]))
tt.experimental.nlp_concat_heads_decode(s.heads(32, 32), num_heads=32)
tt.experimental.nlp_concat_heads_decode(s.heads(32, 32), num_heads=8)
tt.experimental.nlp_concat_heads_decode(s.heads(1, 8), num_heads=8)
tt.experimental.nlp_concat_heads_decode(s.heads(7, 12), num_heads=12)
tt.experimental.nlp_concat_heads_decode(s.heads(32, 1), num_heads=1)
tt.experimental.nlp_concat_heads_decode(s.heads(32, 32), num_heads=33)
tt.experimental.nlp_concat_heads_decode(s.new([1, 32, 8, 96]), num_heads=8)
tt.experimental.nlp_concat_heads_decode(s.heads(32, 8, dtype="bfloat8_b"), num_heads=8)
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 100, 96]), s.new([1, 1, 256, 96]), s.new([1, 1, 256, 96]), s.new([1, 1, 32, 32]), memory_config=s.L1)
tt.experimental.rotary_embedding_llama(s.new([2, 8, 128, 96]), s.new([1, 8, 128, 96]), s.new([1, 8, 128, 96]), s.new([1, 1, 32, 32]), is_decode_mode=False)
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96]), s.new([1, 4, 128, 96]), s.new([1, 4, 128, 96]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96], "bfloat8_b"), s.new([1, 1, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96], "float32"), s.new([1, 1, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96]), s.new([1, 1, 128, 64]), s.new([1, 1, 128, 64]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 256, 96]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 96, 96]))
tt.experimental.rotary_embedding_llama(s.new([1, 8, 128, 288]), s.new([1, 1, 128, 288]), s.new([1, 1, 128, 288]), s.new([1, 1, 32, 32]))
tt.experimental.rotary_embedding_llama(s.heads(32, 8), s.heads(32, 1), s.heads(32, 1), s.trans(32), is_decode_mode=True)
tt.experimental.rotary_embedding_llama(s.heads(1, 32), s.heads(1, 1), s.heads(1, 1), s.trans(1), is_decode_mode=True)
tt.experimental.rotary_embedding_llama(s.heads(7, 4), s.heads(7, 1), s.heads(7, 1), s.trans(7), is_decode_mode=True, memory_config=s.sharded("HEIGHT", (32, 96), 7))
tt.experimental.rotary_embedding_llama(s.heads(32, 8), s.heads(32, 1), s.heads(32, 1), s.trans(32), is_decode_mode=True, memory_config=s.DRAM)
tt.experimental.rotary_embedding_llama(s.heads(32, 8), s.heads(32, 1), s.heads(32, 1), s.trans(32), is_decode_mode=True, memory_config=s.on_height)
tt.experimental.rotary_embedding_llama(s.new([1, 32, 8, 96]), s.heads(32, 1), s.heads(32, 1), s.trans(32), is_decode_mode=True)
tt.experimental.rotary_embedding_llama(s.heads(32, 8), s.new([1, 32, 1, 96]), s.new([1, 32, 1, 96]), s.trans(32), is_decode_mode=True)
tt.experimental.rotary_embedding_llama(s.heads(32, 8), s.heads(16, 1), s.heads(16, 1), s.trans(32), is_decode_mode=True)
tt.experimental.rotary_embedding(s.new([1, 8, 128, 64]), s.new([1, 1, 256, 64]), s.new([1, 1, 256, 64]))
tt.experimental.rotary_embedding(s.new([1, 8, 100, 64], "bfloat8_b"), s.new([1, 1, 256, 64]), s.new([1, 1, 256, 64]), memory_config=s.L1)
tt.experimental.rotary_embedding(s.new([1, 8, 1, 128]), s.new([1, 1, 256, 128]), s.new([1, 1, 256, 128]), 5)
tt.experimental.rotary_embedding(s.new([1, 8, 128, 96]), s.new([1, 1, 256, 96]), s.new([1, 1, 256, 96]))
tt.experimental.rotary_embedding(s.new([1, 8, 128, 64]), s.new([1, 1, 64, 64]), s.new([1, 1, 64, 64]))
tt.experimental.rotary_embedding(s.new([1, 1, 32, 64]), s.new([1, 1, 256, 64]), s.new([1, 1, 256, 64]), 256)
tt.experimental.rotary_embedding_hf(s.new([1, 8, 128, 64]), s.new([1, 1, 128, 64]), s.new([1, 1, 128, 64]))
tt.experimental.rotary_embedding_hf(s.new([1, 8, 128, 96]), s.new([1, 1, 128, 96]), s.new([1, 1, 128, 96]))
tt.experimental.rotary_embedding_hf(s.heads(32, 8, 64), s.heads(32, 1, 64), s.heads(32, 1, 64), is_decode_mode=True)
tt.experimental.rotary_embedding_hf(s.new([1, 32, 8, 64]), s.heads(32, 1, 64), s.heads(32, 1, 64), is_decode_mode=True)
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8, "bfloat16", size=64), s.heads(1, 8), update_idxs_tensor=s.ints(1), page_table=s.ints(1, 16))
tt.experimental.paged_update_cache(s.cache(8), s.heads(32, 8), update_idxs_tensor=s.ints(32))
tt.experimental.paged_update_cache(s.cache(8), s.heads(32, 8), update_idxs=[0] * 32)
tt.experimental.paged_update_cache(s.cache(8), s.heads(32, 8), update_idxs=[0] * 31)
tt.experimental.paged_update_cache(s.cache(8), s.heads(32, 8), update_idxs=[-1] * 32)
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs=[0] * 32, page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(32, dtype="uint32"), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(31), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(32, config=s.L1), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(32), page_table=s.ints(16, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 16, dtype="uint32"))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 16, layout="TILE"))
tt.experimental.paged_update_cache(s.pages(8, count=8), s.heads(32, 8), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 9))
tt.experimental.paged_update_cache(s.pages(8, count=8), s.heads(32, 8), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 8))
tt.experimental.paged_update_cache(s.pages(8), s.new([1, 32, 8, 96]), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8, dtype="bfloat8_b"), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.pages(8), s.heads(32, 8, 64), update_idxs_tensor=s.ints(32), page_table=s.ints(32, 16))
tt.experimental.paged_update_cache(s.cache(8), s.heads(16, 8), update_idxs_tensor=s.ints(16))
tt.experimental.paged_update_cache(s.cache(8), s.heads(32, 8), update_idxs_tensor=s.ints(32), batch_offset=1)
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 128, 96], "bfloat8_b"), s.ints(32, 16), batch_idx=3)
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 100, 96], "bfloat8_b"), s.ints(1, 16))
tt.experimental.paged_fill_cache(s.pages(8), s.new([2, 8, 128, 96], "bfloat8_b"), s.ints(32, 16), batch_idx_tensor=s.ints(2, dtype="uint32"))
tt.experimental.paged_fill_cache(s.pages(8), s.new([2, 8, 128, 96], "bfloat8_b"), s.ints(32, 16))
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 128, 96]), s.ints(32, 16))
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 128, 96], "bfloat8_b"), s.ints(32, 16), batch_idx=32)
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 128, 96], "bfloat8_b"), s.ints(32, 16), batch_idx=-1)
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 1024, 96], "bfloat8_b"), s.ints(32, 16))
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 128, 64], "bfloat8_b"), s.ints(32, 16))
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 4, 128, 96], "bfloat8_b"), s.ints(32, 16))
tt.experimental.paged_fill_cache(s.pages(8), s.new([1, 8, 128, 96], "bfloat8_b"), s.ints(32, 16, dtype="uint32"))
tt.fill_cache(s.cache(8), s.new([1, 8, 128, 96], "bfloat8_b"), 3)
tt.fill_cache(s.cache(8), s.new([1, 8, 128, 96], "bfloat8_b"), 3, update_idx=32)
tt.fill_cache(s.cache(8), s.new([1, 8, 128, 96], "bfloat8_b"), 3, update_idx=33)
tt.fill_cache(s.cache(8), s.new([1, 8, 128, 96], "bfloat8_b"), 32)
tt.fill_cache(s.cache(8), s.new([1, 8, 512, 96], "bfloat8_b"), 3)
tt.fill_cache(s.cache(8), s.new([1, 8, 128, 96]), 3)
tt.fill_cache(s.cache(8), s.new([2, 8, 128, 96], "bfloat8_b"), 3)
tt.fill_cache(s.cache(8), s.new([1, 4, 128, 96], "bfloat8_b"), 3)
tt.kv_cache.fill_cache_for_user_(s.cache(8), s.new([1, 8, 128, 96], "bfloat8_b"), 3)
tt.update_cache(s.cache(8), s.new([1, 8, 32, 96]), 5)
tt.update_cache(s.cache(8), s.new([1, 32, 8, 96]), 5)
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96], "bfloat8_b"), s.new([1, 8, 256, 96], "bfloat8_b"), is_causal=True, program_config=s.sdpa())
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 100, 96]), s.new([1, 2, 100, 96]), s.new([1, 2, 100, 96]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 3, 256, 96]), s.new([1, 3, 256, 96]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 128, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 128, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), is_causal=False)
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), is_causal=False, attn_mask=s.new([1, 1, 256, 256]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), attn_mask=s.new([1, 1, 256, 256]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), is_causal=False, attn_mask=s.new([1, 1, 256, 128]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96], "bfloat8_b"), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), memory_config=s.L1, sliding_window_size=64)
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96], "float32"), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96], config=s.L1), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]))
tt.transformer.scaled_dot_product_attention(s.new([2, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 64]), s.new([1, 8, 256, 64]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), program_config=s.sdpa(grid=(9, 8)))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), program_config=s.sdpa(48, 48))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), program_config=s.sdpa(0, 0))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96], layout="ROW_MAJOR"), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]))
tt.transformer.scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), s.new([1, 8, 256, 96]), memory_config=s.on_height)
""" + "".join(
    f"""
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads({users}, {heads}), s.pages({kv}), s.pages({kv}), s.ints({users}, 32), cur_pos_tensor=s.ints({users}), scale=0.1, program_config=s.sdpa(0, 0), memory_config=s.DRAM)
"""
    for users, heads, kv in ((1, 32, 32), (32, 32, 32), (1, 8, 8), (32, 4, 4), (32, 1, 1), (7, 8, 2))
) + """
tt.transformer.paged_scaled_dot_product_attention_decode(s.new([1, 32, 8, 96]), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32), memory_config=s.L1)
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32), sliding_window_size=64)
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8, "bfloat4_b", size=64), s.pages(8, "bfloat4_b", size=64), s.ints(32, 32), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 1), s.pages(1), s.pages(1), s.ints(32, 32), cur_pos_tensor=s.ints(32), memory_config=s.sharded("HEIGHT", (32, 96), 32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32), memory_config=s.sharded("HEIGHT", (32, 96), 32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(31))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32, dtype="uint32"))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(16, 32), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32, dtype="uint32"), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32, layout="TILE"), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 9), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8, dtype="bfloat8_b"), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8, 64), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32), program_config=s.sdpa(0, 0, (9, 8)))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32), program_config=s.sdpa(0, 0, (4, 4)))
tt.transformer.paged_scaled_dot_product_attention_decode(s.heads(32, 8), s.pages(8), s.pages(8), s.ints(32, 32), cur_pos_tensor=s.ints(32), program_config=s.sdpa(0, 48))
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8), s.cache(8), cur_pos_tensor=s.ints(32), memory_config=s.DRAM)
tt.transformer.scaled_dot_product_attention_decode(s.heads(1, 32), s.cache(32, users=1), s.cache(32, users=1), cur_pos=[5])
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8), s.cache(8), cur_pos=[5] * 31)
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8), s.cache(8), cur_pos=[256] * 32)
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8), s.cache(8))
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8, users=16), s.cache(8, users=16), cur_pos_tensor=s.ints(32))
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8, length=1000), s.cache(8, length=1000), cur_pos_tensor=s.ints(32))
tt.transformer.scaled_dot_product_attention_decode(s.heads(32, 8), s.cache(8, length=1056), s.cache(8, length=1056), cur_pos_tensor=s.ints(32), program_config=s.sdpa(0, 64))
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32), 256, program_config=s.sdpa())
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 32, 100, 96], "bfloat8_b"), s.pages(8), s.pages(8), s.ints(1, 32), chunk_start_idx=0, memory_config=s.L1)
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32), chunk_start_idx_tensor=s.ints(1), program_config=s.sdpa())
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32), 64, program_config=s.sdpa())
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 15), 256, program_config=s.sdpa())
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(32, 32), 256, program_config=s.sdpa())
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32))
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32, dtype="uint32"), 256)
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32, layout="TILE"), 256)
tt.transformer.chunked_scaled_dot_product_attention(s.new([1, 8, 256, 96]), s.pages(8), s.pages(8), s.ints(1, 32), -128)
"""


def main():
    calls = [call for call in CALLS.splitlines() if call]
    with open_mesh(trace_region_size=0) as device:
        own = emulator.open_mesh_device(emulator.MeshShape(*device.shape))
        settings = [NetworkSetting(vendor, device), NetworkSetting(emulator, own)]
        refused = 0
        for call in calls:
            theirs, ours = (outcome(setting.tt, setting, call) for setting in settings)
            refused += theirs.startswith("refused")
            if theirs != ours and not (theirs.startswith("refused") and ours.startswith("refused")):
                print(f"DISAGREE {call}\n  vendor:   {theirs}\n  emulator: {ours}")
        print(f"{len(calls)} calls, {refused} refused")


if __name__ == "__main__":
    main()
