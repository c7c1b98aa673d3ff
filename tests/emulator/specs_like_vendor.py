"""Run on the mock device: makes the same calls on the vendor's ttnn and on the emulator, from one table.

Prints one line per call on which they disagree in the output's shape, padded shape, dtype, layout or memory
config, or of which only one refuses the call. Prints one line per op of which no call is accepted. The last line
has the number of calls.
"""

import re
import tempfile
from pathlib import Path

import torch

import models.common.ttnn_emulator as emulator
import ttnn as vendor
from models.common.mesh import open_mesh
from tests.emulator import argument_calls


class Setting:
    """The tensors and memory configs for the calls, made by one of the two modules."""

    def __init__(self, tt, device):
        self.tt, self.device = tt, device
        self.DRAM, self.L1 = tt.DRAM_MEMORY_CONFIG, tt.L1_MEMORY_CONFIG
        self.W = self.sharded("WIDTH", (32, 96), 32)
        self.W8 = self.sharded("WIDTH", (32, 384), 8)
        self.H = self.sharded("HEIGHT", (32, 96), 32)
        self.B = self.block((64, 64), 8, 4)
        self.wide_dram = tt.MemoryConfig(
            tt.TensorMemoryLayout.WIDTH_SHARDED,
            tt.BufferType.DRAM,
            tt.ShardSpec(self.cores(12, 1), (3072, 96), tt.ShardOrientation.ROW_MAJOR),
        )
        self.x = self.new([1, 1, 32, 3072])
        self.x1 = self.new([1, 1, 1, 3072])
        self.w = self.new([1, 1, 32, 3072], config=self.W)
        self.w1 = self.new([1, 1, 1, 3072], config=self.W)
        self.l = self.new([1, 1, 32, 3072], config=self.L1)
        self.h = self.new([1, 32, 32, 96], config=self.H)
        self.b8 = self.new([1, 1, 64, 128], "bfloat8_b")
        self.b8x = self.new([1, 1, 32, 3072], "bfloat8_b")
        self.f = self.new([1, 1, 32, 3072], "float32")
        self.i = self.new([1, 1, 32, 3072], "int32")
        self.rm = self.new([1, 1, 32, 3072], layout="ROW_MAJOR")
        self.ids = self.new([4, 6], "int32", "ROW_MAJOR")
        self.pos = self.new([32], "int32", "ROW_MAJOR")
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "tensor.tensorbin"

    def new(self, shape, dtype="bfloat16", layout="TILE", config=None):
        tt = self.tt
        return tt.allocate_tensor_on_device(
            tt.Shape(shape), getattr(tt, dtype), getattr(tt.Layout, layout), self.device, config or tt.DRAM_MEMORY_CONFIG
        )

    def host(self, shape, dtype="bfloat16", layout="TILE", **options):
        tt = self.tt
        return tt.from_torch(
            torch.ones(shape), dtype=getattr(tt, dtype), layout=getattr(tt.Layout, layout), **options
        )

    def cores(self, x, y):
        tt = self.tt
        return tt.CoreRangeSet({tt.CoreRange(tt.CoreCoord(0, 0), tt.CoreCoord(x - 1, y - 1))})

    def sharded(self, kind, shape, cores):
        tt = self.tt
        grid = tt.num_cores_to_corerangeset(cores, tt.CoreCoord(8, 8), True)
        layout = getattr(tt.TensorMemoryLayout, f"{kind}_SHARDED")
        return tt.MemoryConfig(layout, tt.BufferType.L1, tt.ShardSpec(grid, shape, tt.ShardOrientation.ROW_MAJOR))

    def block(self, shape, x, y):
        tt = self.tt
        spec = tt.ShardSpec(self.cores(x, y), shape, tt.ShardOrientation.ROW_MAJOR)
        return tt.MemoryConfig(tt.TensorMemoryLayout.BLOCK_SHARDED, tt.BufferType.L1, spec)

    def freed(self):
        tensor = self.new([1, 1, 32, 32])
        self.tt.deallocate(tensor)
        return tensor


CALLS = """
tt.to_memory_config(s.x, s.W)
tt.to_memory_config(s.w, s.L1)
tt.to_memory_config(s.w, s.W8)
tt.to_memory_config(s.w, s.sharded("HEIGHT", (32, 3072), 1))
tt.to_memory_config(s.x, s.sharded("WIDTH", (32, 96), 16))
tt.to_memory_config(s.x, s.L1, dtype=tt.bfloat8_b)
tt.to_memory_config(s.x, s.W, dtype=tt.bfloat8_b)
tt.to_memory_config(s.x, s.DRAM)
tt.to_memory_config(s.x1, s.W)
tt.to_memory_config(s.host([32, 32]), s.L1)
tt.to_memory_config(s.x, tt.L1_WIDTH_SHARDED_MEMORY_CONFIG)
tt.to_memory_config(s.new([32, 32], "int32", "ROW_MAJOR"), s.sharded("HEIGHT", (1, 32), 32))
tt.to_memory_config(s.new([32, 32], layout="ROW_MAJOR"), s.L1, dtype=tt.float32)
tt.to_memory_config(s.freed(), s.L1)
tt.interleaved_to_sharded(s.x, s.W)
tt.interleaved_to_sharded(s.w, s.W)
tt.interleaved_to_sharded(s.x, tt.CoreCoord(8, 4), [32, 96], tt.TensorMemoryLayout.WIDTH_SHARDED, tt.ShardOrientation.ROW_MAJOR)
tt.interleaved_to_sharded(s.x, sharded_memory_config=s.W)
tt.interleaved_to_sharded(s.x, s.W, tt.bfloat8_b)
tt.interleaved_to_sharded(s.x, s.L1)
tt.sharded_to_interleaved(s.w)
tt.sharded_to_interleaved(s.w, s.L1)
tt.sharded_to_interleaved(s.w, s.L1, tt.bfloat8_b)
tt.sharded_to_interleaved(s.w, s.W)
tt.sharded_to_interleaved(s.w1, s.L1)
tt.reshard(s.w, s.W8)
tt.reshard(s.x, s.W)
tt.reshard(s.w, s.L1)
tt.typecast(s.x, tt.bfloat8_b)
tt.typecast(s.w, tt.bfloat8_b)
tt.typecast(s.x, dtype=tt.float32, memory_config=s.L1)
tt.typecast(s.w, tt.float32, memory_config=s.L1)
tt.typecast(s.rm, tt.bfloat8_b)
tt.typecast(s.rm, tt.float32)
tt.typecast(s.x, tt.uint16)
tt.typecast(s.b8, tt.bfloat4_b)
tt.typecast(s.i, tt.uint32)
tt.typecast(s.host([32, 32]), tt.bfloat8_b)
tt.typecast(s.x)
tt.reshape(s.x, (1, 32, 1, 3072))
tt.reshape(s.x, (1, 1, -1, 1536))
tt.reshape(s.x, [1, 32, 32, 96])
tt.reshape(s.x1, (1, 1, 1, 3072), (1, 1, 32, 3072))
tt.reshape(s.x, (1, 1, 5, 3072), (1, 1, 32, 3072))
tt.reshape(s.w, (1, 1, 5, 3072), (1, 1, 32, 3072))
tt.reshape(s.x, (1, 1, 3, 7))
tt.reshape(s.x, (1, 1, -1, -1))
tt.reshape(s.w, (1, 1, 64, 1536), memory_config=s.L1)
tt.reshape(s.x, (1, 1, 1, 32, 3072))
tt.reshape(s.ids, (2, 12))
tt.reshape(s.ids, (1, 4, 6))
tt.reshape(s.h, (1, 1, 1024, 96))
tt.reshape(s.w1, (1, 1, 3072))
tt.reshape(s.b8, (1, 1, 128, 64))
tt.reshape(s.new([1, 1, 32, 64], "uint16"), (1, 1, 64, 32))
tt.view(s.x, (1, 32, 1, 3072))
tt.view(s.x, (32, 3072))
tt.view(s.x, (1, 1, 64, 1536))
tt.experimental.view(s.x, (32, 3072))
tt.permute(s.x, (0, 1, 3, 2))
tt.permute(s.x, (0, 2, 1, 3))
tt.permute(s.x, (2, 0, 1, 3))
tt.permute(s.x, (0, 1, -1, -2))
tt.permute(s.x, (1, 0))
tt.permute(s.x, (0, 2, 1, 3), memory_config=s.L1)
tt.permute(s.new([1, 2, 32, 64], "bfloat8_b"), (0, 2, 1, 3))
tt.permute(s.new([2, 3, 4], "int32", "ROW_MAJOR"), (0, 2, 1))
tt.transpose(s.x, -2, -1)
tt.transpose(s.x, 1, 2)
tt.transpose(s.x, 1, 7)
tt.transpose(s.h, 1, 2)
tt.slice(s.x, (0, 0, 0, 0), (1, 1, 1, 3072))
tt.slice(s.x, (0, 0, 0, 0), (1, 1, 32, 3072), (1, 1, 2, 1))
tt.slice(s.x, (0, 0, 0, 32), (1, 1, 32, 70))
tt.slice(s.w, (0, 0, 0, 0), (1, 1, 5, 3072))
tt.slice(s.w, (0, 0, 0, 0), (1, 1, 32, 1536), memory_config=s.L1)
tt.slice(s.x, (0, 0, 0, 0), (1, 1, 33, 3072))
tt.slice(s.x, (0, 0), (1, 1))
tt.slice(s.x, (0, 0, -5, 0), (1, 1, 32, 3072))
tt.slice(s.x, (0, 0, 0, 0), (1, 1, -2, 3072))
tt.slice(s.b8, (0, 0, 32, 0), (1, 1, 64, 64))
tt.slice(s.b8, (0, 0, 0, 0), (1, 1, 5, 70))
tt.slice(s.b8, (0, 0, 0, 0), (1, 1, 64, 128), (1, 1, 2, 1))
tt.slice(s.ids, (1, 0), (2, 6))
tt.slice(s.x, (0, 0, 0, 0), (1, 1, 32, 3072))
s.x[:, :, :5, :]
s.x[0]
s.x[..., :32]
s.x[:, :, -1:, :]
s.x[0, 1]
s.host([2, 3, 4, 6], layout="ROW_MAJOR")[0, 1, :, 3:5]
tt.concat([s.x, s.x], dim=2)
tt.concat([s.x, s.x], -1)
tt.concat([s.w, s.w], dim=-1)
tt.concat([s.x, s.w], dim=-1)
tt.concat([s.x, s.b8x], dim=-1)
tt.concat([s.x, s.new([1, 1, 33, 32])], dim=-1)
tt.concat([s.x, s.x], dim=3, memory_config=s.L1)
tt.concat([s.l, s.l], dim=2)
tt.concat([s.new([1, 1, 5, 32]), s.new([1, 1, 6, 32])], dim=2)
tt.concat([], dim=2)
tt.concat([s.x, s.rm], dim=2)
tt.concat([s.b8, s.b8], dim=3)
tt.pad(s.new([1, 1, 5, 70]), [(0, 0), (0, 0), (0, 27), (0, 26)], 0.0)
tt.pad(s.new([1, 1, 5, 70]), [(0, 0), (0, 0), (0, 1), (0, 0)], 0.0)
tt.pad(s.new([1, 1, 32, 64]), [(0, 0), (0, 0), (1, 0), (0, 0)], 0.0)
tt.pad(s.new([1, 1, 5, 70]), [(0, 27), (0, 26)], 0.0)
tt.pad(s.ids, [(0, 4), (0, 0)], 1)
tt.pad(s.new([1, 1, 5, 70]), [1, 1, 32, 96], [0, 0, 0, 0], 0.0)
tt.pad(s.new([1, 1, 5, 70]), [(0, 0), (0, 0), (0, 27), (0, 26)])
tt.pad(s.w, [(0, 0), (0, 0), (0, 32), (0, 0)], 0.0)
tt.pad(s.w, [(0, 0), (0, 0), (0, 32), (0, 0)], 0.0, memory_config=s.L1)
tt.pad(s.x, [(0, 0), (0, 0), (0, -1), (0, 0)], 0.0)
tt.pad(s.host([4, 6], layout="ROW_MAJOR"), [(0, 4), (0, 0)], 1)
tt.unsqueeze_to_4D(s.new([32, 64]))
tt.unsqueeze_to_4D(s.new([1, 1, 1, 32, 64]))
tt.unsqueeze_to_4D(s.new([64]))
tt.unsqueeze_to_4D(s.host([4, 6], layout="ROW_MAJOR"))
tt.unsqueeze(s.new([32, 64]), 0)
tt.unsqueeze(s.w, 0)
tt.squeeze(s.x, 0)
tt.squeeze(s.x)
tt.squeeze(s.x, 2)
tt.squeeze(s.x, [0, 1])
tt.repeat(s.x, (1, 2, 1, 1))
tt.repeat(s.x, tt.Shape([1, 1, 2, 1]))
tt.repeat(s.x, (2, 1))
tt.repeat_interleave(s.x, 2, dim=1)
tt.to_layout(s.x1, tt.ROW_MAJOR_LAYOUT)
tt.to_layout(s.x1, tt.TILE_LAYOUT)
tt.to_layout(s.x1, tt.ROW_MAJOR_LAYOUT, dtype=tt.float32)
tt.to_layout(s.b8, tt.ROW_MAJOR_LAYOUT)
tt.to_layout(s.rm, tt.TILE_LAYOUT, dtype=tt.bfloat8_b)
tt.to_layout(s.new([5, 7], "int32", "ROW_MAJOR"), tt.TILE_LAYOUT)
tt.to_layout(s.w, tt.ROW_MAJOR_LAYOUT, memory_config=s.L1)
tt.to_layout(s.host([4, 6], layout="ROW_MAJOR"), tt.TILE_LAYOUT)
tt.untilize(s.x1)
tt.untilize(s.b8)
tt.untilize(s.w)
tt.untilize(s.rm)
tt.untilize(s.x, memory_config=s.L1, use_multicore=True)
tt.untilize_with_unpadding(s.x, tt.Shape([0, 0, 4, 3071]))
tt.tilize(s.rm)
tt.tilize(s.new([1, 1, 5, 64], layout="ROW_MAJOR"))
tt.tilize(s.x)
tt.tilize(s.rm, dtype=tt.bfloat8_b)
tt.tilize_with_zero_padding(s.new([1, 1, 5, 70], layout="ROW_MAJOR"))
tt.tilize_with_val_padding(s.new([1, 1, 5, 70], layout="ROW_MAJOR"), [1, 1, 64, 96], 0.0)
tt.split(s.x, 1024, dim=3)[2]
tt.split(s.x, [1024, 2048], dim=3)[1]
tt.split(s.w, 1536, dim=3)[0]
tt.chunk(s.x, 3, 3)[0]
tt.clone(s.w)
tt.clone(s.x, dtype=tt.float32)
tt.clone(s.w, memory_config=s.L1)
tt.move(s.new([32, 32]), memory_config=s.L1)
tt.copy(s.x, s.new([1, 1, 32, 3072], "bfloat8_b"))
tt.copy(s.x, s.b8)
tt.copy_host_to_device_tensor(s.host([1, 1, 32, 3072]), s.x)
tt.copy_host_to_device_tensor(s.host([32, 3072]), s.x)
tt.copy_host_to_device_tensor(s.host([1, 1, 32, 3072], "float32"), s.x)
tt.copy_host_to_device_tensor(s.host([1, 1, 32, 3072], layout="ROW_MAJOR"), s.x)
tt.zeros((1, 1, 5, 7), device=s.device)
tt.zeros((1, 1, 5, 7), dtype=tt.bfloat8_b, device=s.device)
tt.zeros((1, 1, 32, 3072), dtype=tt.bfloat16, layout=tt.TILE_LAYOUT, device=s.device, memory_config=s.W)
tt.full((2, 3), 7, dtype=tt.int32, device=s.device)
tt.zeros_like(s.w)
tt.empty((2, 3), device=s.device)
tt.arange(0, 10, 1, device=s.device)
tt.arange(10, dtype=tt.int32, device=s.device)
s.host([2, 3], layout="ROW_MAJOR")
s.host([2, 3], "bfloat8_b", "ROW_MAJOR")
s.host([1, 1, 32, 3072], device=s.device, memory_config=s.W)
s.host([1, 1, 32, 3072], memory_config=s.W)
tt.to_device(s.host([1, 1, 32, 3072], memory_config=s.L1), s.device)
tt.from_device(s.w)
tt.to_dtype(s.host([32, 32]), tt.bfloat8_b)
tt.add(s.x, s.x)
tt.add(s.x, s.b8x)
tt.add(s.b8x, s.x)
tt.add(s.x, s.f)
tt.add(s.f, s.x)
tt.add(s.x, s.i)
tt.add(s.i, s.i)
tt.add(s.w, s.w)
tt.add(s.w, s.x)
tt.add(s.x, s.w)
tt.add(s.l, s.x)
tt.add(s.x, s.l)
tt.add(s.l, s.w)
tt.add(s.x, s.x1)
tt.add(s.x1, s.x)
tt.add(s.w, s.w1)
tt.add(s.x, s.new([1, 1, 32, 1]))
tt.add(s.x, s.new([2, 1, 32, 3072]))
tt.add(s.x, s.new([1, 1, 32, 3000]))
tt.add(s.x, s.new([32, 3072]))
tt.add(s.rm, s.rm)
tt.add(s.rm, s.x)
tt.add(s.x, 2.0)
tt.add(2.0, s.x)
tt.add(s.i, 2)
tt.add(s.i, 2.5)
tt.add(s.w, 2.0)
tt.add(s.x, s.x, dtype=tt.bfloat8_b)
tt.add(s.w, s.w, memory_config=s.L1)
tt.add(s.x, s.x, memory_config=s.W)
tt.add(s.freed(), s.x)
tt.add(s.host([32, 32]), s.x)
tt.add(s.x, s.x, bogus=1)
tt.add(s.x, s.x, output_tensor=s.new([1, 1, 32, 3072], "bfloat8_b"))
tt.add(s.x, s.x, output_tensor=s.b8)
tt.mul(s.w, s.w, input_tensor_a_activations=[tt.UnaryOpType.SILU], dtype=tt.bfloat8_b, memory_config=s.W)
tt.mul(s.x, s.x, input_tensor_a_activations=["silu"])
tt.mul(s.x, s.x, activations=[tt.UnaryWithParam(tt.UnaryOpType.RELU)])
tt.add_(s.b8x, s.x)
tt.add_(s.x1, s.x)
tt.multiply_(s.x, 2.0)
tt.subtract_(s.x, s.x)
tt.div(s.x, s.x)
tt.div(s.i, s.i)
tt.divide(s.x, 2.0)
tt.rsub(s.x, s.x)
tt.eq(s.x, s.x)
tt.gt(s.x, 0.0)
2.0 * s.x
s.x - s.x
tt.silu(s.w)
tt.silu(s.w, memory_config=s.L1)
tt.silu(s.b8)
tt.silu(s.i)
tt.silu(s.rm)
tt.gelu(s.x)
tt.rsqrt(s.x, fast_and_approximate_mode=True)
tt.exp(s.f)
tt.reciprocal(s.x)
tt.silu(s.x, bogus=1)
tt.plus_one(s.pos)
tt.plus_one(s.pos, skip_negative_entries=True)
tt.plus_one(s.new([32], layout="ROW_MAJOR"))
tt.plus_one(s.new([32], "int32"))
tt.plus_one(s.new([1, 32], "int32", "ROW_MAJOR", s.L1))
tt.argmax(s.rm, dim=3)
tt.argmax(s.x, dim=3)
tt.argmax(s.rm, dim=-1, keepdim=True)
tt.argmax(s.rm)
tt.argmax(s.rm, keepdim=True)
tt.argmax(s.b8, dim=3)
tt.argmax(s.l, dim=3)
tt.argmax(s.w, dim=3)
tt.argmax(s.rm, dim=7)
tt.topk(s.x, k=32)[0]
tt.topk(s.x, k=32)[1]
tt.topk(s.f, k=32)[1]
tt.topk(s.x, k=5)[0]
tt.topk(s.rm, k=32)[0]
tt.topk(s.w, k=32)[0]
tt.softmax(s.x, dim=-1)
tt.softmax(s.w, dim=-1)
tt.softmax(s.rm, dim=-1)
tt.softmax(s.x, dim=4)
tt.softmax(s.i, dim=-1)
tt.sum(s.x, dim=-1)
tt.sum(s.x, dim=-1, keepdim=True)
tt.sum(s.x)
tt.sum(s.x, dim=[2, 3], keepdim=True)
tt.sum(s.rm, dim=-1)
tt.mean(s.x, dim=1)
tt.mean(s.i, dim=-1)
tt.max(s.rm, dim=-1)
tt.max(s.b8, dim=-1)
tt.min(s.i, dim=-1)
s.new([1, 1, 3072, 1024], "bfloat8_b", config=s.wide_dram)
s.new([1, 1, 3072, 1000], "bfloat8_b", config=s.wide_dram)
s.new([1, 1, 3072, 1200], "bfloat8_b", config=s.wide_dram)
s.new([1, 1, 256, 512], config=s.B)
s.new([1, 1, 256, 1024], config=s.B)
s.new([1, 1, 32, 900], config=s.sharded("WIDTH", (32, 96), 12))
s.new([1, 1, 32, 3072], config=s.sharded("WIDTH", (32, 90), 32))
s.new([1, 1, 32, 3072], config=s.sharded("WIDTH", (64, 96), 32))
s.new([1, 1, 32, 3072], config=s.H)
s.new([1, 5, 40, 96], config=s.sharded("HEIGHT", (64, 96), 8))
s.new([5, 40], "int32", "ROW_MAJOR", s.sharded("WIDTH", (5, 16), 8))
s.new([1, 1, 32, 32], "bfloat8_b", "ROW_MAJOR")
s.new([1, 1, 65536, 99999])
s.new([1, 1, 2048, 64000], config=s.L1)
s.new([1, 1, 3200, 9600], config=s.sharded("HEIGHT", (3200, 9600), 1))
s.new([1, 1, 64, 288], config=s.block((64, 32), 9, 1))
s.new([70])
s.new([5, 70], "float32")
tt.num_cores_to_corerangeset(65, tt.CoreCoord(8, 8), True)
tt.CoreRangeSet([tt.CoreRange(tt.CoreCoord(0, 0), tt.CoreCoord(3, 3)), tt.CoreRange(tt.CoreCoord(1, 1), tt.CoreCoord(2, 2))])
tt.CoreRange(tt.CoreCoord(3, 3), tt.CoreCoord(2, 2))
tt.create_sharded_memory_config((1, 1, 32, 3072), tt.CoreGrid(x=8, y=4), tt.ShardStrategy.WIDTH)
tt.create_sharded_memory_config((1, 1, 32, 96), tt.CoreGrid(x=8, y=4), tt.ShardStrategy.HEIGHT, tt.ShardOrientation.ROW_MAJOR, use_height_and_width_as_shard_shape=True)
tt.create_sharded_memory_config((1, 1, 32, 96), (8, 4), tt.ShardStrategy.WIDTH)
tt.num_cores_to_corerangeset(37, tt.CoreCoord(8, 8), True)
tt.num_cores_to_corerangeset(37, tt.CoreCoord(8, 8), False)
tt.corerange_to_cores(s.cores(4, 2))
tt.corerange_to_cores(s.cores(4, 2), 3, True)
""".strip().splitlines()


def described_config(config):
    spec = config.shard_spec
    shards = "" if spec is None else f" {list(spec.shape)} on {spec.grid} {spec.orientation.name}"
    return f"{config.memory_layout.name} {config.buffer_type.name}{shards}"


def described(tt, result):
    if isinstance(result, tt.Tensor):
        return (
            f"{list(result.shape)} padded {list(result.padded_shape)} {result.dtype.name} {result.layout.name} "
            f"{result.storage_type().name} {described_config(result.memory_config())}"
        )
    if isinstance(result, tt.MemoryConfig):
        return described_config(result)
    return str(result)


def outcome(tt, setting, call):
    try:
        return described(tt, eval(call, {"tt": tt, "s": setting, "torch": torch}))
    except Exception as error:
        return f"refused ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"


def ops_in(calls) -> set:
    """The public names of the ops that `calls` call."""
    called = {f"ttnn.{name}" for name in re.findall(r"\btt\.([\w.]+)\(", "\n".join(calls))}
    return called & emulator.REGISTRY.keys()


def memory_in_use(tt, device):
    views = [tt.get_memory_view(device, kind) for kind in (tt.BufferType.DRAM, tt.BufferType.L1)]
    return [(view.num_banks, view.total_bytes_per_bank, view.total_bytes_allocated_per_bank) for view in views]


def compare(make_setting, calls):
    """Makes the calls on both modules, each with its own setting, and prints the disagreements."""
    with open_mesh(trace_region_size=0) as device:
        emulator.set_fabric_config(emulator.FabricConfig.FABRIC_1D)
        own = emulator.open_mesh_device(emulator.MeshShape(*device.shape))
        settings = [make_setting(vendor, device), make_setting(emulator, own)]
        # Read before the calls, because the vendor's programs leave tables in memory.
        theirs, ours = (memory_in_use(setting.tt, setting.device) for setting in settings)
        if theirs != ours:
            print(f"DISAGREE (banks, bytes per bank, allocated) of DRAM and L1: vendor {theirs}, emulator {ours}")
        accepted = []
        for call in calls:
            theirs, ours = (outcome(setting.tt, setting, call) for setting in settings)
            if not theirs.startswith("refused"):
                accepted.append(call)
            if theirs != ours and not (theirs.startswith("refused") and ours.startswith("refused")):
                print(f"DISAGREE {call}\n  vendor:   {theirs}\n  emulator: {ours}")
        for op in ops_in(calls) - ops_in(accepted):
            print(f"DISAGREE no call of {op} is accepted")
        print(f"{len(calls)} calls, {len(calls) - len(accepted)} refused")


if __name__ == "__main__":
    compare(Setting, [*CALLS, *argument_calls.CALLS])
